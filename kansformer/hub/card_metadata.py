"""What is known of a model beyond its own files, such as its licence: kept in `kansformer.json` beside them."""

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kansformer.conversion.measured import WEIGHTS
from kansformer.conversion.sources import is_gguf
from kansformer.errors import CheckpointError
from kansformer.files import atomic_write_text
from kansformer.safe_io import LINE, LINES, NUMBER, TABLES, check_fields, read_json

METADATA_FILE = "kansformer.json"
CARD_FILE = "README.md"
FIELDS = {
    **dict.fromkeys(("base_model", "license", "license_name", "license_link"), LINE),
    **dict.fromkeys(("datasets", "language"), LINES),
    "results": TABLES,
}
RESULT_FIELDS = {
    **dict.fromkeys(("dataset", "metric", WEIGHTS), LINE),
    **dict.fromkeys(("value", "original", "without_curves"), NUMBER),
}
ALIAS, MAX_ALIASES = re.compile(r"\*\w"), 20
"""Of a card's header in YAML, where nested aliases stand for billions of values, and the Hub's library writes none."""


@dataclass(frozen=True, kw_only=True)
class CardMetadata:
    """The content of `kansformer.json`, for the model card. Every field may be empty.

    Args:
        base_model: Hub id of the model that this one was made from.
        license: its licence as the Hub writes it, such as "apache-2.0".
        license_name, license_link: for the licence "other".
        language: codes such as "en".
        datasets: Hub ids of its training data.
        results: rows with `dataset`, `metric`, `value` and, where they were measured too, the base model's `original`
            and the value `without_curves`; `weights` is the digest of the weights that they are of.
    """

    base_model: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    language: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    results: tuple[dict[str, Any], ...] = ()

    @classmethod
    def from_dict(cls, values: object, place: str) -> "CardMetadata":
        """From JSON, checked; `place` is the file, for messages.

        Raises:
            CheckpointError: a name is unknown, or a value is of the wrong kind.
        """
        values = check_fields(values, FIELDS, place, only=True)
        for row in values.get("results", ()):
            check_fields(row, RESULT_FIELDS, f"a result in {place}", only=True)
            if not {"dataset", "metric", "value"} <= row.keys() or None in row.values():
                raise CheckpointError(f"A result in {place} must have dataset, metric and value, got {row!r:.120}.")
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without empty fields."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self._known().items()}

    @classmethod
    def read(cls, folder: Path) -> "CardMetadata":
        """The content of the folder's `kansformer.json`; empty where there is none.

        Raises:
            CheckpointError: it is not JSON, or has an impossible value.
        """
        file = folder / METADATA_FILE
        return cls.from_dict(read_json(file), str(file)) if file.exists() else cls()

    @classmethod
    def of_origin(cls, source: str | None) -> "CardMetadata":
        """What is known of a model that will be converted or trained; None is one with fresh weights.

        For a Hub id, that is the id as the base model; for a folder, the content of its `kansformer.json` and of the
        header of its `README.md`, without results.
        """
        if source is None or is_gguf(source):
            return cls()
        folder = Path(source)
        if not folder.exists():
            return cls(base_model=source)
        if not folder.is_dir():
            return cls()
        return replace(_read_header(folder / CARD_FILE), **{**cls.read(folder)._known(), "results": ()})

    def completed(self, origin: "CardMetadata", datasets: Collection[str] = ()) -> "CardMetadata":
        """With what is known of the origin in empty fields, and with further data sets."""
        datasets = tuple(dict.fromkeys((*origin.datasets, *self.datasets, *datasets)))
        return replace(origin, **{**self._known(), "datasets": datasets, "results": self.results})

    def write(self, folder: Path) -> None:
        """Write `kansformer.json`, unless every field is empty."""
        if values := self.to_dict():
            atomic_write_text(folder / METADATA_FILE, json.dumps(values, indent=2, ensure_ascii=False) + "\n")

    def _known(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value}


def add_results(folder: Path, results: Iterable[dict[str, Any]]) -> None:
    """Write rows of `CardMetadata.results` into a folder's `kansformer.json`, in the place of older ones of their kind.

    Raises:
        CheckpointError: `kansformer.json` is broken, or a row has an impossible value.
    """
    metadata = CardMetadata.read(folder)
    new = CardMetadata.from_dict({"results": list(results)}, "the new results").results
    kinds = {(row["dataset"], row["metric"]) for row in new}
    kept = [row for row in metadata.results if (row["dataset"], row["metric"]) not in kinds]
    replace(metadata, results=(*kept, *new)).write(folder)


def _read_header(file: Path) -> CardMetadata:
    """The usable fields in the header of a model card; whatever is wrong in it is left out."""
    if not file.exists():
        return CardMetadata()
    from huggingface_hub import ModelCard
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()  # a card without a header is not a fault
    try:
        text = file.read_text(encoding="utf-8")
        if len(ALIAS.findall(text.partition("\n---")[0])) > MAX_ALIASES:
            return CardMetadata()
        data = ModelCard(text, ignore_metadata_errors=True).data
    except Exception:  # YAML has errors of its own; a model is not refused for the header of its card
        return CardMetadata()
    finally:
        logging.set_verbosity(before)
    values = {name: data.get(name) for name in FIELDS if name != "results"}
    values |= {name: [values[name]] for name in ("datasets", "language") if isinstance(values[name], str)}
    usable = {name: value for name, value in values.items() if FIELDS[name].check(value)}
    return CardMetadata.from_dict(usable, str(file))
