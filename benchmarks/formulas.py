"""How many textbook equations does `find_formula` find, beside other programs with the same CPU time?

    pip install '.[bench]'
    python benchmarks/formulas.py --jobs 2
    python benchmarks/formulas.py --summary

Each of the equations of `equations.py` is given as 1,000 samples, without noise and with Gaussian noise of 1 and 10 %
of the targets' standard deviation, to every program of `formula_engines.py`, which also says their settings.
kansformer runs first; the others get the CPU time that it took, 5 seconds at least, and one thread. Every run is a
process of its own. Nothing is known of an equation but its samples.

A row of `results/formulas.csv` is written after each run, and runs whose rows are there are not repeated (`--fresh`
repeats the selected ones). `relative_rmse` is the error on 1,000 other samples, free of noise, as a share of their
standard deviation; `shown_rmse` is that of the formula as printed, with 4 digits. Without noise a formula is exact if
the former is 1e-9 or less. With noise it has the right form if that is at most 0.2 of the noise, and the size at most
1.5 times the textbook's plus 4; sizes are nodes of sympy's expression tree, numbers rounded to 4 digits. `finite` is
False if the formula, its error or a value of it at the samples is not.
"""

from __future__ import annotations

import argparse
import csv
import math
import signal
import statistics
import threading
import time
import traceback
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import sympy
import torch
from equations import EQUATIONS, FEYNMAN, Equation
from formula_engines import ENGINES, Budget, expression_size, tidy
from named_values import NamedValues
from torch.multiprocessing import active_children, get_context
from tqdm import tqdm

OUTPUT = Path(__file__).parent / "results" / "formulas.csv"
EXACT = 1e-9
EXPLAINED = 0.2  # an error below this share of the noise is possible only with nearly all of the formula right
MIN_SECONDS = 5.0
MAX_WALL_SECONDS = 3600.0
RESULTS = ["exact", "right_form", "relative_rmse", "shown_rmse", "size", "textbook_size", "seconds", "finite", "found"]
COLUMNS = ["number", "field", "equation", "noise", "engine", *RESULTS]
NUMBERS = [equation.number for equation in EQUATIONS]
Row = dict[str, str]


@dataclass(frozen=True)
class Run:
    """One equation at one noise for one engine."""

    number: str
    noise: float
    engine: str
    budget: Budget


def main() -> None:
    options = _options()
    if options.summary:
        summarize(read_rows(options.out))
        return
    selected = {(n, noise, e) for n in options.only for noise in options.noises for e in options.engines}
    kept = [row for row in read_rows(options.out) if not (options.fresh and key_of(row) in selected)]
    with Table(options.out, kept) as table, ThreadPoolExecutor(options.jobs) as pool:
        bar = tqdm(total=len(selected - table.rows.keys()), unit="run", disable=None)

        def series(number: str, noise: float) -> None:
            """The engines one after the other: the time of the first is that of the others."""
            for engine in ENGINES:
                if (number, noise, engine) in selected - table.rows.keys() and not table.closed:
                    seconds = _seconds_for(engine, table.rows.get((number, noise, "kansformer")), options.seconds)
                    table.add(in_a_process(Run(number, noise, engine, Budget(options.networks, seconds, options.seed))))
                    bar.update()

        work = [pool.submit(series, number, noise) for number in options.only for noise in options.noises]
        try:
            for future in as_completed(work):
                future.result()
        except BaseException:
            table.closed = True
            pool.shutdown(wait=False, cancel_futures=True)
            for process in active_children():
                process.kill()
            raise
    print(f"Written: {options.out}")


def _seconds_for(engine: str, own: Row | None, given: float | None) -> float:
    if engine == "kansformer":
        return math.inf
    if given is not None:
        return given
    if own is None:
        raise SystemExit(
            f"The time for {engine} is that of kansformer, which has no row yet: run it too, or --seconds."
        )
    return max(MIN_SECONDS, float(own["seconds"]))


