"""Symbolic regression with units: Newton's law of gravitation from a table in kilograms and metres.

    python scripts/kan/gravitation.py [--seed 0]

Prints the formula G·m·M/r² with the constant of gravitation, 6.674e-11, and its relative test error.
"""

import argparse

from kansformer.kan import create_dataset, find_formula

CONSTANT = 6.6743e-11  # m³ kg⁻¹ s⁻²


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data = create_dataset(
        lambda x: CONSTANT * x[:, 0] * x[:, 1] / x[:, 2] ** 2,
        num_inputs=3,
        ranges=[(1e3, 5e3), (1e24, 6e24), (6e6, 2e7)],
        seed=options.seed,
    )
    result = find_formula(data, variables=["m", "M", "r"], digits=4, seed=options.seed, progress=False)
    print("F =", result.formulas[0])
    print(f"relative test error {result.test_rmse / float(data.test_target.std()):.2g}")


if __name__ == "__main__":
    main()
