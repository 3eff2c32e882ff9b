"""The settings of a swap: which curves go where. One frozen dataclass that checks itself and goes through JSON."""

import json
import operator
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path

from kansformer.basis import Basis
from kansformer.checks import check_choice
from kansformer.errors import CheckpointError, ConfigError
from kansformer.files import atomic_write_text, check_folder
from kansformer.hub_files import find_folder
from kansformer.nn.curves import CurveSpec
from kansformer.safe_io import LINE, read_json

SLOTS = ("input", "up", "gate", "act", "down")
WEIGHTLESS_SLOTS = ("input", "act")
NAMED_LAYERS = ("last-third",)
SHARES = ("slot", "model")
QUANT_METHOD = "kansformer"
CONFIG_FILE = "kan_config.json"
CONFIG_ENTRIES = {CONFIG_FILE: None, "curves.json": "conversion", "config.json": "quantization_config"}
"""The files that hold settings, and their entry there: a config alone, curves alone, a converted model."""

RECORD_ENTRIES = ("quant_method", "format_version", "sites", "widths", "digest")
"""What stands beside the settings in these files."""

MODULE_FILTERS = ("target_modules", "exclude_modules")
CURVE_ORIGIN = ("share", "curves", "trainable")
NEWER_FIELDS = (*MODULE_FILTERS, *CURVE_ORIGIN)
"""Which older versions do not know, and which are written only where they are not at their defaults."""


