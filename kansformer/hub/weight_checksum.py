"""Recognise a model's own weights without keeping them: name, shape, dtype and a checksum of each."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kansformer.conversion.record import base_prefix
from kansformer.errors import CheckpointError
from kansformer.nn.curves import curve_tensors, curved_modules

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32}
"""Integer type by a value's size in bytes; larger values are read as several of 64 bits."""


@dataclass(frozen=True)
class WeightChecksum:
    """What is kept of a weight.

    Args:
        shape: of the tensor.
        dtype: as torch names it.
        checksum: sum of its bits, read as integers, modulo 2⁶⁴. It is the same on every device.
        rounded: the same after rounding to bfloat16, by which a weight is recognised in another dtype.
    """

    shape: tuple[int, ...]
    dtype: str
    checksum: int
    rounded: int

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> "WeightChecksum":
        """The checksum of a tensor.

        Raises:
            CheckpointError: it is not in memory, quantised or distributed.
        """
        if tensor.is_meta or type(tensor) not in (Tensor, nn.Parameter):
            kind = "not in memory" if tensor.is_meta else f"a {type(tensor).__name__}"
            raise CheckpointError(
                f"The weight {name} is {kind}. Curves alone are saved and loaded beside ordinary tensors."
            )
        values = tensor.detach()
        dtype = str(values.dtype).removeprefix("torch.")
        return cls(tuple(values.shape), dtype, _sum_of_bits(values), _sum_of_bits(values.to(torch.bfloat16)))

    def is_same(self, other: "WeightChecksum") -> bool:
        """Whether both are of the same values, rounded to bfloat16 where their dtypes differ."""
        return self.checksum == other.checksum if self.dtype == other.dtype else self.rounded == other.rounded


@dataclass(frozen=True)
class ModelChecksum:
    """The checksums of a model's weights, by name.

    Args:
        base: of its base model, named from there.
        head: of the modules around it.
    """

    base: dict[str, WeightChecksum]
    head: dict[str, WeightChecksum]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelChecksum":
        """From `asdict`, whatever stands beside it.

        Raises:
            CheckpointError: an entry is not one that `asdict` makes.
        """
        try:
            parts = [
                {n: WeightChecksum(**{**entry, "shape": tuple(entry["shape"])}) for n, entry in values[part].items()}
                for part in ("base", "head")
            ]
            for weight in (weight for part in parts for weight in part.values()):
                if len(weight.shape) > 8 or not all(isinstance(size, int) for size in weight.shape):
                    raise TypeError("a shape is not a list of numbers")
                if not isinstance(weight.dtype, str):
                    raise TypeError("a dtype is not a text")
        except (AttributeError, KeyError, TypeError):
            raise CheckpointError(
                "The weights that the curves were trained on are not described. Save them again."
            ) from None
        return cls(*parts)


def checksum_of(model: nn.Module, *, without: Collection[str]) -> ModelChecksum:
    """The checksums of a model's weights and saved buffers, but for curves and for names `without`, whether from its
    root or its base.

    Raises:
        CheckpointError: a weight is not in memory, quantised or distributed.
    """
    prefix = base_prefix(model)
    checksums = ModelChecksum({}, {})
    # By identity: a layer that stands at two paths has two names here, and one among the curves.
    curves = {id(tensor) for _, module in curved_modules(model) for tensor in curve_tensors(module).values()}
    for name, tensor in model.state_dict(keep_vars=True).items():
        short = name.removeprefix(prefix)
        if id(tensor) not in curves and name not in without and short not in without:
            part = checksums.base if name.startswith(prefix) else checksums.head
            part[short] = WeightChecksum.of(name, tensor)
    return checksums


def check_same_weights(saved: ModelChecksum, own: ModelChecksum, *, values: bool) -> bool:
    """Check that a model's `own` weights have the saved names and shapes, and with `values` the same values; those of a
    head count where both have it.

    Returns:
        Whether they have the same dtypes.

    Raises:
        CheckpointError: the first weight that differs.
    """
    if missing := sorted(set(saved.base) - set(own.base)):
        raise CheckpointError(f"The curves belong to another model: this one has no weight {missing[0]:.200}.")
    if surplus := sorted(set(own.base) - set(saved.base)):
        raise CheckpointError(f"The curves belong to another model: theirs had no weight {surplus[0]}.")
    pairs = [(name, weight, own.base[name]) for name, weight in saved.base.items()]
    pairs += [(name, weight, own.head[name]) for name, weight in saved.head.items() if name in own.head]
    for name, there, here in pairs:
        if here.shape != there.shape:
            raise CheckpointError(
                f"The curves belong to another model: {name} has shape {here.shape} here and had {there.shape} there."
            )
    others = [name for name, there, here in pairs if not there.is_same(here)] if values else []
    if others:
        raise CheckpointError(
            f"{len(others)} of {len(pairs)} weights differ from those that the curves were trained on, for instance "
            f"{others[0]}. Load the model that they were trained on; if more than curves was trained, save the whole "
            "model with save_pretrained, or name a new head in save_curves(also=...). check_weights=False adds the "
            "curves all the same."
        )
    return all(there.dtype == here.dtype for _, there, here in pairs)


def _sum_of_bits(values: Tensor) -> int:
    bits = values.contiguous().flatten().view(BITS.get(values.element_size(), torch.int64))
    return int(bits.sum(dtype=torch.int64))
