"""Instructions per element of the learned activation's kernels, counted in machine code compiled ahead of time; no GPU.

    python benchmarks/activation_instructions.py [--out benchmarks/results]

Prints one row per activation's kernel and basis of tests/kernels_aot/cases.py and puts them into
`activation_instructions.csv` in place of earlier ones of the same version of triton. The tests hold the counts to it.
Under a minute on one core.
"""

import argparse
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "kernels_aot"), str(ROOT / "kernels" / "torch-ext")]

import triton  # noqa: E402
from cases import ACTIVATION_CASES, Case  # noqa: E402
from dataclass_csv import append_row, read_rows  # noqa: E402

FILE = ROOT / "benchmarks" / "results" / "activation_instructions.csv"


@dataclass(frozen=True)
class Row:
    """Per element of x, bfloat16, gated, in the loop over tokens; see `instructions.Instructions`."""

    case: str
    instructions: float
    fma: float
    alu: float
    mufu: float
    memory: float
    branches: float
    registers: int
    spills: int
    triton: str


def count(case: Case) -> Row:
    """One line of the table."""
    counted, (needs, _, _) = case.instructions(), case.compile()
    pipes = {pipe.lower(): round(number, 2) for pipe, number in counted.loop_by_pipe.items()}
    number = round(counted.loop_per_element, 2)
    return Row(str(case), number, **pipes, registers=needs.registers, spills=needs.spills, triton=triton.__version__)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FILE.parent, help="folder of the table")
    path = parser.parse_args().out / FILE.name
    os.environ["TRITON_CACHE_DIR"] = tempfile.mkdtemp()  # compile each time
    rows = [row for row in read_rows(path, Row) if row.triton != triton.__version__]
    for case in ACTIVATION_CASES:
        rows.append(count(case))
        print(case, rows[-1].instructions, rows[-1].registers, flush=True)
    path.unlink(missing_ok=True)
    for row in rows:
        append_row(path, row)
    print(f"{len(ACTIVATION_CASES)} rows of triton {triton.__version__} written to {path}")


if __name__ == "__main__":
    main()