@dataclass(frozen=True, kw_only=True)
class KANConfig:
    """Which curves `convert` puts into a model, and where.

    The default bends every activation per channel: it adds well under 1 % of parameters to a usual transformer.

    Args:
        basis: `bspline`, `chebyshev`, `rbf`, `fourier` or `rational`.
        grid_size: grid intervals in the domain.
        order: polynomial degree.
        domain: interval that the grid covers, in units of the slot's input; outside, the curve is extrapolated.
        edges: `channel` or `group` for any slot; `full` or `low_rank` for `up`, `gate` and `down`, beside which `input`
            and `act`, which have no weights, take `group` curves.
        rank: of `low_rank` edges.
        groups: of `group` curves; must divide the width of every slot.
        extrapolation: outside the domain, `linear`, `clamp` or `zero`.
        slots: places that take curves: any of `input`, `up`, `gate`, `act`, `down`.
        layers: None for all layers; indices, negative ones from the end; a slice, or a string like "8:" or "4:12:2";
            or "last-third". In models with several stacks (encoder and decoder) it applies to each.
        target_modules: of the slots in these layers, those at certain modules, as PEFT names them: a list of names,
            of which one must be the end of the module's path ("act_fn", "3.mlp.up_proj"), or a regular expression for
            the whole of it. The path of the feed-forward network ("mlp") stands for all of its slots. None for all.
        exclude_modules: the same for slots to leave out.
        share: `slot` for curves of its own in every slot; `model` for one set of curves for the same slot of all
            layers, which must have one width. It needs `channel` or `group` curves.
        curves: None for straight curves at the start; a file that `freeze_curves` wrote, or the name of one that comes
            with this package, for the curves in it. Its settings rule: leave basis, grid_size, order, domain, edges,
            groups, extrapolation and slots out, or give the same. A converted model has the file's name and digest
            here, never its path, and does not need the file.
        trainable: whether these curves are the start of a training, or a fixed function without gradients. Only given
            curves can be fixed; `freeze_curves` fixes those of a trained model.

    Raises:
        ConfigError: a value is not among the choices.

    Examples:
        >>> from kansformer import KANConfig
        >>> config = KANConfig(basis="chebyshev", order=4, slots=("up", "act"), layers="8:")
        >>> KANConfig.from_dict(config.to_dict()) == config
        True
        >>> KANConfig(edges="channels")
        Traceback (most recent call last):
        kansformer.errors.ConfigError: ...
    """

    basis: str = "bspline"
    grid_size: int = 5
    order: int = 3
    domain: tuple[float, float] = (-4.0, 4.0)
    edges: str = "channel"
    rank: int = 16
    groups: int = 8
    extrapolation: str = "linear"
    slots: tuple[str, ...] = ("act",)
    layers: tuple[int, ...] | str | None = None
    target_modules: tuple[str, ...] | str | None = None
    exclude_modules: tuple[str, ...] | str | None = None
    share: str = "slot"
    curves: str | Path | None = None
    trainable: bool = True

    def __post_init__(self) -> None:
        slots = (self.slots,) if isinstance(self.slots, str) else tuple(self.slots)
        for slot in slots:
            if slot not in SLOTS:
                raise ConfigError(f"Unknown slot {slot!r}. Choose any of: {', '.join(SLOTS)}.")
        if not slots:
            raise ConfigError(f"No slot was chosen, so nothing would change. Choose any of: {', '.join(SLOTS)}.")
        if len(set(slots)) != len(slots):
            raise ConfigError(f"A slot was named twice: {', '.join(slots)}.")
        object.__setattr__(self, "slots", tuple(slot for slot in SLOTS if slot in slots))
        object.__setattr__(self, "layers", _canonical_layers(self.layers))
        for name in MODULE_FILTERS:
            object.__setattr__(self, name, _canonical_modules(name, getattr(self, name)))
        specs = [self.curve_spec(slot) for slot in self.slots]  # checks the curves
        own = {"grid_size": specs[0].basis.grid_size, "order": specs[0].basis.order, "domain": specs[0].domain}
        for name, value in {**own, "rank": specs[0].rank, "groups": specs[0].groups}.items():
            object.__setattr__(self, name, value)  # numpy's numbers become Python's, for JSON
        if all(spec.edges != self.edges for spec in specs):
            raise ConfigError(
                f"edges={self.edges!r} need weights, which the slot {self.slots[0]!r} does not have. "
                f"Choose channel or group, or a slot among up, gate and down too."
            )
        self._check_origin()

    def _check_origin(self) -> None:
        """Check `share`, `curves` and `trainable`."""
        check_choice("share", self.share, SHARES)
        if self.share == "model" and self.edges not in ("channel", "group"):
            raise ConfigError(
                f"edges={self.edges!r} with share='model': layers share curves per channel only. Choose "
                "edges='channel' or 'group', or share='slot'."
            )
        if isinstance(self.curves, os.PathLike):
            object.__setattr__(self, "curves", os.fspath(self.curves))
        if self.curves is not None and (not LINE.check(self.curves) or not self.curves):
            raise ConfigError(f"curves must be a file, a name, or None; got {self.curves!r:.80}.")
        if not isinstance(self.trainable, bool):
            raise ConfigError(f"trainable must be True or False, got {self.trainable!r:.80}.")
        if self.curves is None and not self.trainable:
            raise ConfigError(
                "trainable=False without curves would change nothing: straight curves stay straight. Give the curves: "
                "curves=FILE of freeze_curves."
            )

    @classmethod
    def from_scratch(cls) -> "KANConfig":
        """The curves for a model that is trained from scratch: on the activation, and on what goes into `up`.

        Splines on 8 intervals, shared by 8 groups of channels, in a gated (SwiGLU) block. The best of 12 ways to put
        curves into a block, by `benchmarks/quality.py`, against SwiGLU with as many parameters. `dataclasses.replace`
        changes single fields.
        """
        return cls(slots=("up", "act"), edges="group", groups=8, grid_size=8)

    def curve_spec(self, slot: str) -> CurveSpec:
        """Basis and sharing of the curves in a slot."""
        basis = Basis(name=self.basis, grid_size=self.grid_size, order=self.order, extrapolation=self.extrapolation)
        spec = CurveSpec(basis=basis, edges=self.edges, domain=self.domain, rank=self.rank, groups=self.groups)
        return replace(spec, edges="group") if slot in WEIGHTLESS_SLOTS and not spec.is_per_channel else spec

    @property
    def quant_method(self) -> str:
        """How transformers' loader finds kansformer when this config is passed as `quantization_config`."""
        return QUANT_METHOD

    def to_dict(self) -> dict:
        """JSON-ready, without fields at their defaults that older versions do not know; `from_dict` is the inverse."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        for field in fields(self):
            if field.name in NEWER_FIELDS and values[field.name] == field.default:
                del values[field.name]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: dict) -> "KANConfig":
        """From `to_dict`.

        Raises:
            ConfigError: a field is unknown or has an impossible value.
        """
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ConfigError(f"Unknown setting {unknown[0]!r}. Choose from: {', '.join(known)}.")
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigError(f"A setting has a value of the wrong type: {error}.") from None

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the settings into `kan_config.json`.

        Args:
            folder: made if need be; other files in it stay.

        Returns:
            The file.

        Raises:
            CheckpointError: there is a file at this path.
        """
        folder = Path(folder)
        check_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write_text(folder / CONFIG_FILE, json.dumps(self.to_dict(), indent=2) + "\n")
        return folder / CONFIG_FILE

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> "KANConfig":
        """Read the settings that `save_pretrained` wrote, or those of a converted model or of curves alone.

        Args:
            folder: with `kan_config.json`, `curves.json` or a converted model's `config.json`; or "owner/name" on the
                Hub.
            revision: branch, tag or commit on the Hub; None is the main branch.
            cache_dir: where the Hub's files are kept; None is huggingface_hub's own cache.
            token: for private repositories; None is the one that is logged in.
            local_files_only: take what is in the cache and do not ask the Hub.

        Raises:
            CheckpointError: there are no such settings.
            ConfigError: a setting is unknown or has an impossible value.
            HubError: the Hub has no such repository or revision, or could not be reached.
        """
        options = dict(revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only)
        place = find_folder(folder, CONFIG_ENTRIES, **options)  # type: ignore[arg-type]
        for name, entry in CONFIG_ENTRIES.items():
            values = read_json(place / name) if (place / name).is_file() else None
            if entry is not None and isinstance(values, dict):
                values = values.get(entry)
            if isinstance(values, dict) and (name != "config.json" or values.get("quant_method") == QUANT_METHOD):
                return cls.from_dict({key: value for key, value in values.items() if key not in RECORD_ENTRIES})
        raise CheckpointError(
            f"{str(folder)!r} holds no settings of kansformer: there is none of {', '.join(CONFIG_ENTRIES)} with them."
        )


