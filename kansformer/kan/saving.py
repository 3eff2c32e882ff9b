"""Stand-alone networks as folders: `kan.json` describes the network and names the safetensors file with its numbers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kansformer.basis import Basis
from kansformer.checks import check_choice
from kansformer.errors import CheckpointError, ConfigError
from kansformer.files import atomic_file, atomic_write_text
from kansformer.kan.constraints import checked_constraints, constrain
from kansformer.nn.base import BASE_FUNCTIONS
from kansformer.safe_io import read_tensors, read_versioned_json
from kansformer.symbolic import ALL_SYMBOLS, SymbolLibrary

if TYPE_CHECKING:
    from kansformer.kan.network import KAN

FORMAT_VERSION = 1
CONFIG = "kan.json"
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class NetworkConfig:
    """The contents of `kan.json` beside its format version."""

    tensors: str
    width: list[int | list[int]]
    basis: str
    grid_size: int
    order: int
    base: str
    dtype: str
    symbols: list[list[str]]
    frozen: list[list[bool]] | None = None
    bias: bool = True
    constraints: dict[str, list] | None = None
    init_seed: int = 0
    init_scale: float = 1.0

    def __post_init__(self) -> None:
        kinds = {"grid_size": int, "order": int, "width": list, "symbols": list, "bias": bool}
        kinds |= {"init_seed": int, "init_scale": float}
        for name, value in vars(self).items():
            kind = kinds.get(name, str)
            if name not in ("frozen", "constraints") and (
                not isinstance(value, kind) or isinstance(value, bool) != (kind is bool)
            ):
                raise CheckpointError(f"{CONFIG} has {name}={value!r:.120}, which must be of type {kind.__name__}.")
        check_choice("base", self.base[:80], BASE_FUNCTIONS, CheckpointError)
        check_choice("dtype", self.dtype[:80], DTYPES, CheckpointError)
        if len(self.symbols) != len(self.width) - 1 or not all(
            isinstance(names, list) and all(isinstance(name, str) for name in names) for names in self.symbols
        ):
            raise CheckpointError(
                f"{CONFIG} must have a list of function names for each layer, got {self.symbols!r:.200}."
            )
        if self.frozen is not None and (
            not isinstance(self.frozen, list)
            or not all(
                isinstance(flags, list) and all(isinstance(flag, bool) for flag in flags) for flags in self.frozen
            )
            or list(map(len, self.frozen)) != list(map(len, self.symbols))
        ):
            raise CheckpointError(
                f"{CONFIG} must say for every function whether it is frozen, or for none, got {self.frozen!r:.200}."
            )


def save(model: KAN, folder: str | Path) -> Path:
    """Write a network into a folder, which is created if needed; one that is there is replaced atomically.

    Functions of formulas are written by name.

    Args:
        model: the network.
        folder: where.

    Returns:
        The folder.

    Raises:
        ConfigError: `load` would refuse the network: its dtype is none of a network, or a number of it is not finite.
    """
    from safetensors.torch import save

    check_choice("dtype", _dtype_of(model), DTYPES)
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise ConfigError(f"{name} of the network is not finite, so it could not be loaded. Nothing was written.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    data = save({name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()})
    basis = model.layers[0].curves.basis
    frozen = [formulas.frozen.tolist() for formulas in model.formulas]
    config = NetworkConfig(
        tensors=f"kan-{hashlib.sha256(data).hexdigest()[:12]}.safetensors",
        width=[list(pair) for pair in model.width],
        basis=basis.name,
        grid_size=basis.grid_size,
        order=basis.order,
        base=model.layers[0].base,
        dtype=_dtype_of(model),
        symbols=[[symbol.name for symbol in formulas.symbols] for formulas in model.formulas],
        frozen=frozen if any(map(any, frozen)) else None,
        bias=model.has_bias,
        constraints=None if model.constraints is None else model.constraints.to_dict(),
        init_seed=model.init_seed,
        init_scale=float(model.init_scale),
    )
    old = set(folder.glob("kan-*.safetensors"))
    with atomic_file(folder / config.tensors) as partial:
        partial.write_bytes(data)
    defaults = {field.name: field.default for field in fields(NetworkConfig)}
    values = {name: value for name, value in vars(config).items() if value != defaults[name]}
    values = {"format_version": FORMAT_VERSION, **values}
    atomic_write_text(folder / CONFIG, json.dumps(values, indent=1) + "\n")
    for path in old - {folder / config.tensors}:
        path.unlink()
    return folder


def load(kind: type[KAN], folder: str | Path, *, library: SymbolLibrary = ALL_SYMBOLS) -> KAN:
    """Load a network that `save` wrote.

    Args:
        kind: `KAN`.
        folder: where.
        library: with all functions of its formulas.

    Raises:
        CheckpointError: there is no such network, or its files are damaged or do not belong together.
        ConfigError: the library lacks a function of its formulas.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise CheckpointError(
            f"{str(folder)!r} holds no network: {CONFIG} and kan-….safetensors are the files that KAN.save writes."
        )
    config = _read_config(folder / CONFIG)
    path = folder / config.tensors
    if path.name != config.tensors or path.suffix != ".safetensors" or not path.is_file():
        raise CheckpointError(
            f"{CONFIG} names {config.tensors!r:.120} as the file of its tensors, which is not beside it."
        )
    tensors = read_tensors(path)
    try:
        basis = Basis(name=config.basis, grid_size=config.grid_size, order=config.order)
        _check_width(config.width, basis, tensors)
        with torch.device("meta"):  # the numbers come from the file
            model = kind(
                config.width, basis=config.basis, grid_size=config.grid_size, order=config.order, base=config.base,
                bias=config.bias, dtype=DTYPES[config.dtype], seed=config.init_seed, init_scale=config.init_scale,
            )  # fmt: skip
        if config.constraints is not None:
            constrain(model, checked_constraints(config.constraints, model))
    except ConfigError as error:
        raise CheckpointError(f"{CONFIG} does not describe a network: {error!s:.600}") from None
    frozen = config.frozen or [[False] * len(names) for names in config.symbols]
    for formulas, names, flags in zip(model.formulas, config.symbols, frozen, strict=True):
        nowhere, numbers = formulas.inputs.new_zeros(len(names)), formulas.affine.new_zeros(len(names), 4)
        symbols = tuple(library.named(name) for name in names)
        formulas.replace(symbols, nowhere, nowhere, numbers, torch.tensor(flags, dtype=torch.bool))
    _check_tensors(model, tensors)
    try:
        # Copies, since the file's own are read from it when they are used.
        model.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, assign=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"The tensors of {str(folder)!r} are not those that {CONFIG} describes: {error!s:.600}"
        ) from None
    return model


