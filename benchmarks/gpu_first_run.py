"""The first run on a GPU: two calls of under ten minutes each, on a bare machine with torch and this repository.

    python benchmarks/gpu_first_run.py --call 1 --budget 560 --out build/first_run
    python benchmarks/gpu_first_run.py --call 2 --budget 560 --out build/first_run
    TRITON_INTERPRET=1 python benchmarks/gpu_first_run.py --call 1 --toy --out build/toy    # without a GPU: it works

Call 1: the kernels' tests, exactness of the activations over all numbers of 16 bits, each kernel, tiles, edges against
the MLP with as many parameters, CUDA graphs, 2:4. Call 2: a model of 1.2B parameters: training step, reading, writing,
in CUDA graphs too, beside Liger and FlashKAT where they are installed. Numbers are checked before they are timed.
What a bare machine may lack has to be carried as wheels: einops, pytest-xdist and liger-kernel, transformers from 5.19.

`first_run.csv` gets a row as each comes, `bench_gpu.csv` the rows of `python -m benchmarks --suite gpu`, `failures.txt`
the tracebacks, `tiles/` a file for `kan_kernels/tiles`. A section that fails does not stop the others; one that the
budget has no time for is left out, and says so.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("", "benchmarks", "kernels/torch-ext", "tests/kernels")
sys.path[:0] = [str(ROOT / folder) for folder in FOLDERS]


def main() -> None:
    options = _options()
    begin = time.monotonic()
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not options.toy:
        sys.exit("Error: torch sees no GPU here. Give --toy with TRITON_INTERPRET=1 to try the program without one.")
    if os.environ.get("TRITON_INTERPRET") == "1":
        import interpreter

        interpreter.repair()
    from first_run import blocks, kernels, whole_models
    from first_run.sections import Run, Section, run_sections
    from speed.table import describe_environment
    from speed.variants import automatic_backend

    calls = {
        1: (
            Section("environment", kernels.environment, 5),
            Section("exactness", kernels.exactness, 20),
            Section("tests", kernels.compiled_tests, 300, "they run compiled; the interpreter has a job of its own"),
            Section("activations", kernels.activations, 30),
            Section("edge kernels", kernels.edge_kernels, 30),
            Section("edges", blocks.edges, 30),
            Section("gated", blocks.gated, 30),
            Section("graphs", blocks.graphs, 15, "CUDA graphs are of CUDA"),
            Section("two_four", kernels.two_four, 20, "cuSPARSELt runs on a GPU; tests/kernels decompress its format"),
            Section("tiles", kernels.tiles, 40),
        ),
        2: (
            Section("transformers", whole_models.require_transformers, 1),
            Section("models", whole_models.models, 120),
            Section("decode in graphs", whole_models.decode_in_graphs, 100, "CUDA graphs are of CUDA"),
        ),
    }
    sections = calls[options.call]
    if options.only:
        names = [section.name for section in sections]
        unknown = [name for name in options.only.split(",") if name not in names]
        if unknown:
            sys.exit(
                f"Error: Unknown section {unknown[0]!r} of call {options.call}. Choose any of: {', '.join(names)}."
            )
        sections = tuple(section for section in sections if section.name in options.only.split(","))
    options.out.mkdir(parents=True, exist_ok=True)
    run = Run(
        device=device,
        out=options.out,
        toy=options.toy,
        environment=describe_environment(device, automatic_backend(device)),
        deadline=begin + options.budget,
    )
    run_sections(sections, run)
    print(f"Written: {options.out}, {time.monotonic() - begin:.0f} s")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--call", type=int, choices=(1, 2), required=True)
    parser.add_argument("--budget", type=float, default=560.0, help="seconds that the call may take")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "first_run", help="folder of the results")
    parser.add_argument("--only", help="sections, with commas")
    parser.add_argument("--toy", action="store_true", help="sizes that only show that it works")
    return parser.parse_args()


if __name__ == "__main__":
    main()
