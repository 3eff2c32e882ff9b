"""What a converted model's config says about its curves: enough to rebuild every slot without a search."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import nn

from kansformer.config import QUANT_METHOD, SLOTS, KANConfig
from kansformer.errors import CheckpointError, ConfigError
from kansformer.safe_io import check_json_value
from kansformer.sites.site import Slot

FORMAT_VERSION = 2
"""The newest format. Raised with every change of what is written; all versions down to 1 load for ever. A checkpoint is
written in the oldest one that can hold it: 2 brought `widths`, and all others are still 1."""

MODULE_PATH = re.compile(r"(?=.{1,400}$)[\w-]+(\.[\w-]+)*")


@dataclass(frozen=True)
class SlotRecord:
    """A slot that carries curves: its name, its path from the base model, and the width that its curves act on."""

    name: str
    path: str
    features: int

    def to_slot(self, prefix: str) -> Slot:
        """The slot in a model whose base model stands at `prefix` (with its dot) or is the model itself."""
        return Slot(name=self.name, path=prefix + self.path, features=self.features)


@dataclass(frozen=True)
class ConversionRecord:
    """The `quantization_config` entry of a converted model's config. Nothing is quantised; the loader looks there.

    Args:
        config: which curves.
        slots: where, relative to the base model, so that base and head classes both load.
        widths: hidden width by path of the feed-forward networks that are narrower than the model's config says,
            relative to the base model too.
    """

    config: KANConfig
    slots: tuple[SlotRecord, ...]
    widths: Mapping[str, int] = field(default_factory=dict)

    quant_method = QUANT_METHOD

    @property
    def format_version(self) -> int:
        """The oldest format that can hold this record."""
        return 2 if self.widths else 1

    def to_dict(self) -> dict:
        """JSON-ready; `ConversionRecord.from_dict` is the inverse."""
        entries = [{"slot": s.name, "path": s.path, "features": s.features} for s in self.slots]
        return {
            "quant_method": QUANT_METHOD,
            "format_version": self.format_version,
            **self.config.to_dict(),
            "sites": entries,
            **({"widths": dict(self.widths)} if self.widths else {}),
        }

    def get(self, name: str, default: object = None) -> object:
        """An entry of `to_dict`: transformers reads the settings of a config that was loaded already like a table."""
        return self.to_dict().get(name, default)

    @classmethod
    def from_dict(cls, values: dict) -> "ConversionRecord":
        """From `to_dict`, checked entry by entry since it may come from a stranger.

        Raises:
            CheckpointError: the format is newer than this package, or an entry has an impossible value.
        """
        check_json_value(values, "The kansformer settings of a checkpoint")
        if not isinstance(values, dict):
            raise CheckpointError(f"The kansformer settings of a checkpoint must be a table, got {values!r:.80}.")
        values = dict(values)
        values.pop("quant_method", None)
        version = values.pop("format_version", None)
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise CheckpointError(
                f"The checkpoint's kansformer format_version must be 1 or higher, got {version!r:.40}."
            )
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"The checkpoint has kansformer format version {version}; this package reads up to {FORMAT_VERSION}. "
                "Upgrade it: pip install --upgrade kansformer."
            )
        entries = values.pop("sites", None)
        if not isinstance(entries, list) or not entries:
            raise CheckpointError("The checkpoint's kansformer settings name no sites, so no curve could be placed.")
        widths = _checked_widths(values.pop("widths", {})) if version > 1 else {}
        try:
            config = KANConfig.from_dict(values)
        except ConfigError as error:
            raise CheckpointError(f"The checkpoint's kansformer settings are wrong: {error!s:.600}") from error
        slots = tuple(_slot_record(entry) for entry in entries)
        if len({(slot.name, slot.path) for slot in slots}) < len(slots):
            raise CheckpointError("The checkpoint's kansformer settings name a slot twice.")
        return cls(config, slots, widths)

    def with_grid_size(self, grid_size: int) -> "ConversionRecord":
        """The record of the same model on another grid."""
        return replace(self, config=replace(self.config, grid_size=grid_size))


def base_prefix(model: nn.Module) -> str:
    """Path of the base model inside a model with a head, with its dot; empty for a base model."""
    prefix = getattr(model, "base_model_prefix", "")
    return f"{prefix}." if prefix and isinstance(getattr(model, prefix, None), nn.Module) else ""


def slot_record(slot: Slot, prefix: str) -> SlotRecord:
    """The record of a slot of a model whose base model stands at `prefix`."""
    return SlotRecord(slot.name, slot.path.removeprefix(prefix), slot.features)


def _checked_widths(widths: object) -> dict[str, int]:
    if not isinstance(widths, dict):
        raise CheckpointError(f"The widths of a checkpoint must be a table of paths, got {widths!r:.80}.")
    for path, hidden in widths.items():
        if not isinstance(path, str) or not MODULE_PATH.fullmatch(path):
            raise CheckpointError(f"A width is given for {path!r:.80}, which is no path of a module.")
        if not isinstance(hidden, int) or isinstance(hidden, bool) or hidden < 1:
            raise CheckpointError(f"The feed-forward network {path} has the impossible width {hidden!r:.40}.")
    return widths


def _slot_record(entry: object) -> SlotRecord:
    if not isinstance(entry, dict) or set(entry) != {"slot", "path", "features"}:
        raise CheckpointError(f"A site entry must have the keys slot, path and features, got {entry!r:.120}.")
    name, path, features = entry["slot"], entry["path"], entry["features"]
    if name not in SLOTS:
        raise CheckpointError(f"A site entry has the unknown slot {name!r:.40}. Choose from: {', '.join(SLOTS)}.")
    if not isinstance(path, str) or not MODULE_PATH.fullmatch(path):
        raise CheckpointError(f"A site entry has {path!r:.80} as its path, which is no path of a module.")
    if not isinstance(features, int) or isinstance(features, bool) or features < 1:
        raise CheckpointError(f"The site {path} has the impossible width {features!r:.40}.")
    return SlotRecord(name, path, features)
