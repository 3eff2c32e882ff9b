"""Change edges for the length of a context, or write a function into their coefficients, where it stays.

In a context edges are held constant, or computed by their formulas or by any function, by an ordinary forward hook. It
writes the new values into the layer's output where that is the edges alone; where many edges are summed, it adds a
correction, new(x_i) - φ_oi(x_i). Weights stay untouched, so leaving the context is an exact return.

Shape letters: N tokens, E edges, I inputs, O outputs, S sample points, C coefficients, D denominator parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from kansformer.basis import fit_curves
from kansformer.conversion.slots import CurveSlot, EdgeRef, check_in_memory, find_curve_slot, find_curve_slots
from kansformer.errors import ConfigError, DataError, ShapeError, SlotError
from kansformer.interp.curves import EdgeCurves
from kansformer.interp.edge_features import base_values, edge_function, pair_base_weights
from kansformer.interp.recording import EdgeRecords
from kansformer.nn.curve_checks import OWN_COPIES, check_not_fixed, check_not_shared
from kansformer.nn.curves import Curved, curved_modules
from kansformer.nn.hooks import forget_compiled, input_of
from kansformer.nn.transaction import undone_afterwards
from kansformer.symbolic import SymbolicFits

Function = Callable[[Tensor], Tensor]

# Numbers that the features of a chunk of tokens may have, (N, E, F).
BUDGET = 2**24
# Points per coefficient that a function is sampled at before it is fitted.
OVERSAMPLING = 8
# Inputs and outputs of edges that are replaced now, by the module with their curves: two corrections of one edge would
# add up.
_replaced: WeakKeyDictionary[nn.Module, set[tuple[int, int]]] = WeakKeyDictionary()


def ablate(
    model: nn.Module, edges: Iterable[EdgeRef], records: EdgeRecords | None = None
) -> AbstractContextManager[nn.Module]:
    """The model with edges held at a constant, for the length of the context.

    Args:
        model: converted, or with KAN modules.
        edges: which.
        records: of `record_edges`; the constant is then each edge's mean, else 0.

    Returns:
        The context, which gives the same model.

    Raises:
        SlotError: an edge does not exist.
        DataError: the records hold no token for a slot.

    Examples:
        >>> from kansformer import KANLinear
        >>> from kansformer.interp import EdgeRef, ablate
        >>> model = torch.nn.Sequential(KANLinear(1, 1, bias=False))
        >>> with ablate(model, [EdgeRef("", "0", input=0, output=0)]):
        ...     torch.allclose(model(torch.ones(1, 1)), torch.zeros(1, 1), atol=1e-6)
        True
    """

    edges = list(edges)

    def constants(slot: CurveSlot, inputs: Tensor, outputs: Tensor) -> Function:
        if records is None:
            return torch.zeros_like
        means_E1 = records[slot.site, slot.name].means().flatten()[slot.edge_numbers(inputs, outputs)].unsqueeze(-1)
        return lambda x_EN: means_E1.to(x_EN).expand_as(x_EN)

    return replace_edges(model, edges, constants)


def replace_by_symbol(model: nn.Module, curves: EdgeCurves, fits: SymbolicFits) -> AbstractContextManager[nn.Module]:
    """The model with edges computed by their formulas, for the length of the context.

    Where a formula has no value, as a logarithm left of its pole, the edge stays as it is.

    Args:
        model: the one that the curves were sampled from.
        curves: the edges.
        fits: one for each of them.

    Returns:
        The context, which gives the same model.

    Raises:
        ShapeError: there is not one fit per curve.

    Examples:
        >>> from kansformer import LearnedActivation
        >>> from kansformer.interp import edge_curves, replace_by_symbol
        >>> from kansformer.symbolic import fit_symbolic
        >>> model, x = torch.nn.Sequential(LearnedActivation(2, base="tanh", domain=(-4, 4))), torch.randn(5, 2)
        >>> curves = edge_curves(model, "", "0")
        >>> with replace_by_symbol(model, curves, fit_symbolic(curves.x, curves.y)):
        ...     torch.allclose(model(x), torch.tanh(x), atol=1e-3)
        True
    """
    if len(fits) != len(curves):
        raise ShapeError(f"There are {len(curves)} curves and {len(fits)} fits; one belongs to each.")
    order = {ref: index for index, ref in enumerate(curves.refs)}

    def formulas(slot: CurveSlot, inputs: Tensor, outputs: Tensor) -> Function:
        pairs = zip(inputs.tolist(), outputs.tolist(), strict=True)
        return fits[[order[EdgeRef(slot.site, slot.name, i, o)] for i, o in pairs]].evaluate

    return replace_edges(model, list(order), formulas)


def edit_edge(model: nn.Module, edge: EdgeRef, function: Function) -> AbstractContextManager[nn.Module]:
    """The model with one edge computed by any elementwise function, for the length of the context.

    Args:
        model: converted, or with KAN modules.
        edge: which.
        function: elementwise, of the edge's inputs; the whole edge, its base included.

    Returns:
        The context, which gives the same model.

    Raises:
        SlotError: the edge does not exist.

    Examples:
        >>> from kansformer import KANLinear
        >>> from kansformer.interp import EdgeRef, edit_edge
        >>> model, x = torch.nn.Sequential(KANLinear(1, 1, bias=False)), torch.randn(5, 1)
        >>> with edit_edge(model, EdgeRef("", "0", input=0, output=0), torch.sin):
        ...     torch.allclose(model(x), torch.sin(x), atol=1e-6)
        True
    """
    return replace_edges(model, [edge], lambda slot, inputs, outputs: function)


@contextmanager
def replace_edges(
    model: nn.Module,
    edges: list[EdgeRef],
    make_function: Callable[[CurveSlot, Tensor, Tensor], Function],
) -> Iterator[nn.Module]:
    """The model with edges computed by functions made for each slot, on which the other edits are built.

    Args:
        model: converted, or with KAN modules.
        edges: which, in any order.
        make_function: called for each slot with its inputs and outputs, (E,) each; gives the function from the edges'
            inputs (E, N) to their new values. Where these are NaN or infinite the edge stays as it is.

    Raises:
        SlotError: an edge does not exist.
        ConfigError: an edge is replaced already.
    """
    by_slot: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for ref in dict.fromkeys(edges):
        by_slot.setdefault((ref.site, ref.slot), []).append((ref.input, ref.output))
    hooks = []
    slots = {(slot.site, slot.name): slot for slot in find_curve_slots(model)} if by_slot else {}
    for (site, name), pairs in by_slot.items():
        pairs.sort()  # neighbouring channels are read and added faster
        slot = slots.get((site, name)) or find_curve_slot(model, site, name)  # raises, with the choices
        check_in_memory([slot])
        if taken := replaced_edges(slot).intersection(pairs):
            ref = EdgeRef(site, name, *min(taken))
            raise ConfigError(f"{ref} is replaced already. Leave that context before you replace it again.")
        _check_edges(slot, pairs)
        inputs, outputs = torch.tensor(pairs).unbind(-1)
        hooks.append((slot, pairs, _correction(slot, inputs, outputs, make_function(slot, inputs, outputs))))
    forget_compiled()
    with undone_afterwards() as undo:
        for slot, pairs, hook in hooks:
            now = _replaced.setdefault(cast(nn.Module, slot.module), set())
            undo.callback(now.difference_update, pairs)
            now.update(pairs)
            undo.callback(slot.called.register_forward_hook(hook, with_kwargs=True).remove)
        yield model


def replaced_edges(slot: CurveSlot) -> frozenset[tuple[int, int]]:
    """Inputs and outputs of the edges of a slot that are computed by something else in a context now."""
    return frozenset(_replaced.get(cast(nn.Module, slot.module), ()))


@dataclass
class CurveEdit:
    """The result of `edit_curve`; `undo()` reverts it.

    Args:
        error: root mean square difference between the function and the new curve, on its domain.

    Examples:
        >>> from kansformer import KANLinear
        >>> from kansformer.interp import EdgeRef, edit_curve
        >>> model = torch.nn.Sequential(KANLinear(2, 1))
        >>> edit = edit_curve(model, EdgeRef("", "0", input=1, output=0), torch.square)
        >>> edit.error < 0.01
        True
        >>> edit.undo()
    """

    error: float
    _module: Curved
    _index: tuple[int | slice, ...]
    _parameter: nn.Parameter
    _domain: Tensor
    _before: Tensor
    _after: Tensor | None = None

    @torch.no_grad()
    def undo(self) -> None:
        """Put the curve's coefficients back, to the bit; edits of other curves stay.

        Raises:
            DataError: the layer has another grid now, so the old coefficients mean nothing there; or the curve was
                changed again, as by a later edit, which is to be undone first.
        """
        check_same_grid(self._module, self._parameter, self._domain)
        now = self._parameter[self._index]  # the model may have been cast or moved since
        expected = () if self._after is None else (self._after, self._before)
        if expected and not any(torch.equal(now, values.to(now)) for values in expected):
            raise DataError("The curve was changed after the edit. Undo later edits of it first.")
        self._parameter[self._index] = self._before.to(now)


def check_same_grid(module: Curved, parameter: nn.Parameter, domain: Tensor) -> None:
    """Raise a DataError unless a module has this parameter as its coefficients, and this domain."""
    if module.coefficients is not parameter or not torch.equal(module.domain, domain.to(module.domain)):
        raise DataError("The grid of the layer was changed after the edit, so it cannot be undone any more.")


@torch.no_grad()
def edit_curve(model: nn.Module, edge: EdgeRef, function: Function) -> CurveEdit:
    """Make an edge's curve follow a function on its domain, in place, as closely as its basis can.

    `edit_edge` shows exactly what a function would do, within a context; this one lasts and is saved with the model.

    Args:
        model: converted, or with KAN modules.
        edge: the edge. Of `full` edges only this one changes. Where the curves act on the inputs before the weights
            (`channel` and `group`) the function is that of the input's curve, and all edges that share it follow.
        function: elementwise, of the inputs: the whole edge, its base included.

    Returns:
        How close the curve came, with `undo`.

    Raises:
        SlotError: the edge does not exist.
        ConfigError: the slot has `low_rank` edges, none of which has coefficients of its own, or the curves are fixed
            or shared by layers.
        DataError: the function is not finite on the domain, or too large for the coefficients. The model is left as it
            was.

    Examples:
        >>> from kansformer import KANLinear
        >>> from kansformer.interp import EdgeRef, edit_curve
        >>> model, x = torch.nn.Sequential(KANLinear(1, 1, bias=False)), torch.linspace(-1, 1, 9).unsqueeze(-1)
        >>> edit = edit_curve(model, EdgeRef("", "0", input=0, output=0), torch.sin)
        >>> torch.allclose(model(x), torch.sin(x), atol=0.01)
        True
    """
    slot = find_curve_slot(model, edge.site, edge.slot)
    _check_edges(slot, [(edge.input, edge.output)])
    module = slot.module
    curves, basis = module.curves, module.curves.basis
    if curves.edges == "low_rank":
        raise ConfigError(f"{slot.path} has low_rank edges, which share their coefficients. Use edit_edge there.")
    check_not_fixed(model, "edit_curve")
    check_not_shared(
        dict(curved_modules(model)), "edit_curve", instead=f"Use edit_edge, within a context. {OWN_COPIES}"
    )
    curve = edge.input * len(module.domain) // module.in_features
    domain_12 = module.domain[curve : curve + 1].double().cpu()
    unit_S = torch.linspace(0, 1, OVERSAMPLING * basis.num_coefficients, dtype=torch.float64)
    x_1S = domain_12[:, :1] + (domain_12[:, 1:] - domain_12[:, :1]) * unit_S
    y_1S = function(x_1S.clone()).double()  # which may work in place
    base_1S = base_values(module, x_1S.mT, slice(edge.input, edge.input + 1)).mT.double()
    if y_1S.shape != x_1S.shape or not y_1S.isfinite().all():
        lower, upper = domain_12[0].tolist()
        raise DataError(f"The function has no finite value everywhere from {lower:g} to {upper:g}, {edge}'s domain.")
    index: tuple[int | slice, ...] = (curve,)
    weight_1 = pair_base_weights(slot, torch.tensor([edge.input]), torch.tensor([edge.output]))
    if curves.edges == "full" and weight_1 is not None:
        base_1S = base_1S * weight_1.double().cpu()
        index = (curve, slice(None), edge.output)
    denominator_1D = None if module.denominator is None else module.denominator[curve : curve + 1]
    target_1S = y_1S - base_1S
    fit_1C1 = fit_curves(x_1S, target_1S.unsqueeze(-1), basis, domain_12, denominator_ID=denominator_1D, ridge=0.0)
    before = module.coefficients[index].detach().clone()
    new_C = fit_1C1[0, :, 0].to(before)
    if not new_C.isfinite().all():
        raise DataError(f"The function is too large for the curve of {edge}: its coefficients overflow {before.dtype}.")
    denominator_11D = None if denominator_1D is None else denominator_1D.double().cpu().unsqueeze(1)
    values_1SC = basis.values(x_1S, domain_12.unsqueeze(1), denominator_11D)
    error = (values_1SC @ new_C.double().cpu() - target_1S).square().mean().sqrt().item()
    module.coefficients[index] = new_C
    return CurveEdit(error, module, index, module.coefficients, module.domain.clone(), before, new_C)


def _correction(slot: CurveSlot, inputs_E: Tensor, outputs_E: Tensor, function: Function):
    spec = slot.module.curves
    is_whole = not slot.has_weights and len(inputs_E) == slot.module.in_features  # the edges are sorted

    def hook(module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> Tensor:
        x = input_of(args, kwargs)
        x_NI = x.reshape(-1, x.shape[-1])
        inputs, outputs = inputs_E.to(x_NI.device), outputs_E.to(x_NI.device)
        chunk = max(1, BUDGET // (len(inputs) * (spec.basis.num_coefficients + 1)))
        values = edge_function(slot, inputs, outputs)
        parts = []
        for x_ni, y_no in zip(x_NI.split(chunk), output.reshape(-1, output.shape[-1]).split(chunk), strict=True):
            x_NE = (x_ni if is_whole else x_ni.index_select(1, inputs)).to(
                torch.promote_types(x_ni.dtype, torch.float32)
            )
            if slot.has_weights:
                now_NE = values(x_NE)
                change_NE = (function(x_NE.mT).mT.to(now_NE) - now_NE).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
                y_no = y_no.to(now_NE).index_add(1, outputs, change_NE)
            else:
                own_NE = x_NE.clone() if is_whole else x_NE  # the function may work in place
                new_NE, now_NE = function(own_NE.mT).mT, y_no if is_whole else y_no.index_select(1, outputs)
                new_NE = torch.where(new_NE.isfinite(), new_NE.to(now_NE), now_NE)
                y_no = new_NE if is_whole else y_no.index_copy(1, outputs, new_NE)
            parts.append(y_no.to(output.dtype))
        return torch.cat(parts).reshape(output.shape)

    return hook


def _check_edges(slot: CurveSlot, pairs: list[tuple[int, int]]) -> None:
    """Raise a `SlotError` where a pair of input and output is not an edge of the slot."""
    inputs, outputs, has_weights = slot.module.in_features, slot.num_outputs, slot.has_weights
    name = f"{slot.site}/{slot.name}"
    for i, o in pairs:
        if not 0 <= i < inputs:
            raise SlotError(f"{name} has no input {i}: choose from 0 to {inputs - 1}.")
        if not has_weights and o != i:
            raise SlotError(f"{name} has no weights: the edge of input {i} has output {i}, not {o}.")
        if has_weights and not 0 <= o < outputs:
            raise SlotError(f"{name} has no output {o}: choose from 0 to {outputs - 1}.")
