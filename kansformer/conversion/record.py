"""What a converted model's config says about its curves: enough to rebuild every slot without a search."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from kansformer.checks import check_choice, check_integer
from kansformer.config import CURVE_ORIGIN, MODULE_FILTERS, QUANT_METHOD, SLOTS, KANConfig
from kansformer.conversion.digest import ENTRY, FIRST_VERSION, SavedDigest
from kansformer.errors import CheckpointError, ConfigError, ConversionStateError, KansformerError
from kansformer.nn.curve_checks import find_record
from kansformer.nn.curves import CurveSpec, curved_modules
from kansformer.safe_io import check_json_value
from kansformer.sites.site import Slot, parent_of

FORMAT_VERSION = 5
"""The newest format. Raised with every change of the format; all versions from 1 on load for ever. A checkpoint is
written in the oldest one that can hold it: 2 brought `widths`, 3 the digest, which variants do not have, 4
`target_modules` and `exclude_modules` of the config, and 5 its `share`, `curves` and `trainable`."""

CURVE_SETS = "curve_sets"
"""Attribute of a converted model for its named sets of curves, which `kansformer.hub.curve_sets` keeps there."""

IN_PLACE = "frozen in place"
"""What a config calls fixed curves that are in no file as they are in the model."""

MODULE_PATH = re.compile(r"(?=.{1,400}$)[\w-]+(\.[\w-]+)*")


@dataclass(frozen=True)
class ConversionRecord:
    """The `quantization_config` entry of a converted model's config. Nothing is quantised; the loader looks there.

    Args:
        config: which curves.
        slots: where, with paths from the base model, so that base and head classes both load.
        widths: hidden width by path of the feed-forward networks that are narrower than the model's config says,
            relative to the base model too.
        digest: of the checkpoint that it was read from, if that has one; it is not part of `to_dict`.
    """

    config: KANConfig
    slots: tuple[Slot, ...]
    widths: Mapping[str, int] = field(default_factory=dict)
    digest: SavedDigest | None = field(default=None, compare=False)

    quant_method = QUANT_METHOD

    @property
    def format_version(self) -> int:
        """The oldest format that can hold this record, without a digest."""
        settings = self.config.to_dict()
        if any(name in settings for name in CURVE_ORIGIN):
            return 5
        if any(name in settings for name in MODULE_FILTERS):
            return 4
        return 2 if self.widths else 1

    def to_dict(self) -> dict:
        """JSON-ready; `ConversionRecord.from_dict` is the inverse."""
        return {
            "quant_method": QUANT_METHOD,
            "format_version": self.format_version,
            **self.config.to_dict(),
            "sites": [{"slot": slot.name, "path": slot.path, "features": slot.features} for slot in self.slots],
            **({"widths": dict(self.widths)} if self.widths else {}),
        }

    def get(self, name: str, default: object = None) -> object:
        """An entry of `to_dict`: transformers reads the settings of a config that was loaded already like a table."""
        return self.to_dict().get(name, default)

    @classmethod
    def from_dict(cls, values: dict) -> "ConversionRecord":
        """From `to_dict`; every entry is checked, since the file may come from anyone.

        Raises:
            CheckpointError: the format is newer than this package, or an entry has an impossible value.
        """
        check_json_value(values, "The kansformer settings of a checkpoint")
        if not isinstance(values, dict):
            raise CheckpointError(f"The kansformer settings of a checkpoint must be a table, got {values!r:.80}.")
        settings = {name: value for name, value in values.items() if name != "quant_method"}
        version = check_integer(
            "format_version of the kansformer settings", settings.pop("format_version", None), 1, error=CheckpointError
        )
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"The checkpoint has kansformer format version {version}; this package reads up to {FORMAT_VERSION}. "
                "Upgrade it: pip install --upgrade kansformer."
            )
        entries = settings.pop("sites", None)
        if not isinstance(entries, list) or not entries:
            raise CheckpointError("The checkpoint's kansformer settings name no sites, so no curve could be placed.")
        widths = _checked_widths(settings.pop("widths", {})) if version > 1 else {}
        entry = settings.pop(ENTRY, None) if version >= FIRST_VERSION else None
        digest = None if entry is None else SavedDigest.from_dict(values, entry)
        try:
            config = KANConfig.from_dict(settings)
        except ConfigError as error:
            raise CheckpointError(f"The checkpoint's kansformer settings are wrong: {error!s:.600}") from error
        slots = tuple(_checked_slot(entry) for entry in entries)
        if len({(slot.name, slot.path) for slot in slots}) < len(slots):
            raise CheckpointError("The checkpoint's kansformer settings name a slot twice.")
        return cls(config, slots, widths, digest)

    @property
    def is_fixed(self) -> bool:
        """Whether the curves are a fixed function, which is not trained."""
        return not self.config.trainable

    def with_slots(self, slots: tuple[Slot, ...]) -> "ConversionRecord":
        """The record of a model that keeps only these slots."""
        names = {slot.name for slot in slots}
        kinds = {self.config.curve_spec(name).edges for name in names}
        edges = kinds.pop() if len(kinds) == 1 else self.config.edges  # those without weights may have been left alone
        left = tuple(name for name in self.config.slots if name in names)
        return replace(self, config=replace(self.config, slots=left, edges=edges), slots=slots)

    def with_grid_size(self, grid_size: int) -> "ConversionRecord":
        """The record of the same model on another grid."""
        return replace(self, config=replace(self.config, grid_size=grid_size))


def record_of(model: nn.Module) -> ConversionRecord | None:
    """The record of a converted model, None of any other, such as a plain one made with a converted one's config."""
    if next(curved_modules(model), None) is None:
        return None
    record = find_record(model)
    return record if isinstance(record, ConversionRecord) else None


