"""Is a KAN transformer worth training? Every feed-forward network in the same model, with as many parameters.

    pip install '.[bench]'
    python benchmarks/quality.py --text tinyshakespeare.txt

nanoGPT's CPU setting (4 layers, 128 wide, blocks of 64 characters, batch 12, tinyshakespeare), trained by the
library's own `train`; runs with one seed have the same order of data. `contest/` says who takes part. Five seeds of
every network at 1,200 steps, eight of those that matter, `LONG` at 2,400 steps too, and then the time of a step,
measured side by side: hours on two cores. Rows go to a CSV as they come, and a second call goes on where the first
stopped.

    python benchmarks/quality.py --text tinyshakespeare.txt --only swiglu,gelu --seeds 2 # a part of it
    python benchmarks/quality.py --text tinyshakespeare.txt --report                          # table and plot only
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from contest.report import LENGTHS, code_versions, plot, table, tuning_table
from contest.runs import Job, Row, run_all
from contest.timing import step_ratios
from contest.variants import DEFAULT, VARIANTS
from dataclass_csv import append_lines, append_row, read_rows
from tqdm import tqdm

RESULTS = Path(__file__).parent / "results"
# The learning rates of SwiGLU are tried on the first three of these seeds too.
FIRST_SEED = 1000
SEEDS, MANY_SEEDS = 5, 8
CONTENDERS = ("swiglu", DEFAULT, "gelu", "gate-act-group", "gate-input-act-group", "edges-low-rank-act")
LONG = ("swiglu", DEFAULT, "gate-act-group", "gate-input-act-group")
TUNED_RATES = (7e-4, 1e-3, 2e-3, 3e-3)
CURVE_COLUMNS = ["variant", "steps", "seed", "lr", "step", "loss"]


def main() -> None:
    options = _options()
    rows_file, curves_file = options.out / "quality.csv", options.out / "quality_curves.csv"
    times_file = options.out / "quality_times.json"
    if not options.report:
        rows = read_rows(rows_file, Row)
        done = {row.job for row in rows}
        jobs = [job for job in _jobs(options) if job not in done]
        with tqdm(total=len(jobs), unit="run", disable=None) as bar:
            for row, losses in run_all(jobs, str(options.text), options.jobs):
                append_row(rows_file, row)
                key = list(dataclasses.astuple(row.job))
                append_lines(curves_file, CURVE_COLUMNS, [[*key, step, round(loss, 4)] for step, loss in losses])
                bar.set_postfix_str(f"{row.variant} {row.val_loss:.4f}")
                bar.update()
        if options.rounds:
            with tqdm(total=options.rounds, unit="round", desc="time of a step", disable=None) as bar:
                names = options.only or list(VARIANTS)
                ratios = step_ratios(names, str(options.text), options.rounds, lambda done, _: bar.update())
            known = json.loads(times_file.read_text()) if times_file.exists() else {}
            times_file.write_text(json.dumps({**known, **ratios}, indent=1) + "\n")
    rows = read_rows(rows_file, Row)
    ratios = json.loads(times_file.read_text()) if times_file.exists() else {}
    parts = ["# Quality at equal parameters", ""]
    for steps in LENGTHS:
        parts += [f"## {steps:,} steps", "", table(rows, ratios, steps), ""]
    parts += ["## Learning rates that were tried", "", tuning_table(rows), ""]
    parts += [code_versions(rows), ""]
    (options.out / "quality.md").write_text("\n".join(parts), encoding="utf-8")
    plot(rows, curves_file, options.out / "quality.png")
    print("\n".join(parts))
    print(f"Written: {rows_file}, quality_curves.csv, quality_times.json, quality.md and quality.png")


def _jobs(options: argparse.Namespace) -> list[Job]:
    """What matters most comes first, so that an interrupted contest says something."""
    names = options.only or list(VARIANTS)
    seeds = [FIRST_SEED + i for i in range(options.seeds)]
    many = [FIRST_SEED + i for i in range(MANY_SEEDS if options.seeds == SEEDS else options.seeds)]
    contenders = [name for name in CONTENDERS if name in names]
    jobs = [Job(name, LENGTHS[0], seed, VARIANTS[name].lr) for seed in many for name in contenders]
    jobs += [Job(name, LENGTHS[1], seed, VARIANTS[name].lr) for seed in many for name in LONG if name in names]
    jobs += [Job("swiglu", LENGTHS[0], s, lr) for s in seeds[:3] for lr in TUNED_RATES if "swiglu" in names]
    jobs += [Job(name, LENGTHS[0], seed, VARIANTS[name].lr) for seed in seeds for name in names]
    return list(dict.fromkeys(jobs))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="tinyshakespeare.txt of char-rnn and nanoGPT")
    parser.add_argument("--only", type=lambda text: text.split(","), help=f"of: {', '.join(VARIANTS)}")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, one thread each")
    parser.add_argument("--rounds", type=int, default=15, help="of the timing; 0 leaves it out")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true", help="only make table and plot from the rows that are there")
    options = parser.parse_args()
    for name in options.only or ():
        if name not in VARIANTS:
            parser.error(f"unknown network {name!r}; choose from: {', '.join(VARIANTS)}")
    if not options.text.is_file():
        parser.error(f"there is no file {str(options.text)!r}")
    return options


if __name__ == "__main__":
    main()
