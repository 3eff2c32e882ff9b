"""The Poisson equation with a KAN and with an MLP of 4 layers, 100 wide, at equal time.

    pip install '.[bench]'
    python benchmarks/poisson.py [--peer]

Δu = -2π² sin(πx) sin(πy) on [-1, 1]², u = 0 on the boundary, 51 × 51 points inside and 51 on each side, the equation's
mean square weighted by 0.01 beside the boundary's. Six networks [2, 2, 1] with B-splines of order 5 start on a mesh of
21 × 21 points, the best goes on to all points and to finer grids. The MLP (tanh) gets the longest time of the KANs,
with Adam and then with L-BFGS, its second derivatives by automatic differentiation. The error is the mean square of
u - sin(πx) sin(πy) on 101 × 101 points. `--peer` runs pykan's example too, for minutes. Prints `name value` lines and
writes `results/poisson.csv`.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from named_values import NamedValues
from peer_settings import pykan_settings
from torch import Tensor, nn

from kansformer.kan import KAN, Equation, solve_equations

OUTPUT = Path(__file__).parent / "results" / "poisson.csv"
WEIGHT, STARTS = 0.01, 6
Report = Callable[[str, float], None]


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    report = NamedValues()
    networks: dict[str, list[Any]] = {"KAN [2,2,1]": [2, 2, 1], "KAN [2,[1,1],1]": [2, [1, 1], 1]}
    with_mlp(report, max(with_kan(report, name, width) for name, width in networks.items()))
    if options.peer:
        with_pykan(report)
    report.write(options.out)


def solution(x: Tensor) -> Tensor:
    return torch.sin(math.pi * x).prod(dim=-1)


def source(x: Tensor) -> Tensor:
    return -2 * math.pi**2 * solution(x)


def mesh(points: int) -> tuple[Tensor, Tensor]:
    """Points inside and on the boundary."""
    line = torch.linspace(-1, 1, points, dtype=torch.float64)
    one = torch.ones_like(line)
    sides = [torch.stack(pair, dim=1) for s in (-1, 1) for pair in ((s * one, line), (line, s * one))]
    return torch.cartesian_prod(line, line), torch.cat(sides)


def error_of(model: Callable[[Tensor], Tensor]) -> float:
    x, _ = mesh(101)
    with torch.no_grad():
        return (model(x)[:, 0] - solution(x)).square().mean().item()


def equations(points: int) -> list[Equation]:
    inside, boundary = mesh(points)
    return [
        Equation(inside, lambda u: u.second[:, 0].sum(dim=-1) - source(u.x), weight=WEIGHT),
        Equation(boundary, lambda u: u.value[:, 0]),
    ]


def with_kan(report: Report, name: str, width: list[Any]) -> float:
    begin = time.perf_counter()
    coarse, fine = equations(21), equations(51)
    models = [KAN(width, order=5, base="zero", seed=seed) for seed in range(STARTS)]
    errors = [solve_equations(model, coarse, steps=40, tolerance=1e-3, progress=False) for model in models]
    model = min(zip(models, errors, strict=True), key=lambda pair: pair[1].train_error[-1])[0]
    for grid_size in (5, 10, 20):
        model.refine(grid_size)
        solve_equations(model, fine, steps=20, grid_update_every=0, tolerance=1e-2, progress=False)
    seconds = time.perf_counter() - begin
    report(f"{name}: seconds", seconds)
    report(f"{name}: mean square error", error_of(model))
    report(f"{name}: parameters", sum(p.numel() for p in model.parameters()))
    return seconds


def with_mlp(report: Report, seconds: float) -> None:
    torch.manual_seed(0)
    sizes = [2, 100, 100, 100, 1]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.Tanh()]
    model = nn.Sequential(*layers[:-1]).double()
    inside, boundary = mesh(51)
    inside.requires_grad_()

    begin = time.perf_counter()
    adam = torch.optim.Adam(model.parameters(), lr=3e-3)
    while time.perf_counter() - begin < seconds / 2:
        adam.zero_grad()
        loss_of(model, inside, boundary).backward()
        adam.step()
    lbfgs = torch.optim.LBFGS(model.parameters(), max_iter=5, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        lbfgs.zero_grad()
        value = loss_of(model, inside, boundary)
        value.backward()
        return value

    while time.perf_counter() - begin < seconds:
        lbfgs.step(closure)
    report("MLP 4 layers, 100 wide: seconds", time.perf_counter() - begin)
    report("MLP 4 layers, 100 wide: mean square error", error_of(model))
    report("MLP 4 layers, 100 wide: parameters", sum(p.numel() for p in model.parameters()))


def loss_of(model: Callable[[Tensor], Tensor], inside: Tensor, boundary: Tensor) -> Tensor:
    """The mean square of the equation inside, weighted, and of the values on the boundary."""
    value = model(inside)
    (slopes,) = torch.autograd.grad(value.sum(), inside, create_graph=True)
    second = [torch.autograd.grad(slopes[:, d].sum(), inside, create_graph=True)[0][:, d] for d in range(2)]
    return WEIGHT * (sum(second) - source(inside.detach())).square().mean() + model(boundary).square().mean()


def with_pykan(report: Report) -> None:
    """pykan with its own optimizer: [2, 2, 1] on grids 5, 10 and 20, 50 steps each."""
    import kan

    with pykan_settings():
        begin = time.perf_counter()
        inside, boundary = mesh(51)
        inside.requires_grad_()
        model = kan.KAN(width=[2, 2, 1], grid=5, k=3, seed=1, device="cpu", auto_save=False)
        for grid in (5, 10, 20):
            if grid > 5:
                model = model.refine(grid)
            optimizer = kan.LBFGS(
                model.parameters(), lr=1, history_size=10, line_search_fn="strong_wolfe", tolerance_grad=1e-32
            )

            def closure(model: Any = model, optimizer: Any = optimizer) -> Tensor:
                optimizer.zero_grad()
                loss = loss_of(model, inside, boundary)
                loss.backward()
                return loss

            for step in range(50):
                if grid == 5 and step % 5 == 0 and step < 20:
                    model.update_grid_from_samples(inside.detach())
                optimizer.step(closure)
        report("pykan [2,2,1]: seconds", time.perf_counter() - begin)
        report("pykan [2,2,1]: mean square error", error_of(model))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", action="store_true", help="run pykan too")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=OUTPUT)
    return parser.parse_args()


if __name__ == "__main__":
    main()
