"""Curves without their model: the learned part beside public weights, in two small files."""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kansformer.conversion import ConversionRecord
from kansformer.conversion.curve_values import check_values
from kansformer.conversion.digest import SavedDigest, digest_of
from kansformer.conversion.rebuild import rebuild
from kansformer.conversion.record import base_prefix, check_record, config_of, get_setting, record_of
from kansformer.conversion.slots import check_no_adapters, check_no_adapters_before_curves
from kansformer.errors import CheckpointError, ConfigError, ConversionStateError
from kansformer.files import atomic_folder, check_unused
from kansformer.hub.weight_checksum import ModelChecksum, check_same_weights, checksum_of
from kansformer.nn.curves import curve_tensors, curved_modules
from kansformer.nn.transaction import transaction
from kansformer.safe_io import read_tensors, read_versioned_json

FORMAT_VERSION = 1
SETTINGS, TENSORS = "curves.json", "curves.safetensors"


def save_curves(model: nn.Module, folder: str | Path, *, also: Collection[str] = ()) -> Path:
    """Write the curves of a converted model, without its other weights.

    It is meant for a model of which only the curves were trained. Checksums of the others are written, by which
    `load_curves` recognises them.

    Args:
        model: converted, its weights in memory.
        folder: where to write; curves that `save_curves` wrote there before are replaced.
        also: paths of further modules whose weights are written, such as the new head "score" of a classifier.

    Returns:
        The folder.

    Raises:
        ConversionStateError: the model is not converted, has adapters, or its feed-forward networks were replaced by
            narrower ones, whose weights no other model has.
        CheckpointError: the folder holds other files, a weight is not in memory or quantised, or a curve is not finite.
        ConfigError: there is no such further module, or it has no weights.
    """
    record = record_of(model)
    if record is None:
        raise ConversionStateError("The model is not converted, so there are no curves to save.")
    check_no_adapters(model)
    if record.widths:
        raise ConversionStateError(
            "The feed-forward networks were replaced by narrower ones, whose weights belong to the curves. Save the "
            "whole model with save_pretrained."
        )
    check_record(model)
    folder = Path(folder)
    if not folder.is_dir() or {file.name for file in folder.iterdir()} != {SETTINGS, TENSORS}:
        check_unused(folder)
    tensors = _curve_tensors(model, _tensors_below(model, also))
    checksum = checksum_of(model, without=tensors)
    for name, tensor in tensors.items():
        check_values(name, tensor)
    settings = {
        "format_version": FORMAT_VERSION,
        "architecture": type(model).__name__,
        "conversion": record.to_dict(),
        "also": sorted(also),
        **asdict(checksum),
    }
    from safetensors.torch import save_file

    with atomic_folder(folder) as partial:
        copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        save_file(copies, partial / TENSORS, metadata={"format": "pt"})
        settings["digest"] = digest_of(record.to_dict(), [partial / TENSORS])
        (partial / SETTINGS).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    return folder


