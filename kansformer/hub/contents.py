"""What lies in the folder of a model with curves: the facts that a card may state, and nothing else."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kansformer.config import QUANT_METHOD
from kansformer.conversion import ConversionRecord
from kansformer.conversion.remote_code import is_ours
from kansformer.errors import CheckpointError
from kansformer.hub.facts import KnownFacts, read_facts, read_json
from kansformer.nn.curves import CURVE_PARAMETERS

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
    """Read a folder that holds a converted model, or a network that `save_kan` wrote.

    Raises:
        CheckpointError: it holds neither, or a file in it is broken.
    """
    if not folder.is_dir():
        raise CheckpointError(f"There is no folder {str(folder)!r}.")
    is_model = (folder / MODEL_FILE).exists()
    if not is_model and not (folder / NETWORK_FILE).exists():
        raise CheckpointError(
            f"{str(folder)!r} holds no model: there is neither {MODEL_FILE} nor {NETWORK_FILE}. Give a folder that "
            "kansformer convert, kansformer train, save_pretrained or save_kan wrote."
        )
    config = read_json(folder / (MODEL_FILE if is_model else NETWORK_FILE))
    if not isinstance(config, dict):
        raise CheckpointError(f"The config in {str(folder)!r} is no table.")
    record = _record_of(config, folder) if is_model else None
    auto_map = {k: v for k, v in (config.get("auto_map") or {}).items() if is_ours(v)}
    training = folder / TRAINING_FILE
    return FolderContents(
        architecture=(config.get("architectures") or ["AutoModel"])[0] if is_model else "KAN",
        auto_class=_auto_class(config, auto_map) if is_model else None,
        trusted=bool(auto_map) and all((folder / f"{v.split('.')[0]}.py").exists() for v in auto_map.values()),
        record=record,
        network=None if is_model else config,
        weights=_weights(folder),
        known=read_facts(folder),
        training=read_json(training) if training.exists() else None,
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
                    if straight and _last(key) == "coefficients":
                        straight = not tensors.get_tensor(key).any()
        except SafetensorError as error:
            raise CheckpointError(f"{str(file)!r} cannot be read: {error}.") from error
    counts = {key: math.prod(shape) for key, shape in shapes.items() if _last(key) != "domain"}
    return Weights(
        parameters=sum(counts.values()),
        curve_parameters=sum(count for key, count in counts.items() if _last(key) in CURVE_PARAMETERS),
        curves=sum(_curves_per_module(shapes)),
        straight=straight,
        dtypes=tuple(dtypes),
        size=sum(file.stat().st_size for file in files),
    )


def _curves_per_module(shapes: dict[str, list[int]]) -> Iterator[int]:
    for key, shape in shapes.items():
        if _last(key) == "coefficients":
            mix = shapes.get(f"{key.removesuffix('coefficients')}mix")
            outputs = 1 if len(shape) == 2 else shape[2] if mix is None else mix[1]  # (I, C), (I, C, O) or (I, C, R)
            yield shape[0] * outputs


def _audit(folder: Path) -> dict[str, Any] | None:
    for file in (folder / AUDIT_FILE, *sorted(folder.glob(f"*/{AUDIT_FILE}"))):
        found = read_json(file) if file.exists() else None
        if isinstance(found, dict) and "control_coverage_r2" in found and "edges" in found:
            return found
    return None


def _last(key: str) -> str:
    return key.rpartition(".")[2]
