"""What is known of a model beyond its own files, such as its licence: kept in `kansformer.json` beside them."""

import json
import math
import re
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from kansformer.conversion.sources import is_gguf
from kansformer.errors import CheckpointError
from kansformer.files import atomic_write_text
from kansformer.safe_io import is_unicode, read_json

FACTS_FILE = "kansformer.json"
CARD_FILE = "README.md"
TEXTS = ("base_model", "license", "license_name", "license_link")
LISTS = ("datasets", "language")
ALIAS, MOST_ALIASES = re.compile(r"\*\w"), 20
"""Of a card's header in YAML, where nested aliases stand for billions of values, and the Hub's library writes none."""
LONGEST_LINE = 1000
ONE_LINE = f"Texts are one line of up to {LONGEST_LINE} characters."
RESULT_KEYS = ("dataset", "metric", "value", "original", "without_curves")


@dataclass(frozen=True, kw_only=True)
class KnownFacts:
    """What `kansformer.json` says, for the model card. All may be missing.

    Args:
        base_model: Hub id of the model that this one was made from.
        license: its licence as the Hub writes it, such as "apache-2.0".
        license_name, license_link: for the licence "other".
        language: codes such as "en".
        datasets: Hub ids of what it was trained on.
        results: rows with `dataset`, `metric`, `value` and, where they were measured too, the base model's `original`
            and what this model gives `without_curves`.
    """

    base_model: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    language: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    results: tuple[dict[str, Any], ...] = ()

    @classmethod
    def from_dict(cls, values: Any, place: str) -> "KnownFacts":
        """From JSON, checked.

        Args:
            values: what the file holds.
            place: the file, for messages.

        Raises:
            CheckpointError: a name is unknown, or a value is of the wrong kind.
        """
        if not isinstance(values, dict):
            raise CheckpointError(f"{place} must hold a table of facts, got {values!r:.80}.")
        known = [f.name for f in fields(cls)]
        for name, value in values.items():
            if name not in known:
                raise CheckpointError(f"{place} has the unknown fact {name!r:.80}. Choose from: {', '.join(known)}.")
            if name in TEXTS and not is_line(value):
                raise CheckpointError(f"{name} in {place} must be a text, got {value!r:.80}. {ONE_LINE}")
            if name in LISTS and not _are_lines(value):
                raise CheckpointError(f"{name} in {place} must be a list of texts, got {value!r:.80}. {ONE_LINE}")
        results = values.get("results", [])
        if not _is_list(results, dict):
            raise CheckpointError(f"results in {place} must be a list of tables, got {results!r:.80}.")
        for row in results:
            _check_result(row, place)
        lists = {name: tuple(values.get(name, ())) for name in (*LISTS, "results")}
        return cls(**{**values, **lists})

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without what is not known."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {name: value for name, value in values.items() if value}


def read_facts(folder: Path) -> KnownFacts:
    """What the folder's `kansformer.json` says; nothing where there is none.

    Raises:
        CheckpointError: it is no JSON, or says something impossible.
    """
    file = folder / FACTS_FILE
    if not file.exists():
        return KnownFacts()
    return KnownFacts.from_dict(read_json(file), str(file))


def joined_facts(folder: Path, origin: KnownFacts, datasets: Collection[str] = ()) -> KnownFacts:
    """What is newly known, and what the folder's `kansformer.json` says already, which stays.

    Raises:
        CheckpointError: `kansformer.json` is broken.
    """
    known = read_facts(folder)
    told = {name: value for name, value in vars(known).items() if value}
    told["datasets"] = tuple(dict.fromkeys((*origin.datasets, *known.datasets, *datasets)))
    facts = replace(origin, results=(), **{k: v for k, v in told.items() if k != "results"})
    return replace(facts, results=known.results)


def add_results(folder: Path, results: Iterable[dict[str, Any]]) -> None:
    """Write measured results into the folder's `kansformer.json`, in the place of older ones of the same kind.

    Args:
        folder: of a model.
        results: rows as in `KnownFacts.results`.

    Raises:
        CheckpointError: `kansformer.json` is broken, or a row says something impossible.
    """
    known = read_facts(folder)
    new = KnownFacts.from_dict({"results": list(results)}, "the new results").results
    kinds = {(row["dataset"], row["metric"]) for row in new}
    kept = [row for row in known.results if (row["dataset"], row["metric"]) not in kinds]
    write_facts(folder, replace(known, results=(*kept, *new)))


def facts_of_origin(source: str | None) -> KnownFacts:
    """What is known of a model that will be converted or trained.

    Args:
        source: its Hub id, its folder or a file; None for a model with fresh weights.

    Returns:
        A Hub id's base model is itself. A folder's facts are those of its `kansformer.json` and of the header of its
        `README.md`; its results are not handed on.
    """
    if source is None or is_gguf(source):
        return KnownFacts()
    folder = Path(source)
    if not folder.exists():
        return KnownFacts(base_model=source)
    if not folder.is_dir():
        return KnownFacts()
    told = {name: value for name, value in vars(read_facts(folder)).items() if value}
    return replace(_facts_of_card(folder / CARD_FILE), **{**told, "results": ()})


def write_facts(folder: Path, facts: KnownFacts) -> None:
    """Write `kansformer.json`, unless nothing is known."""
    if values := facts.to_dict():
        atomic_write_text(folder / FACTS_FILE, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def _facts_of_card(file: Path) -> KnownFacts:
    if not file.exists():
        return KnownFacts()
    from huggingface_hub import ModelCard
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()  # a card without a header is no fault
    try:
        text = file.read_text(encoding="utf-8")
        if len(ALIAS.findall(text.partition("\n---")[0])) > MOST_ALIASES:
            return KnownFacts()
        data = ModelCard(text, ignore_metadata_errors=True).data
    except Exception:  # YAML has errors of its own; a model is not refused for the header of its card
        return KnownFacts()
    finally:
        logging.set_verbosity(before)
    found: dict[str, Any] = {name: data.get(name) for name in (*TEXTS, *LISTS)}
    found |= {name: [found[name]] for name in LISTS if isinstance(found[name], str)}
    usable = {n: v for n, v in found.items() if (is_line(v) if n in TEXTS else _are_lines(v))}
    return KnownFacts.from_dict(usable, str(file))


def _check_result(row: dict[str, Any], place: str) -> None:
    unknown = sorted(set(row) - set(RESULT_KEYS))
    if unknown or not {"dataset", "metric", "value"} <= set(row):
        raise CheckpointError(
            f"A result in {place} must have dataset, metric and value, and may have original and without_curves; "
            f"got {row!r:.120}."
        )
    for name, value in row.items():
        is_text = name in ("dataset", "metric")
        if not is_line(value) if is_text else not isinstance(value, (int, float)) or isinstance(value, bool):
            kind = "a text of one line" if is_text else "a number"
            raise CheckpointError(f"{name} of a result in {place} must be {kind}, got {value!r:.80}.")
        if not is_text and not math.isfinite(float(value)):
            raise CheckpointError(f"{name} of a result in {place} must be finite, got {value!r:.80}.")


def is_line(value: object) -> bool:
    """Whether this is a text that can stand in the header or in a table of a card: one line, and not endless."""
    return (
        isinstance(value, str)
        and len(value) <= LONGEST_LINE
        and is_unicode(value)
        and not any(character < " " or character in "\x7f\x85\u2028\u2029" for character in value)
    )


def _are_lines(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(map(is_line, value))


def _is_list(value: object, kind: type) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(entry, kind) for entry in value)