class Table:
    """Rows on disk, each written when it is there; none is added once the table is closed."""

    def __init__(self, path: Path, rows: Iterable[Row]) -> None:
        self.rows = {key_of(row): row for row in rows}
        self.closed = False
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", encoding="utf-8", newline="")
        self._writer = csv.DictWriter(self._file, COLUMNS)
        self._writer.writeheader()
        self._writer.writerows(self.rows.values())
        self._file.flush()

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *error: object) -> None:
        self.closed = True
        self._file.close()

    def add(self, row: Row) -> None:
        """Write and show a row."""
        with self._lock:
            if self.closed:  # the run was interrupted; it is repeated the next time
                return
            self.rows[key_of(row)] = row
            self._writer.writerow(row)
            self._file.flush()
        tqdm.write(
            f"{row['number']:20.20} {row['noise']:5} {row['engine']:10} RMSE {float(row['relative_rmse']):<8.1e} "
            f"{row['exact'] or row['right_form']:5} {row['size']:>4}/{row['textbook_size']:3} "
            f"{row['seconds']:>7} s  {row['found'][:100]}"
        )


def in_a_process(run: Run) -> Row:
    """The row of a run, also if its process crashes or does not end."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(run, sender))
    begin = time.perf_counter()
    process.start()
    sender.close()
    try:
        if receiver.poll(MAX_WALL_SECONDS):
            return receiver.recv()
        return failed(run, f"no result after {MAX_WALL_SECONDS:.0f} s", MAX_WALL_SECONDS)
    except EOFError:
        process.join()
        return failed(run, f"the process ended with code {process.exitcode}", time.perf_counter() - begin)
    finally:
        process.kill()
        process.join()


def _work(run: Run, sender: Connection) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its runs
    try:
        row = measure(run)
    except Exception as error:
        traceback.print_exc()
        row = failed(run, f"{type(error).__name__}: {error}", time.process_time())
    sender.send(row)
    sender.close()


def measure(run: Run) -> Row:
    """Run an engine and judge its formula."""
    equation = equation_of(run.number)
    data = equation.dataset(run.noise)
    warm_up()
    result = ENGINES[run.engine](data, equation.symbols, run.budget)
    target = data.test_target.numpy()[:, 0]
    spread = float(data.test_target.std())
    shown = tidy(result.expression) if run.engine != "kansformer" else result.expression

    def relative_error(values: np.ndarray) -> float:
        return float(np.sqrt(np.mean((values - target) ** 2))) / spread

    shown_values = [values_of(shown, equation, x.numpy()) for x in (data.train_input, data.test_input)]
    if result.test_rmse is None:
        relative = relative_error(values_of(result.expression, equation, data.test_input.numpy()))
    else:
        relative = result.test_rmse / spread
    finite = math.isfinite(relative) and all(np.isfinite(values).all() for values in shown_values)
    size, textbook = expression_size(result.expression), expression_size(equation.expression)
    right = relative <= EXPLAINED * run.noise and size <= 1.5 * textbook + 4
    return head_of(run) | {
        "exact": "" if run.noise else str(relative <= EXACT),
        "right_form": str(right) if run.noise else "",
        "relative_rmse": f"{relative:.4g}",
        "shown_rmse": f"{relative_error(shown_values[1]):.4g}",
        "size": str(size),
        "seconds": f"{result.seconds:.2f}",
        "finite": str(finite),
        "found": str(shown),
    }


def values_of(expression: sympy.Expr, equation: Equation, x: np.ndarray) -> np.ndarray:
    """The formula's values at samples (N, I); NaN where they are not real."""
    with np.errstate(all="ignore"):
        values = sympy.lambdify(equation.symbols, expression, ["numpy", "scipy"])(*x.T)
        values = np.broadcast_to(np.asarray(values), (len(x),))
    return np.where(np.imag(values) == 0, np.real(values), np.nan).astype(np.float64)


