"""What lies in the folder of a model with curves: the facts that a card may state, and nothing else."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kansformer.config import QUANT_METHOD
from kansformer.conversion import ConversionRecord
from kansformer.conversion.remote_code import MODULE_NAME, is_ours
from kansformer.errors import CheckpointError
from kansformer.hub.card_metadata import KnownFacts, is_line, read_facts
from kansformer.nn.curves import CURVE_PARAMETERS
from kansformer.safe_io import read_json

MODEL_FILE, NETWORK_FILE, TRAINING_FILE, AUDIT_FILE = "config.json", "kan.json", "training.json", "summary.json"

PIPELINES = {
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModelForImageClassification": "image-classification",
    "AutoModelForSeq2SeqLM": None,
    "AutoModel": "feature-extraction",
}
"""What the Hub calls the task of an Auto class; the first that knows a model's class is the one to load it with."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Figures of a folder's safetensors files.

    Args:
        parameters: numbers in them, the domains of curves not counted.
        curve_parameters: those of curves.
        curves: functions that were learned, or can be: one per edge, channel or group.
        straight: whether every curve is zero.
        dtypes: of the tensors, as safetensors names them.
        size: bytes of the files.
    """

    parameters: int
    curve_parameters: int
    curves: int
    straight: bool
    dtypes: tuple[str, ...]
    size: int


@dataclass(frozen=True, kw_only=True)
class FolderContents:
    """What a card can be written from.

    Args:
        architecture: class of the model; "KAN" for a stand-alone network.
        auto_class: transformers' Auto class that loads it; None where only its own class does.
        trusted: whether the folder has the file that `trust_remote_code=True` opens.
        record: where its curves are; None for a stand-alone network.
        network: what `kan.json` says; None for a transformers model.
        weights: figures of its tensors.
        known: what `kansformer.json` says.
        training: what `kansformer train` wrote in `training.json`; None where it was not trained so.
        audit: what `kansformer explain` wrote in `summary.json`, here or in a folder below; None where there is none.
    """

    architecture: str
    auto_class: str | None
    trusted: bool
    record: ConversionRecord | None
    network: dict[str, Any] | None
    weights: Weights
    known: KnownFacts
    training: dict[str, Any] | None
    audit: dict[str, Any] | None


def read_contents(folder: Path) -> FolderContents:
    """Read a folder that holds a converted model, or a network that `KAN.save` wrote.

    Raises:
        CheckpointError: it holds neither, or a file in it is broken.
    """
    if not folder.is_dir():
        raise CheckpointError(f"There is no folder {str(folder)!r}.")
    is_model = (folder / MODEL_FILE).exists()
    if not is_model and not (folder / NETWORK_FILE).exists():
        raise CheckpointError(
            f"{str(folder)!r} holds no model: there is neither {MODEL_FILE} nor {NETWORK_FILE}. Give a folder that "
            "kansformer convert, kansformer train, save_pretrained or KAN.save wrote."
        )
    config = read_json(folder / (MODEL_FILE if is_model else NETWORK_FILE))
    if not isinstance(config, dict):
        raise CheckpointError(f"The config in {str(folder)!r} is no table.")
    record = _record_of(config, folder) if is_model else None
    named = _checked(config, NAMES, MODEL_FILE) if is_model else _checked(config, NETWORK, NETWORK_FILE)
    auto_map = {k: v for k, v in (named.get("auto_map") or {}).items() if is_ours(v)}
    training = folder / TRAINING_FILE
    return FolderContents(
        architecture=(named.get("architectures") or ["AutoModel"])[0] if is_model else "KAN",
        auto_class=_auto_class(named, auto_map) if is_model else None,
        trusted=bool(auto_map)
        and not any("--" in target for target in auto_map.values())  # in another repository
        and (folder / f"{MODULE_NAME}.py").is_file(),
        record=record,
        network=None if is_model else config,
        weights=_weights(folder),
        known=read_facts(folder),
        training=_checked(read_json(training), TRAINING, TRAINING_FILE) if training.exists() else None,
        audit=_audit(folder),
    )


def _record_of(config: dict[str, Any], folder: Path) -> ConversionRecord:
    settings = config.get("quantization_config")
    if not isinstance(settings, dict) or settings.get("quant_method") != QUANT_METHOD:
        raise CheckpointError(
            f"The model in {str(folder)!r} has no curves: its {MODEL_FILE} has no kansformer settings. Convert it "
            f"first: kansformer convert {folder} OUTPUT."
        )
    return ConversionRecord.from_dict(settings)


def _auto_class(config: dict[str, Any], auto_map: dict[str, str]) -> str | None:
    architecture = (config.get("architectures") or [""])[0]
    fitting = [name for name, target in auto_map.items() if target.rpartition(".")[2] == architecture]
    return next((name for name in PIPELINES if name in fitting), None)


def _weights(folder: Path) -> Weights:
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"There are no weights in {str(folder)!r}: no file ends in .safetensors.")
    shapes: dict[str, list[int]] = {}
    dtypes: dict[str, None] = {}
    straight = True
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118 - no dict
                    part = tensors.get_slice(key)
                    shapes[key] = part.get_shape()
                    dtypes[part.get_dtype()] = None
                    if _last(key) == "coefficients":
                        _refuse_no_curve(key, part.get_shape(), part.get_dtype(), file)
                    if straight and _last(key) == "coefficients" and math.prod(part.get_shape()):
                        straight = not tensors.get_tensor(key).any()
        except SafetensorError as error:
            raise CheckpointError(f"{str(file)!r} cannot be read: {error!s:.400}.") from error
    counts = {key: math.prod(shape) for key, shape in shapes.items() if _last(key) != "domain"}
    if not sum(counts.values()):
        raise CheckpointError(f"There are no numbers in the weights of {str(folder)!r}.")
    return Weights(
        parameters=sum(counts.values()),
        curve_parameters=sum(count for key, count in counts.items() if _last(key) in CURVE_PARAMETERS),
        curves=sum(_curves_per_module(shapes)),
        straight=straight,
        dtypes=tuple(dtypes),
        size=sum(file.stat().st_size for file in files),
    )


def _refuse_no_curve(key: str, shape: list[int], dtype: str, file: Path) -> None:
    if len(shape) not in (2, 3) or dtype not in ("F64", "F32", "F16", "BF16"):
        raise CheckpointError(f"{str(file)!r} has {key:.120} of shape {shape!r:.80} in {dtype}, which is no curve.")


def _curves_per_module(shapes: dict[str, list[int]]) -> Iterator[int]:
    for key, shape in shapes.items():
        if _last(key) == "coefficients":
            mix = shapes.get(f"{key.removesuffix('coefficients')}mix")
            # (I, C), (I, C, O) or (I, C, R)
            outputs = 1 if len(shape) == 2 else shape[2] if mix is None or len(mix) != 2 else mix[1]
            yield shape[0] * outputs


def _audit(folder: Path) -> dict[str, Any] | None:
    for file in (folder / AUDIT_FILE, *sorted(folder.glob(f"*/{AUDIT_FILE}"))):
        found = read_json(file) if file.exists() else None
        if isinstance(found, dict) and "control_coverage_r2" in found and found.get("edges") is not None:
            return _checked(found, AUDIT, AUDIT_FILE)
    return None


def _checked(values: Any, kinds: dict[str, Any], file: str) -> dict[str, Any]:
    """A table without what is null, of whose other entries a card can be written.

    Raises:
        CheckpointError: one is not.
    """
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} must hold a table, got {values!r:.80}.")
    values = {name: value for name, value in values.items() if value is not None}
    for name in kinds.keys() & values.keys():
        kind, value = kinds[name], values[name]
        if isinstance(kind, dict):
            values[name] = _checked(value, kind, f"{name} in {file}")
        elif not kind(value):
            raise CheckpointError(f"{name} in {file} has a value that no card can be written from: {value!r:.80}.")
    return values


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _are_classes(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) and name.isidentifier() for name in value)


def _is_auto_map(value: Any) -> bool:
    return isinstance(value, dict)


def _is_replaced(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(row, dict) and _is_number(row.get("share")) and (row.get("loss") is None or _is_number(row["loss"]))
        for row in value
    )


def _is_width(value: Any) -> bool:
    pairs = [entry if isinstance(entry, list) else [entry, 0] for entry in value] if isinstance(value, list) else [[]]
    return all(len(pair) == 2 and all(type(nodes) is int for nodes in pair) for pair in pairs)


NAMES = {"architectures": _are_classes, "auto_map": _is_auto_map}
NETWORK = {
    "width": _is_width, "basis": is_line, "grid_size": _is_number, "order": _is_number, "base": is_line,
    "dtype": is_line,
}  # fmt: skip
TRAINING: dict[str, Any] = {
    "trainable": _is_number,
    "steps": _is_number,
    "tokens_per_second": _is_number,
    "evaluation": {"eval_loss": _is_number, "eval_accuracy": _is_number},
    "facts": {
        **dict.fromkeys(("device", "kansformer", "transformers", "torch", "python"), is_line),
        "data": {"source": is_line, "train_tokens": _is_number, "tokenizer": is_line},
    },
}
AUDIT = {
    **dict.fromkeys(("edges", "tokens", "loss"), _is_number),
    **{f"{part}coverage_{name}": _is_number for part in ("", "control_") for name in ("r2", "r2_tokens", "r2_learned")},
    "replaced": _is_replaced,
}
"""What a card reads in each of these files; whatever else they say is not looked at."""


def _last(key: str) -> str:
    return key.rpartition(".")[2]