def select_layers(layers: tuple[int, ...] | str | None, count: int) -> list[int]:
    """Indices below `count` that a `layers` setting means, in order.

    Raises:
        ConfigError: an index does not exist, or nothing was selected.
    """
    if layers is None:
        return list(range(count))
    if layers == "last-third":
        return list(range(count - max(1, count // 3), count))
    if isinstance(layers, str):
        chosen = list(range(count))[_parse_slice(layers)]
    else:
        for index in layers:
            if not -count <= index < count:
                raise ConfigError(f"There is no layer {index}: choose from 0 to {count - 1}, or -{count} to -1.")
        chosen = sorted({index % count for index in layers})
    if not chosen:
        raise ConfigError(f"layers={layers!r} selects none of the {count} layers.")
    return chosen


def matches_module(modules: tuple[str, ...] | str, path: str) -> bool:
    """Whether `target_modules` or `exclude_modules` mean the module at a path, as in PEFT."""
    if isinstance(modules, str):
        return re.fullmatch(modules, path) is not None
    return any(path == name or path.endswith(f".{name}") for name in modules)


def _canonical_modules(field: str, modules) -> tuple[str, ...] | str | None:
    if modules is None:
        return None
    if isinstance(modules, str):
        try:
            re.compile(modules)
        except (re.error, RecursionError, OverflowError) as error:
            raise ConfigError(f"{field}={modules!r:.200} is not a regular expression: {error}.") from None
        return modules
    names = tuple(sorted(modules) if isinstance(modules, (set, frozenset)) else modules) if _is_list(modules) else ()
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(
            f"{field} must be a list of names such as ['up_proj'], a regular expression, or None; got {modules!r:.80}."
        )
    return tuple(dict.fromkeys(names))


def _is_list(value: object) -> bool:
    return isinstance(value, (list, tuple, set, frozenset))


def _canonical_layers(layers) -> tuple[int, ...] | str | None:
    if layers is None:
        return None
    if isinstance(layers, slice):
        layers = ":".join("" if part is None else str(part) for part in (layers.start, layers.stop, layers.step))
    if isinstance(layers, str):
        if layers not in NAMED_LAYERS:
            _parse_slice(layers)
        return layers
    indices = tuple(layers) if isinstance(layers, Iterable) else (layers,)
    with suppress(TypeError):  # an index is a whole number, numpy's too, but for booleans
        if indices and not any(isinstance(index, bool) for index in indices):
            return tuple(operator.index(index) for index in indices)
    raise ConfigError(
        f"Unknown layers {layers!r}. Choose None for all, indices, a slice such as '8:', or {', '.join(NAMED_LAYERS)}."
    )


def _parse_slice(text: str) -> slice:
    parts = text.split(":")
    try:
        if len(parts) not in (2, 3):
            raise ValueError
        chosen = slice(*(int(part) if part.strip() else None for part in parts))
        if chosen.step == 0:
            raise ValueError
    except ValueError:
        names = ", ".join(NAMED_LAYERS)
        raise ConfigError(f"Unknown layers {text!r}. Choose a slice such as '8:' or '4:12:2', or {names}.") from None
    return chosen
