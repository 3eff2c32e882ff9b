"""What a new user types, step by step, from ten seeds: how often does it end in the exact formula?

    python benchmarks/by_hand.py

The flows, each on 1,000 samples and with a network of five hidden nodes:

- `article, lm` and `article, lbfgs`: the quickstart of the KAN articles literally, exp(sin(πx) + y²) from [2, 5, 1]: a
  sparse fit, prune, fit, names from a library of ten, fit. All fits with one optimizer.
- `docs`: the block by hand of docs/kan.md, executed as it stands there, only with a seed.
- `defaults`: the same formula by `fit, sparsify, fit_symbolic, fit` with nothing but defaults.
- `five formulas`: the steps of `defaults` on five formulas of two and three variables, six seeds each.
- `find_formula`: the same formula in one call, with the width [2, 5, 1] and one network, and with nothing but a seed.

Exact is a test RMSE below 1e-6; an error that is raised is a miss. A run is not finite if there is a NaN or infinity
in its formula, in a value of that at the samples, or in the text that the steps print. Prints `name value` lines and
writes a row for each run to `results/by_hand.csv`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import sympy
import torch
from dataclass_csv import columns_of, replace_lines
from named_values import NamedValues
from torch import Tensor
from tqdm import tqdm

from kansformer.kan import KAN, create_dataset, find_formula
from kansformer.kan.data import Dataset
from kansformer.kan.fitting import rmse

OUTPUT = Path(__file__).parent / "results" / "by_hand.csv"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "kan.md"
EXACT = 1e-6
LIBRARY = ["x", "x^2", "x^3", "x^4", "exp", "log", "sqrt", "tanh", "sin", "abs"]
QUICKSTART = "exp(sin(πx) + y²)"
Function = Callable[[Tensor], Tensor]

FORMULAS: dict[str, tuple[int, Function]] = {
    QUICKSTART: (2, lambda x: torch.exp(torch.sin(math.pi * x[:, [0]]) + x[:, [1]] ** 2)),
    "sin(2x) + y³": (2, lambda x: torch.sin(2 * x[:, [0]]) + x[:, [1]] ** 3),
    "1/(1 + x² + 2y²)": (2, lambda x: 1 / (1 + x[:, [0]] ** 2 + 2 * x[:, [1]] ** 2)),
    "xy + z²": (3, lambda x: x[:, [0]] * x[:, [1]] + x[:, [2]] ** 2),
    "cos(x + 2y - z)": (3, lambda x: torch.cos(x[:, [0]] + 2 * x[:, [1]] - x[:, [2]])),
    "exp(-x) sin(3y)": (2, lambda x: torch.exp(-x[:, [0]]) * torch.sin(3 * x[:, [1]])),
}


@dataclass(frozen=True)
class Outcome:
    """What a flow ends with: the formula, as shown to the user, and its test RMSE with all digits."""

    formula: sympy.Expr
    test_rmse: float
    printed: str = ""


Flow = Callable[[Dataset, int], Outcome]


def article(data: Dataset, seed: int, optimizer: str) -> Outcome:
    """The quickstart of the articles."""
    model = KAN([2, 5, 1], grid_size=5, seed=seed)
    model.fit(data, optimizer=optimizer, steps=20, sparsity=0.01, entropy=10.0, progress=False)
    model.prune(data)
    model.fit(data, optimizer=optimizer, steps=50, progress=False)
    model.fit_symbolic(data, library=LIBRARY)
    model.fit(data, optimizer=optimizer, steps=50, progress=False)
    return _outcome(model, data, model.formula(digits=4))


def documented(data: Dataset, seed: int) -> Outcome:
    """The block of docs/kan.md that goes from `network = KAN(...)` to a formula."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    match = next(filter(None, (re.match(r"(\w+) = KAN\((.*?)\)", block) for block in blocks)), None)
    if match is None:
        raise SystemExit("docs/kan.md has no block that begins with `network = KAN(...)`.")
    name, arguments = match.groups()
    steps = f"{name} = KAN({arguments}, seed=seed){match.string[match.end() :]}"
    namespace: dict[str, object] = {"KAN": KAN, "data": data, "seed": seed, "math": math, "torch": torch}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(steps, PAGE.name, "exec"), namespace)  # noqa: S102 - our own text
    model = namespace[name]
    assert isinstance(model, KAN)
    return _outcome(model, data, model.formula(digits=4), printed.getvalue())


def defaults(data: Dataset, seed: int) -> Outcome:
    """Nothing but the data and a seed; bars are off."""
    model = KAN([data.train_input.shape[1], 5, 1], seed=seed)
    model.fit(data, progress=False)
    model.sparsify(data)
    model.fit_symbolic(data)
    model.fit(data, progress=False)
    return _outcome(model, data, model.formula())


