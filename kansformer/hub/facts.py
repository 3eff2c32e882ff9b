"""What is known of a model beyond its own files, such as its licence: kept in `kansformer.json` beside them."""

import json
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from kansformer.errors import CheckpointError

FACTS_FILE = "kansformer.json"
CARD_FILE = "README.md"
TEXTS = ("base_model", "license", "license_name", "license_link")
LISTS = ("datasets", "language")
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
                raise CheckpointError(f"{place} has the unknown fact {name!r}. Choose from: {', '.join(known)}.")
            if name in TEXTS and not isinstance(value, str):
                raise CheckpointError(f"{name} in {place} must be a text, got {value!r:.80}.")
            if name in LISTS and not _is_list(value, str):
                raise CheckpointError(f"{name} in {place} must be a list of texts, got {value!r:.80}.")
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


def add_facts(folder: Path, origin: KnownFacts, datasets: Collection[str] = ()) -> None:
    """Write what is newly known into the folder's `kansformer.json`; what it says already stays."""
    known = read_facts(folder)
    told = {name: value for name, value in vars(known).items() if value}
    told["datasets"] = tuple(dict.fromkeys((*origin.datasets, *known.datasets, *datasets)))
    facts = replace(origin, results=(), **{k: v for k, v in told.items() if k != "results"})
    _write(folder, replace(facts, results=known.results))


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
    _write(folder, replace(known, results=(*kept, *new)))


def facts_of_origin(source: str | None) -> KnownFacts:
    """What is known of a model that will be converted or trained.

    Args:
        source: its Hub id, its folder or a file; None for a model with fresh weights.

    Returns:
        A Hub id's base model is itself. A folder's facts are those of its `kansformer.json` and of the header of its
        `README.md`; its results are not handed on.
    """
    if source is None or source.lower().endswith(".gguf"):
        return KnownFacts()
    folder = Path(source)
    if not folder.exists():
        return KnownFacts(base_model=source)
    if not folder.is_dir():
        return KnownFacts()
    told = {name: value for name, value in vars(read_facts(folder)).items() if value}
    return replace(_facts_of_card(folder / CARD_FILE), **{**told, "results": ()})


def read_json(file: Path) -> Any:
    """A JSON file.

    Raises:
        CheckpointError: it is none.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # not UTF-8 is one too
        raise CheckpointError(f"{str(file)!r} is no JSON: {error}.") from None


def _write(folder: Path, facts: KnownFacts) -> None:
    if values := facts.to_dict():
        (folder / FACTS_FILE).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _facts_of_card(file: Path) -> KnownFacts:
    if not file.exists():
        return KnownFacts()
    from huggingface_hub import ModelCard
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()  # a card without a header is no fault
    try:
        data = ModelCard(file.read_text(encoding="utf-8"), ignore_metadata_errors=True).data
    except Exception:  # YAML has errors of its own; a model is not refused for the header of its card
        return KnownFacts()
    finally:
        logging.set_verbosity(before)
    found: dict[str, Any] = {name: data.get(name) for name in (*TEXTS, *LISTS)}
    found |= {name: [found[name]] for name in LISTS if isinstance(found[name], str)}
    usable = {n: v for n, v in found.items() if (isinstance(v, str) if n in TEXTS else _is_list(v, str))}
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
        if not isinstance(value, str if is_text else (int, float)) or isinstance(value, bool):
            kind = "a text" if is_text else "a number"
            raise CheckpointError(f"{name} of a result in {place} must be {kind}, got {value!r:.80}.")


def _is_list(value: object, kind: type) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(entry, kind) for entry in value)
