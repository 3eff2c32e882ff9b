"""Tokens of vLLM beside those of transformers, and what vLLM refuses.

    pip install '.[vllm]'
    python benchmarks/serving.py                     # all rows that are missing in results/serving.csv
    python benchmarks/serving.py --only "two ranks"  # those of one part

Every part runs in a process of its own. Rows are kept: an interrupted run goes on. Takes over an hour on two cores that
do other things as well.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import packages_distributions, version
from pathlib import Path

from provenance import commit, processor
from served.models import CURVES, FAMILY_NAMES
from served.refusals import REFUSALS, damage

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "serving.csv"
COLUMNS = (
    "part", "name", "class", "mode", "ranks", "stages", "dtype", "equal", "of", "passed", "ready_seconds", "message",
    "machine", "vllm", "torch", "transformers", "kansformer",
)  # fmt: skip
SEVEN = [name for name in CURVES if name not in ("plain", "act-one-group")]


@dataclass(frozen=True)
class Part:
    """Checkpoints that one process serves in one way."""

    names: list[str]
    options: dict[str, str] = field(default_factory=dict)


PARTS = {
    "eager": Part([f"embedded.{curves}" for curves in ("plain", *SEVEN)]),
    "eager, general": Part([f"embedded.{curves}" for curves in ("plain", *SEVEN)], {"--impl": "transformers"}),
    "families": Part([f"{family}.act" for family in FAMILY_NAMES]),
    "families, general": Part(
        [f"{family}.act" for family in FAMILY_NAMES if family not in ("mixtral", "phi3", "gpt2", "bert")],
        {"--impl": "transformers"},
    ),
    "compiled": Part([f"embedded.{curves}" for curves in SEVEN], {"--mode": "compiled"}),
    "compiled, general": Part(
        [f"embedded.{curves}" for curves in SEVEN], {"--mode": "compiled", "--impl": "transformers"}
    ),
    "two ranks": Part([f"llama.{curves}" for curves in SEVEN], {"--ranks": "2"}),
    "two ranks, general": Part([f"llama.{curves}" for curves in SEVEN], {"--ranks": "2", "--impl": "transformers"}),
    "two ranks, families": Part([f"{family}.act" for family in ("mixtral", "phi3", "opt")], {"--ranks": "2"}),
    "two ranks, families, general": Part(["phi3.plain"], {"--ranks": "2", "--impl": "transformers"}),
    "two stages": Part(["llama.plain", "llama.act", "llama.low-rank-up-down"], {"--stages": "2"}),
    "two stages, general": Part(["llama.act", "llama.low-rank-up-down"], {"--stages": "2", "--impl": "transformers"}),
    "adapters": Part(["embedded.act.lora", "embedded.full-gate-down.lora", "embedded.input-act-groups.lora"]),
    "adapters, general": Part(["embedded.act.lora"], {"--impl": "transformers"}),
    "bfloat16": Part(["embedded.plain", "embedded.act"], {"--dtype": "bfloat16"}),
    "two ranks, compiled": Part(["llama.act", "llama.full-gate-down"], {"--ranks": "2", "--mode": "compiled"}),
}
REFUSED = "refused"
DEFAULTS = {"mode": "eager", "ranks": "1", "stages": "1", "dtype": "float32"}


def machine() -> dict[str, str]:
    """What every row says about the place where it was measured."""
    return {
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "vllm": version(packages_distributions()["vllm"][0]),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "kansformer": commit(),
    }


def run(module: str, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A module of `served` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", f"served.{module}", *arguments],
        cwd=ROOT / "benchmarks",
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
    )


def make_missing(folder: Path, names: list[str]) -> None:
    """Write those checkpoints that are not there yet."""
    missing = [name for name in names if not (folder / name / "expected.json").exists()]
    if missing and (done := run("models", str(folder), *missing)).returncode:
        raise SystemExit(done.stderr)


def measure(folder: Path, part: str, missing: list[str]) -> Iterator[dict]:
    """The rows of a part, one by one; the engine's own messages go to a file in the folder."""
    options = PARTS[part].options
    common = {name: options.get(f"--{name}", default) for name, default in DEFAULTS.items()}
    make_missing(folder, missing)
    words = [word for pair in options.items() for word in pair]
    with (folder / f"{part.replace(', ', '-').replace(' ', '-')}.log").open("w") as log:
        command = [sys.executable, "-m", "served.engine", str(folder), *missing, *words]
        process = subprocess.Popen(command, cwd=ROOT / "benchmarks", stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("ROW "):
                yield common | json.loads(line.removeprefix("ROW "))
            else:
                log.write(line)
        if process.wait():
            raise SystemExit(f"The engine ended with {process.returncode}; see {log.name}.")


def refuse(folder: Path, name: str) -> dict:
    """The row of a checkpoint that must be refused."""
    refusal = REFUSALS[name]
    make_missing(folder, [refusal.checkpoint])
    target = damage(folder, name)
    done = run("engine", str(folder), target.name, "--ranks", str(refusal.ranks), environment=refusal.environment)
    output = done.stdout + done.stderr
    line = next((line for line in output.splitlines() if refusal.sentence in line), "")
    if not line:
        print(output[-6000:], file=sys.stderr)
    message = line[line.find(refusal.sentence) :] if line else output.strip()[-300:]
    return DEFAULTS | {"name": name, "ranks": refusal.ranks, "passed": bool(line), "message": message[:300]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=(*PARTS, REFUSED), action="append", help="a part; may be repeated")
    parser.add_argument("--folder", type=Path, help="for checkpoints; None makes a temporary one")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--fresh", action="store_true", help="measure rows again that are there")
    arguments = parser.parse_args()
    out = arguments.out
    rows = list(csv.DictReader(out.open())) if out.exists() else []
    chosen = arguments.only or [*PARTS, REFUSED]
    if arguments.fresh:
        rows = [row for row in rows if row["part"] not in chosen]
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for part in chosen:
            names = list(REFUSALS) if part == REFUSED else PARTS[part].names
            there = {row["name"] for row in rows if row["part"] == part and row["passed"] != "False"}
            missing = [name for name in names if name not in there]
            if not missing:
                continue
            for row in map(partial(refuse, folder), missing) if part == REFUSED else measure(folder, part, missing):
                print(part, *(f"{key}={value}" for key, value in row.items()), sep="  ", flush=True)
                rows = [old for old in rows if (old["part"], old["name"]) != (part, row["name"])]
                rows.append({"part": part} | row | machine())
                with out.open("w", newline="") as file:
                    writer = csv.DictWriter(file, COLUMNS)
                    writer.writeheader()
                    writer.writerows(rows)


if __name__ == "__main__":
    main()
