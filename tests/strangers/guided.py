"""Let a coverage-guided fuzzer change one file of a folder, and judge what its reader does.

    pip install atheris
    PYTHONPATH=tests python -m strangers.guided curves --seconds 300 --seed 1

Inputs that reach new lines of kansformer are kept and changed further, half of the time in their structure as by
`mutate.py`, else in their bytes. Ends with the first input whose reader was wrong or raised what is not a
KansformerError, or after the given time; the last lines say how many inputs there were.
"""

import argparse
import contextlib
import os
import random
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

os.environ |= {"HF_HUB_OFFLINE": "1", "KANSFORMER_BACKEND": "cpu"}
with atheris.instrument_imports(include=["kansformer"], enable_loader_override=False):
    from strangers.corpus import make_corpus
    from strangers.mutate import mutate
    from strangers.readers import READERS

    from kansformer.errors import KansformerError

# By name: the kind of reader, the sound folder and the file in it that is changed.
TARGETS = {
    "record": ("record", "low-rank", "record.json"),
    "curves": ("curves", "low-rank", "curves.safetensors"),
    "curves-config": ("curves", "rational", "curves.json"),
    "network": ("kan", "sums", "kan.json"),
    "recipe": ("recipe", "tiny-cpu", "recipe.yaml"),
    "card": ("card", "rational", "kansformer.json"),
    "origin": ("card", "full", "origin/README.md"),
    "table": ("table", "numbers", "table.csv"),
}
MAX_LENGTH = 8192


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=list(TARGETS))
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        _fuzz(Path(name), options.target, options.seconds, options.seed)


def _fuzz(root: Path, target: str, seconds: int, seed: int) -> None:
    kind, source, file = TARGETS[target]
    make_corpus(root / "corpus", Path(__file__).resolve().parents[2] / "scripts" / "recipes")
    sound, case, inputs = root / "corpus" / kind / source, root / "case", root / "inputs"
    inputs.mkdir()
    shutil.copy(sound / file, inputs / "sound")

    def read(data: bytes) -> None:
        shutil.rmtree(case, ignore_errors=True)
        shutil.copytree(sound, case)
        (case / file).write_bytes(data)
        with contextlib.suppress(KansformerError):
            READERS[kind](case, random.Random(seed))

    def change(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.5:
            changed = root / f"changed{Path(file).suffix}"
            changed.write_bytes(data)
            try:
                mutate(changed, rng)
            except Exception:  # no longer of its kind
                return atheris.Mutate(data, max_size)
            if len(changed.read_bytes()) <= max_size:
                return changed.read_bytes()
        return atheris.Mutate(data, max_size)

    limits = [f"-max_total_time={seconds}", f"-seed={seed}", f"-max_len={MAX_LENGTH}", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={root}/", str(inputs)], read, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
