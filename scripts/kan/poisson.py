"""A partial differential equation: Poisson's on a square, from any seed, on finer and finer grids.

    python scripts/kan/poisson.py [--seed 0]

Solves u_xx + u_yy = -2π² sin(πx) sin(πy) with u = 0 on the border of [-1, 1]². Prints the mean squared error against
the solution sin(πx) sin(πy) after each grid, 1e-10 at the end.
"""

import argparse
import math

import torch

from kansformer.kan import KAN, Derivatives, Equation, solve_equations


def solution(x: torch.Tensor) -> torch.Tensor:
    return torch.sin(math.pi * x).prod(dim=-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    line = torch.linspace(-1, 1, 21, dtype=torch.float64)
    inside, one = torch.cartesian_prod(line, line), torch.ones_like(line)
    border = torch.cat([torch.stack(pair, dim=1) for s in (-1, 1) for pair in ((s * one, line), (line, s * one))])

    def poisson(u: Derivatives) -> torch.Tensor:
        return u.second[:, 0].sum(dim=-1) + 2 * math.pi**2 * solution(u.x)

    equations = [Equation(inside, poisson, weight=0.01), Equation(border, lambda u: u.value[:, 0])]
    model = KAN([2, [1, 1], 1], grid_size=5, order=5, base="zero", seed=options.seed)
    fine = torch.cartesian_prod(*[torch.linspace(-1, 1, 51, dtype=torch.float64)] * 2)
    for grid_size, starts in ((5, 5), (10, 1), (20, 1)):
        model.refine(grid_size)
        solve_equations(model, equations, steps=40, tolerance=1e-3, starts=starts, progress=False)
        error = (model.predict(fine)[:, 0] - solution(fine)).square().mean()
        print(f"grid {grid_size:2}: mean squared error {error:.2g}")


if __name__ == "__main__":
    main()
