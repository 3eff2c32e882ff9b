"""The content of a folder that holds a model with curves: all that its card may state."""

import math
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kansformer.config import QUANT_METHOD
from kansformer.conversion import ConversionRecord
from kansformer.conversion.digest import SavedDigest
from kansformer.conversion.measured import WEIGHTS, digest_of_weights, weight_files_of
from kansformer.conversion.remote_code import MODULE_NAME, is_ours
from kansformer.errors import CheckpointError
from kansformer.hub.card_metadata import CardMetadata
from kansformer.hub.curve_files import SETTINGS, TENSORS, read_curve_settings
from kansformer.nn.curves import CURVE_PARAMETERS, CURVE_TENSORS
from kansformer.safe_io import LINE, NUMBER, TABLE, FieldKind, Fields, check_fields, is_number, open_tensors, read_json

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


def _are_classes(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) and name.isidentifier() for name in value)


def _are_replaced(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(row, dict) and is_number(row.get("share")) and (row.get("loss") is None or is_number(row["loss"]))
        for row in value
    )


def _is_width(value: object) -> bool:
    pairs = [entry if isinstance(entry, list) else [entry, 0] for entry in value] if isinstance(value, list) else [[]]
    return all(len(pair) == 2 and all(type(nodes) is int for nodes in pair) for pair in pairs)


MODEL_FIELDS: Fields = {"architectures": FieldKind("a list of class names", _are_classes), "auto_map": TABLE}
NETWORK_FIELDS: Fields = {
    "width": FieldKind("a list of numbers of nodes", _is_width),
    **dict.fromkeys(("grid_size", "order"), NUMBER),
    **dict.fromkeys(("basis", "base", "dtype"), LINE),
}
TRAINING_FIELDS: Fields = {
    **dict.fromkeys(("trainable", "steps", "tokens_per_second"), NUMBER),
    WEIGHTS: LINE,
    "evaluation": {"eval_loss": NUMBER, "eval_accuracy": NUMBER},
    "facts": {
        **dict.fromkeys(("device", "kansformer", "transformers", "torch", "python"), LINE),
        "data": {"source": LINE, "train_tokens": NUMBER, "tokenizer": LINE},
    },
}
AUDIT_FIELDS: Fields = {
    **dict.fromkeys(("edges", "tokens", "loss"), NUMBER),
    **{f"{part}coverage_{name}": NUMBER for part in ("", "control_") for name in ("r2", "r2_tokens", "r2_learned")},
    "replaced": FieldKind("a list of shares and losses", _are_replaced),
    WEIGHTS: LINE,
}
"""What a card reads in each of these files; their other entries are ignored."""


