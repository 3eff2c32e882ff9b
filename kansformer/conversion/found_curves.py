"""Curves apart from any model, in one small file: `freeze_curves` writes it, `KANConfig(curves=…)` names it.

A safetensors file. Of every slot it has `slot.coefficients` (L, P, C), `slot.domain` (L, P, 2) and, for rational
curves, `slot.denominator` (L, P, D); its metadata have, under the key "kansformer", what `FoundCurves` says of them.

Shape letters: L layers, 1 where they share one set, P curves of the input axis, C coefficients, D denominator
parameters.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kansformer.config import KANConfig
from kansformer.conversion.tensor_check import check_values
from kansformer.errors import CheckpointError, ConfigError
from kansformer.files import atomic_file
from kansformer.nn.curves import curve_tensors
from kansformer.safe_io import LINE, TABLE, FieldKind, Fields, check_fields, check_version, read_metadata, read_tensors
from kansformer.sites.site import Slot

FORMAT_VERSION = 1
METADATA_KEY = "kansformer"
SUFFIX = ".safetensors"
SHIPPED = Path(__file__).resolve().parent.parent / "found_curves"
"""Files in this folder can be given by their name without its ending."""

CURVE_SETTINGS = ("basis", "grid_size", "order", "domain", "edges", "groups", "extrapolation", "slots")
"""Fields of `KANConfig` that a file decides."""

ENTRIES: Fields = {
    "format_version": FieldKind("a number", lambda value: isinstance(value, int)),
    "settings": TABLE,
    "digest": LINE,
    "model_type": LINE,
    "mean_of": FieldKind("a number of layers", lambda value: type(value) is int and value > 0),
    "source": LINE,
    "figures": TABLE,
}


@dataclass(frozen=True)
class FoundCurves:
    """Curves by slot, for any model that they fit.

    Args:
        config: their basis and slots, and how channels share them.
        tensors: as in the file.
        name: of the file, without its ending; empty for curves that are in none.
        model_type: transformers' name for the family of the model that they come from.
        mean_of: number of layers of which they are the mean; None where they are as they were trained.
        source: where they come from, in words.
        figures: what was measured with them.
    """

    config: KANConfig
    tensors: Mapping[str, Tensor]
    name: str = ""
    model_type: str | None = None
    mean_of: int | None = None
    source: str | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        config: KANConfig,
        modules: Sequence[tuple[Slot, Any]],
        *,
        one_set: bool,
        name: str,
        model_type: str | None,
        source: str | None,
        figures: Mapping[str, Any],
    ) -> "FoundCurves":
        """The curves of a model's modules.

        Args:
            config: of the model.
            modules: with their slots.
            one_set: take the curves of the first layer only, which the others share.
            name, model_type, source, figures: as in the class.

        Raises:
            ConfigError: curves are per edge, or those of one slot have different shapes.
            CheckpointError: they are not finite.
        """
        if config.edges not in ("channel", "group"):
            raise ConfigError(
                f"edges={config.edges!r} cannot be written into a file of curves, which fit one width only. Curves per "
                "channel or group can; for others: save_curves(model, folder)."
            )
        tensors = {}
        for slot in config.slots:
            layers = [curve_tensors(module) for place, module in modules if place.name == slot]
            for kind in layers[0]:
                values = [layer[kind].detach().cpu() for layer in layers[: 1 if one_set else None]]
                if len({value.shape for value in values}) > 1:
                    raise ConfigError(
                        f"The layers have different widths in the slot {slot!r}, so no file can hold them."
                    )
                tensors[f"{slot}.{kind}"] = torch.stack(values)
                check_values(f"{slot}.{kind}", tensors[f"{slot}.{kind}"])
        return cls(config, tensors, name=name, model_type=model_type, source=source, figures=figures)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the settings and the values."""
        digest = hashlib.sha256(json.dumps(self._settings(), sort_keys=True).encode())
        for name, tensor in sorted(self.tensors.items()):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @property
    def label(self) -> str:
        """What a converted model's config calls them: the file's name, and the beginning of the digest."""
        return f"{self.name}@{self.digest[:16]}"

    def layers(self, slot: str) -> int:
        """L of a slot."""
        return len(self.tensors[f"{slot}.coefficients"])

    def mean(self) -> "FoundCurves":
        """One set of curves per slot: their mean over the layers.

        Raises:
            ConfigError: the mean of the parameters is not the mean of the curves.
        """
        means = {}
        for name, tensor in self.tensors.items():
            slot, _, kind = name.partition(".")
            if kind != "coefficients" and not (tensor == tensor[:1]).all():
                raise ConfigError(
                    f"The layers of the slot {slot!r} have different {kind}s, so the mean of their curves is not a "
                    "curve of this basis. Train them on one domain, without update_grid, or with share='model'."
                )
            means[name] = tensor.double().mean(dim=0, keepdim=True).to(tensor.dtype)
        layers = max(map(self.layers, self.config.slots))
        return replace(self, tensors=means, mean_of=layers if layers > 1 else self.mean_of)

    def config_for(self, asked: KANConfig) -> KANConfig:
        """The settings of a model that is to get these curves: this file's, and those that are about the model.

        Raises:
            ConfigError: a setting is neither the file's nor the default.
        """
        default = KANConfig()
        for name in CURVE_SETTINGS:
            given, here = getattr(asked, name), getattr(self.config, name)
            if given not in (here, getattr(default, name)):
                raise ConfigError(
                    f"{name}={given!r} contradicts the curves in {self.name!r}, which have {name}={here!r}. Leave it "
                    "out: the settings in the file rule."
                )
        return replace(asked, **{name: getattr(self.config, name) for name in CURVE_SETTINGS}, curves=self.label)

    def check_fit(self, config: KANConfig, slots: Sequence[Slot]) -> None:
        """Check that a model's slots can take the curves.

        Raises:
            ConfigError: they have another width, or the file has the curves of another number of layers.
        """
        for name in self.config.slots:
            chosen = [slot for slot in slots if slot.name == name]
            count, curves = self.layers(name), self.tensors[f"{name}.coefficients"].shape[1]
            reduced = "Make one set of them: freeze_curves(model, path, share='model'), of the model they come from."
            if count > 1 and config.share == "model":
                raise ConfigError(
                    f"share='model' needs one set of curves, and {self.name!r} has those of {count} layers. {reduced}"
                )
            if count not in (1, len(chosen)):
                raise ConfigError(
                    f"{self.name!r} has the curves of {count} layers in the slot {name!r}, and the model has "
                    f"{len(chosen)}. {reduced}"
                )
            for slot in chosen:
                needed = config.curve_spec(name).shapes(slot.features, None)["coefficients"][0]
                if needed != curves:
                    raise ConfigError(
                        f"{self.name!r} has {curves} curves in the slot {name!r}, one per channel, and {slot.path} has "
                        f"{needed} channels. Curves of groups (edges='group') fit every width that they divide."
                    )

    @torch.no_grad()
    def put(self, modules: Sequence[tuple[Slot, Any]]) -> None:
        """Copy the values into a model's modules, whose slots `check_fit` has seen.

        Raises:
            ConfigError: a value is not finite in the module's dtype.
        """
        for slot in self.config.slots:
            for number, module in enumerate(module for kind, module in modules if kind.name == slot):
                for name, target in curve_tensors(module).items():
                    layers = self.tensors[f"{slot}.{name}"]
                    values = layers[number if len(layers) > 1 else 0].to(target.dtype)
                    if not values.isfinite().all():
                        raise ConfigError(f"The curves in {self.name!r} are not finite in {target.dtype}.")
                    target.copy_(values)

    def write(self, file: Path) -> None:
        """Write the file; one that is there is replaced."""
        from safetensors.torch import save_file

        table = {
            "format_version": FORMAT_VERSION,
            "settings": self._settings(),
            "digest": self.digest,
            "model_type": self.model_type,
            "mean_of": self.mean_of,
            "source": self.source,
            "figures": dict(self.figures) or None,
        }
        text = json.dumps({name: value for name, value in table.items() if value is not None}, sort_keys=True)
        with atomic_file(file) as partial:
            save_file(dict(self.tensors), partial, metadata={"format": "pt", METADATA_KEY: text})

    @classmethod
    def read(cls, file: Path) -> "FoundCurves":
        """Read a file, which may come from anyone.

        Raises:
            CheckpointError: it is not what `write` writes.
        """
        place = repr(str(file))
        values = check_fields(read_metadata(file, METADATA_KEY), ENTRIES, place, only=True)
        check_version(values, FORMAT_VERSION, place)
        settings = values.get("settings", {})
        if set(settings) != set(CURVE_SETTINGS):
            raise CheckpointError(f"The settings in {place} must be {', '.join(CURVE_SETTINGS)}.")
        try:
            config = KANConfig.from_dict(settings)
        except ConfigError as error:
            raise CheckpointError(f"The settings in {place} are wrong: {error!s:.600}") from error
        origin = {name: values[name] for name in ("model_type", "mean_of", "source", "figures") if name in values}
        curves = cls(config, read_tensors(file), file.stem, **origin)
        curves._check_tensors(place)
        if values.get("digest") != curves.digest:
            raise CheckpointError(f"The settings or the curves in {place} were changed after it was written.")
        return curves

    def _settings(self) -> dict[str, Any]:
        return {name: value for name, value in self.config.to_dict().items() if name in CURVE_SETTINGS}

    def _check_tensors(self, place: str) -> None:
        """Check names, shapes and values against the settings."""
        if self.config.edges not in ("channel", "group"):
            raise CheckpointError(f"{place} has edges={self.config.edges!r}; its curves must be per channel or group.")
        expected: dict[str, tuple[int, ...]] = {}
        for slot in self.config.slots:
            coefficients = self.tensors.get(f"{slot}.coefficients")
            layers, curves = (0, 0) if coefficients is None or coefficients.ndim != 3 else coefficients.shape[:2]
            if self.config.edges == "channel" or curves == self.config.groups:
                shapes = self.config.curve_spec(slot).shapes(max(1, curves), None)
                expected |= {f"{slot}.{name}": (layers, *shape) for name, shape in shapes.items()}
        actual = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        if actual != expected or not all(tensor.numel() for tensor in self.tensors.values()):
            raise CheckpointError(f"The tensors in {place} do not fit its settings: {actual!s:.200}.")
        for name, tensor in self.tensors.items():
            check_values(name, tensor)


def digest_in(label: object) -> str:
    """The beginning of the digest in what `FoundCurves.label` gave; empty for anything else."""
    return label.partition("@")[2] if isinstance(label, str) else ""


def find_curves(curves: str | Path) -> FoundCurves:
    """The curves in a file, or in one that comes with this package, by its name.

    Raises:
        ConfigError: there is neither.
        CheckpointError: the file is not what `freeze_curves` writes.
    """
    names = sorted(path.stem for path in SHIPPED.glob(f"*{SUFFIX}"))
    if curves in names:
        return FoundCurves.read(SHIPPED / f"{curves}{SUFFIX}")
    file = Path(curves)
    if not file.is_file():
        raise ConfigError(
            f"There are no curves {str(curves)!r:.200}. Give a file that freeze_curves wrote, or choose from: "
            f"{', '.join(names)}."
        )
    return FoundCurves.read(file)
