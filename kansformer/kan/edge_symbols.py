"""Symbols for the edges of a network one by one: a symbol is kept if the rest of the network can be refitted to it.

Consecutive curves are determined only up to an invertible function between them: a product of powers is a power of the
product. So fixing an edge moves the others, and each symbol is tested by a short fit.

Shape letters: E edges, S sample points.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kansformer.kan.edge_samples import sampled_edges
from kansformer.kan.edges import Edge
from kansformer.kan.fitting import fit, rmse
from kansformer.kan.symbolic import fix_fitted
from kansformer.symbolic import SymbolicFits, SymbolLibrary, fit_symbolic

if TYPE_CHECKING:
    from kansformer.kan.network import KAN

# Steps of the fit after every name, and of the last one.
STEPS, LAST_STEPS = 12, 60
# The error may grow by this factor; it grows by orders of magnitude with a wrong name.
ALLOWED = 2.0
# A line is tried first where its R² is above this.
STRAIGHT = 0.9
# Names tried for an edge, and in all per edge of the network.
MAX_NAMES, MAX_TRIALS = 3, 4
# A fit ends when four steps improve the error by less than this share.
SETTLED = 1e-2


def name_one_by_one(model: KAN, x: Tensor, y: Tensor, *, library: SymbolLibrary, noise: float) -> KAN | None:
    """A copy of the network with a formula on every edge; None if no symbol was accepted for some edge.

    `noise` is the share of the curves' variance that is error.
    """
    limit = ALLOWED * rmse(model, x, y)
    model = copy.deepcopy(model)
    refused: dict[Edge, set[str]] = {}
    trials = MAX_TRIALS * len(list(model.edges()))
    while trials > 0:
        proposal = _next_name(model, x, library, noise, refused)
        if proposal is None:
            break
        edge, fits = proposal
        trial = copy.deepcopy(model)
        fix_fitted(trial, edge, fits)
        fit(trial, (x, y), steps=STEPS, grid_update_every=0, tolerance=SETTLED, progress=False)
        trials -= 1
        if rmse(trial, x, y) <= limit:
            model = trial
            refused = {other: names for other, names in refused.items() if len(names) < MAX_NAMES}
        else:
            refused.setdefault(edge, set()).add(fits.names[0])
    if any(model.curved(index).any() for index in range(len(model.layers))):
        return None
    fit(model, (x, y), steps=LAST_STEPS, grid_update_every=0, tolerance=SETTLED, progress=False)
    return model


def _next_name(
    model: KAN, x: Tensor, library: SymbolLibrary, noise: float, refused: dict[Edge, set[str]]
) -> tuple[Edge, SymbolicFits] | None:
    """The edge with the best fit, among the names that were not refused for it."""
    with torch.no_grad():
        edges, x_ES, y_ES = sampled_edges(model, x)
    rows_by_refusals: dict[frozenset[str], list[int]] = {}
    for row, edge in enumerate(edges):
        rows_by_refusals.setdefault(frozenset(refused.get(edge, ())), []).append(row)
    best: tuple[tuple[bool, float], Edge, SymbolicFits] | None = None
    for names, rows in rows_by_refusals.items():
        if len(names) >= MAX_NAMES or len(names) == len(library):
            continue
        left = library.subset([symbol.name for symbol in library if symbol.name not in names])
        fits = fit_symbolic(x_ES[rows], y_ES[rows], library=left, refined=None, noise=noise)
        straight = None
        if "x" in left.names:
            straight = fit_symbolic(x_ES[rows], y_ES[rows], library=left.subset(["x"]), refined=None, noise=noise)
        for number, row in enumerate(rows):
            fit_ = fits[number]
            if straight is not None and fit_.names != ["constant"] and straight.r2[number] > STRAIGHT:
                fit_ = straight[number]
            rank = (fit_.names == ["x"], float(fit_.r2))
            if best is None or rank > best[0]:
                best = (rank, edges[row], fit_)
    return None if best is None else best[1:]