@dataclass(frozen=True, kw_only=True)
class WeightStatistics:
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
class ModelFolder:
    """What a card can be written from.

    Args:
        architecture: class of the model; "KAN" for a stand-alone network.
        is_adapter: whether it holds the curves alone, without the weights of the model.
        auto_class: transformers' Auto class that loads it; None where only its own class does.
        trusted: whether the folder has the file that `trust_remote_code=True` opens.
        record: where its curves are; None for a stand-alone network.
        network: the content of `kan.json`; None for a transformers model.
        weights: figures of its tensors.
        metadata: the content of `kansformer.json`.
        training: what `kansformer train` wrote in `training.json`; empty where it was not trained so.
        audit: what `kansformer explain` wrote in `summary.json`, here or in a folder below; None where there is none.
        results: rows of `metadata`. Rows, a training and an audit that say that they are of other weights than those in
            the folder are left out, with a warning.
    """

    architecture: str
    is_adapter: bool
    auto_class: str | None
    trusted: bool
    record: ConversionRecord | None
    network: dict[str, Any] | None
    weights: WeightStatistics
    metadata: CardMetadata
    training: dict[str, Any]
    audit: dict[str, Any] | None
    results: tuple[dict[str, Any], ...]

    @classmethod
    def read(cls, folder: Path) -> "ModelFolder":
        """Read a folder that holds a converted model, or what `save_curves` or `KAN.save` wrote.

        Raises:
            CheckpointError: it holds none of these, a file in it is broken, or its curves and their settings do not
                belong together.
        """
        if not folder.is_dir():
            raise CheckpointError(f"There is no folder {str(folder)!r}.")
        is_model = (folder / MODEL_FILE).exists()
        if not is_model and (folder / SETTINGS).exists():
            return cls._read_adapter(folder)
        if not is_model and not (folder / NETWORK_FILE).exists():
            raise CheckpointError(
                f"{str(folder)!r} holds no model: there is neither {MODEL_FILE} nor {NETWORK_FILE} nor {SETTINGS}. "
                "Give a folder that kansformer convert or train, save_pretrained, save_curves or KAN.save wrote."
            )
        file = MODEL_FILE if is_model else NETWORK_FILE
        config = check_fields(read_json(folder / file), {}, file)
        record = _read_record(config, folder) if is_model else None
        config = check_fields(config, MODEL_FIELDS if is_model else NETWORK_FIELDS, file)
        architecture = (config.get("architectures") or ["AutoModel"])[0] if is_model else "KAN"
        entries = config.get("auto_map", {}) if is_model else {}
        auto_map = {name: target for name, target in entries.items() if is_ours(target)}
        loaders = {name for name, target in auto_map.items() if target.rpartition(".")[2] == architecture}
        weights = _read_weights(folder, record)
        if record is not None and record.digest is not None:
            record.digest.check(weight_files_of(folder))
        return cls(
            architecture=architecture,
            is_adapter=False,
            auto_class=next((name for name in PIPELINES if name in loaders), None),
            trusted=bool(auto_map)
            and not any("--" in target for target in auto_map.values())  # in another repository
            and (folder / f"{MODULE_NAME}.py").is_file(),
            record=record,
            network=None if is_model else config,
            weights=weights,
            **_read_figures(folder, CardMetadata.read(folder)),
        )

    @classmethod
    def _read_adapter(cls, folder: Path) -> "ModelFolder":
        settings = read_curve_settings(folder)
        architecture = settings.get("architecture", "AutoModel")
        record = ConversionRecord.from_dict(settings["conversion"])
        weights = _read_weights(folder, record)
        if "digest" in settings:
            SavedDigest.from_dict(settings["conversion"], settings["digest"]).check([folder / TENSORS])
        heads = (name for name in PIPELINES if name != "AutoModel")
        return cls(
            architecture=architecture,
            is_adapter=True,
            auto_class=next((name for name in heads if architecture.endswith(name.removeprefix("AutoModel"))), None),
            trusted=False,
            record=record,
            network=None,
            weights=weights,
            **_read_figures(
                folder, CardMetadata.read(folder).completed(CardMetadata(base_model=settings.get("base_model")))
            ),
        )


def _read_record(config: Mapping[str, Any], folder: Path) -> ConversionRecord:
    settings = config.get("quantization_config")
    if not isinstance(settings, dict) or settings.get("quant_method") != QUANT_METHOD:
        raise CheckpointError(
            f"The model in {str(folder)!r} has no curves: its {MODEL_FILE} has no kansformer settings. Convert it "
            f"first: kansformer convert {folder} OUTPUT."
        )
    return ConversionRecord.from_dict(settings)


