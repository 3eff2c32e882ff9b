"""Stand-alone networks as folders: `kan.json` says what there is, `kan.safetensors` holds the numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from kansformer.errors import CheckpointError
from kansformer.fitting.network import KAN
from kansformer.symbolic import KNOWN, SymbolLibrary

FORMAT_VERSION = 1
CONFIG, TENSORS = "kan.json", "kan.safetensors"


def save_kan(model: KAN, folder: str | Path) -> Path:
    """Write a network into a folder, which is made if need be.

    Functions of formulas are written by name.

    Returns:
        The folder.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    basis = model.layers[0].curves.basis
    values = {
        "format_version": FORMAT_VERSION,
        "width": model.width,
        "basis": basis.name,
        "grid_size": basis.grid_size,
        "order": basis.order,
        "base": model.layers[0].base,
        "dtype": str(model.layers[0].weight.dtype).removeprefix("torch."),
        "symbols": [[symbol.name for symbol in formulas.symbols] for formulas in model.formulas],
    }
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / TENSORS)
    (folder / CONFIG).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    return folder


def load_kan(folder: str | Path, *, library: SymbolLibrary = KNOWN) -> KAN:
    """The network that `save_kan` wrote.

    Args:
        folder: where.
        library: with all functions that its formulas name.

    Raises:
        CheckpointError: there is no such network, or its files do not belong together.
        ConfigError: the library has no function of a name.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    if not (folder / CONFIG).exists() or not (folder / TENSORS).exists():
        raise CheckpointError(f"{str(folder)!r} holds no network: {CONFIG} and {TENSORS} are what save_kan writes.")
    values: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    version = values.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{CONFIG} has format version {version!r}; this package reads {FORMAT_VERSION}.")
    symbols = values.pop("symbols")
    model = KAN(values.pop("width"), dtype=getattr(torch, values.pop("dtype")), **values)
    tensors = load_file(folder / TENSORS)
    for index, (formulas, names) in enumerate(zip(model.formulas, symbols, strict=True)):
        for name in names:  # places and numbers come with the tensors
            formulas.append(library.named(name))
        if f"formulas.{index}.affine" not in tensors or len(tensors[f"formulas.{index}.affine"]) != len(names):
            raise CheckpointError(f"{CONFIG} and {TENSORS} differ in the formulas of layer {index}.")
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(
            f"The tensors of {str(folder)!r} are not those that {CONFIG} describes: {error}"
        ) from None
    return model
