"""Which weights a figure is of, so that nobody reads it as one of later weights."""

import hashlib
from pathlib import Path

from kansformer.conversion.digest import weight_files

WEIGHTS = "weights"
"""Under this name a file keeps the digest of the weights that its figures are of."""


def weight_files_of(folder: Path) -> list[Path]:
    """The files of a transformers model's weights, without variants, which have curves of their own, and skipped
    batches; where there are none, all files, as of curves alone."""
    files = sorted(folder.glob("*.safetensors"))
    return [file for file in files if weight_files(None).fullmatch(file.name)] or files


def digest_of_weights(folder: Path) -> str:
    """A digest of the bytes of a folder's weights; another one after every training, pruning or cast."""
    digest = hashlib.sha256()
    for file in weight_files_of(folder):
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        with file.open("rb") as stream:
            while part := stream.read(1 << 20):
                digest.update(part)
    return digest.hexdigest()[:32]
