"""A formula of physics: how velocities add in relativity, found by hand through the rapidity.

    python scripts/kan/velocities.py [--seed 0]

The network [2, 1, 1] of (u + v)/(1 + u·v) has to find that the rapidities artanh(u) and artanh(v) add. Prints the names
of its edges, arctanh, arctanh and tanh, and the formula's test RMSE, near 1e-15.
"""

import argparse

from kansformer.kan import KAN, create_dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data = create_dataset(
        lambda x: x.sum(dim=1, keepdim=True) / (1 + x.prod(dim=1, keepdim=True)), num_inputs=2, ranges=(-0.9, 0.9)
    )
    model = KAN([2, 1, 1], grid_size=10, seed=options.seed)
    history = model.fit(data, steps=100, starts=5, progress=False)
    print(f"curves: test RMSE {history.test_error[-1]:.2g}")
    print(model.suggest_symbols((0, 0, 0), data, top=3).to_string(index=False))
    for edge, name in (((0, 0, 0), "arctanh"), ((0, 1, 0), "arctanh"), ((1, 0, 0), "tanh")):
        print(f"{edge}: {name}, R² {model.fix_symbol(edge, name, data):.6f}")
    history = model.fit(data, steps=100, progress=False)
    print("formula:", model.formula(variables=["u", "v"], digits=4)[0])
    print(f"formula: test RMSE {history.test_error[-1]:.2g}")


if __name__ == "__main__":
    main()
