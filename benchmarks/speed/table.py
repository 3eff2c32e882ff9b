"""Rows of results: as CSV with the machine, versions and code that made them, and as Markdown."""

import csv
import hashlib
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from provenance import processor

from kansformer.errors import DataError
from kansformer.version import __version__
from speed.harness import Quartiles

ADDED_COLUMNS = {"allocator", "page_faults"}
"""Which older files do not have."""

PACKAGE = Path(__file__).resolve().parents[2] / "kansformer"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measure of one variant.

    Args:
        suite, shape, variant: where it belongs.
        measure: `forward`, `step`, `saved` or `peak` of a block; `prefill`, `train` or `generate` of a model.
        ratio: median over the baseline of the same round: of times for blocks (below 1 is faster), of bytes for memory,
            of tokens per second for models (above 1 is faster). None where there is nothing to divide by.
        ratio_lower, ratio_upper: its quartiles.
        baseline: name of the variant that is 1.
        allocator: one of `allocator.SETTINGS`, for times of the CPU suite; empty elsewhere.
        page_faults: of a call, median of the rounds; None from a GPU.
        rounds, calls: how many timings, and how many calls each averages.
        parameters: numbers that a step gives a gradient.
        mib: bytes of memory, in MiB.
        milliseconds: per call, only from a GPU.
        tokens_per_second: of a model.
        note: what a reader has to know.
    """

    suite: str
    shape: str
    variant: str
    measure: str
    ratio: float | None = None
    ratio_lower: float | None = None
    ratio_upper: float | None = None
    baseline: str = ""
    rounds: int = 0
    calls: int = 0
    parameters: int = 0
    mib: float | None = None
    milliseconds: float | None = None
    tokens_per_second: float | None = None
    note: str = ""
    allocator: str = ""
    page_faults: float | None = None

    @property
    def column(self) -> str:
        """Heading of the row's column in a table."""
        return f"{self.measure}, {self.allocator}" if self.allocator else self.measure

    @property
    def quartiles(self) -> Quartiles | None:
        """The ratio with its quartiles."""
        if self.ratio is None or self.ratio_lower is None or self.ratio_upper is None:
            return None
        return Quartiles(self.ratio_lower, self.ratio, self.ratio_upper)


@dataclass(frozen=True, kw_only=True)
class Skip:
    """A variant that was not measured, and why."""

    shape: str
    variant: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What the figures depend on besides the code of the benchmark.

    Args:
        commit: of the repository that the package stands in; empty elsewhere.
        source: digest of the package's own files, which also tells uncommitted code apart.
    """

    device: str
    machine: str
    cpus: int
    threads: int
    backend: str
    python: str = platform.python_version()
    torch: str = torch.__version__
    triton: str = ""
    transformers: str = ""
    kansformer: str = __version__
    commit: str = ""
    source: str = ""
    date: str = field(default_factory=lambda: datetime.now(timezone.utc).strftime("%Y-%m-%d"))


def describe_environment(device: str, backend: str) -> Environment:
    """Of this process."""
    name = torch.cuda.get_device_name() if device == "cuda" else processor()
    return Environment(
        device=name,
        machine=f"{platform.system()} {platform.machine()}",
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        backend=backend,
        triton=_version("triton"),
        transformers=_version("transformers"),
        commit=commit_of(PACKAGE.parent),
        source=source_digest(),
    )


def write_rows(path: Path, rows: Iterable[Row], environment: Environment) -> None:
    """One line per row, with the environment in every line, so that files of several machines can be put together."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [f.name for kind in (Row, Environment) for f in fields(kind)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for row in rows:
            writer.writerow({**{k: _text(v) for k, v in asdict(row).items()}, **asdict(environment)})


def read_rows(path: Path) -> list[Row]:
    """What `write_rows` wrote, without the environment.

    Raises:
        DataError: it is not such a file.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        known = [f for f in fields(Row) if f.name in (reader.fieldnames or ())]
        missing = {f.name for f in fields(Row)} - {f.name for f in known} - ADDED_COLUMNS
        if missing:
            raise DataError(f"{str(path)!r} is not a file of python -m benchmarks: it has no column {min(missing)!r}.")
        return [Row(**{f.name: _value(f.type, line[f.name]) for f in known}) for line in reader]


def read_devices(path: Path) -> list[str]:
    """Names of the processors or GPUs that the rows of a file are of."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(dict.fromkeys(line["device"] for line in csv.DictReader(file)))


def cell(row: Row | None) -> str:
    """What a table shows of a row."""
    if row is None:
        return "–"
    ratio = "" if row.quartiles is None else str(row.quartiles)
    if row.variant == row.baseline:
        ratio = "1"
    if row.mib is not None:
        return f"{row.mib:,.{0 if row.mib >= 10 else 1}f} MiB" + ("" if row.ratio is None else f" ({row.ratio:.2f})")
    if row.milliseconds is not None:
        return f"{ratio}, {row.milliseconds:.2f} ms"
    if row.tokens_per_second is not None:
        return f"{ratio}, {row.tokens_per_second:,.0f} tokens/s"
    if row.allocator and row.page_faults is not None:
        return f"{ratio}, {row.page_faults:,.0f} faults"
    return ratio


def pivot(rows: Sequence[Row]) -> tuple[list[str], dict[str, dict[str, Row]]]:
    """Columns in the order of appearance, and for each variant its rows by column."""
    table: dict[str, dict[str, Row]] = {}
    for row in rows:
        table.setdefault(row.variant, {})[row.column] = row
    return list(dict.fromkeys(row.column for row in rows)), table


def markdown(rows: Sequence[Row]) -> str:
    """One table per shape: a line per variant, a column per measure and state of the allocator."""
    parts = []
    for shape in dict.fromkeys(row.shape for row in rows):
        measures, table = pivot([row for row in rows if row.shape == shape])
        lines = [f"| {shape} | {' | '.join(measures)} |", "|---" * (1 + len(measures)) + "|"]
        for variant, by_measure in table.items():
            lines.append(f"| {variant} | {' | '.join(cell(by_measure.get(m)) for m in measures)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def commit_of(root: Path) -> str:
    """Commit that a git repository's files say is checked out, 12 digits; empty where there is none."""
    git = root / ".git"
    try:
        if git.is_file():  # a worktree
            git = (root / git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()).resolve()
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref:"):
            return head[:12]
        reference = head.removeprefix("ref:").strip()
        common = git / "commondir"
        shared = (git / common.read_text(encoding="utf-8").strip()).resolve() if common.exists() else git
        loose = shared / reference
        if loose.exists():
            return loose.read_text(encoding="utf-8").strip()[:12]
        packed = (shared / "packed-refs").read_text(encoding="utf-8").splitlines()
        return next((line.split()[0][:12] for line in packed if line.endswith(f" {reference}")), "")
    except OSError:
        return ""


def source_digest() -> str:
    """Eight digits that change with any source file of the package."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*")):
        if path.suffix in (".py", ".cpp", ".h", ".cu"):
            digest.update(path.relative_to(PACKAGE).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:8]


def _text(value: object) -> object:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value


def _value(kind: object, text: str) -> Any:
    if kind is str:
        return text
    if kind is int:
        return int(text)
    return float(text) if text else None


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