def _read_config(path: Path) -> NetworkConfig:
    values = read_versioned_json(path, FORMAT_VERSION)
    known = fields(NetworkConfig)
    if missing := [field.name for field in known if field.default is MISSING and field.name not in values]:
        raise CheckpointError(f"{CONFIG} has no {missing[0]!r}.")
    return NetworkConfig(**{field.name: values[field.name] for field in known if field.name in values})


def _dtype_of(model: KAN) -> str:
    return str(model.layers[0].weight.dtype).removeprefix("torch.")


def _check_width(width: list[int | list[int]], basis: Basis, tensors: dict[str, Tensor]) -> None:
    """Check that the network would have the size of its tensors, before it is built."""
    pairs = [entry if isinstance(entry, list) else [entry, 0] for entry in width]
    for index, (before, after) in enumerate(pairwise(pairs)):
        numbers = all(type(n) is int for n in before + after)
        ends = (sum(before), sum(after[:1]) + 2 * sum(after[1:])) if numbers else (before, after)
        expected = (ends[0], basis.num_coefficients, ends[1])
        shape = tuple(tensors.get(f"layers.{index}.coefficients", torch.zeros(0)).shape)
        if shape != expected:
            raise CheckpointError(
                f"{CONFIG} has width={width!r:.200}, whose layer {index} would have coefficients {expected!r:.200}, "
                f"and the tensors are {shape}."
            )


def _check_tensors(model: KAN, tensors: dict[str, Tensor]) -> None:
    """Check the types and values of the tensors, and that formulas are at edges; `load_state_dict` checks the rest."""
    for name, own in model.state_dict().items():
        tensor = tensors.get(name)
        if tensor is None:
            continue
        if tensor.dtype != own.dtype:
            dtype, expected = (str(dtype).removeprefix("torch.") for dtype in (tensor.dtype, own.dtype))
            raise CheckpointError(f"The tensor {name} is {dtype}, where {CONFIG} says {expected}.")
        if tensor.ndim != own.ndim:  # torch computes with 64 dimensions, and files may have more
            raise CheckpointError(f"The tensor {name} has {tensor.ndim} dimensions, where {CONFIG} says {own.ndim}.")
        if not tensor.isfinite().all():
            raise CheckpointError(f"The tensor {name} is not finite.")
        if name.endswith(".domain") and tensor.shape == own.shape and not (tensor[:, 0] < tensor[:, 1]).all():
            raise CheckpointError(f"The tensor {name} has intervals without a width.")
    for index, alive_IO in enumerate(model.alive):
        for name, limit in zip(("inputs", "outputs_of"), alive_IO.shape, strict=True):
            places, count = tensors.get(f"formulas.{index}.{name}"), len(model.formulas[index])
            if places is None or places.shape != (count,) or (places < 0).any() or (places >= limit).any():
                raise CheckpointError(f"{CONFIG} and its tensors differ in the formulas of layer {index}.")
