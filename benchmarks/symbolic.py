"""Naming curves: how many a second, how often rightly, and beside pykan.

    pip install '.[bench]'
    python benchmarks/symbolic.py

Prints `name value` lines and writes them to `results/symbolic.csv`. Speeds are of B-spline curves with random
coefficients (G = 5, order 3) on 64 points with the 21 functions of `KAN_LIBRARY`. Recovery: every function with random
a, b, c and d at which what is special about it lies in the interval, on a seed that no choice was made on (the
library's settings were chosen on seed 1). pykan's `suggest_symbolic` on the same curves, the R² of both formulas on
all points.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from named_values import NamedValues
from torch import Tensor
from tqdm import tqdm

from kansformer import KANLinear
from kansformer.interp import edge_curves
from kansformer.symbolic import KAN_LIBRARY, Symbol, fit_symbolic

OUTPUT = Path(__file__).parent / "results" / "symbolic.csv"
POINTS = 64
TUNED_SEED, FRESH_SEED = 1, 2026
LAYER = (768, 3072)


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    report = NamedValues()
    speeds(report, options.curves, options.rounds)
    recovery(report, options.each)
    if options.layer:
        layer(report)
    if options.peer:
        beside_pykan(report, options.peer)
    report.write(options.out)


def speeds(report: Callable[[str, float], None], curves: int, rounds: int) -> None:
    """Curves per second, medians of alternating rounds, and what the default misses of refining all functions."""
    x, y = random_splines(curves)
    rates: dict[str, list[float]] = {"default": [], "all": []}
    fits = {}
    for _ in range(rounds):
        for name, options in (("default", {}), ("all", {"refined": None})):
            begin = time.perf_counter()
            fits[name] = fit_symbolic(x, y, library=KAN_LIBRARY, **options)
            rates[name].append(curves / (time.perf_counter() - begin))
    report("curves_per_second_by_default", statistics.median(rates["default"]))
    report("curves_per_second_refining_all", statistics.median(rates["all"]))
    best = {name: fitted.best_r2.mean().item() for name, fitted in fits.items()}
    report("mean_best_r2_by_default", best["default"])
    report("mean_best_r2_missed_by_default", best["all"] - best["default"])


def recovery(report: Callable[[str, float], None], each: int) -> None:
    """Share of known functions that are found again, on the seed that was tuned on and on a fresh one."""
    for seed, label in ((TUNED_SEED, "tuned_seed"), (FRESH_SEED, "fresh_seed")):
        for noise in (0.0, 0.01, 0.03, 0.1):
            x, y, truth = known_curves(each, noise, seed)
            fitted = fit_symbolic(x, y, library=KAN_LIBRARY).symbols
            report(f"recovered_noise_{noise:g}_{label}", (fitted == truth).double().mean().item())
    x, y, truth = known_curves(each, 0.0, FRESH_SEED)
    fitted = fit_symbolic(x, 1e-3 * y, library=KAN_LIBRARY).symbols
    report("recovered_noise_0_amplitude_1e-3", (fitted == truth).double().mean().item())


def layer(report: Callable[[str, float], None]) -> None:
    """All edges of one layer with a curve per edge, and the memory that it takes on top."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(KANLinear(*LAYER, domain=(-4.0, 4.0)))
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    good = count = 0
    for start in tqdm(range(0, LAYER[0], 16), desc="layer", unit="chunk", disable=None):
        curves = edge_curves(model, "", "0", inputs=range(start, start + 16), points=POINTS)
        fits = fit_symbolic(curves.x, curves.y, library=KAN_LIBRARY)
        good, count = good + int((fits.r2 >= 0.99).sum()), count + len(fits)
    assert count == LAYER[0] * LAYER[1]
    report("layer_edges", count)
    report("layer_seconds", time.perf_counter() - begin)
    report("layer_peak_gib_on_top", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20)
    report("layer_random_edges_with_r2_0.99", good / count)


