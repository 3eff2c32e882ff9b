"""Classification: two moons by cross entropy, and the formula that still classifies them.

    python scripts/kan/moons.py [--seed 0]

Needs scikit-learn for the data. Prints the accuracy on unseen points of the network, about 1, and of the formula of its
logits, at least 0.95.
"""

import argparse

import sympy
import torch
from sklearn.datasets import make_moons

from kansformer.kan import KAN, Dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    x, labels = (torch.as_tensor(array) for array in make_moons(2000, noise=0.1, random_state=options.seed))
    y = torch.nn.functional.one_hot(labels).double()
    data = Dataset(x[:1000], y[:1000], x[1000:], y[1000:])

    def accuracy(model: KAN, data: Dataset) -> float:
        return float((model.predict(data.test_input).argmax(1) == data.test_target.argmax(1)).double().mean())

    model = KAN([2, 2], grid_size=3, seed=options.seed)
    settings = {"loss": "cross_entropy", "optimizer": "lbfgs", "progress": False}
    history = model.fit(data, steps=20, smoothness=1e-5, metrics={"accuracy": accuracy}, **settings)
    print(f"network: accuracy {history.metrics['accuracy'][-1]:.3f}")
    model.prune(x[:1000])
    model.fit_symbolic(x[:1000], library=["x", "x^2", "x^3", "sin", "tanh", "gaussian", "abs"])
    model.fit(data, steps=20, **settings)
    logits = model.formula(variables=["x", "y"], digits=4)
    print("logits:", *logits, sep="\n  ")
    function = sympy.lambdify(["x", "y"], logits, "numpy")
    first, second = function(*x[1000:].T.numpy())
    print(f"formula: accuracy {((second > first) == labels[1000:].numpy()).mean():.3f}")


if __name__ == "__main__":
    main()