def warm_up() -> None:
    """What is loaded or compiled once is not part of a search: sympy's printers, scipy."""
    x = sympy.Symbol("x")
    sympy.lambdify([x], sympy.sympify("exp(x)/2.5"), "numpy")(1.0)


def failed(run: Run, reason: str, seconds: float) -> Row:
    """The row of a run without a formula."""
    return head_of(run) | {
        "exact": "" if run.noise else "False",
        "right_form": "False" if run.noise else "",
        "relative_rmse": "inf",
        "shown_rmse": "inf",
        "size": "",
        "seconds": f"{seconds:.2f}",
        "finite": "True",
        "found": reason,
    }


def head_of(run: Run) -> Row:
    equation = equation_of(run.number)
    return {
        "number": run.number,
        "field": equation.field,
        "equation": equation.text,
        "noise": f"{run.noise:g}",
        "engine": run.engine,
        "textbook_size": str(expression_size(equation.expression)),
    }


def equation_of(number: str) -> Equation:
    return EQUATIONS[NUMBERS.index(number)]


def key_of(row: Row) -> tuple[str, float, str]:
    return row["number"], float(row["noise"]), row["engine"]


def read_rows(path: Path) -> list[Row]:
    """The rows of earlier runs."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def summarize(rows: Sequence[Row]) -> None:
    """Print counts and medians as `name value` lines."""
    report = NamedValues()
    own = {equation.number for equation in FEYNMAN}
    groups = {"all": rows, "Feynman": [r for r in rows if r["number"] in own]}
    groups["new"] = [r for r in rows if r["number"] not in own]
    for noise in sorted({float(row["noise"]) for row in rows}):
        word, column = ("right form", "right_form") if noise else ("exact", "exact")
        for engine in ENGINES:
            for group, members in groups.items():
                if chosen := _chosen(members, noise, engine):
                    right = sum(row[column] == "True" for row in chosen)
                    report(f"noise {noise:g}, {engine}, {group}: {word} of {len(chosen)}", right)
            if chosen := _chosen(rows, noise, engine):
                report(f"noise {noise:g}, {engine}: median seconds", _median(chosen, "seconds"))
                report(f"noise {noise:g}, {engine}: not finite", sum(row["finite"] != "True" for row in chosen))
        ours = {row["number"]: row for row in _chosen(rows, noise, "kansformer") if row[column] == "True"}
        for peer in ("pyoperon", "gplearn"):
            theirs = {row["number"]: row for row in _chosen(rows, noise, peer) if row[column] == "True"}
            if both := sorted(ours.keys() & theirs.keys()):
                report(f"noise {noise:g}, {word} with kansformer and {peer}", len(both))
                for engine, chosen_rows in (("kansformer", ours), (peer, theirs)):
                    size = _median([chosen_rows[number] for number in both], "size")
                    report(f"noise {noise:g}, {word} with kansformer and {peer}: median size of {engine}", size)


def _chosen(rows: Iterable[Row], noise: float, engine: str) -> list[Row]:
    return [row for row in rows if float(row["noise"]) == noise and row["engine"] == engine]


def _median(rows: Iterable[Row], column: str) -> float:
    return statistics.median(float(row[column]) for row in rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--noises", nargs="+", type=float, default=[0.0, 0.01, 0.1])
    parser.add_argument("--only", nargs="+", metavar="NUMBER", choices=NUMBERS, default=NUMBERS)
    parser.add_argument("--seconds", type=float, help="of CPU time for each peer; by default what kansformer took")
    parser.add_argument("--networks", type=int, default=12, help="tried by kansformer at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time, one thread each")
    parser.add_argument("--fresh", action="store_true", help="repeat the selected runs")
    parser.add_argument("--summary", action="store_true", help="only print figures from the rows")
    parser.add_argument("--out", type=Path, default=OUTPUT)
    return parser.parse_args()


if __name__ == "__main__":
    main()
