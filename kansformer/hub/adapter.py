"""Curves without their model: the learned part beside public weights, in two small files."""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path

from torch import Tensor, nn

from kansformer.conversion import ConversionRecord
from kansformer.conversion.digest import SavedDigest, digest_of
from kansformer.conversion.record import (
    CURVE_SETS,
    check_compiled_in_place,
    config_of,
    get_setting,
    record_of,
    uncompiled,
)
from kansformer.conversion.saving import update_record
from kansformer.conversion.slots import check_equal_copies, check_no_adapters, check_no_adapters_before_curves
from kansformer.conversion.tensor_check import check_values
from kansformer.errors import CheckpointError, ConfigError, ConversionStateError
from kansformer.files import atomic_folder, check_unused, updated_folder
from kansformer.hub.card_metadata import CARD_FILE, METADATA_FILE, CardMetadata
from kansformer.hub.curve_files import FORMAT_VERSION, SETTINGS, TENSORS, read_curves
from kansformer.hub.curve_sets import CurveSet, CurveSets, current_sets, list_curves
from kansformer.hub.curve_values import curve_values, put_curves
from kansformer.hub.weight_checksum import ModelChecksum, check_same_weights, checksum_of
from kansformer.hub_files import HUB_ID, find_folder
from kansformer.nn.curve_checks import check_not_disabled
from kansformer.nn.transaction import outside_inference_mode, transaction

CARD_FILES = {CARD_FILE, METADATA_FILE}
"""Files that `push_folder` writes beside the curves."""


def save_curves(model: nn.Module, folder: str | Path, *, also: Collection[str] = ()) -> Path:
    """Write the curves of a converted model, without its other weights.

    It is meant for a model of which only the curves were trained. Checksums of the others are written, by which
    `load_curves` recognises them.

    Args:
        model: converted, its weights in memory.
        folder: where to write; curves that `save_curves` wrote there before are replaced, their card stays.
        also: paths of further modules whose weights are written, such as the new head "score" of a classifier.

    Returns:
        The folder.

    Raises:
        ConversionStateError: the model is not converted, has adapters, a part of it is compiled on its own, or its
            feed-forward networks were replaced by narrower ones, whose weights no other model has.
        CheckpointError: the folder holds other files, a weight is not in memory or quantised, or a curve is not finite,
            or copies of curves that layers share differ.
        ConfigError: there is no such further module, or it has no weights.

    Examples:
        >>> from torch.nn import Linear, Sequential, SiLU
        >>> from kansformer import convert, save_curves
        >>> model = convert(Sequential(Linear(4, 8), SiLU(), Linear(8, 4)))
        >>> sorted(file.name for file in save_curves(model, "curves").iterdir())
        ['curves.json', 'curves.safetensors']
    """
    model = uncompiled(model)
    check_compiled_in_place(path for path, _ in model.named_modules())
    record = update_record(model)
    if record is None:
        raise ConversionStateError("The model is not converted, so there are no curves to save.")
    check_no_adapters(model)
    check_not_disabled(model, "Curves cannot be saved")
    if record.widths:
        raise ConversionStateError(
            "The feed-forward networks were replaced by narrower ones, whose weights belong to the curves. Save the "
            "whole model with save_pretrained."
        )
    check_equal_copies(model, record)
    folder = Path(folder)
    is_older = folder.is_dir() and {file.name for file in folder.iterdir()} - CARD_FILES == {SETTINGS, TENSORS}
    if not is_older:
        check_unused(folder)
    tensors = curve_values(model) | _tensors_below(model, also)
    checksum = checksum_of(model, without=tensors)
    for name, tensor in tensors.items():
        check_values(name, tensor)
    base_model = _base_model(model)
    settings = {
        "format_version": FORMAT_VERSION,
        "architecture": type(model).__name__,
        **({"base_model": base_model} if base_model else {}),
        "conversion": record.to_dict(),
        "also": sorted(also),
        **asdict(checksum),
    }
    from safetensors.torch import save_file

    with updated_folder(folder, lambda name: False) if is_older else atomic_folder(folder) as partial:
        copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        save_file(copies, partial / TENSORS, metadata={"format": "pt"})
        settings["digest"] = digest_of(record.to_dict(), [partial / TENSORS])
        (partial / SETTINGS).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    return folder


