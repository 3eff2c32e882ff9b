"""Survey: is the swap exact on every architecture of the installed transformers?

    python benchmarks/survey_architectures.py --jobs 2

Every model type is built small with random weights, run on inputs of its modality, converted with two presets and
compared bit for bit; see `zoo/checks.py`. Rows go to a CSV as they come, and a second run continues where the first
stopped.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import sys
from collections import Counter
from pathlib import Path

import transformers
from tqdm import tqdm
from zoo import pool
from zoo.classes import model_types
from zoo.summary import alarms, summary
from zoo.survey import Row, survey_type

from kansformer.files import atomic_file

RESULTS = Path(__file__).parent / "results" / "survey_architectures.csv"
COLUMNS = [field.name for field in dataclasses.fields(Row)]


def main() -> int:
    options = _options()
    rows = {} if options.fresh else read_rows(options.output)
    names = options.only or model_types()
    todo = [(name, options.run_only) for name in names if options.only or name not in rows]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(todo), unit="type", disable=None) as bar:
        for (name, _), result in pool.each(survey_type, todo, options.jobs, options.limit):
            if isinstance(result, pool.LostError):
                result = Row(transformers.__version__, name, reason=str(result), seconds=options.limit)
            rows[name] = result
            for alarm in alarms([result]):
                tqdm.write(f"!!! {alarm}", file=sys.stderr)
            bar.update()
            bar.set_postfix(Counter(row.act if row.ran == "yes" else "not_run" for row in rows.values()))
            write_rows(options.output, rows)
    chosen = [rows[name] for name in names if name in rows]
    print(summary(chosen))
    flags = alarms(chosen)
    if flags:
        print(f"\n!!! {len(flags)} RED FLAGS !!!", *flags, sep="\n!!! ")
    return 1 if flags else 0


def read_rows(path: Path) -> dict[str, Row]:
    """Rows of earlier runs with the same version of transformers."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        known = [_typed(line) for line in csv.DictReader(file)]
    return {row.type: row for row in known if row.transformers == transformers.__version__}


def write_rows(path: Path, rows: dict[str, Row]) -> None:
    """Write all rows, in transformers' order of types; an interruption leaves the old file."""
    order = {name: number for number, name in enumerate(model_types())}
    with atomic_file(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(dataclasses.asdict(row) for row in sorted(rows.values(), key=lambda row: order[row.type]))


def _typed(line: dict[str, str]) -> Row:
    row = Row(**line)
    for name in ("parameters", "sites", "idle", "missed"):
        setattr(row, name, int(getattr(row, name)))
    row.seconds = float(row.seconds)
    return row


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", metavar="TYPE", choices=model_types(), help="these model types, again if need be"
    )
    parser.add_argument("--jobs", type=int, default=2, help="worker processes")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for one type")
    parser.add_argument("--fresh", action="store_true", help="forget the rows of earlier runs")
    parser.add_argument("--run-only", action="store_true", help="build and run the models, convert nothing")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the CSV file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
