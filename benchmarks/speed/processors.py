"""One table of the CPU suite's result files, a column per processor, and which shapes are slower than their baseline.

python -m speed.processors        in the folder `benchmarks`; `python -m benchmarks --suite cpu` does the same
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from speed.allocator import SETTINGS
from speed.table import Row, read_devices, read_rows

OURS, MEASURES = "kansformer", ("forward", "step")
PATTERN = "bench_cpu_*.csv"


def result_file(folder: Path, processor: str) -> Path:
    """Where the rows of a processor go: `bench_cpu_amd_epyc.csv` for an AMD EPYC."""
    words = re.findall(r"[a-z0-9]+", re.sub(r"\((r|tm)\)", " ", processor.lower()))
    return folder / f"bench_cpu_{'_'.join(words) or 'unknown'}.csv"


def write_table(folder: Path) -> Path:
    """Write `bench_cpu.md` from all result files of a folder, and return its path."""
    rows = {", ".join(read_devices(path)): read_rows(path) for path in sorted(folder.glob(PATTERN))}
    target = folder / "bench_cpu.md"
    target.write_text(compare_processors(rows), encoding="utf-8")
    return target


def compare_processors(rows: Mapping[str, Sequence[Row]]) -> str:
    """The ratio of our block to its baseline as Markdown.

    Args:
        rows: of the CPU suite, by processor.
    """
    parts = []
    for allocator in SETTINGS:
        ratios = {name: _ratios(own, allocator) for name, own in rows.items()}
        ratios = {name: own for name, own in ratios.items() if own}
        if not ratios:
            parts.append(f"No processor has been measured with the allocator in the state {allocator!r}.\n")
            continue
        keys = list(dict.fromkeys(key for own in ratios.values() for key in own))
        lines = [f"| allocator: {allocator} | {' | '.join(ratios)} |", "|---" * (1 + len(ratios)) + "|"]
        for key in keys:
            cells = (f"{own[key]:.2f}" if key in own else "–" for own in ratios.values())
            lines.append(f"| {' '.join(key)} | {' | '.join(cells)} |")
        lines.append("")
        for name, own in ratios.items():
            slower = [f"{' '.join(key)} ({ratio:.2f})" for key, ratio in own.items() if ratio > 1]
            lines.append(f"{name}, slower than the baseline: {', '.join(slower) or 'none'}.\n")
        parts.append("\n".join(lines))
    return (
        "Time of `kansformer` relative to the baseline of the same round, median; below 1 is faster.\n\n"
        + "\n".join(parts)
    )


def _ratios(rows: Sequence[Row], allocator: str) -> dict[tuple[str, str], float]:
    return {
        (row.shape, row.measure): row.ratio
        for row in rows
        if row.variant == OURS and row.measure in MEASURES and row.allocator == allocator and row.ratio is not None
    }


if __name__ == "__main__":
    print(f"Written: {write_table(Path(__file__).resolve().parents[1] / 'results')}")