@outside_inference_mode()
def load_curves(
    model: nn.Module,
    folder: str | Path,
    *,
    name: str | None = None,
    check_weights: bool = True,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> nn.Module:
    """Give a plain model the curves that `save_curves` wrote, in place.

    On the weights beside which the curves were trained, in the same dtype, its outputs are those of the trained model,
    bit for bit. In another dtype the curves are rounded as the weights are.

    Args:
        model: the plain model that the curves were trained on, with any head; or one with the same curves already,
            which take the new values. With a name, one with any other sets of curves.
        folder: what `save_curves` wrote, or its "owner/name" on the Hub.
        name: what `set_curves` calls these curves, beside others on the same model, which they then take the place of
            until `set_curves` goes back; a set that has this name already is replaced. None is for a model that has one
            set only.
        check_weights: refuse weights with other values than those that the curves were trained on. Without it any model
            of the same names and shapes takes them, such as another fine-tuning of the same model.
        revision: branch, tag or commit on the Hub; None is the main branch.
        cache_dir: where the Hub's files are kept; None is huggingface_hub's own cache.
        token: for private repositories; None is the one that is logged in.
        local_files_only: take what is in the cache and do not ask the Hub.

    Returns:
        The same model, converted.

    Raises:
        CheckpointError: the folder holds no curves, they do not fit the model, or its weights are others.
        HubError: the Hub has no such repository or revision, or could not be reached.
        ConversionStateError: the model has other curves already and no name was given, is quantised, or has adapters.
        ConfigError: it lacks a module whose weights were written with the curves; or these are to have a name, which
            weights of other modules cannot have. The model is left as it was after any error.

    Examples:
        >>> from torch.nn import Linear, Sequential, SiLU
        >>> from kansformer import convert, load_curves, revert, save_curves
        >>> model = convert(Sequential(Linear(4, 8), SiLU(), Linear(8, 4)))
        >>> folder = save_curves(model, "curves")
        >>> load_curves(revert(model), folder)[1]
        LearnedActivation(8, ...)
    """
    given, model = model, uncompiled(model)
    if name is not None and not (isinstance(name, str) and name):
        raise ConfigError(f"name must be a text, such as 'style', or None; got {name!r:.80}.")
    folder = find_folder(
        folder,
        (SETTINGS, TENSORS),
        revision=revision,
        cache_dir=cache_dir,
        token=token,
        local_files_only=local_files_only,
    )
    settings, tensors = read_curves(folder)
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
    others = _other_sets(model, own, record, name)
    if name is not None and settings["also"]:
        raise ConfigError(
            f"These curves come with weights of {settings['also'][0]!r:.80}, which stay when others are chosen. Load "
            "them without a name."
        )
    further = _tensors_below(model, settings["also"])
    replaced = curve_values(model) | further
    same_dtype = check_same_weights(saved, checksum_of(model, without=replaced), values=check_weights)
    with transaction(model, replaced=replaced.values()):
        put_curves(model, record, tensors, further=further, keep_dtype=same_dtype)
        if digest is not None:
            digest.check([folder / TENSORS])
        if name is not None:
            values = {key: tensor.data for key, tensor in curve_values(model).items()}
            named = CurveSets({**others, name: CurveSet(record, values)}, {name: 1.0})
            vars(model)[CURVE_SETS] = named
        return given


def _base_model(model: nn.Module) -> str | None:
    """Hub id of the model that the curves belong to, as far as it is known; never a path of this machine."""
    origin = CardMetadata.of_origin(get_setting(config_of(model), "name_or_path") or None).base_model
    return origin if origin is not None and HUB_ID.fullmatch(origin) else None


def _other_sets(
    model: nn.Module, own: ConversionRecord | None, record: ConversionRecord, name: str | None
) -> Mapping[str, CurveSet]:
    """The sets that stay beside the one to load.

    Raises:
        ConversionStateError: without a name, the new curves would take the place of others.
    """
    if name is not None:
        sets = current_sets(model)
        return {} if sets is None else sets.sets
    if get_setting(model, CURVE_SETS) is not None:
        raise ConversionStateError(
            f"The model has sets of curves with names: {', '.join(list_curves(model))}. Give these a name, too: "
            "load_curves(model, folder, name=...)."
        )
    if own is not None and own.to_dict() != record.to_dict():
        raise ConversionStateError(
            "The model has other curves already. Load these beside them: load_curves(model, folder, name=...); or into "
            "the plain model, which revert(model) gives back."
        )
    return {}


def _tensors_below(model: nn.Module, paths: Collection[str]) -> dict[str, Tensor]:
    """The weights and saved buffers of further modules, without curves, by their names in the model."""
    result: dict[str, Tensor] = {}
    curves = {id(tensor) for tensor in curve_values(model).values()}
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