def config_of(model: nn.Module) -> Any:
    """A model's transformers config; None for a model without one, whatever else it calls its config."""
    config = get_setting(model, "config")
    return config if hasattr(config, "to_dict") else None


def get_setting(owner: object, name: str) -> Any:
    """An attribute that not every transformers config or model has; None where it is missing."""
    return getattr(owner, name, None)


def quantization_method(config: object) -> str | None:
    """Name of the method of a `quantization_config`, which may be a table; None where there is none."""
    method = config.get("quant_method") if isinstance(config, dict) else get_setting(config, "quant_method")
    return get_setting(method, "value") or method


def uncompiled(model: nn.Module) -> nn.Module:
    """The model that `torch.compile` put into another one; the model itself where it did not."""
    inner = get_setting(model, "_orig_mod")
    return inner if isinstance(inner, nn.Module) else model


def check_compiled_in_place(names: Iterable[str], error: type[KansformerError] = ConversionStateError) -> None:
    """Refuse a model of which a part is the result of `torch.compile(part)`, whose tensors have other names.

    Args:
        names: of the model's modules or tensors.
        error: the class to raise.

    Raises:
        KansformerError: a name has `_orig_mod` in it.
    """
    for name in names:
        part, compiled, _ = f".{name}.".partition("._orig_mod.")
        if compiled:
            place = part.removeprefix(".") or "The model"
            raise error(
                f"{place} is the result of torch.compile(module), so its tensors have other names in a checkpoint. "
                "Compile in place, by module.compile(), or after this."
            )


def base_prefix(model: nn.Module) -> str:
    """Path of the base model inside a model with a head, with its dot; empty for a base model."""
    prefix = get_setting(model, "base_model_prefix")
    return f"{prefix}." if prefix and isinstance(get_setting(model, prefix), nn.Module) else ""


def rooted_slot(model: nn.Module, slot: Slot) -> Slot:
    """A recorded slot with its path from the model's root; as `base_prefix` says where the model has no such path."""
    prefix = base_prefix(model)
    candidates = [replace(slot, path=path) for path in dict.fromkeys((prefix + slot.path, slot.path))]
    return next((rooted for rooted in candidates if recorded_target(model, rooted) is not None), candidates[0])


def recorded_target(model: nn.Module, slot: Slot) -> object | None:
    """The layer or activation at a recorded slot, or the host of its input curve; None where there is no such path.

    Never looked up by `getattr`: a path in an untrusted file may name a method of the model.
    """
    try:
        if slot.name == "input":
            return model.get_submodule(slot.path)
        path, name = parent_of(slot.path)
        owner = model.get_submodule(path)
    except AttributeError:
        return None
    return owner._modules.get(name, vars(owner).get(name))


def record_of_part(model: nn.Module, record: ConversionRecord, start: str, prefix: str) -> ConversionRecord | None:
    """The record of a model whose modules' paths have this start, and whose base model has this path; None without
    curves."""
    rooted = (rooted_slot(model, slot) for slot in record.slots)
    inside = [slot for slot in rooted if slot.path.startswith(start)]
    if not inside:
        return None
    slots = tuple(replace(slot, path=slot.path.removeprefix(start).removeprefix(prefix)) for slot in inside)
    widths = {f"{base_prefix(model)}{path}": width for path, width in record.widths.items()}
    base = start + prefix
    own = {path.removeprefix(base): width for path, width in widths.items() if path.startswith(base)}
    return replace(record.with_slots(slots), widths=own, digest=None)


