"""The two files of curves without their model, which `save_curves` writes."""

from pathlib import Path
from typing import Any

from torch import Tensor

from kansformer.errors import CheckpointError
from kansformer.safe_io import LINE, FieldKind, Fields, check_fields, read_tensors, read_versioned_json

FORMAT_VERSION = 1
SETTINGS, TENSORS = "curves.json", "curves.safetensors"
FIELDS: Fields = {
    "architecture": FieldKind("the name of a class", lambda value: isinstance(value, str) and value.isidentifier()),
    "base_model": LINE,
}
"""What a card reads in the settings."""


def read_curve_settings(folder: Path) -> dict[str, Any]:
    """The content of the settings: `conversion` (a record), `also` (a list of paths), and what is not checked here.

    Raises:
        CheckpointError: one of the files is missing, or the settings are not what `save_curves` writes.
    """
    if not (folder / SETTINGS).is_file() or not (folder / TENSORS).is_file():
        raise CheckpointError(f"{str(folder)!r} holds no curves: {SETTINGS} and {TENSORS} are what save_curves writes.")
    settings = check_fields(read_versioned_json(folder / SETTINGS, FORMAT_VERSION), FIELDS, SETTINGS)
    also = settings.get("also")
    if not isinstance(also, list) or not all(isinstance(path, str) for path in also) or "conversion" not in settings:
        raise CheckpointError(f"{SETTINGS} in {str(folder)!r} does not say which curves there are. Save them again.")
    return settings


def read_curves(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The settings, and the tensors by name.

    Raises:
        CheckpointError: as `read_curve_settings`, or the tensors cannot be read.
    """
    return read_curve_settings(folder), read_tensors(folder / TENSORS)
