"""The model card: `model_cards/template.md`, filled in from the files of the model's folder and nothing else."""

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from kansformer.files import atomic_write_text
from kansformer.hub.card_metadata import CARD_FILE, CardMetadata
from kansformer.hub.model_folder import PIPELINES, ModelFolder

PACKAGE = "kansformer.cards"
"""The files of `model_cards`, which are installed under this name."""

TAG = "kansformer"
MARK = "<!-- Written by kansformer from the files of this folder; once edited it is left alone. "
# As `kansformer.interp.summary` names its measures.
MEASURES = {
    "r2": "on even points that the fit did not see",
    "r2_tokens": "at recorded inputs",
    "r2_learned": "at recorded inputs, of what was learned on top of the base",
}
EDGES = {
    "channel": "channel: one curve per channel",
    "group": "group: {groups} curves per slot, each shared by neighbouring channels",
    "low_rank": "low_rank: every edge its own curve, in a family of rank {rank}",
    "full": "full: every edge its own curve",
}
OUTSIDE = {"linear": "run on as straight lines", "clamp": "keep their last value", "zero": "are zero"}
NETWORK_ROWS = ("basis", "grid_size", "order", "base", "dtype")
RESULT_COLUMNS = {"value": "this model", "without_curves": "without its curves", "original": "the original"}
METRICS = {"eval_loss": "loss", "eval_accuracy": "accuracy"}


def write_card(
    folder: str | Path, *, name: str | None = None, origin: str | None = None, datasets: Collection[str] = ()
) -> bool:
    """Write the card of a model with curves, its `README.md`; one that somebody wrote or edited stays as it is.

    Args:
        folder: of a converted model, or of a network that `KAN.save` wrote.
        name: for `from_pretrained`, such as "me/model"; None is the folder's own name.
        origin: the Hub id or folder of the model that this one was made from. Its base model and licence, as far as
            they are known, go into the card and into `kansformer.json`.
        datasets: Hub ids of its training data; they go there too.

    Returns:
        Whether the card was written.

    Raises:
        CheckpointError: the folder holds no such model, or a file in it is broken.
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
    """The text of a card.

    Args:
        contents: of the model's folder.
        name: what `from_pretrained` will be given.
    """
    from huggingface_hub import ModelCard

    title = name.rpartition("/")[2]
    results = list(_results(contents))
    card = ModelCard.from_template(
        _header(contents, title),
        template_str=_compact(resources.files(PACKAGE).joinpath("template.md").read_text(encoding="utf-8")),
        title=title,
        name=name,
        architecture=contents.architecture,
        base_model=contents.metadata.base_model,
        is_network=contents.network is not None,
        straight=contents.weights.straight,
        swap=list(_swap(contents)),
        snippet=_snippet(contents, name),
        trusted=contents.trusted and contents.auto_class is not None,
        auto_class=contents.auto_class,
        training=list(_training(contents)),
        result_columns=[name for name in RESULT_COLUMNS if any(name in row for row in results)],
        column_titles=RESULT_COLUMNS,
        results=results,
        audit=_audit(contents.audit),
        limits=list(_limits(contents, results)),
    )
    text = re.sub(r"\n{3,}", "\n\n", str(card)).rstrip() + "\n"
    return f"{text}\n{MARK}{_digest(text)} -->\n"


def is_generated(text: str) -> bool:
    """Whether a card is one of ours that nobody has edited."""
    body, mark, rest = text.rpartition(MARK)
    return bool(mark) and rest == f"{_digest(body[:-1])} -->\n"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _compact(template: str) -> str:
    """Remove the line break after every line that is one statement, as jinja's `trim_blocks` would."""
    return re.sub(r"^(\{%[^%]*%\})\n", r"\1", template, flags=re.MULTILINE)


def _header(contents: ModelFolder, title: str) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    known = contents.metadata.to_dict()
    task = PIPELINES.get(contents.auto_class or "")
    results = list(_results(contents))
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
        library_name="transformers" if contents.network is None else TAG,
        pipeline_tag=task,
        tags=[TAG, "kan"],
        metrics=list(dict.fromkeys(row["metric"] for row in results)) or None,
        eval_results=scores or None,
        model_name=title if scores else None,
        **{name: value for name, value in known.items() if name != "results"},
    )