def load_curves(model: nn.Module, folder: str | Path, *, check_weights: bool = True) -> nn.Module:
    """Give a plain model the curves that `save_curves` wrote, in place.

    On the weights beside which the curves were trained, in the same dtype, its outputs are those of the trained model,
    bit for bit. In another dtype the curves are rounded as the weights are.

    Args:
        model: the plain model that the curves were trained on, with any head; or one with the same curves already,
            which take the new values.
        folder: what `save_curves` wrote.
        check_weights: refuse weights with other values than those that the curves were trained on. Without it any model
            of the same names and shapes takes them, such as another fine-tuning of the same model.

    Returns:
        The same model, converted.

    Raises:
        CheckpointError: the folder holds no curves, they do not fit the model, or its weights are others.
        ConversionStateError: the model has other curves already, is quantised, or has adapters. It is left as it was
            after any error.
        ConfigError: it lacks a module whose weights were written with the curves.
    """
    settings, tensors = _read(Path(folder))
    record = ConversionRecord.from_dict(settings["conversion"])
    if record.widths:  # the weights that would have to go are the model's own
        raise CheckpointError(f"{SETTINGS} speaks of narrower layers, which save_curves never writes. It was changed.")
    digest = SavedDigest.from_dict(settings["conversion"], settings["digest"]) if "digest" in settings else None
    saved = ModelChecksum.from_dict(settings)
    own = record_of(model)
    check = check_no_adapters_before_curves if own is None else check_no_adapters
    check(model)
    if own is None and get_setting(config_of(model), "quantization_config") is not None:
        raise ConversionStateError("The model is quantised. Load the curves into the float model and quantise that.")
    if own is not None and own.to_dict() != record.to_dict():
        raise ConversionStateError(
            "The model has other curves already. Load them into the plain model: revert(model) gives it back."
        )
    further = _tensors_below(model, settings["also"])
    replaced = further if own is None else _curve_tensors(model, further)
    same_dtype = check_same_weights(saved, checksum_of(model, without=replaced), values=check_weights)
    with transaction(model, replaced=replaced.values()):
        if own is None:
            rebuild(model, record, max_numbers=sum(tensor.numel() for tensor in tensors.values()))
        targets = _curve_tensors(model, further)
        _check_fit(tensors, targets)
        if digest is not None:
            digest.check([Path(folder) / TENSORS])
        new = {
            name: tensors[name].to(device=target.device, dtype=tensors[name].dtype if same_dtype else target.dtype)
            for name, target in targets.items()
        }
        for name, target in targets.items():
            target.data = new[name]
        return model


def _curve_tensors(model: nn.Module, further: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The model's tensors that a file holds, by their names in it, which count from the base model."""
    tensors = {
        f"{path}.{name}": tensor
        for path, module in curved_modules(model)
        for name, tensor in curve_tensors(module).items()
    }
    prefix = base_prefix(model)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()} | dict(further)


def _tensors_below(model: nn.Module, paths: Collection[str]) -> dict[str, Tensor]:
    """The weights and saved buffers of further modules, without curves, by their names in the model."""
    result: dict[str, Tensor] = {}
    curves = {id(tensor) for tensor in _curve_tensors(model, {}).values()}
    for path in paths:
        try:
            module = model.get_submodule(path)
        except AttributeError:
            raise ConfigError(
                f"{type(model).__name__} has no module {path!r:.200}, whose weights go with the curves."
            ) from None
        below = module.state_dict(prefix=f"{path}.", keep_vars=True)
        if not path or not below:
            raise ConfigError(f"{path!r:.200} is not a part of {type(model).__name__} with weights of its own.")
        result |= {name: tensor for name, tensor in below.items() if id(tensor) not in curves}
    return result


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not (folder / SETTINGS).is_file() or not (folder / TENSORS).is_file():
        raise CheckpointError(f"{str(folder)!r} holds no curves: {SETTINGS} and {TENSORS} are what save_curves writes.")
    settings = read_versioned_json(folder / SETTINGS, FORMAT_VERSION)
    also = settings.get("also")
    if not isinstance(also, list) or not all(isinstance(path, str) for path in also) or "conversion" not in settings:
        raise CheckpointError(f"{SETTINGS} in {str(folder)!r} does not say which curves there are. Save them again.")
    return settings, read_tensors(folder / TENSORS)


def _check_fit(tensors: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
    """Check that a file's tensors have the names, shapes and kinds of the model's, and usable values.

    Raises:
        CheckpointError: the first of them that does not.
    """
    for name in sorted({*tensors, *targets}):
        tensor, target = tensors.get(name), targets.get(name)
        if tensor is None:
            fault = f"{name} is missing in the file"
        elif target is None:
            fault = f"it has no place for {name}"
        elif tensor.shape != target.shape:
            fault = f"{name} has shape {tuple(tensor.shape)} instead of {tuple(target.shape)}"
        elif tensor.is_floating_point() != target.is_floating_point():
            fault = f"{name} has the dtype {str(tensor.dtype).removeprefix('torch.')}"
        else:
            check_values(name, tensor)
            continue
        raise CheckpointError(f"The curves do not fit the model: {fault}.")
