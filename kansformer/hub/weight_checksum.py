"""Know a model's own weights again without keeping them: names, shapes and a checksum of each."""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kansformer.conversion.record import base_prefix
from kansformer.errors import CheckpointError

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32}
"""Integers of a number's size in bytes; larger numbers are read as several of 64 bits."""


@dataclass(frozen=True)
class WeightPrint:
    """What is kept of a weight.

    Args:
        shape: of the tensor.
        dtype: as torch names it.
        checksum: sum of its bits, read as integers, modulo 2⁶⁴. It is the same on every device.
        rounded: the same after rounding to bfloat16, which tells whether a weight of another dtype is the same one.
    """

    shape: tuple[int, ...]
    dtype: str
    checksum: int
    rounded: int


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of a model's weights, by name.

    Args:
        base: of its base model, named from there.
        head: of what stands around it.
    """

    base: dict[str, WeightPrint]
    head: dict[str, WeightPrint]

    def to_dict(self) -> dict[str, dict]:
        """JSON-ready; `from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Fingerprint":
        """From `to_dict`, whatever stands beside it.

        Raises:
            CheckpointError: an entry is none that `to_dict` makes.
        """
        try:
            parts = [{n: WeightPrint(**p) for n, p in values[part].items()} for part in ("base", "head")]
            parts = [
                {n: WeightPrint(tuple(p.shape), p.dtype, p.checksum, p.rounded) for n, p in part.items()}
                for part in parts
            ]
            if not all(_is_shape(p.shape) and isinstance(p.dtype, str) for part in parts for p in part.values()):
                raise TypeError("a shape is no list of numbers")
        except (AttributeError, KeyError, TypeError):
            raise CheckpointError(
                "The weights that the curves were trained on are not described. Save them again."
            ) from None
        return cls(*parts)


def fingerprint_of(model: nn.Module, *, without: Collection[str]) -> Fingerprint:
    """The fingerprint of a model's weights and saved buffers.

    Args:
        model: its weights in memory.
        without: names that are left out, as in `model.state_dict()` or counted from the base model.

    Raises:
        CheckpointError: a weight is not in memory, quantised or in parts.
    """
    prefix = base_prefix(model)
    base: dict[str, WeightPrint] = {}
    head: dict[str, WeightPrint] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        short = name.removeprefix(prefix)
        if name not in without and short not in without:
            (base if name.startswith(prefix) else head)[short] = _print_of(name, tensor)
    return Fingerprint(base, head)


def refuse_other_weights(saved: Fingerprint, found: Fingerprint, *, values: bool) -> bool:
    """See that a model has the weights of a fingerprint; those of a head count where both have it.

    Args:
        saved: what is looked for.
        found: of the model.
        values: whether their values must be the same too, not only names and shapes.

    Returns:
        Whether they have the same dtypes.

    Raises:
        CheckpointError: the first weight that is another.
    """
    if missing := sorted(set(saved.base) - set(found.base)):
        raise CheckpointError(f"The curves belong to another model: this one has no weight {missing[0]:.200}.")
    if surplus := sorted(set(found.base) - set(saved.base)):
        raise CheckpointError(f"The curves belong to another model: theirs had no weight {surplus[0]}.")
    pairs = [(name, wanted, found.base[name]) for name, wanted in saved.base.items()]
    pairs += [(name, wanted, found.head[name]) for name, wanted in saved.head.items() if name in found.head]
    for name, wanted, own in pairs:
        if own.shape != wanted.shape:
            raise CheckpointError(
                f"The curves belong to another model: {name} has shape {own.shape} here and had {wanted.shape} there."
            )
    others = [name for name, wanted, own in pairs if not _same_values(wanted, own)] if values else []
    if others:
        raise CheckpointError(
            f"{len(others)} of {len(pairs)} weights differ from those that the curves were trained on, for instance "
            f"{others[0]}. Load the model that they were trained on; if more than curves was trained, save the whole "
            "model with save_pretrained, or name a new head in save_curves(also=...). check_weights=False bends these "
            "weights all the same."
        )
    return all(wanted.dtype == own.dtype for _, wanted, own in pairs)


def _is_shape(shape: tuple[Any, ...]) -> bool:
    return len(shape) <= 8 and all(isinstance(size, int) for size in shape)


def _same_values(one: WeightPrint, other: WeightPrint) -> bool:
    return one.checksum == other.checksum if one.dtype == other.dtype else one.rounded == other.rounded


def _print_of(name: str, tensor: Tensor) -> WeightPrint:
    if tensor.is_meta or type(tensor) not in (Tensor, nn.Parameter):
        kind = "not in memory" if tensor.is_meta else f"a {type(tensor).__name__}"
        raise CheckpointError(
            f"The weight {name} is {kind}. Curves alone are saved and loaded beside ordinary tensors."
        )
    values = tensor.detach()
    rounded = _sum_of_bits(values.to(torch.bfloat16))
    dtype = str(values.dtype).removeprefix("torch.")
    return WeightPrint(tuple(values.shape), dtype, _sum_of_bits(values), rounded)


def _sum_of_bits(values: Tensor) -> int:
    bits = values.contiguous().flatten().view(BITS.get(values.element_size(), torch.int64))
    return int(bits.sum(dtype=torch.int64))
