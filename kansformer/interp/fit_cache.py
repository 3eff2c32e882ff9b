"""Fits kept in files as they come, so that an audit that was stopped goes on where it was."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from kansformer.conversion.slots import CurveSlot
from kansformer.files import atomic_file
from kansformer.interp.edge_features import base_values
from kansformer.interp.recording import RecordedSlot
from kansformer.symbolic import SymbolicFits, SymbolLibrary

TENSORS = ("weight", "coefficients", "mix", "denominator", "domain")


def fingerprint(place: CurveSlot, recorded: RecordedSlot, library: SymbolLibrary, part: str) -> str:
    """What the fits of a slot depend on, in 16 hexadecimal digits: the layer, its inputs' ranges, the functions, and
    the part of the edges that is fitted.
    """
    digest = hashlib.sha256(f"{place.site}/{place.name} {part} {place.module.curves} {library.names}".encode())
    grid = torch.linspace(-3, 3, 61, device=place.module.coefficients.device)
    for values in (base_values(place.module, grid), *(symbol.function(grid) for symbol in library)):
        digest.update(values.detach().float().cpu().numpy().tobytes())  # what a name stands for
    tensors = [getattr(place.module, name, None) for name in TENSORS]
    for tensor in (*tensors, recorded.lower, recorded.upper):
        if isinstance(tensor, Tensor):
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def load_fits(file: Path, library: SymbolLibrary, count: int) -> SymbolicFits | None:
    """What `save_fits` wrote there; None if there is nothing, or not so many fits."""
    import pandas

    if not file.exists():
        return None
    table = pandas.read_parquet(file)
    return SymbolicFits.from_dict(table.to_dict("list"), library) if len(table) == count else None


def save_fits(fits: SymbolicFits, file: Path) -> None:
    """Write fits to a Parquet file, atomically."""
    import pandas

    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as partial:
        pandas.DataFrame(fits.to_dict()).to_parquet(partial, index=False)
