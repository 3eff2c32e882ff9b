"""Change edges and look what happens: taken out, put in place of their formulas, or by any function; and back again.

A replaced edge is a correction to its layer's output, new(x_i) - φ_oi(x_i), added by an ordinary forward hook. Weights
stay untouched, so leaving the context is an exact return.

Shape letters: N tokens, E edges, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from kansformer.conversion.slots import CurveSlot, EdgeRef, find_curve_slot
from kansformer.errors import ConfigError, ShapeError, SlotError
from kansformer.interp.curves import EdgeCurves
from kansformer.interp.edge_features import edge_values
from kansformer.interp.recording import EdgeRecords
from kansformer.nn.transaction import undone_afterwards
from kansformer.symbolic import SymbolicFits

# Numbers that the features of a chunk of tokens may have, (N, E, F).
BUDGET = 2**24


# Edges that are replaced at the moment: two corrections of one edge would add up.
_replaced: WeakKeyDictionary[nn.Module, set[EdgeRef]] = WeakKeyDictionary()


@contextmanager
def ablate(model: nn.Module, edges: list[EdgeRef], records: EdgeRecords | None = None) -> Iterator[nn.Module]:
    """The model with edges held at a constant, as long as the context lasts.

    Args:
        model: converted, or with KAN modules.
        edges: which.
        records: of `record_edges`; the constant is then each edge's mean, else 0.

    Yields:
        The model.

    Raises:
        SlotError: an edge does not exist.
    """
    with replace_edges(model, edges, lambda place, inputs, outputs: _constants(place, inputs, outputs, records)):
        yield model


@contextmanager
def replace_by_symbol(model: nn.Module, curves: EdgeCurves, fits: SymbolicFits) -> Iterator[nn.Module]:
    """The model with edges computed by their formulas, as long as the context lasts.

    Where a formula has no value, as a logarithm left of its pole, the edge stays as it is.

    Args:
        model: that the curves were sampled from.
        curves: the edges.
        fits: one for each of them.

    Yields:
        The model.

    Raises:
        ShapeError: there is not one fit per curve.
    """
    if len(fits) != len(curves):
        raise ShapeError(f"There are {len(curves)} curves and {len(fits)} fits; one belongs to each.")
    order = {ref: index for index, ref in enumerate(curves.refs)}

    def formulas(place: CurveSlot, inputs: Tensor, outputs: Tensor) -> Callable[[Tensor], Tensor]:
        pairs = zip(inputs.tolist(), outputs.tolist(), strict=True)
        chosen = fits[[order[EdgeRef(place.site, place.name, i, o)] for i, o in pairs]]
        return chosen.evaluate

    with replace_edges(model, list(order), formulas):
        yield model


@contextmanager
def edit_edge(model: nn.Module, edge: EdgeRef, function: Callable[[Tensor], Tensor]) -> Iterator[nn.Module]:
    """The model with one edge computed by any elementwise function, as long as the context lasts.

    Raises:
        SlotError: the edge does not exist.
    """
    with replace_edges(model, [edge], lambda place, inputs, outputs: function):
        yield model


@contextmanager
def replace_edges(
    model: nn.Module,
    edges: list[EdgeRef],
    make_function: Callable[[CurveSlot, Tensor, Tensor], Callable[[Tensor], Tensor]],
) -> Iterator[nn.Module]:
    """What the others are made of.

    Args:
        model: converted, or with KAN modules.
        edges: which, in any order.
        make_function: called for each slot with its inputs and outputs, (E,) each; gives the function from the edges'
            inputs (E, N) to their new values. Where these are NaN the edge stays as it is.

    Yields:
        The model.

    Raises:
        SlotError: an edge does not exist.
        ConfigError: an edge is replaced already.
    """
    by_slot: dict[tuple[str, str], list[tuple[int, int]]] = {}
    edges = list(dict.fromkeys(edges))
    if taken := [ref for ref in edges if ref in _replaced.get(model, ())]:
        raise ConfigError(f"{taken[0]} is replaced already. Leave that context before you replace it again.")
    for ref in edges:
        by_slot.setdefault((ref.site, ref.slot), []).append((ref.input, ref.output))
    hooks = []
    for (site, slot), pairs in by_slot.items():
        place = find_curve_slot(model, site, slot)
        check_edges(place, pairs)
        inputs, outputs = torch.tensor(pairs).unbind(-1)
        hooks.append((place.module, _correction(place, inputs, outputs, make_function(place, inputs, outputs))))
    with undone_afterwards() as undo:
        now = _replaced.setdefault(model, set())
        undo.callback(now.difference_update, edges)
        now.update(edges)
        for module, hook in hooks:
            undo.callback(module.register_forward_hook(hook).remove)
        yield model


def _correction(place: CurveSlot, inputs_E: Tensor, outputs_E: Tensor, function: Callable[[Tensor], Tensor]):
    def hook(module: Any, args: tuple, output: Tensor) -> Tensor:
        x_NI = args[0].reshape(-1, args[0].shape[-1])
        inputs, outputs = inputs_E.to(x_NI.device), outputs_E.to(x_NI.device)
        width = len(inputs) * (module.curves.basis.num_coefficients + 1)
        changes = []
        for part in x_NI.split(max(1, BUDGET // width)):
            x_NE = part[:, inputs].to(torch.promote_types(part.dtype, torch.float32))
            now_NE = edge_values(module, x_NE, inputs, outputs)
            change_NE = function(x_NE.mT).mT.to(now_NE) - now_NE
            change_NE = change_NE.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
            changes.append(torch.zeros(len(part), output.shape[-1]).to(change_NE).index_add_(1, outputs, change_NE))
        change = torch.cat(changes).reshape(output.shape)
        return output + change.to(output.dtype)

    return hook


def _constants(place: CurveSlot, inputs: Tensor, outputs: Tensor, records: EdgeRecords | None):
    if records is None:
        return torch.zeros_like
    columns = torch.zeros_like(outputs) if not hasattr(place.module, "out_features") else outputs
    means_E1 = records[place.site, place.name].means()[inputs, columns].unsqueeze(-1)
    return lambda x_EN: means_E1.to(x_EN).expand_as(x_EN)


def check_edges(place: CurveSlot, pairs: list[tuple[int, int]]) -> None:
    """See that these inputs and outputs are edges of a slot.

    Raises:
        SlotError: one is not.
    """
    inputs, diagonal = place.module.in_features, not hasattr(place.module, "out_features")
    for i, o in pairs:
        if not 0 <= i < inputs:
            raise SlotError(f"{place.site}/{place.name} has no input {i}: choose from 0 to {inputs - 1}.")
        if diagonal and o != i:
            raise SlotError(f"{place.site}/{place.name} has no weights: the edge of input {i} has output {i}, not {o}.")
        if not diagonal and not 0 <= o < place.num_outputs:
            raise SlotError(f"{place.site}/{place.name} has no output {o}: choose from 0 to {place.num_outputs - 1}.")
