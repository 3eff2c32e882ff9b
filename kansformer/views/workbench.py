"""A model whose curves are bent by hand: the state behind `kansformer demo --web`, without any picture or server.

Shape letters: N blocks, T tokens, S points of a curve, K handles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kansformer.conversion.slots import CurveSlot, EdgeRef, find_curve_slot, find_curve_slots
from kansformer.errors import DataError, ShapeError
from kansformer.interp import CurveEdit, edge_scores, edit_curve, record_edges
from kansformer.interp.edge_features import edge_bases, edge_terms, edge_values, per_input
from kansformer.nn.eval_mode import eval_mode
from kansformer.symbolic import LIBRARY, fit_symbolic
from kansformer.symbolic.symbol import symbol_values
from kansformer.training.evaluate import check_blocks, mean_loss

HANDLES = 6
"""K, the number of points by which a curve is bent: the knots of the default grid of 5 intervals.

A natural cubic spline through them is then a curve of the basis, so the bent curve goes exactly through its handles.
"""

MAX_RANKED = 100
POINTS = 160
FIT_POINTS = 64
BINS = 32
# A handle that moves by less, as a share of the curve's height, stays: what comes from a slider is rounded.
ROUNDING = 1e-3


@dataclass(frozen=True)
class RankedCurve:
    """A curve that can be picked.

    Args:
        edge: its edge, or the first one where several edges share the curve.
        name: its input channel, "0 to 15" where neighbours share the curve, or "3 → 7" where it is of this edge alone.
        score: attribution of its edges: about how far the loss would move without them, in nats.
    """

    edge: EdgeRef
    name: str
    score: float


@dataclass(frozen=True)
class CurveView:
    """A curve as it is shown, on its domain.

    Args:
        x: equally spaced points, (S,), float64.
        y: the curve there, its base included, (S,).
        base: the base alone, (S,).
        loaded: the curve of the model before any edit, (S,).
        histogram: counts of the inputs in equal bins of the domain.
        outside: share of the inputs outside of the domain.
        handles: where the curve can be bent, (K,).
        values: the curve at the handles, (K,).
    """

    x: Tensor
    y: Tensor
    base: Tensor
    loaded: Tensor
    histogram: list[int]
    outside: float
    handles: list[float]
    values: list[float]


@dataclass(frozen=True)
class NextToken:
    """A candidate for the next token: its number, and its probability in the model as loaded and as it is now."""

    token: int
    before: float
    after: float


@dataclass(frozen=True)
class Step:
    """An edit that can be undone: the edge, what was done in words, and the edit."""

    edge: EdgeRef
    words: str
    edit: CurveEdit
    is_bend: bool


class Workbench:
    """A model with curves, the text that it is judged by, and the edits so far.

    Args:
        model: converted, or with KAN modules; edited in place.
        blocks_NT: token numbers of the text.

    Attributes:
        slots: all slots with curves.
        steps: the edits, the latest last.

    Raises:
        ConversionStateError: the model has no curves.
        DataError: the blocks are empty, or an input of a curve is not finite.
    """

    def __init__(self, model: nn.Module, blocks_NT: Tensor) -> None:
        self.model = model
        self.slots = find_curve_slots(model)
        self.steps: list[Step] = []
        self._loaded: dict[nn.Parameter, Tensor] = {}
        self.read_text(blocks_NT)

    def read_text(self, blocks_NT: Tensor) -> None:
        """Judge the model by another text: its inputs, the edges' scores and the losses follow. Edits stay.

        Raises:
            DataError: the blocks are empty, or an input of a curve is not finite; the old text stays.
        """
        check_blocks(blocks_NT, 1)
        batch = {"input_ids": blocks_NT, "labels": blocks_NT}
        with self.as_loaded():
            with eval_mode(self.model), record_edges(self.model, bins=BINS, sample=1) as records, torch.no_grad():
                self.model(**batch)
            scores = edge_scores(self.model, batch, records=records)
            loss = mean_loss(self.model, blocks_NT).loss
        self._blocks_NT, self._records, self._scores, self._loaded_loss = blocks_NT, records, scores, loss

    def ranked_curves(self, site: str, slot: str) -> list[RankedCurve]:
        """The curves of a slot that matter most to the loss on the text, at most 100, the highest score first.

        Raises:
            SlotError: the slot does not exist.
        """
        where = find_curve_slot(self.model, site, slot)
        score_IO = self._scores[site, slot].attribution
        assert score_IO is not None
        shared = where.module.curves.is_per_channel
        width = where.module.in_features // len(where.module.domain) if shared else 1
        score_P = score_IO.unflatten(0, (-1, width)).sum(dim=(1, 2)) if shared else score_IO.flatten()
        curves = []
        for number in score_P.argsort(descending=True, stable=True)[:MAX_RANKED].tolist():
            if shared:
                source = number * width
                target = 0 if where.has_weights else source
                name = str(source) if width == 1 else f"{source} to {source + width - 1}"
            else:
                source, target = divmod(number, where.num_outputs)
                name = f"{source} → {target}"
            curves.append(RankedCurve(EdgeRef(site, slot, source, target), name, score_P[number].item()))
        return curves

    def view(self, edge: EdgeRef) -> CurveView:
        """A curve as it is now.

        Raises:
            SlotError: the slot does not exist.
        """
        slot = self._slot_of(edge)
        lower, upper = _domain(slot, edge)
        x_S = torch.linspace(lower, upper, POINTS, dtype=torch.float64)
        handles_K = torch.linspace(lower, upper, HANDLES, dtype=torch.float64)
        y_S, base_S = _curve_and_base(slot, edge, x_S)
        with self.as_loaded():
            loaded_S, _ = _curve_and_base(slot, edge, x_S)
        recorded, width = self._records[edge.site, edge.slot], slot.module.in_features // len(slot.module.domain)
        first = edge.input // width * width
        counts_H = recorded.histogram[first : first + width].sum(dim=0)
        return CurveView(
            x=x_S,
            y=y_S,
            base=base_S,
            loaded=loaded_S,
            histogram=counts_H[1:-1].tolist(),
            outside=float((counts_H[0] + counts_H[-1]) / counts_H.sum()),
            handles=handles_K.tolist(),
            values=_curve_and_base(slot, edge, handles_K)[0].tolist(),
        )

    def bend(self, edge: EdgeRef, values: Sequence[float]) -> None:
        """Move a curve through values at its handles, as closely as its basis can; between them it keeps its shape.

        Bends of one curve after another are one step: the curve before the first of them is what is moved.

        Args:
            edge: the curve.
            values: of the curve at the handles of its `view`.

        Raises:
            ShapeError: there is not one value for each handle.
            DataError: a value is not finite.
            ConfigError: the curve cannot be edited, see `kansformer.interp.edit_curve`.

        Whatever is raised, the model is left as it was.
        """
        if len(values) != HANDLES:
            raise ShapeError(f"A curve has {HANDLES} handles, got {len(values)} values.")
        if not all(math.isfinite(value) for value in values):
            raise DataError(f"The values at the handles must be finite, got {list(values)}.")
        slot = self._slot_of(edge)
        handles_K = torch.linspace(*_domain(slot, edge), HANDLES, dtype=torch.float64)
        values_K = torch.tensor(values, dtype=torch.float64)
        with self._unchanged_by_errors(slot):
            if self.steps and self.steps[-1].is_bend and self.steps[-1].edge == edge:
                self.undo()
            now_K, _ = _curve_and_base(slot, edge, handles_K)
            moves_K = values_K - now_K
            moves_K[moves_K.abs() < ROUNDING * (now_K.max() - now_K.min())] = 0

            def moved(x: Tensor) -> Tensor:
                before = _curve_and_base(slot, edge, x.flatten())[0].reshape(x.shape)
                return before + _natural_spline(x, handles_K, moves_K)

            if moves_K.any():
                self._edit(edge, moved, "bent by hand", is_bend=True)

    def write_formula(self, edge: EdgeRef, name: str, a: float, b: float, c: float, d: float) -> None:
        """Make a curve c·f(a·x + b) + d, as closely as its basis can.

        Args:
            edge: the curve.
            name: of f, in `kansformer.symbolic.LIBRARY`.
            a, b, c, d: its numbers.

        Raises:
            ConfigError: the function is not in the library, or the curve cannot be edited.
            DataError: the formula has no finite value somewhere in the curve's domain.

        Whatever is raised, the model is left as it was.
        """
        symbol = LIBRARY.named(name)

        def formula(x: Tensor) -> Tensor:
            z = a * x + b
            inside = (z > symbol.domain[0]) & (z < symbol.domain[1])
            return torch.where(inside, c * symbol_values(symbol, z) + d, math.nan)

        self._edit(edge, formula, f"{c:.4g}·{symbol.name}({a:.4g}·x + {b:.4g}) + {d:.4g}".replace("+ -", "- "))

    def closest_formula(self, edge: EdgeRef, name: str) -> tuple[float, float, float, float]:
        """The numbers a, b, c and d by which a function of the library comes closest to a curve as it is now.

        Raises:
            ConfigError: the function is not in the library.
        """
        slot = self._slot_of(edge)
        x_S = torch.linspace(*_domain(slot, edge), FIT_POINTS, dtype=torch.float64)
        y_S, _ = _curve_and_base(slot, edge, x_S)
        fits = fit_symbolic(x_S[None], y_S[None], library=LIBRARY.subset([name]))
        a, b, c, d = fits.params[0].tolist()
        return a, b, c, d

    def undo(self) -> None:
        """Take the latest edit back, to the bit; nothing happens where there is none."""
        if self.steps:
            self.steps[-1].edit.undo()
            self.steps.pop()

    def undo_all(self) -> None:
        """Take all edits back, to the bit."""
        while self.steps:
            self.undo()

    @torch.no_grad()
    def next_tokens(self, prompt_T: Tensor, count: int = 10) -> list[NextToken]:
        """The most probable tokens after a prompt, of the model as loaded and as it is now, sorted by the latter.

        Args:
            prompt_T: token numbers, T >= 1.
            count: tokens of each of the two.

        Raises:
            DataError: the prompt is empty.
        """
        if not prompt_T.numel():
            raise DataError("The prompt is empty: give at least one token.")
        after_V = self._probabilities(prompt_T)
        with self.as_loaded():
            before_V = self._probabilities(prompt_T)
        tops = [values_V.topk(min(count, len(values_V))).indices.tolist() for values_V in (after_V, before_V)]
        shown = sorted({*tops[0], *tops[1]}, key=lambda token: -after_V[token].item())
        return [NextToken(token, before_V[token].item(), after_V[token].item()) for token in shown]

    def losses(self) -> tuple[float, float]:
        """The mean loss on the text per token, in nats, of the model as it was loaded and as it is now."""
        now = mean_loss(self.model, self._blocks_NT).loss if self.steps else self._loaded_loss
        return self._loaded_loss, now

    @contextmanager
    def as_loaded(self) -> Iterator[None]:
        """The model without the edits, for the length of the context."""
        now = {parameter: parameter.detach().clone() for parameter in self._loaded}
        try:
            _write(self._loaded)
            yield
        finally:
            _write(now)

    def _edit(self, edge: EdgeRef, function: Callable[[Tensor], Tensor], words: str, is_bend: bool = False) -> None:
        coefficients = self._slot_of(edge).module.coefficients
        before = coefficients.detach().clone()
        edit = edit_curve(self.model, edge, function)
        self._loaded.setdefault(coefficients, before)
        self.steps.append(Step(edge, words, edit, is_bend))

    def _slot_of(self, edge: EdgeRef) -> CurveSlot:
        return find_curve_slot(self.model, edge.site, edge.slot)

    @contextmanager
    def _unchanged_by_errors(self, slot: CurveSlot) -> Iterator[None]:
        steps, now = list(self.steps), {slot.module.coefficients: slot.module.coefficients.detach().clone()}
        try:
            yield
        except BaseException:
            _write(now)
            self.steps = steps
            raise

    def _probabilities(self, prompt_T: Tensor) -> Tensor:
        with eval_mode(self.model):
            return self.model(input_ids=prompt_T[None], use_cache=False).logits[0, -1].float().softmax(-1)


def _domain(slot: CurveSlot, edge: EdgeRef) -> tuple[float, float]:
    lower, upper = per_input(slot.module, slot.module.domain)[edge.input].double().tolist()
    return lower, upper


@torch.no_grad()
def _curve_and_base(slot: CurveSlot, edge: EdgeRef, x_S: Tensor) -> tuple[Tensor, Tensor]:
    """What `edit_curve` writes: the edge, or the input's curve where curves act before the weights; and its base."""
    input_1, output_1 = torch.tensor([edge.input]), torch.tensor([edge.output])
    x_S1 = x_S[:, None].to(slot.module.coefficients.device)
    if slot.module.curves.is_per_channel:
        base_S, learned_S = edge_terms(slot.module, x_S1, input_1)[:, 0].cpu().double().unbind(-1)
        return base_S + learned_S, base_S
    whole_S1 = edge_values(slot, x_S1, input_1, output_1)
    return whole_S1[:, 0].cpu().double(), edge_bases(slot, x_S1, input_1, output_1)[:, 0].cpu().double()


def _natural_spline(x: Tensor, handles_K: Tensor, values_K: Tensor) -> Tensor:
    """The natural cubic spline through values at equally spaced handles, at points between the outermost ones."""
    intervals = len(handles_K) - 1
    step = (handles_K[-1] - handles_K[0]) / intervals
    # Second derivatives times step²/6, zero at both ends: m_{k-1} + 4 m_k + m_{k+1} = y_{k-1} - 2 y_k + y_{k+1}.
    system = 4 * torch.eye(intervals - 1, dtype=x.dtype)
    system += torch.ones_like(system).triu(1).tril(1) + torch.ones_like(system).tril(-1).triu(-1)
    bends_K = torch.nn.functional.pad(torch.linalg.solve(system, values_K.diff(n=2)), (1, 1))
    position = ((x - handles_K[0]) / step).clamp(0, intervals)
    index = position.long().clamp(max=intervals - 1)
    right = position - index
    left = 1 - right
    line = left * values_K[index] + right * values_K[index + 1]
    return line + (left**3 - left) * bends_K[index] + (right**3 - right) * bends_K[index + 1]


@torch.no_grad()
def _write(values: dict[nn.Parameter, Tensor]) -> None:
    for parameter, value in values.items():
        parameter.copy_(value)