def _swap(contents: ModelFolder) -> Iterator[tuple[str, str]]:
    weights = contents.weights
    if contents.record is None:
        network = contents.network or {}
        # Nodes per layer, as pairs of sums and products.
        pairs = [(nodes, 0) if isinstance(nodes, int) else nodes for nodes in network.get("width", [])]
        yield "nodes per layer", ", ".join(f"{a} + {b} that multiply" if b else f"{a}" for a, b in pairs)
        yield from ((name, f"{value}") for name, value in network.items() if name in NETWORK_ROWS)
        return
    config, slots = contents.record.config, [slot.name for slot in contents.record.slots]
    yield "slots", ", ".join(f"{name} ({slots.count(name)})" for name in dict.fromkeys(slots))
    yield "edges", EDGES[config.edges].format(rank=config.rank, groups=config.groups)
    lower, upper = config.domain
    yield "basis", f"{config.basis}: grid_size {config.grid_size}, order {config.order}, domain {lower:g} to {upper:g}"
    if widths := contents.record.widths.values():
        kept = f"{min(widths)} to {max(widths)}" if len(set(widths)) > 1 else f"{min(widths)}"
        yield "narrowed", f"{len(widths)} feed-forward networks, to {kept} channels"
    yield "curves", f"{weights.curves:,}"
    share = weights.curve_parameters / weights.parameters
    yield "parameters", f"{weights.parameters:,}, of them {weights.curve_parameters:,} ({share:.2%}) in curves"
    yield "weights", f"{', '.join(weights.dtypes)}; {weights.size:,} bytes"


def _snippet(contents: ModelFolder, name: str) -> str:
    if contents.network is not None:
        return (
            "from huggingface_hub import snapshot_download\n"
            "from kansformer.kan import KAN\n\n"
            f'model = KAN.load(snapshot_download("{name}"))'
        )
    loader = contents.auto_class or contents.architecture
    return (
        "import kansformer  # registers the loader\n"
        f"from transformers import {loader}\n\n"
        f'model = {loader}.from_pretrained("{name}")'
    )


def _training(contents: ModelFolder) -> Iterator[tuple[str, str]]:
    run = contents.training
    facts = run.get("facts", {})
    data = facts.get("data", {})
    if source := data.get("source"):
        yield "data", f"{source}" + (f", {data['train_tokens']:,} tokens" if data.get("train_tokens") else "")
    if tokenizer := data.get("tokenizer"):
        yield "tokenizer", f"{tokenizer}"
    if trained := run.get("trainable"):
        yield "trained parameters", f"{trained:,}"
    if steps := run.get("steps"):
        yield "optimizer steps", f"{steps:,}"
    if speed := run.get("tokens_per_second"):
        place = f" on {facts['device']}" if facts.get("device") else ""
        yield "speed of training", f"{speed:,.0f} tokens (or rows) a second{place}"
    versions = [f"{name} {facts[name]}" for name in (TAG, "transformers", "torch", "python") if facts.get(name)]
    if versions:
        yield "versions", ", ".join(versions)


def _results(contents: ModelFolder) -> Iterator[dict[str, Any]]:
    yield from contents.metadata.results
    source = contents.training.get("facts", {}).get("data", {}).get("source")
    for key, value in contents.training.get("evaluation", {}).items():
        if source and key in METRICS:
            yield {"dataset": f"{source}, held-out part", "metric": METRICS[key], "value": round(value, 4)}


def _audit(audit: Mapping | None) -> dict[str, object] | None:
    audit = audit or {}
    pairs = {m: (audit.get(f"coverage_{m}"), audit.get(f"control_coverage_{m}")) for m in MEASURES}
    rows = [(MEASURES[m], f"{a:.1%}", f"{b:.1%}") for m, (a, b) in pairs.items() if a is not None and b is not None]
    if not rows:
        return None
    replaced = [(f"{row['share']:.0%}", f"{row['loss']:.4f}") for row in audit.get("replaced", []) if row.get("loss")]
    if replaced and audit.get("loss") is not None:
        replaced.insert(0, ("none", f"{audit['loss']:.4f}"))
    tokens = f"{audit['tokens']:,}" if audit.get("tokens") else None
    return {"edges": f"{audit['edges']:,}", "tokens": tokens, "rows": rows, "replaced": replaced}


def _limits(contents: ModelFolder, results: list[dict[str, Any]]) -> Iterator[str]:
    yield "The curves run with kansformer only; programs that do not import it cannot use these weights."
    if contents.record is not None:
        (lower, upper), outside = contents.record.config.domain, OUTSIDE[contents.record.config.extrapolation]
        yield f"Outside their domain, {lower:g} to {upper:g} when they were made, the curves {outside}."
    if not results:
        yield "Its quality has not been recorded in its folder."
    elif contents.metadata.base_model and not any("original" in row for row in results):
        yield f"{contents.metadata.base_model} has not been measured beside it."
    if contents.metadata.base_model:
        yield f"Whatever limits {contents.metadata.base_model} has, this model has too."
    if contents.audit is not None:
        yield "A formula that fits a curve describes it; that it is what the model computes with is not proved by it."
