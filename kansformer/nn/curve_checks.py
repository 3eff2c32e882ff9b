"""Checks before curves are changed: that they are not a fixed function, and that every layer has its own."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable
from weakref import WeakSet

from torch import nn

from kansformer.errors import ConfigError, ConversionStateError, KansformerError
from kansformer.nn.curves import CurvedModule, curved_modules
from kansformer.nn.sharing import sharing_modules

OWN_COPIES = (
    "Convert the plain model with share='slot'; to keep these curves, write them by freeze_curves(model, FILE) and "
    "give curves=FILE, of which every layer gets a copy."
)

PART_RECORD = "conversion_record_of_part"
"""Attribute of a model inside a converted one: the record that it would have if it alone had been converted."""


@runtime_checkable
class CurveRecord(Protocol):
    """What a converted model says of its curves: a `ConversionRecord`, as far as this package needs it."""

    @property
    def is_fixed(self) -> bool: ...

    def with_grid_size(self, grid_size: int) -> "CurveRecord": ...


def find_record(model: nn.Module) -> CurveRecord | None:
    """The record of a converted model, which transformers' config has, or the model where it has no config."""
    record = getattr(*_place_of_record(model), None)
    return record if isinstance(record, CurveRecord) else None


def find_records(model: nn.Module) -> list[tuple[object, str, CurveRecord]]:
    """Every record about curves of this model, with its owner and the attribute that it is: of the model itself, of
    those that it is around, as DDP is, and of those inside it."""
    curved = [path for path, _ in curved_modules(model)]
    records: dict[tuple[int, str], tuple[object, str, CurveRecord]] = {}
    for place, module in model.named_modules():
        # Layers may have the config of the whole, and are not models.
        is_model = not place or hasattr(type(module), "save_pretrained") or "conversion_record" in vars(module)
        if not is_model or not any(f"{path}.".startswith(f"{place}." if place else "") for path in curved):
            continue
        for owner, name in (_place_of_record(module), (module, PART_RECORD)):
            record = getattr(owner, name, None)
            if isinstance(record, CurveRecord):
                records[id(owner), name] = owner, name, record
    return list(records.values())


def check_not_fixed(model: nn.Module, change: str) -> None:
    """Refuse to change curves that are a fixed function.

    Args:
        change: what would change them, such as the function that was called.

    Raises:
        ConfigError: they are.
    """
    if any(record.is_fixed for _, _, record in find_records(model)):
        path = next((path for path, _ in curved_modules(model)), "")
        raise ConfigError(
            f"{change} changes curves, and the model's are fixed (trainable=False), for instance at {path}. Convert "
            "the plain model with these curves and trainable=True."
        )


disabled: "WeakSet[nn.Module]" = WeakSet()
"""Modules inside `kansformer.hub.disable_curves`, whose curves are straight for the time."""


def check_not_disabled(model: nn.Module, what: str) -> None:
    """Refuse what reads or changes curves while they are disabled; `what` begins the sentence.

    Raises:
        ConversionStateError: they are.
    """
    if any(module in disabled for _, module in curved_modules(model)):
        raise ConversionStateError(f"{what} inside disable_curves. Leave that context first.")


def check_own_parameters(model: nn.Module, what: str, error: type[KansformerError] = ConversionStateError) -> None:
    """Refuse what reads or writes the parameters of layers with curves, where torch computes one from others.

    Args:
        what: begins the sentence.
        error: the class to raise.

    Raises:
        KansformerError: a layer has a tensor of `parametrize`, `prune` or `weight_norm`.
    """
    for path, module in curved_modules(model):
        computed = [*getattr(module, "parametrizations", ())]
        computed += [name[: -len(end)] for end in ("_orig", "_g") for name in module._parameters if name.endswith(end)]
        if computed:
            raise error(
                f"{what} while {path}.{computed[0]} is computed from other tensors, by torch's parametrize, prune or "
                f"weight_norm. Make it a parameter again first, by its remove_parametrizations(module, "
                f"{computed[0]!r}), prune.remove or remove_weight_norm."
            )


def check_not_shared(modules: Mapping[str, CurvedModule], change: str, *, instead: str = OWN_COPIES) -> None:
    """Refuse what needs curves of its own in every layer, where layers share them.

    Args:
        modules: with curves, by path.
        change: what needs them, such as the function that was called.
        instead: sentences that say what to do.

    Raises:
        ConfigError: layers share them.
    """
    for group in sharing_modules(modules):
        if len(group) > 1:
            first, second, *_ = group
            raise sharing_error(change, first, second, instead)


def sharing_error(change: str, first: str, second: str, instead: str) -> ConfigError:
    """What `check_not_shared` raises of the modules at two paths."""
    return ConfigError(
        f"{change} needs curves of its own in every layer, and {first} and {second} share theirs (share='model'). "
        f"{instead}"
    )


def _place_of_record(model: nn.Module) -> tuple[object, str]:
    config = getattr(model, "config", None)
    return (config, "quantization_config") if hasattr(config, "to_dict") else (model, "conversion_record")
