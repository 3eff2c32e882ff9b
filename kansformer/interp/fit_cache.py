"""A cache of fits, one file per slot, so that an audit that was interrupted continues where it was."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch

from kansformer.conversion.slots import CurveSlot
from kansformer.files import atomic_file
from kansformer.interp.edge_features import base_values
from kansformer.interp.recording import RecordedSlot
from kansformer.symbolic import SymbolicFits, SymbolLibrary


def cached_fits(
    folder: Path,
    slot: CurveSlot,
    recorded: RecordedSlot,
    library: SymbolLibrary,
    part: str,
    make_fits: Callable[[], SymbolicFits],
) -> SymbolicFits:
    """The fits of a slot in a folder; if it has none they are made, and written to it atomically."""
    import pandas

    file = folder / f"{_fingerprint(slot, recorded, library, part)}.parquet"
    if file.exists():
        return SymbolicFits.from_dict(pandas.read_parquet(file).to_dict("list"), library)
    fits = make_fits()
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as partial:
        pandas.DataFrame(fits.to_dict()).to_parquet(partial, index=False)
    return fits


def _fingerprint(slot: CurveSlot, recorded: RecordedSlot, library: SymbolLibrary, part: str) -> str:
    """A checksum of the layer, its inputs' ranges, the functions and the part of the edges: all that fits depend on."""
    digest = hashlib.sha256(f"{slot.site}/{slot.name} {part} {slot.module.curves} {library.names}".encode())
    grid = torch.linspace(-3, 3, 61, device=slot.module.coefficients.device)
    for values in (base_values(slot.module, grid), *(symbol.function(grid) for symbol in library)):
        digest.update(values.detach().float().cpu().numpy().tobytes())  # what a name stands for
    for tensor in (*slot.module.parameters(), *slot.module.buffers(), recorded.lower, recorded.upper):
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
