"""The model card: `model_cards/template.md`, filled in from the files of the model's folder and nothing else."""

import hashlib
import re
from collections.abc import Collection
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kansformer.files import atomic_write_text
from kansformer.hub.card_metadata import CARD_FILE, CardMetadata
from kansformer.hub.model_folder import PIPELINES, ModelFolder
from kansformer.wording import MEASURES

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

PACKAGE = "kansformer.cards"
"""The files of `model_cards`, which are installed under this name."""

TAG = "kansformer"
MARK = "<!-- Written by kansformer from the files of this folder; once edited it is left alone. "
METRICS = {"eval_loss": "loss", "eval_accuracy": "accuracy"}


def write_card(
    folder: str | Path, *, name: str | None = None, origin: str | None = None, datasets: Collection[str] = ()
) -> bool:
    """Write the card of a model with curves, its `README.md`; one that somebody wrote or edited stays as it is.

    Args:
        folder: of a converted model, or what `save_curves` or `KAN.save` wrote.
        name: for `from_pretrained` or `load_curves`, such as "me/model"; None is the folder's own name.
        origin: the Hub id or folder of the model that this one was made from. Its base model and licence, as far as
            they are known, go into the card and into `kansformer.json`.
        datasets: Hub ids of its training data; they go there too.

    Returns:
        Whether the card was written.

    Raises:
        CheckpointError: the folder holds no such model, or a file in it is broken.

    Examples:
        >>> from torch.nn import Linear, Sequential, SiLU
        >>> from kansformer import convert, save_curves
        >>> from kansformer.hub import write_card
        >>> folder = save_curves(convert(Sequential(Linear(4, 8), SiLU(), Linear(8, 4))), "curves")
        >>> write_card(folder, name="me/curves", datasets=["roneneldan/TinyStories"])
        True
        >>> sorted(file.name for file in folder.iterdir())
        ['README.md', 'curves.json', 'curves.safetensors', 'kansformer.json']
    """
    folder = Path(folder)
    contents = ModelFolder.read(folder)  # refuses before anything is written
    contents = replace(contents, metadata=contents.metadata.completed(CardMetadata.of_origin(origin), datasets))
    text = render_card(contents, name or folder.resolve().name)
    contents.metadata.write(folder)
    file = folder / CARD_FILE
    if file.exists() and not is_generated(file.read_text(encoding="utf-8", errors="replace")):
        return False
    atomic_write_text(file, text)
    return True


def render_card(contents: ModelFolder, name: str) -> str:
    """The text of the card of a model that `from_pretrained` will find by that name."""
    from huggingface_hub import ModelCard
    from jinja2 import Template

    title, results = name.rpartition("/")[2], _results(contents)
    template = Template(resources.files(PACKAGE).joinpath("template.md").read_text(encoding="utf-8"), trim_blocks=True)
    text = template.render(
        {**vars(contents), "audit": contents.audit or {}},
        header=_header(contents, title, results).to_yaml(),
        title=title,
        name=name,
        base_model=contents.metadata.base_model,
        results=results,
        measures=MEASURES,
    )
    text = re.sub(r"\n{3,}", "\n\n", str(ModelCard(text))).rstrip() + "\n"
    return f"{text}\n{MARK}{_digest(text)} -->\n"


def is_generated(text: str) -> bool:
    """Whether a card is one of ours that nobody has edited."""
    body, mark, rest = text.rpartition(MARK)
    return bool(mark) and rest == f"{_digest(body[:-1])} -->\n"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _header(contents: ModelFolder, title: str, results: list[dict[str, Any]]) -> "ModelCardData":
    from huggingface_hub import EvalResult, ModelCardData

    known = {name: value for name, value in contents.metadata.to_dict().items() if name != "results"}
    if contents.is_adapter and "base_model" in known:
        known["base_model_relation"] = "adapter"
    task = PIPELINES.get(contents.auto_class or "")
    scores = [
        EvalResult(
            task_type=task,
            dataset_type=re.sub(r"[^\w./-]+", "-", row["dataset"]),
            dataset_name=row["dataset"],
            metric_type=row["metric"],
            metric_value=row["value"],
        )
        for row in results
        if task is not None
    ]
    return ModelCardData(
        library_name="transformers" if contents.network is None and not contents.is_adapter else TAG,
        pipeline_tag=task,
        tags=[TAG, "kan"],
        metrics=list(dict.fromkeys(row["metric"] for row in results)) or None,
        eval_results=scores or None,
        model_name=title if scores else None,
        **known,
    )


def _results(contents: ModelFolder) -> list[dict[str, Any]]:
    source = contents.training.get("facts", {}).get("data", {}).get("source")
    measured = contents.training.get("evaluation", {}) if source else {}
    return [
        *contents.results,
        *(
            {"dataset": f"{source}, held-out part", "metric": METRICS[key], "value": round(value, 4)}
            for key, value in measured.items()
            if key in METRICS
        ),
    ]
