"""pykan's quickstart by hand: a sparse fit, pruning, a fit, names for the edges, and a fit of the numbers.

    python scripts/kan/quickstart.py [--seed 0] [--optimizer lbfgs]

Prints the error after every stage and the formula, exp(sin(πx) + y²) with a test RMSE near 1e-15.
"""

import argparse
import math

import torch

from kansformer.kan import KAN, create_dataset

LIBRARY = ["x", "x^2", "x^3", "x^4", "exp", "log", "sqrt", "tanh", "sin", "abs"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--optimizer", default="lm", choices=["lm", "lbfgs"])
    options = parser.parse_args()
    data = create_dataset(lambda x: torch.exp(torch.sin(math.pi * x[:, [0]]) + x[:, [1]] ** 2), num_inputs=2)
    model = KAN([2, 5, 1], grid_size=5, order=3, seed=options.seed)
    settings = {"optimizer": options.optimizer, "progress": False}

    print("sparse fit:", model.fit(data, steps=20, sparsity=0.01, entropy=10.0, **settings))
    print("pruned:", model.prune(data).width)
    print("fit:", model.fit(data, steps=50, **settings))
    print(model.fit_symbolic(data, library=LIBRARY))
    history = model.fit(data, steps=50, **settings)
    print("formula:", model.formula(variables=["x", "y"], digits=4)[0])
    print(f"test RMSE {history.test_error[-1]:.2g}")


if __name__ == "__main__":
    main()
