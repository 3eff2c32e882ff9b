"""Stand-alone networks as folders: `kan.json` describes the network and names the safetensors file with its numbers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor

from kansformer.basis import Basis
from kansformer.checks import check_choice
from kansformer.errors import CheckpointError, ConfigError
from kansformer.files import atomic_file, atomic_write_text
from kansformer.nn.base import BASE_FUNCTIONS
from kansformer.safe_io import read_json, read_tensors
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

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            kind = int if name in ("grid_size", "order") else list if name in ("width", "symbols") else str
            if not isinstance(value, kind) or isinstance(value, bool):
                raise CheckpointError(f"{CONFIG} has {name}={value!r:.120}, which must be of type {kind.__name__}.")
        check_choice("base", self.base[:80], BASE_FUNCTIONS, CheckpointError)
        check_choice("dtype", self.dtype[:80], DTYPES, CheckpointError)
        if len(self.symbols) != len(self.width) - 1 or not all(
            isinstance(names, list) and all(isinstance(name, str) for name in names) for names in self.symbols
        ):
            raise CheckpointError(
                f"{CONFIG} must have a list of function names for each layer, got {self.symbols!r:.200}."
            )


def save(model: KAN, folder: str | Path) -> Path:
    """Write a network into a folder, which is created if needed; one that is there is replaced atomically.

    Functions of formulas are written by name.

    Args:
        model: the network.
        folder: where.

    Returns:
        The folder.
    """
    from safetensors.torch import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    data = save({name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()})
    basis = model.layers[0].curves.basis
    config = NetworkConfig(
        tensors=f"kan-{hashlib.sha256(data).hexdigest()[:12]}.safetensors",
        width=[list(pair) for pair in model.width],
        basis=basis.name,
        grid_size=basis.grid_size,
        order=basis.order,
        base=model.layers[0].base,
        dtype=str(model.layers[0].weight.dtype).removeprefix("torch."),
        symbols=[[symbol.name for symbol in formulas.symbols] for formulas in model.formulas],
    )
    old = set(folder.glob("kan-*.safetensors"))
    with atomic_file(folder / config.tensors) as partial:
        partial.write_bytes(data)
    values = {"format_version": FORMAT_VERSION, **vars(config)}
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
    tensors = _read_tensors(folder, config.tensors)
    try:
        basis = Basis(name=config.basis, grid_size=config.grid_size, order=config.order)
        _check_shapes(config.width, basis, tensors)
        with torch.device("meta"):  # the numbers come from the file
            model = kind(
                config.width,
                basis=config.basis,
                grid_size=config.grid_size,
                order=config.order,
                base=config.base,
                dtype=DTYPES[config.dtype],
            )
    except ConfigError as error:
        raise CheckpointError(f"{CONFIG} does not describe a network: {error!s:.600}") from None
    for index, (formulas, names) in enumerate(zip(model.formulas, config.symbols, strict=True)):
        _check_formula_edges(model, index, len(names), tensors)
        for name in names:  # edges and numbers come with the tensors
            formulas.append(library.named(name))
    try:
        _check_dtypes(model, tensors)
        # Copies, since the file's own are read from it when they are used.
        model.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, assign=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"The tensors of {str(folder)!r} are not those that {CONFIG} describes: {error!s:.600}"
        ) from None
    return model


def _read_config(path: Path) -> NetworkConfig:
    values = read_json(path)
    if not isinstance(values, dict):
        raise CheckpointError(f"{CONFIG} must hold an object, got {type(values).__name__}.")
    version = values.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{CONFIG} has format version {version!r:.40}; this package reads {FORMAT_VERSION}. If it is newer: "
            "pip install --upgrade kansformer."
        )
    names = [field.name for field in fields(NetworkConfig)]
    if missing := [name for name in names if name not in values]:
        raise CheckpointError(f"{CONFIG} has no {missing[0]!r}.")
    return NetworkConfig(**{name: values[name] for name in names})


def _read_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    path = folder / name
    if path.name != name or path.suffix != ".safetensors" or not path.is_file():
        raise CheckpointError(f"{CONFIG} names {name!r:.120} as the file of its tensors, which is not beside it.")
    return read_tensors(path)


def _check_shapes(width: list[int | list[int]], basis: Basis, tensors: dict[str, Tensor]) -> None:
    """Check that the network would have the size of its tensors, before it is built."""
    sizes = [sum(entry) if _are_counts(entry) else entry for entry in width]
    outputs = [sum(e[:1]) + 2 * sum(e[1:]) if _are_counts(e) else e for e in width[1:]]
    for index, (inputs, outs) in enumerate(zip(sizes, outputs, strict=False)):
        coefficients = tensors.get(f"layers.{index}.coefficients", torch.zeros(0))
        if tuple(coefficients.shape) != (inputs, basis.num_coefficients, outs):
            raise CheckpointError(
                f"{CONFIG} has width={width!r:.200}, whose layer {index} would have coefficients "
                f"{(inputs, basis.num_coefficients, outs)!r:.200}, and the tensors are {tuple(coefficients.shape)}."
            )
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.numel() and not all(end.isfinite() for end in tensor.aminmax()):
            raise CheckpointError(f"The tensor {name} is not finite.")


def _are_counts(entry: int | list[int]) -> TypeGuard[list[int]]:
    return isinstance(entry, list) and all(isinstance(n, int) and not isinstance(n, bool) for n in entry)


def _check_formula_edges(model: KAN, index: int, count: int, tensors: dict[str, Tensor]) -> None:
    """Check that the formulas of a layer are at its edges."""
    inside = torch.tensor(model.alive[index].shape)
    for name, limit in (("inputs", inside[0]), ("outputs_of", inside[1])):
        places = tensors.get(f"formulas.{index}.{name}", torch.zeros(0, dtype=torch.long))
        if (
            tuple(places.shape) != (count,)
            or places.dtype != torch.long
            or (places < 0).any()
            or (places >= limit).any()
        ):
            raise CheckpointError(f"{CONFIG} and its tensors differ in the formulas of layer {index}.")


def _check_dtypes(model: KAN, tensors: dict[str, Tensor]) -> None:
    """Check the dtypes of the tensors, and that domains have a width."""
    for name, own in model.state_dict().items():
        tensor = tensors.get(name, own)
        if tensor.dtype != own.dtype:
            dtype, expected = (str(dtype).removeprefix("torch.") for dtype in (tensor.dtype, own.dtype))
            raise CheckpointError(f"The tensor {name} is {dtype}, where {CONFIG} says {expected}.")
        if name.endswith(".domain") and tensor.shape == own.shape and not (tensor[:, 0] < tensor[:, 1]).all():
            raise CheckpointError(f"The tensor {name} has intervals without a width.")
