"""Hidden structure first: what a table's function is a sum or product of, and which pairs of variables it joins.

    python scripts/kan/symmetry.py [--seed 0]

Fits networks to samples of two functions of unknown form. Prints that exp(-(x₁ - x₂)²) + x₃² is a sum of functions of
(x₁, x₂) and x₃ and depends on x₁ - x₂ only, that sin(x₁x₂)·√x₃ is a product and depends on x₁x₂, and the errors.
"""

import argparse

import torch

from kansformer.kan import KAN, create_dataset
from kansformer.kan.structure import find_separability, find_symmetries

FUNCTIONS = {
    "exp(-(x1 - x2)^2) + x3^2": lambda x: torch.exp(-((x[:, 0] - x[:, 1]) ** 2)) + x[:, 2] ** 2,
    "sin(x1*x2)*sqrt(x3)": lambda x: torch.sin(x[:, 0] * x[:, 1]) * x[:, 2].sqrt(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name, function in FUNCTIONS.items():
        data = create_dataset(function, num_inputs=3, ranges=(0.2, 1.8))
        model = KAN([3, 6, 1], seed=options.seed)
        history = model.fit(data, steps=40, starts=3, progress=False)
        print(f"{name}: test RMSE {history.test_error[-1]:.2g}")
        print(" ", find_separability(model, data))
        for symmetry in find_symmetries(model, data):
            print(" ", symmetry)


if __name__ == "__main__":
    main()