def discover_with_width(data: Dataset, seed: int) -> Outcome:
    """As in `standalone.py`: one network and no second try."""
    result = find_formula(data, width=[2, 5, 1], networks=1, seed=100 * seed, progress=False)
    return Outcome(result.formulas[0], result.test_rmse, str(result))


def discover(data: Dataset, seed: int) -> Outcome:
    result = find_formula(data, seed=100 * seed, progress=False)
    return Outcome(result.formulas[0], result.test_rmse, str(result))


def _outcome(model: KAN, data: Dataset, formulas: list[sympy.Expr], printed: str = "") -> Outcome:
    return Outcome(formulas[0], rmse(model, data.test_input, data.test_target), printed)


@dataclass(frozen=True)
class Row:
    """One flow from one seed; `outcome` is the formula, or the error's text."""

    flow: str
    formula: str
    seed: int
    exact: bool
    test_rmse: float
    finite: bool
    seconds: float
    cpu_seconds: float
    outcome: str


FLOWS: dict[str, tuple[Flow, list[str], int]] = {
    "article, lm": (lambda data, seed: article(data, seed, "lm"), [QUICKSTART], 10),
    "article, lbfgs": (lambda data, seed: article(data, seed, "lbfgs"), [QUICKSTART], 10),
    "docs": (documented, [QUICKSTART], 10),
    "defaults": (defaults, [QUICKSTART], 10),
    "five formulas": (defaults, [name for name in FORMULAS if name != QUICKSTART], 6),
    "find_formula, width": (discover_with_width, [QUICKSTART], 10),
    "find_formula": (discover, [QUICKSTART], 10),
}


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    report = NamedValues()
    rows: list[Row] = []
    _warm_up()
    for name in options.flows:
        flow, formulas, seeds = FLOWS[name]
        own = [
            measure(name, flow, formula, seed)
            for formula in formulas
            for seed in tqdm(range(options.seeds or seeds), desc=f"{name}: {formula}", unit="seed", disable=None)
        ]
        if len(formulas) > 1:
            for formula in formulas:
                rows_of_one = [row for row in own if row.formula == formula]
                report(f"{name}, {formula}: exact of {len(rows_of_one)}", sum(row.exact for row in rows_of_one))
        report(f"{name}: exact of {len(own)}", sum(row.exact for row in own))
        report(f"{name}: errors raised", sum(math.isinf(row.test_rmse) for row in own))
        report(f"{name}: not finite", sum(not row.finite for row in own))
        report(f"{name}: median seconds", statistics.median(row.seconds for row in own))
        report(f"{name}: median CPU seconds", statistics.median(row.cpu_seconds for row in own))
        rows += own
    replace_lines(options.out, columns_of(Row), map(astuple, rows), ["flow"])
    print(f"Written: {options.out}")


def measure(name: str, flow: Flow, formula: str, seed: int) -> Row:
    """Run a flow from one seed."""
    inputs, function = FORMULAS[formula]
    data = create_dataset(function, inputs)
    begin, begin_cpu = time.perf_counter(), time.process_time()
    outcome, error = None, ""
    try:
        outcome = flow(data, seed)
    except Exception as exception:
        error = " ".join(f"{type(exception).__name__}: {exception}".split())
    seconds, cpu_seconds = round(time.perf_counter() - begin, 3), round(time.process_time() - begin_cpu, 3)
    if outcome is None:
        return Row(name, formula, seed, False, math.inf, True, seconds, cpu_seconds, error)
    exact, finite = outcome.test_rmse < EXACT, is_finite(outcome, data)
    return Row(name, formula, seed, exact, outcome.test_rmse, finite, seconds, cpu_seconds, str(outcome.formula))


def is_finite(outcome: Outcome, data: Dataset) -> bool:
    """Whether neither the formula, nor its values at the samples, nor what was printed has a NaN or an infinity."""
    bad = (sympy.nan, sympy.oo, -sympy.oo, sympy.zoo)
    if outcome.formula.has(*bad) or re.search(r"\b(?:nan|inf|zoo|oo)\b", f"{outcome.printed} {outcome.formula}", re.I):
        return False
    x = torch.cat([data.train_input, data.test_input]).numpy()
    symbols = [sympy.Symbol(f"x_{index + 1}") for index in range(x.shape[1])]
    with np.errstate(all="ignore"):
        values = np.asarray(sympy.lambdify(symbols, outcome.formula, "numpy")(*x.T))
    return math.isfinite(outcome.test_rmse) and bool(np.isfinite(values).all())


def _warm_up() -> None:
    """sympy and the like are loaded before anything is timed."""
    data = create_dataset(FORMULAS[QUICKSTART][1], 2, num_train=200)
    find_formula(data, width=[2, 5, 1], networks=1, seed=999, progress=False)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flows", nargs="+", choices=list(FLOWS), default=list(FLOWS))
    parser.add_argument("--seeds", type=int, help="of each flow and formula, instead of ten and six")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=OUTPUT)
    return parser.parse_args()


if __name__ == "__main__":
    main()
