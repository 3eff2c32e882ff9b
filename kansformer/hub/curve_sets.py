"""Several sets of curves for one model, by name: one of them bends it, a weighted sum of some, or none.

A model that has sets keeps them beside its modules, as `CurveSets`. They are not part of its state dict: what is saved
are the curves that bend it at the time.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from kansformer.checks import check_number
from kansformer.conversion import ConversionRecord
from kansformer.conversion.record import CURVE_SETS, get_setting, record_of, uncompiled
from kansformer.conversion.slots import check_no_adapters
from kansformer.errors import ConfigError, ConversionStateError
from kansformer.hub.curve_values import curve_values, put_curves
from kansformer.nn.curve_checks import check_not_disabled, disabled
from kansformer.nn.curves import require_curves
from kansformer.nn.transaction import outside_inference_mode, transaction, undone_afterwards

UNNAMED, CHANGED = "default", "changed"
"""Names of curves that were on the model before any had a name, and of those that were changed while mixed or off."""

PLACEMENT = ("domain", "layers", "target_modules", "exclude_modules", "curves", "trainable")
"""Settings of a `KANConfig` whose outcome is compared instead: domains, slots and values of the curves."""


@dataclass(frozen=True)
class CurveSet:
    """Curves of a whole model: where they are, and their tensors by the names of `curve_values`."""

    record: ConversionRecord
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class CurveSets:
    """The sets of a model.

    Args:
        sets: by name.
        active: weight by name of those that bend the model; empty where none does.
    """

    sets: Mapping[str, CurveSet]
    active: Mapping[str, float]


@outside_inference_mode()
def set_curves(model: nn.Module, curves: str | Mapping[str, float] | None) -> nn.Module:
    """Choose which of its sets of curves bends a model, in place.

    Training a set and leaving it keeps what it learned; make the optimizer anew. Curves that were on the model before
    `load_curves(model, …, name=…)` gave it a second set are called "default".

    Args:
        model: converted, or one that `load_curves` gave curves.
        curves: name of a set; or weight by name, for the weighted sum of their curves, which is exact: sets of the same
            basis, slots and domains, and of curves that are linear in their coefficients; or None, which makes all
            curves straight.

    Returns:
        The same model.

    Raises:
        ConfigError: no set has that name, a weight is not a finite number, or the sets cannot be added.
        ConversionStateError: the model has no curves, or has adapters; or this is called inside `disable_curves`.
        CheckpointError: the set does not fit the model any more. After any error the model is as it was.

    Examples:
        >>> from torch.nn import Linear, Sequential, SiLU
        >>> from kansformer import convert, load_curves, revert, save_curves
        >>> from kansformer.hub import list_curves, set_curves
        >>> model = convert(Sequential(Linear(4, 8), SiLU(), Linear(8, 4)))
        >>> folder = save_curves(model, "curves")
        >>> model = load_curves(model, folder, name="code")
        >>> list_curves(set_curves(model, {"default": 0.5, "code": 0.5}))
        {'default': 0.5, 'code': 0.5}
    """
    given, model = model, uncompiled(model)
    sets = current_sets(model)
    if sets is None:
        raise ConversionStateError(
            "The model has no curves to choose from. Load some by load_curves(model, folder, name=...), or convert it."
        )
    active = _checked_weights(sets, curves)
    chosen = _combined(sets, active)
    with transaction(model, replaced=curve_values(model).values()):
        put_curves(model, chosen.record, chosen.tensors)
        vars(model)[CURVE_SETS] = CurveSets(sets.sets, active)
        return given


def list_curves(model: nn.Module) -> dict[str, float]:
    """The sets of curves of a model, in the order in which they came.

    Args:
        model: any model.

    Returns:
        Weight by name: 1 for the set that bends the model, 0 for one that does not, others where sets are mixed. Empty
        for a model without curves.

    Raises:
        ConversionStateError: the model has adapters or narrowed feed-forward networks, or its curves are disabled at
            the time.

    Examples:
        >>> from torch.nn import Linear, Sequential, SiLU
        >>> from kansformer import convert
        >>> from kansformer.hub import list_curves
        >>> model = Sequential(Linear(4, 8), SiLU(), Linear(8, 4))
        >>> list_curves(model), list_curves(convert(model))
        ({}, {'default': 1.0})
    """
    sets = current_sets(model)
    return {} if sets is None else {name: float(sets.active.get(name, 0.0)) for name in sets.sets}


@contextmanager
def disable_curves(model: nn.Module) -> Iterator[nn.Module]:
    """A context in which all curves of a model are straight, so that it computes what it did without them.

    Afterwards they are as before. What an optimizer does to them meanwhile is dropped.

    Args:
        model: with curves; adapters may be around it.

    Yields:
        The same model.

    Raises:
        ConfigError: the model has no curves.
        ConversionStateError: some of them are not in memory.

    Examples:
        >>> from kansformer import KANLinear
        >>> from kansformer.hub import disable_curves
        >>> layer, x = KANLinear(4, 3), torch.randn(2, 4)
        >>> with disable_curves(layer):
        ...     straight = layer(x)
        >>> base = torch.nn.functional.linear(torch.nn.functional.silu(x), layer.weight, layer.bias)
        >>> torch.allclose(straight, base), torch.allclose(layer(x), base)
        (True, False)
    """
    modules = require_curves(model, ", so there are none to disable.")
    for path, module in modules.items():
        if module.coefficients.is_meta:
            raise ConversionStateError(f"The curves of {path} are not in memory, so they cannot be disabled.")
    with undone_afterwards() as stack:
        for module in modules.values():
            if module not in disabled:
                stack.callback(disabled.discard, module)
                disabled.add(module)
            own = module.coefficients
            # A parameter of its own, so that what was computed here has the same gradients after the context; and other
            # numbers in the model's own, which an optimizer may change.
            straight = nn.Parameter(torch.zeros_like(own.data), requires_grad=own.requires_grad)
            stack.callback(setattr, own, "data", own.data)
            own.data = torch.zeros_like(own.data)
            stack.callback(cast(nn.Module, module).register_parameter, "coefficients", own)
            cast(nn.Module, module).register_parameter("coefficients", straight)
        yield model


def current_sets(model: nn.Module) -> CurveSets | None:
    """A model's sets with the present values of the active one; None for a model without curves.

    Raises:
        ConversionStateError: the model has adapters, or narrowed layers, whose weights no other set fits; or its curves
            are disabled at the time.
    """
    model = uncompiled(model)
    record = record_of(model)
    if record is None:
        return None
    check_no_adapters(model)
    if record.widths:
        raise ConversionStateError("The feed-forward networks are narrower than those that sets of curves belong to.")
    check_not_disabled(model, "The sets of curves cannot be read or changed")
    present = CurveSet(record, {name: tensor.data for name, tensor in curve_values(model).items()})
    sets: CurveSets | None = get_setting(model, CURVE_SETS)
    if sets is None:
        return CurveSets({UNNAMED: present}, {UNNAMED: 1.0})
    if list(sets.active.values()) == [1.0]:
        return CurveSets({**sets.sets, **dict.fromkeys(sets.active, present)}, sets.active)
    if _is_same(present, _combined(sets, sets.active)):
        return sets
    name = next(name for name in _numbered(CHANGED) if name not in sets.sets)
    warnings.warn(
        f"The curves were changed while {_described(sets.active)}. They are kept as the set {name!r}.", stacklevel=3
    )
    return CurveSets({**sets.sets, name: present}, {name: 1.0})


def _checked_weights(sets: CurveSets, curves: str | Mapping[str, float] | None) -> dict[str, float]:
    if curves is None:
        return {}
    weights = {curves: 1.0} if isinstance(curves, str) else curves
    if not isinstance(weights, Mapping) or not weights:
        raise ConfigError(
            f"curves must be the name of a set, weights by name such as {{'style': 0.7}}, or None; got {curves!r:.80}."
        )
    for name in weights:
        if name not in sets.sets:
            raise ConfigError(f"There is no set of curves {name!r:.80}. Choose from: {', '.join(sets.sets)}.")
    return {name: check_number(f"the weight of {name!r}", weight) for name, weight in weights.items()}


def _combined(sets: CurveSets, weights: Mapping[str, float]) -> CurveSet:
    """The weighted sum of some sets; without any, straight curves in the place of the first set.

    Raises:
        ConfigError: the sets cannot be added.
    """
    names = list(weights)
    first = sets.sets[names[0] if names else next(iter(sets.sets))]
    if list(weights.values()) == [1.0]:
        return first
    if names:
        _check_addable(sets.sets, names)
    tensors = {key: tensor.clone() for key, tensor in first.tensors.items()}
    for key, tensor in tensors.items():
        if key.endswith(".coefficients"):
            total = torch.zeros_like(tensor, dtype=torch.float64)
            for name, weight in weights.items():
                total += weight * sets.sets[name].tensors[key].to(total)
            tensors[key] = total.to(tensor.dtype)  # rounded once
    return replace(first, tensors=tensors)


def _check_addable(sets: Mapping[str, CurveSet], names: list[str]) -> None:
    first = sets[names[0]]
    config = first.record.config
    if config.basis == "rational":
        raise ConfigError(
            "Rational curves are fractions, so the curve of summed parameters is not the sum of the curves. Choose one "
            "set, not a mixture."
        )
    if any(config.curve_spec(slot).edges == "low_rank" for slot in config.slots):
        raise ConfigError(
            "low_rank curves are products of two factors, so the curve of summed parameters is not the sum of the "
            "curves. Choose one set, not a mixture."
        )
    for name in names[1:]:
        other = sets[name]
        settings = other.record.config.to_dict()
        for setting, value in config.to_dict().items():
            if setting not in PLACEMENT and settings.get(setting) != value:
                raise ConfigError(
                    f"Sets with different {setting} cannot be mixed: {value!r} in {names[0]!r}, "
                    f"{settings.get(setting)!r} in {name!r}. Train both with the same KANConfig."
                )
        if set(other.tensors) != set(first.tensors):
            place = sorted(set(other.tensors) ^ set(first.tensors))[0].rpartition(".")[0]
            raise ConfigError(f"{names[0]!r} and {name!r} cannot be mixed: only one of them has curves at {place}.")
        for key, tensor in first.tensors.items():
            if key.endswith(".domain") and not torch.equal(tensor, other.tensors[key].to(tensor)):
                raise ConfigError(
                    f"{names[0]!r} and {name!r} have their grids on different domains, for instance at "
                    f"{key.removesuffix('.domain')}, and on no common grid would the sum be exact. Train both with the "
                    "same domain and without update_grid, or start the second one from the first."
                )


def _is_same(one: CurveSet, other: CurveSet) -> bool:
    """Whether both are the same functions, in the dtype of `one`."""
    if one.record.to_dict() != other.record.to_dict() or one.tensors.keys() != other.tensors.keys():
        return False
    return all(torch.equal(tensor, other.tensors[name].to(tensor)) for name, tensor in one.tensors.items())


def _described(active: Mapping[str, float]) -> str:
    mixture = " + ".join(f"{weight:g} × {name}" for name, weight in active.items())
    return f"{mixture} was active" if mixture else "they were off"


def _numbered(name: str) -> Iterator[str]:
    yield name
    for number in range(2, 2**31):
        yield f"{name}-{number}"