def beside_pykan(report: Callable[[str, float], None], count: int) -> None:
    """pykan names edges one by one. Both see the same points; both formulas are judged on all of them, in float64."""
    from kan import KAN
    from kan.utils import SYMBOLIC_LIB, fit_params

    model = KAN(width=[count, 1], grid=5, k=3, seed=0, auto_save=False, device="cpu")
    grid = torch.linspace(-1, 1, POINTS)
    model(grid[:, None].repeat(1, count))
    y = model.spline_postacts[0][:, 0].detach().mT
    names = [_pykan_name(symbol.name) for symbol in KAN_LIBRARY if _pykan_name(symbol.name)]
    theirs, begin = [], time.perf_counter()
    for i in tqdm(range(count), desc="pykan", unit="edge", disable=None):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            name, *_ = model.suggest_symbolic(0, i, 0, lib=names, verbose=False, weight_simple=0.0)
        theirs.append(name)
    seconds = (time.perf_counter() - begin) / count
    begin = time.perf_counter()
    fits = fit_symbolic(grid.expand(count, -1), y, library=KAN_LIBRARY, refined=None, simplicity=0.0)
    ours_seconds = (time.perf_counter() - begin) / count
    ours_r2 = _r2(fits.evaluate(grid.double().expand(count, -1)), y.double())
    functions = [SYMBOLIC_LIB[name][0] for name in theirs]
    affine = [fit_params(grid, y[i], function, verbose=False)[0].double() for i, function in enumerate(functions)]
    values = [c * f(a * grid.double() + b) + d for f, (a, b, c, d) in zip(functions, affine, strict=True)]
    differences = ours_r2 - _r2(torch.stack(values), y.double())
    report("pykan_seconds_per_edge", seconds)
    report(f"speed_ratio_to_pykan_{count}_edges", seconds / ours_seconds)
    report("largest_r2_below_pykan", -differences.min().item())
    report("mean_r2_above_pykan", differences.mean().item())


def _r2(values_ES: Tensor, y_ES: Tensor) -> Tensor:
    return 1 - (values_ES - y_ES).square().sum(-1) / (y_ES - y_ES.mean(-1, keepdim=True)).square().sum(-1)


def random_splines(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """B-spline curves with random coefficients on their domain."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(KANLinear(256, -(-count // 256), base="zero", domain=(-1.0, 1.0)))
    torch.nn.init.normal_(model[0].coefficients)
    curves = edge_curves(model, "", "0", points=POINTS)
    return curves.x[:count], curves.y[:count]


def known_curves(each: int, noise: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """x, y and the number of the function, `each` curves of every function."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.linspace(-1, 1, POINTS, dtype=torch.float64)
    curves, truth = [], []
    for index, symbol in enumerate(KAN_LIBRARY):
        for _ in range(each):
            a, b = _visible(symbol, generator)
            c, d = _uniform(generator, 0.5, 3) * _sign(generator), _uniform(generator, -2, 2)
            y = c * symbol.function(a * u + b) + d
            curves.append(y + noise * y.std() * torch.randn(POINTS, generator=generator, dtype=torch.float64))
            truth.append(index)
    return (0.4 + 1.7 * u).expand(len(curves), -1), torch.stack(curves), torch.tensor(truth)


def _visible(symbol: Symbol, generator: torch.Generator) -> tuple[float, float]:
    """Random a and b at which the function does not look like a simpler one on [-1, 1]."""
    name = symbol.name
    if symbol.domain[0] == 0.0:  # roots, logarithms and poles: close to the end of the domain
        a = _uniform(generator, 0.5, 3)
        return a * _sign(generator), a * (1 + 10 ** _uniform(generator, -2, -0.3))
    if name == "tan":
        return _uniform(generator, 0.7, 1.2), _uniform(generator, -0.25, 0.25)
    if name == "exp":
        return _uniform(generator, 1, 4) * _sign(generator), _uniform(generator, -1, 1)
    if name == "sin":
        return _uniform(generator, 2, 12), _uniform(generator, -3, 3)
    widths = {"tanh": (2, 6), "arctan": (2, 6), "gaussian": (2, 6), "silu": (3, 8), "gelu": (3, 8)}
    a = _uniform(generator, *widths.get(name, (0.5, 3)))
    return a * _sign(generator), a * _uniform(generator, -0.6, 0.6)


def _uniform(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * torch.rand(1, generator=generator, dtype=torch.float64).item()


def _sign(generator: torch.Generator) -> int:
    return 1 if torch.rand(1, generator=generator).item() < 0.5 else -1


def _pykan_name(name: str) -> str | None:
    return None if name in ABSENT else {"sign": "sgn"}.get(name, name)


ABSENT = {"silu", "gelu", "relu"}  # pykan's library has no activations


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--curves", type=int, default=65_536, help="for the speed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--each", type=int, default=200, help="curves of every function, for the recovery")
    parser.add_argument("--layer", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--peer", type=int, default=40, help="edges that pykan names; 0 leaves it out")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=OUTPUT)
    return parser.parse_args()


if __name__ == "__main__":
    main()
