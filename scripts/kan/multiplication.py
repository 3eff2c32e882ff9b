"""Product nodes: x·y exactly from a network with a node that multiplies, beside one that only adds.

    python scripts/kan/multiplication.py

Prints the formula x*y of a [2, [0, 1], 1] network with a test RMSE near 1e-16, and the error of [2, 2, 1], which needs
(x + y)² and x² + y² for the same function.
"""

from kansformer.kan import KAN, create_dataset


def main() -> None:
    data = create_dataset(lambda x: x[:, [0]] * x[:, [1]], num_inputs=2)
    for width in ([2, [0, 1], 1], [2, 2, 1]):
        model = KAN(width, grid_size=3, seed=1)
        model.fit(data, steps=50, starts=5, progress=False)
        model.fit_symbolic(data, library=["x", "x^2"])
        history = model.fit(data, steps=50, progress=False)
        formula = model.formula(variables=["x", "y"], digits=4)[0]
        print(f"{width}: {len(list(model.edges()))} edges, {formula}, test RMSE {history.test_error[-1]:.2g}")


if __name__ == "__main__":
    main()
