"""How many of Feynman's equations does `find_formula` find, exactly?

    pip install '.[bench]'
    python benchmarks/feynman.py

The equations are the dimensionless ones of the KAN paper (Liu et al., 2024, table 2), 27 of the Feynman lectures, with
the ranges below; 1,000 samples without noise, a formula is exact when the RMSE on 1,000 others is 1e-9 of the standard
deviation or less. The same settings for all: nothing is known of an equation but its samples. Prints `name value` lines
and writes `results/feynman.csv`.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing import get_context
from tqdm import tqdm

from kansformer.kan import create_dataset, find_formula

OUTPUT = Path(__file__).parent / "results" / "feynman.csv"
EXACT = 1e-9
ONE, TURN, ANGLE = (0.0, 1.0), (0.0, 2 * math.pi), (0.0, math.pi)


@dataclass(frozen=True)
class Equation:
    """A function of columns, and their ranges."""

    number: str
    text: str
    function: Callable[..., Tensor]
    ranges: tuple[tuple[float, float], ...]

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(*x.unbind(-1)).unsqueeze(-1)


EQUATIONS = [
    Equation(
        "I.6.2",
        "exp(-θ²/2σ²)/sqrt(2πσ²)",
        lambda t, s: torch.exp(-(t**2) / (2 * s**2)) / (2 * math.pi * s**2).sqrt(),
        ((-1.0, 1.0), (0.5, 2.0)),
    ),
    Equation(
        "I.6.2b",
        "exp(-(θ-μ)²/2σ²)/sqrt(2πσ²)",
        lambda t, m, s: torch.exp(-((t - m) ** 2) / (2 * s**2)) / (2 * math.pi * s**2).sqrt(),
        ((-1.0, 1.0), (-1.0, 1.0), (0.5, 2.0)),
    ),
    Equation(
        "I.9.18",
        "a/((b-1)² + (c-d)² + (e-f)²)",
        lambda a, b, c, d, e, f: a / ((b - 1) ** 2 + (c - d) ** 2 + (e - f) ** 2),
        (ONE, (2.0, 3.0), ONE, (1.0, 2.0), ONE, (1.0, 2.0)),
    ),
    Equation("I.12.11", "1 + a sin θ", lambda a, t: 1 + a * torch.sin(t), (ONE, TURN)),
    Equation("I.13.12", "a(1/b - 1)", lambda a, b: a * (1 / b - 1), (ONE, (0.5, 2.0))),
    Equation("I.15.3x", "(1 - a)/sqrt(1 - b²)", lambda a, b: (1 - a) / (1 - b**2).sqrt(), (ONE, (0.0, 0.8))),
    Equation("I.16.6", "(a + b)/(1 + ab)", lambda a, b: (a + b) / (1 + a * b), (ONE, ONE)),
    Equation("I.18.4", "(1 + ab)/(1 + a)", lambda a, b: (1 + a * b) / (1 + a), (ONE, ONE)),
    Equation("I.26.2", "arcsin(n sin θ)", lambda n, t: torch.asin(n * torch.sin(t)), ((0.0, 0.95), (0.0, 1.5))),
    Equation("I.27.6", "1/(1 + ab)", lambda a, b: 1 / (1 + a * b), (ONE, ONE)),
    Equation(
        "I.29.16",
        "sqrt(1 + a² - 2a cos(θ₁ - θ₂))",
        lambda a, s, t: (1 + a**2 - 2 * a * torch.cos(s - t)).sqrt(),
        ((0.0, 0.9), ANGLE, ANGLE),
    ),
    Equation(
        "I.30.3",
        "sin²(nθ/2)/sin²(θ/2)",
        lambda n, t: torch.sin(n * t / 2) ** 2 / torch.sin(t / 2) ** 2,
        ((1.0, 3.0), (0.5, 2.0)),
    ),
    Equation("I.30.5", "arcsin(a/n)", lambda a, n: torch.asin(a / n), ((0.0, 0.95), (1.0, 2.0))),
    Equation("I.37.4", "1 + a + 2 sqrt(a) cos δ", lambda a, d: 1 + a + 2 * a.sqrt() * torch.cos(d), ((0.1, 1.0), TURN)),
    Equation("I.40.1", "n exp(-a)", lambda n, a: n * torch.exp(-a), (ONE, (-1.0, 1.0))),
    Equation("I.44.4", "n ln a", lambda n, a: n * torch.log(a), (ONE, (0.5, 3.0))),
    Equation("I.50.26", "cos a + α cos² a", lambda a, b: torch.cos(a) + b * torch.cos(a) ** 2, (TURN, ONE)),
    Equation("II.2.42", "(a - 1)b", lambda a, b: (a - 1) * b, (ONE, ONE)),
    Equation(
        "II.6.15a",
        "c sqrt(a² + b²)/4π",
        lambda a, b, c: c * (a**2 + b**2).sqrt() / (4 * math.pi),
        ((0.2, 1.0), (0.2, 1.0), ONE),
    ),
    Equation("II.11.7", "n(1 + a cos θ)", lambda n, a, t: n * (1 + a * torch.cos(t)), (ONE, ONE, TURN)),
    Equation("II.11.27", "nα/(1 - nα/3)", lambda n, a: n * a / (1 - n * a / 3), (ONE, ONE)),
    Equation("II.35.18", "n/(exp a + exp -a)", lambda n, a: n / (torch.exp(a) + torch.exp(-a)), (ONE, (-1.0, 1.0))),
    Equation("II.36.38", "a + αb", lambda a, c, b: a + c * b, (ONE, ONE, ONE)),
    Equation("II.38.3", "a/b", lambda a, b: a / b, (ONE, (0.5, 2.0))),
    Equation(
        "III.9.52",
        "a sin²((b - c)/2)/((b - c)/2)²",
        lambda a, b, c: a * torch.sinc((b - c) / (2 * math.pi)) ** 2,
        (ONE, ANGLE, ANGLE),
    ),
    Equation("III.10.19", "sqrt(1 + a² + b²)", lambda a, b: (1 + a**2 + b**2).sqrt(), (ONE, ONE)),
    Equation("III.17.37", "β(1 + α cos θ)", lambda b, a, t: b * (1 + a * torch.cos(t)), (ONE, ONE, TURN)),
]


def main() -> None:
    options = _options()
    rows: list[dict[str, Any]] = []
    with get_context("spawn").Pool(options.processes) as pool:
        work = [(index, options.networks, options.seed) for index in range(len(EQUATIONS))]
        for row in tqdm(pool.imap(_find, work), total=len(work), unit="equation", disable=None):
            rows.append(row)
            exact = "exact" if row["exact"] else f"RMSE {row['relative_rmse']:.1e}"
            tqdm.write(f"{row['number']:9} {row['equation']:32} {exact:14} {row['seconds']:5.1f} s  {row['found']}")
    exact = sum(row["exact"] for row in rows)
    print(f"feynman: equations {len(rows)}\nfeynman: exact {exact}\nfeynman: share {exact / len(rows):.3f}")
    with options.out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(f"Written: {options.out}")


def _find(work: tuple[int, int, int]) -> dict[str, Any]:
    index, networks, seed = work
    torch.set_num_threads(1)
    equation = EQUATIONS[index]
    data = create_dataset(equation, len(equation.ranges), ranges=equation.ranges)
    begin = time.perf_counter()
    result = find_formula(data, networks=networks, seed=seed, progress=False)
    relative = result.test_rmse / data.test_target.std().item()
    shown = str(result.formulas[0])
    return {
        "number": equation.number,
        "equation": equation.text,
        "exact": relative <= EXACT,
        "relative_rmse": relative,
        "seconds": round(time.perf_counter() - begin, 2),
        "found": shown if len(shown) < 100 else f"{shown[:97]}...",
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, default=36, help="tried for each equation at most")
    parser.add_argument("--seed", type=int, default=0, help="of the first network")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUTPUT)
    return parser.parse_args()


if __name__ == "__main__":
    main()
