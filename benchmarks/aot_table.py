"""What every kernel needs on every GPU, read from machine code compiled ahead of time; no GPU is needed.

    python benchmarks/aot_table.py [--out benchmarks/results]

Prints one row per kernel, GPU, dtype and basis of tests/kernels_aot/cases.py and writes them to `aot.csv`: registers,
spills, shared memory, tensor-core instructions, seconds to compile, versions. About two minutes on one core.
"""

import argparse
import csv
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
os.environ["TRITON_CACHE_DIR"] = tempfile.mkdtemp()  # compile each time
sys.path[:0] = [str(ROOT / "tests" / "kernels_aot"), str(ROOT / "kernels" / "torch-ext")]

import torch  # noqa: E402
import triton  # noqa: E402
from aot import SHARED_MEMORY  # noqa: E402
from cases import CASES, DTYPES, Case  # noqa: E402


def row_of(case: Case) -> dict[str, object]:
    """One line of the table."""
    compiled, warps, stages = case.compile()
    return dict(
        kernel=case.kernel,
        gpu=case.target,
        basis=f"{case.curve.basis}(G={case.curve.grid_size},K={case.curve.order})",
        dtype=DTYPES[case.dtype],
        outputs=case.outputs,
        warps=warps,
        stages=stages,
        registers=compiled.registers,
        spills=compiled.spills,
        shared_memory=compiled.shared_memory,
        shared_memory_limit=SHARED_MEMORY[case.target],
        tensor_core_instructions=compiled.tensor_core,
        asynchronous_loads=compiled.asynchronous,
        overlapped_waits=compiled.overlapped,
        compile_seconds=round(compiled.compile_seconds, 2),
        triton=triton.__version__,
        torch=torch.__version__,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of aot.csv")
    path = parser.parse_args().out / "aot.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = None
        for case in CASES:
            row = row_of(case)
            if writer is None:
                writer = csv.DictWriter(file, row, lineterminator="\n")
                writer.writeheader()
            writer.writerow(row)
            print(case, *(f"{name}={row[name]}" for name in ("registers", "spills", "shared_memory")), flush=True)
    print(f"{len(CASES)} rows written to {path}")


if __name__ == "__main__":
    main()