def placed_record(model: nn.Module) -> ConversionRecord | None:
    """The record of a converted model; None of any other, such as a part that has the config of a converted whole."""
    record = record_of(model)
    if record is None or all(recorded_target(model, rooted_slot(model, slot)) is None for slot in record.slots):
        return None
    return record


def record_of_whole(model: nn.Module) -> ConversionRecord | None:
    """The record of a model of which only parts were converted, as if it had been as a whole; None where none was.

    Raises:
        CheckpointError: the parts were converted with different settings, or share their curves each among itself; or
            the model is quantised.
    """
    records: dict[str, ConversionRecord] = {}
    slots, widths = list[Slot](), dict[str, int]()
    for place, part in model.named_modules():
        record = None if any(place.startswith(f"{other}.") for other in records) else placed_record(part)
        if record is None:
            continue
        records[place] = record
        first, *others = records
        if others and (record.config != records[first].config or record.config.share == "model"):
            why = (
                "share their curves each among itself" if record.config.share == "model" else "have different settings"
            )
            raise CheckpointError(
                f"{first} and {place} were converted apart and {why}, and a checkpoint has one record. Convert the "
                "whole model, or save the parts."
            )
        start = f"{place}.".removeprefix(base_prefix(model))
        slots += [replace(slot, path=start + rooted_slot(part, slot).path) for slot in record.slots]
        widths |= {f"{start}{base_prefix(part)}{path}": width for path, width in record.widths.items()}
    if not records:
        return None
    others_settings = get_setting(config_of(model), "quantization_config")
    if not (others_settings is None or isinstance(others_settings, ConversionRecord)):
        raise CheckpointError(
            f"{next(iter(records))} was converted, and the config of {type(model).__name__} says that the model is "
            f"quantised ({quantization_method(others_settings)}); a checkpoint can say one of both. Save the parts."
        )
    return ConversionRecord(next(iter(records.values())).config, tuple(slots), widths)


def present_record(model: nn.Module, record: ConversionRecord) -> ConversionRecord:
    """A model's record without places that are gone; the same where none is left."""
    left = tuple(slot for slot in record.slots if recorded_target(model, rooted_slot(model, slot)) is not None)
    if not left or left == record.slots:
        return record
    places = {path for path, _ in model.named_modules(remove_duplicate=False)}
    widths = {path: width for path, width in record.widths.items() if base_prefix(model) + path in places}
    return replace(record.with_slots(left), widths=widths)


def narrowed_paths(model: nn.Module) -> list[str]:
    """Paths, from the model's root, of the feed-forward networks that are narrower than the model's config says."""
    record = record_of(model)
    return [base_prefix(model) + path for path in record.widths] if record is not None else []


def check_record(model: nn.Module) -> None:
    """Check that the model's curves are those that its config describes.

    Raises:
        CheckpointError: some are not, for instance because the grid of a part of the model was refined.
    """
    record = record_of(model)
    if record is None:
        return
    expected = list(dict.fromkeys(_describe(record.config.curve_spec(slot)) for slot in record.config.slots))
    for path, module in curved_modules(model):
        if _describe(module.curves) not in expected:
            raise CheckpointError(
                f"{path} has {_describe(module.curves)}, but the config says {' and '.join(expected)}, and a "
                "checkpoint is what its config says. Change the whole model, for instance by "
                "refine_grid(model, grid_size)."
            )


def _describe(spec: CurveSpec) -> str:
    rank = f" of rank {spec.rank}" if spec.edges == "low_rank" else ""
    return f"{spec.edges} curves{rank} with {spec.basis}"


def _checked_widths(widths: object) -> dict[str, int]:
    if not isinstance(widths, dict):
        raise CheckpointError(f"The widths of a checkpoint must be a table of paths, got {widths!r:.80}.")
    return {_checked_path(path): _checked_width(path, hidden) for path, hidden in widths.items()}


def _checked_slot(entry: object) -> Slot:
    if not isinstance(entry, dict) or set(entry) != {"slot", "path", "features"}:
        raise CheckpointError(f"A site entry must have the keys slot, path and features, got {entry!r:.120}.")
    path = _checked_path(entry["path"])
    name = check_choice("slot of a site entry", entry["slot"], SLOTS, CheckpointError)
    return Slot(name=name, path=path, features=_checked_width(path, entry["features"]))


def _checked_path(path: object) -> str:
    if not isinstance(path, str) or not MODULE_PATH.fullmatch(path):
        raise CheckpointError(f"The checkpoint's kansformer settings name {path!r:.80}, which is not a module's path.")
    return path


def _checked_width(path: str, width: object) -> int:
    return check_integer(f"The width of {path:.80}", width, 1, error=CheckpointError)
