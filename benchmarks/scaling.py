"""Function fitting: the error of a KAN as its grid is refined, beside MLPs of growing width in the same time.

    pip install '.[bench]'
    python benchmarks/scaling.py

Four functions of the KAN paper (Liu et al., 2024, section 3.1), 3,000 samples for training and 1,000 for the test. A
KAN of the function's own shape starts with 3 intervals and is refined to 100, the best of three seeds by the training
error on the way. MLPs (SiLU, float64) have two hidden layers of 5 to 100, and L-BFGS for the seconds that all grids of
the KAN took together. Prints `name value` lines, writes `results/scaling.csv` and draws `results/scaling.png`.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kansformer.kan import KAN, Dataset, create_dataset

OUTPUT = Path(__file__).parent / "results" / "scaling.csv"
GRIDS = (3, 5, 10, 20, 50, 100)
WIDTHS = (5, 10, 20, 50, 100)
SEEDS = 3


def inner_sines(x: Tensor) -> Tensor:
    return torch.sin(math.pi * (x[:, :2] ** 2).sum(-1)) + torch.sin(math.pi * (x[:, 2:] ** 2).sum(-1))


FUNCTIONS: dict[str, tuple[int, list[Any], Callable[[Tensor], Tensor]]] = {
    "J₀(20x)": (1, [1, 1], lambda x: torch.special.bessel_j0(20 * x)),
    "exp(sin(πx) + y²)": (2, [2, 1, 1], lambda x: torch.exp(torch.sin(math.pi * x[:, [0]]) + x[:, [1]] ** 2)),
    "xy": (2, [2, 2, 1], lambda x: x[:, [0]] * x[:, [1]]),
    "exp((sin π(x₁²+x₂²) + sin π(x₃²+x₄²))/2)": (4, [4, 2, 1, 1], lambda x: torch.exp(inner_sines(x)[:, None] / 2)),
}


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []

    def report(function: str, model: str, parameters: int, error: float, seconds: float) -> None:
        rows.append(dict(function=function, model=model, parameters=parameters, test_rmse=error, seconds=seconds))
        print(f"{function}, {model}, {parameters} parameters: test RMSE {error:.3g}", flush=True)

    for name, (inputs, width, function) in FUNCTIONS.items():
        data = create_dataset(function, inputs, num_train=3000)
        seconds = with_kan(report, name, width, data)
        with_mlps(report, name, data, seconds)
    with options.out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    _draw(rows, options.out.with_suffix(".png"))
    print(f"Written: {options.out} and the picture beside it")


def with_kan(report: Callable[..., None], name: str, width: list[Any], data: Dataset) -> float:
    begin = time.perf_counter()
    starts = []
    for seed in range(SEEDS):
        model = KAN(width, grid_size=GRIDS[0], base="zero", seed=seed)
        model.fit(data, steps=40, tolerance=1e-3, progress=False)
        model.refine(GRIDS[2])
        history = model.fit(data, steps=20, grid_update_every=0, tolerance=1e-2, progress=False)
        starts.append((history.train_error[-1], seed))
    model = KAN(width, grid_size=GRIDS[0], base="zero", seed=min(starts)[1])
    for grid_size in GRIDS:
        model.refine(grid_size)
        moving = 5 if grid_size == GRIDS[0] else 0
        history = model.fit(data, steps=40, grid_update_every=moving, tolerance=1e-2, progress=False)
        parameters = sum(p.numel() for p in model.parameters())
        report(name, f"KAN {width}, G = {grid_size}", parameters, history.test_error[-1], time.perf_counter() - begin)
    return time.perf_counter() - begin


def with_mlps(report: Callable[..., None], name: str, data: Dataset, seconds: float) -> None:
    for width in WIDTHS:
        torch.manual_seed(0)
        inputs = data.train_input.shape[1]
        sizes = ((inputs, width), (width, width), (width, 1))
        layers = [layer for pair in sizes for layer in (nn.Linear(*pair), nn.SiLU())]
        model = nn.Sequential(*layers[:-1]).double()
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=20, history_size=20, line_search_fn="strong_wolfe")

        def closure(model: nn.Module = model, optimizer: Any = optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = (model(data.train_input) - data.train_target).square().mean()
            loss.backward()
            return loss

        begin = time.perf_counter()
        while time.perf_counter() - begin < seconds:
            optimizer.step(closure)
        with torch.no_grad():
            error = (model(data.test_input) - data.test_target).square().mean().sqrt().item()
        parameters = sum(p.numel() for p in model.parameters())
        report(name, f"MLP {width} wide", parameters, error, time.perf_counter() - begin)


def _draw(rows: list[dict[str, Any]], path: Path) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(FUNCTIONS), figsize=(3.2 * len(FUNCTIONS), 3.4), sharey=True)
    for axis, name in zip(axes, FUNCTIONS, strict=True):
        for kind, color in (("KAN", "tab:blue"), ("MLP", "tab:orange")):
            own = [row for row in rows if row["function"] == name and row["model"].startswith(kind)]
            axis.loglog(
                [row["parameters"] for row in own],
                [row["test_rmse"] for row in own],
                "o-",
                color=color,
                label=f"{kind}, {'finer grids' if kind == 'KAN' else 'wider'}",
            )
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("parameters")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("test RMSE")
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=OUTPUT)
    return parser.parse_args()


if __name__ == "__main__":
    main()
