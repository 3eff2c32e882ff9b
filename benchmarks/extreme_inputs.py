"""Extreme inputs through every basis, kind of edges, layer, backend and dtype: what stays finite, and what is lost.

    pip install '.[test]'
    python benchmarks/extreme_inputs.py --share 0.1

The cases and the rule are those of the tests (`tests/extremes/cases.py`), which run 40 of each class; this is the whole
cross product, or a share of it. `documented` are cases in which the plain layer is not finite either, exact values are
too large for the dtype, or the layer was refused because its dtype cannot hold the domain. Ends with 1 if any is lost.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from extremes.cases import DOCUMENTED, FINITE, INPUTS, LOST, Case, all_cases, judge

SHOWN = 3


def judged(case: Case) -> tuple[Case, str, str]:
    """A case, what became of it, and why."""
    verdict = judge(case)
    return case, verdict.kind, verdict.why


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--share", type=float, default=1.0, help="of all cases, drawn with a fixed seed")
    parser.add_argument(
        "--part", type=int, nargs=2, default=(0, 1), metavar=("N", "OF"), help="of these, counted from 0"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    cases = list(all_cases())
    cases = random.Random(0).sample(cases, round(options.share * len(cases)))
    number, parts = options.part
    cases = cases[number::parts]
    counts: Counter[tuple[str, str]] = Counter()
    lost: list[str] = []
    with ProcessPoolExecutor(options.processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for case, kind, why in tqdm(pool.map(judged, cases, chunksize=100), total=len(cases), disable=None):
            counts[case.inputs, kind] += 1
            if kind == LOST:
                lost.append(f"{case}: {why}")
    print("| inputs | tried | finite | documented | lost |\n|---|---|---|---|---|")
    for name in INPUTS:
        row = [counts[name, kind] for kind in (FINITE, DOCUMENTED, LOST)]
        print(f"| {name} | {sum(row)} | {' | '.join(map(str, row))} |")
    totals = [sum(counts[name, kind] for name in INPUTS) for kind in (FINITE, DOCUMENTED, LOST)]
    print(f"| all | {sum(totals)} | {' | '.join(map(str, totals))} |")
    for text in lost[:SHOWN]:
        print(f"Lost: {text}", file=sys.stderr)
    print(f"tried {sum(totals)}, lost {len(lost)}")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
