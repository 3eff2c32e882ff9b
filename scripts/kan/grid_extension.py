"""Grid extension and scaling: a trained network gets finer grids, and its error falls with the fourth power of them.

    python scripts/kan/grid_extension.py

Prints the test RMSE from 3 to 50 intervals, 7e-7 at the end, and the slope of the error in the logarithm of the grid
size, near -4 for cubic splines (order 3).
"""

import math

import torch

from kansformer.kan import KAN, create_dataset

GRIDS = (3, 5, 10, 20, 50)


def main() -> None:
    data = create_dataset(lambda x: torch.exp(torch.sin(math.pi * x[:, [0]]) + x[:, [1]] ** 2), num_inputs=2)
    model = KAN([2, 1, 1], grid_size=GRIDS[0], seed=0)
    model.fit(data, steps=30, starts=5, progress=False)
    errors = []
    for grid_size in GRIDS:
        model.refine(grid_size)
        errors.append(model.fit(data, steps=15, grid_update_every=0, progress=False).test_error[-1])
        print(f"grid {grid_size:3}: test RMSE {errors[-1]:.2g}")
    slope = math.log(errors[-1] / errors[1]) / math.log(GRIDS[-1] / GRIDS[1])
    print(f"slope from grid {GRIDS[1]} to {GRIDS[-1]}: {slope:.1f}")


if __name__ == "__main__":
    main()
