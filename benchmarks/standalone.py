"""Stand-alone networks beside pykan: formulas, grid extension, continual learning.

    pip install '.[bench]'
    python benchmarks/standalone.py

Prints `name value` lines and writes them to `results/standalone.csv`. The quickstart is pykan's own, exp(sin(πx) + y²)
from [2, 5, 1], with one network per seed and no second try; the other formulas are given to `find_formula` as they are,
which tries networks of several shapes. Exact means a test RMSE of 1e-12 or less. The grid is extended from 3 to 50
intervals in a [2, 1, 1] network. The five peaks come one after the other, and the error is that of all of them at the
end, beside an MLP that sees the same. pykan runs its quickstart in the same process.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from named_values import NamedValues
from peer_settings import pykan_settings
from torch import Tensor
from tqdm import tqdm

from kansformer.kan import KAN, create_dataset, find_formula
from kansformer.kan.fitting import rmse
from kansformer.kan.history import few_threads

OUTPUT = Path(__file__).parent / "results" / "standalone.csv"
EXACT = 1e-12
Function = Callable[[Tensor], Tensor]


def quickstart(x: Tensor) -> Tensor:
    return torch.exp(torch.sin(math.pi * x[:, [0]]) + x[:, [1]] ** 2)


FORMULAS: dict[str, tuple[int, Function]] = {
    "product x·y": (2, lambda x: x[:, [0]] * x[:, [1]]),
    "sqrt(x² + y² + 1)": (2, lambda x: (x[:, [0]] ** 2 + x[:, [1]] ** 2 + 1).sqrt()),
    "exp(-(x - y)²)": (2, lambda x: torch.exp(-((x[:, [0]] - x[:, [1]]) ** 2))),
    "tanh(2x - y + z²)": (3, lambda x: torch.tanh(2 * x[:, [0]] - x[:, [1]] + x[:, [2]] ** 2)),
    "log(2.5 + x + sin(2y))": (2, lambda x: torch.log(2.5 + x[:, [0]] + torch.sin(2 * x[:, [1]]))),
}


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    report = NamedValues()
    formulas(report, options.seeds)
    grid_extension(report)
    five_peaks(report)
    if options.peer:
        beside_pykan(report)
    report.write(options.out)


def formulas(report: Callable[[str, float], None], seeds: int) -> None:
    """How often, and how fast."""
    for name, (inputs, function) in {"quickstart": (2, quickstart), **FORMULAS}.items():
        data = create_dataset(function, inputs)
        settings: dict[str, Any] = {"width": [2, 5, 1], "networks": 1} if name == "quickstart" else {}
        find_formula(data, seed=999, progress=False, **settings)  # sympy and the like are loaded now
        errors, seconds = [], []
        for seed in tqdm(range(seeds), desc=name, unit="seed", disable=None):
            begin = time.perf_counter()
            discovery = find_formula(data, seed=100 * seed, progress=False, **settings)
            seconds.append(time.perf_counter() - begin)
            errors.append(discovery.test_rmse)
        report(f"{name}: exact of {seeds} seeds", sum(error <= EXACT for error in errors))
        report(f"{name}: median seconds", statistics.median(seconds))
        report(f"{name}: median test RMSE", statistics.median(errors))


def grid_extension(report: Callable[[str, float], None]) -> None:
    """From 3 to 50 intervals; the best of three seeds by the training error, their time together."""
    data = create_dataset(quickstart, 2)
    for order in (3, 5):
        begin, best = time.perf_counter(), (math.inf, math.inf)
        for seed in range(3):
            model = KAN([2, 1, 1], grid_size=3, order=order, seed=seed)
            model.fit(data, steps=30, progress=False)
            if rmse(model, data.train_input, data.train_target) > 0.3:
                continue
            for grid_size in (5, 10, 20, 50):
                model.refine(grid_size)
                history = model.fit(data, steps=12, grid_update_every=0, tolerance=1e-2, progress=False)
            best = min(best, (history.train_error[-1], history.test_error[-1]))
            break
        report(f"grid extension 3 to 50, order {order}: test RMSE", best[1])
        report(f"grid extension 3 to 50, order {order}: seconds", time.perf_counter() - begin)


def peaks(x: Tensor) -> Tensor:
    centres = 2 / 5 * (torch.arange(5, dtype=x.dtype) - 2)
    return torch.exp(-((x - centres) ** 2) * 300).sum(-1, keepdim=True)


def five_peaks(report: Callable[[str, float], None]) -> None:
    """Each fit sees one peak; an MLP of 100 hidden units gets as many Adam steps as pykan's example has."""
    grid = torch.linspace(-1, 1, 500, dtype=torch.float64)[:, None]
    parts = [torch.linspace(-0.2, 0.2, 100, dtype=torch.float64)[:, None] + 2 / 5 * (k - 2) for k in range(5)]
    model = KAN([1, 1], grid_size=200, base="zero", bias=False, init_scale=0.0)  # a bias would move all peaks at once
    begin = time.perf_counter()
    for part in parts:
        model.fit((part, peaks(part)), steps=3, grid_update_every=0, progress=False)
    report("five peaks: seconds", time.perf_counter() - begin)
    report("five peaks: RMSE of all at the end", rmse(model, grid, peaks(grid)))
    torch.manual_seed(0)
    layers = (
        torch.nn.Linear(1, 100),
        torch.nn.Tanh(),
        torch.nn.Linear(100, 100),
        torch.nn.Tanh(),
        torch.nn.Linear(100, 1),
    )
    mlp = torch.nn.Sequential(*layers).double()
    begin = time.perf_counter()
    with few_threads(0):
        for part in parts:
            optimizer = torch.optim.Adam(mlp.parameters(), lr=3e-3)
            for _ in range(300):
                optimizer.zero_grad()
                (mlp(part) - peaks(part)).square().mean().backward()
                optimizer.step()
    report("five peaks, MLP: seconds", time.perf_counter() - begin)
    report("five peaks, MLP: RMSE of all at the end", (mlp(grid) - peaks(grid)).square().mean().sqrt().item())


def beside_pykan(report: Callable[[str, float], None]) -> None:
    """pykan's quickstart from its first to its last step, without plots."""
    import kan

    with pykan_settings():
        begin = time.perf_counter()
        function = quickstart
        dataset = kan.create_dataset(function, n_var=2, device="cpu")
        model = kan.KAN(width=[2, 5, 1], grid=3, k=3, seed=42, device="cpu")
        model(dataset["train_input"])
        model.fit(dataset, opt="LBFGS", steps=50, lamb=0.001)
        model = model.prune()
        model.fit(dataset, opt="LBFGS", steps=50)
        model = model.refine(10)
        model.fit(dataset, opt="LBFGS", steps=50)
        model.auto_symbolic(lib=["x", "x^2", "x^3", "x^4", "exp", "log", "sqrt", "tanh", "sin", "abs"], verbose=0)
        model.fit(dataset, opt="LBFGS", steps=50)
        error = (model(dataset["test_input"]) - dataset["test_label"]).square().mean().sqrt().item()
        report("quickstart, pykan: seconds", time.perf_counter() - begin)
        report("quickstart, pykan: test RMSE", error)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--peer", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=OUTPUT)
    return parser.parse_args()


if __name__ == "__main__":
    main()
