"""The digest of a checkpoint: by it a loader sees that settings and curves are those that were saved together.

It guards against accidents, such as an edited `order` or the config of another checkpoint, by which curves would load
as other functions; whoever changes a file on purpose can remove it.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kansformer.errors import CheckpointError
from kansformer.files import atomic_write_text
from kansformer.nn.curves import CURVE_TENSORS
from kansformer.safe_io import open_tensors, read_json

ENTRY = "digest"
FIRST_VERSION = 3
"""Of the format of `ConversionRecord`, with a digest."""
WAY_OUT = (
    f"Take the files as they were saved; if the change is meant, remove {ENTRY!r} from the settings, and the curves "
    "are taken as they are."
)


@dataclass(frozen=True, kw_only=True)
class SavedDigest:
    """What the settings of a checkpoint say about it.

    Args:
        fits_settings: whether the settings themselves are those that were saved.
        curves: the digest of the saved curves.
    """

    fits_settings: bool
    curves: str

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any], entry: object) -> "SavedDigest":
        """From the settings as a file has them, and the digest in them.

        Raises:
            CheckpointError: the digest is not what `digest_of` returns.
        """
        if (
            not isinstance(entry, dict)
            or set(entry) != {"settings", "curves"}
            or not all(map(_is_text, entry.values()))
        ):
            raise CheckpointError(
                f"The digest of a checkpoint must have the texts settings and curves, got {entry!r:.80}."
            )
        return cls(fits_settings=entry["settings"] == _digest_of_settings(settings), curves=entry["curves"])

    def check(self, files: Iterable[str | Path]) -> None:
        """Check that settings and curves were saved together; curves in the safetensors files, if there are any.

        Raises:
            CheckpointError: one of both was changed.
        """
        self.check_settings()
        if files := list(files):
            self.check_curves(_digest_of_curves(files))

    def check_settings(self) -> None:
        """Check that the settings are those that were saved.

        Raises:
            CheckpointError: they were changed.
        """
        if not self.fits_settings:
            raise CheckpointError(
                f"The checkpoint's kansformer settings were changed after it was saved, so its curves would be other "
                f"functions. {WAY_OUT}"
            )

    def check_curves(self, digest: str) -> None:
        """Check a digest that `CurveDigest` made of the curves.

        Raises:
            CheckpointError: it is another one.
        """
        if self.curves != digest:
            raise CheckpointError(
                f"The checkpoint's curves are not those that were saved with its kansformer settings. {WAY_OUT}"
            )


class CurveDigest:
    """The digest of a checkpoint's curves, which are added one by one in any order."""

    def __init__(self) -> None:
        self._digests: dict[str, str] = {}

    def add(self, key: str, dtype: str, shape: Sequence[int], read: Callable[[], Tensor]) -> None:
        """Add a tensor under its key in the file; those that cannot be a curve's are left out.

        Args:
            key: the tensor's full name.
            dtype: as safetensors names it.
            shape: of the tensor.
            read: returns the tensor; not called where it is empty.
        """
        if key.rpartition(".")[2] not in CURVE_TENSORS:
            return
        digest = hashlib.sha256(f"{dtype} {list(shape)}".encode())
        if math.prod(shape) and shape:
            with torch.device("cpu"):  # or safetensors reads it onto the default device
                digest.update(read().contiguous().view(torch.uint8).numpy().data)
        self._digests[key] = digest.hexdigest()

    def hexdigest(self) -> str:
        """SHA-256 of all curves that were added; tensors that do not stand beside coefficients are not curves."""
        curves = {key: self._digests[key] for key in curve_keys(set(self._digests))}
        return hashlib.sha256(json.dumps(curves, sort_keys=True).encode()).hexdigest()


def curve_keys(keys: set[str]) -> set[str]:
    """The keys of a state dict that belong to curves: `coefficients`, and what stands beside them."""
    owners = {key.removesuffix("coefficients") for key in keys if key.rpartition(".")[2] == "coefficients"}
    return {owner + name for owner in owners for name in CURVE_TENSORS} & keys


def digest_of(settings: Mapping[str, Any], files: Iterable[str | Path]) -> dict[str, str]:
    """SHA-256 of a record's settings, without the digest in them, and of all curves in safetensors files."""
    return {"settings": _digest_of_settings(settings), "curves": _digest_of_curves(files)}


def write_digest(config_file: Path, files: Iterable[str | Path]) -> None:
    """Write the digest into the settings of a saved model's `config.json`."""
    config = read_json(config_file)
    settings = config["quantization_config"]
    settings["format_version"] = max(FIRST_VERSION, settings["format_version"])
    settings[ENTRY] = digest_of(settings, files)
    atomic_write_text(config_file, json.dumps(config, indent=2, sort_keys=True) + "\n")  # as transformers writes it


def _digest_of_settings(settings: Mapping[str, Any]) -> str:
    # As the file has them: what another version of this package makes of them may have more entries.
    content = {name: value for name, value in settings.items() if name != ENTRY}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest_of_curves(files: Iterable[str | Path]) -> str:
    digest = CurveDigest()
    for _, key, tensor in open_tensors(files):
        digest.add(key, tensor.get_dtype(), tensor.get_shape(), partial(tensor.__getitem__, slice(None)))
    return digest.hexdigest()


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def weight_files(variant: str | None) -> re.Pattern[str]:
    """Names of the files that transformers writes a model's weights into, and their index."""
    suffix = re.escape(f".{variant}") if variant else ""
    return re.compile(rf"model{suffix}(-\d{{5}}-of-\d{{5}})?\.safetensors|model\.safetensors\.index{suffix}\.json")