def _read_weights(folder: Path, record: ConversionRecord | None) -> WeightStatistics:
    files = weight_files_of(folder)
    if not files:
        raise CheckpointError(f"There are no weights in {str(folder)!r}: no file ends in .safetensors.")
    shapes: dict[str, list[int]] = {}
    dtypes: dict[str, None] = {}
    straight = True
    for file, key, tensor in open_tensors(files):
        shape, dtype = tensor.get_shape(), tensor.get_dtype()
        shapes[key], dtypes[dtype] = shape, None
        if _last(key) == "coefficients":
            if len(shape) not in (2, 3) or dtype not in ("F64", "F32", "F16", "BF16"):
                raise CheckpointError(
                    f"{str(file)!r} has {key:.120} of shape {shape!r:.80} in {dtype}; curves have two or three axes "
                    "and are floating-point."
                )
            if straight and math.prod(shape):
                straight = not tensor[:].any()
    copies = _copies(record, shapes)
    counts = {key: math.prod(shape) for key, shape in shapes.items() if _last(key) != "domain" and key not in copies}
    if not sum(counts.values()):
        raise CheckpointError(f"There are no numbers in the weights of {str(folder)!r}.")
    return WeightStatistics(
        parameters=sum(counts.values()),
        curve_parameters=sum(count for key, count in counts.items() if _last(key) in CURVE_PARAMETERS),
        curves=sum(_count_curves(key, shapes) for key in counts if _last(key) == "coefficients"),
        straight=straight,
        dtypes=tuple(dtypes),
        size=sum(file.stat().st_size for file in files),
    )


def _copies(record: ConversionRecord | None, keys: Collection[str]) -> set[str]:
    """The keys of curves that a model has once, for all layers, and a file for every layer: all but the first."""
    if record is None or record.config.share != "model":
        return set()
    first = {slot.name: slot.curve_path for slot in reversed(record.slots)}
    later = tuple(slot.curve_path for slot in record.slots if slot.curve_path != first[slot.name])
    owners = {key: key.rpartition(".")[0] for key in keys if _last(key) in CURVE_TENSORS}
    return {key for key, owner in owners.items() if any(f".{owner}".endswith(f".{path}") for path in later)}


def _count_curves(key: str, shapes: Mapping[str, list[int]]) -> int:
    """Curves of one module: its inputs, times its outputs where every edge has a curve of its own."""
    shape, mix = shapes[key], shapes.get(f"{key.removesuffix('coefficients')}mix", [])
    if len(shape) == 2:  # (I, C), else (I, C, O), or (I, C, R) beside a mix (R, O)
        return shape[0]
    return shape[0] * (mix[1] if len(mix) == 2 else shape[2])


def _read_figures(folder: Path, metadata: CardMetadata) -> dict[str, Any]:
    """All that was measured, as far as it is of the weights in the folder; older files do not say of which it is."""
    training, audit = _read_training(folder), _read_audit(folder)
    of = {
        TRAINING_FILE: training.get(WEIGHTS),
        AUDIT_FILE: (audit or {}).get(WEIGHTS),
        **{f"{row['metric']} on {row['dataset']}": row.get(WEIGHTS) for row in metadata.results},
    }
    known = set(of.values()) - {None}
    other = known - {digest_of_weights(folder)} if known else known
    if left_out := [name for name, digest in of.items() if digest in other]:
        warnings.warn(
            f"Other weights than those in {str(folder)!r} were measured in: {', '.join(left_out)}. The card leaves "
            "these figures out. Measure again with kansformer evaluate --record or kansformer explain.",
            stacklevel=4,
        )
    return {
        "metadata": metadata,
        "training": {} if of[TRAINING_FILE] in other else training,
        "audit": None if of[AUDIT_FILE] in other else audit,
        "results": tuple(row for row in metadata.results if row.get(WEIGHTS) not in other),
    }


def _read_training(folder: Path) -> dict[str, Any]:
    file = folder / TRAINING_FILE
    return check_fields(read_json(file), TRAINING_FIELDS, TRAINING_FILE) if file.exists() else {}


def _read_audit(folder: Path) -> dict[str, Any] | None:
    for file in (folder / AUDIT_FILE, *sorted(folder.glob(f"*/{AUDIT_FILE}"))):
        values = read_json(file) if file.exists() else None
        if isinstance(values, dict) and "control_coverage_r2" in values and values.get("edges") is not None:
            return check_fields(values, AUDIT_FIELDS, AUDIT_FILE)
    return None


def _last(key: str) -> str:
    return key.rpartition(".")[2]
