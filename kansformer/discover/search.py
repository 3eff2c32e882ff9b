"""From many learned curves to one closed form: a coarse search over candidates, joint fits, and snapped numbers.

One function for a set of curves, in weighted least squares, is a function for their weighted mean. It is built term by
term (orthogonal matching pursuit; Chen et al., 1989): the candidates of all functions are compared with what is left in
one matrix product each, the best are fitted together with all numbers before them, and a few sums are carried on.

Shape letters: E curves, S points, A candidates, T columns of a sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from kansformer.checks import check_choice, check_integer, check_number
from kansformer.discover.activation import ActivationErrors, NamedActivation
from kansformer.discover.curves import ActivationCurves, weighted_mean
from kansformer.discover.functions import ELEMENTARY
from kansformer.discover.module import values
from kansformer.discover.sums import MIN_CURVES, Sum, SumFitter
from kansformer.errors import ConfigError, DataError

# Every fourth point is not fitted, and of 8 curves or more every fourth curve is not; these judge.
HELD_OUT_EVERY, FIRST_HELD_OUT = 4, 2
# Sums that are carried on, and functions that are fitted to what each leaves.
BEAM, PER_SUM = 3, 4
# Relative to the curves: learned parts below it are rounding.
NOTHING = 1e-6


@dataclass(frozen=True)
class ActivationSearch:
    """What `discover_activation` found.

    Args:
        activation: the chosen one.
        candidates: the best closed form with 0 terms (a line added to the base), 1 term, and so on; without those that
            are worse than one with fewer terms on what judges them.
        spread: share of the variance of all curves that is not in their mean, see `ActivationCurves.spread`.

    Examples:
        >>> from kansformer.discover import ActivationCurves, discover_activation
        >>> x = torch.linspace(-4, 4, 64)
        >>> curves = ActivationCurves(x, (torch.relu(x) - 0.5 * torch.cos(x)).expand(8, -1), base="relu")
        >>> search = discover_activation(curves, name="relu-wave", max_terms=1, functions=["cos"])
        >>> [len(candidate.terms) for candidate in search.candidates]
        [0, 1]
    """

    activation: NamedActivation
    candidates: tuple[NamedActivation, ...]
    spread: float

    def __str__(self) -> str:
        lines = [f"{self.activation.name}: {self.activation.formula}"]
        lines += [f"  {len(form.terms)} terms: {form.formula} ({form.errors})" for form in self.candidates]
        lines.append(
            f"{self.spread:.1%} of what the curves learned differs from curve to curve: "
            "no single function can explain that share."
        )
        return "\n".join(lines)


def discover_activation(
    curves: ActivationCurves,
    *,
    name: str,
    max_terms: int = 3,
    min_explained: float = 0.95,
    functions: Sequence[str] | None = None,
    source: str = "",
) -> ActivationSearch:
    """Find one closed form for a set of learned curves: base(x) + Σ c·f(a·x + b) + a line.

    The form is fitted to the mean of the curves, each weighted by how often its inputs occur, and judged on every
    fourth curve at every fourth point, which the fit does not see. Its numbers are snapped to 0, 1, 1/2, π and their
    like within three standard errors, and rounded to the digits that matter.

    Args:
        curves: of `activation_curves`, or one's own tables.
        name: for `hidden_act`.
        max_terms: from 1 to 4.
        min_explained: the share of the variance of the mean curve, without its base, that the form must explain; the
            form with the fewest terms that does is chosen.
        functions: names to choose from; None is all that are smooth, defined everywhere and cheap (`ActivationTerm`).
        source: where the curves come from, a sentence that stays with the activation.

    Returns:
        The chosen activation, those with fewer and more terms, and how far the curves differ.

    Raises:
        DataError: nothing was learned on top of the base, or no form explains enough.
        ConfigError: an argument is out of range, or a function is not known.

    Examples:
        >>> from kansformer.discover import ActivationCurves, discover_activation
        >>> x = torch.linspace(-4, 4, 64)
        >>> curves = ActivationCurves(x, (torch.relu(x) - 0.5 * torch.cos(x)).expand(8, -1), base="relu")
        >>> discover_activation(curves, name="relu-wave", max_terms=1, functions=["cos"]).activation.formula
        'Max(x, 0) - 0.5*cos(x)'
    """
    max_terms = check_integer("max_terms", max_terms, 1, 4)
    min_explained = check_number("min_explained", min_explained, 0.0, 1.0)
    chosen = list(ELEMENTARY) if functions is None else [check_choice("function", f, ELEMENTARY) for f in functions]
    if not chosen:
        raise ConfigError(f"functions is empty. Choose from: {', '.join(ELEMENTARY)}.")
    blank = NamedActivation(name=name, base=curves.base, source=source)
    judge = _Judge(curves)
    candidates = list[NamedActivation]()
    for form in _best_sums(judge.fitter(), chosen, max_terms):
        activation = replace(blank, terms=form.terms, slope=form.slope, constant=form.constant)
        activation = replace(activation, errors=judge.errors(activation))
        if not candidates or _explained(activation) >= _explained(candidates[-1]):
            candidates.append(activation)
    enough = [form for form in candidates if _explained(form) >= min_explained]
    if not enough:
        best = candidates[-1]
        raise DataError(
            f"No closed form with up to {max_terms} terms explains {min_explained:.0%} of the mean of these "
            f"{len(curves)} curves. The best one explains {_explained(best):.1%} on unseen curves: {best.formula}. "
            "Keep the learned curves, or set min_explained lower."
        )
    return ActivationSearch(enough[0], tuple(candidates), curves.spread)


def _explained(activation: NamedActivation) -> float:
    assert activation.errors is not None
    return activation.errors.explained


class _Judge:
    """The split of curves and points into those that are fitted and those that judge."""

    def __init__(self, curves: ActivationCurves) -> None:
        occurs = curves.weights.sum(dim=0) > 0
        self.spread, self.x_S = curves.spread, curves.x[occurs]
        self.learned_ES, self.weights_ES = curves.learned[:, occurs], curves.weights[:, occurs]
        self.smallest = NOTHING * float(curves.y[:, occurs].abs().max())
        if self.learned_ES.abs().max() <= self.smallest:
            raise DataError(f"The {len(curves)} curves are their base {curves.base!r}: nothing was learned on top.")
        self.unseen_S = torch.arange(len(self.x_S)) % HELD_OUT_EVERY == FIRST_HELD_OUT
        self.unseen_E = torch.arange(len(curves)) % HELD_OUT_EVERY == FIRST_HELD_OUT
        self.fitted_E = ~self.unseen_E
        if len(curves) < MIN_CURVES:
            self.unseen_E = self.fitted_E = torch.ones(len(curves), dtype=torch.bool)

    def fitter(self) -> SumFitter:
        """Of the mean of the fitted curves at the fitted points."""
        learned_ES, weights_ES = (t[self.fitted_E][:, ~self.unseen_S] for t in (self.learned_ES, self.weights_ES))
        occurs = weights_ES.sum(dim=0) > 0
        return SumFitter(self.x_S[~self.unseen_S][occurs], learned_ES[:, occurs], weights_ES[:, occurs])

    def errors(self, activation: NamedActivation) -> ActivationErrors:
        """Of a form at the unseen points of the unseen curves."""
        x_S = self.x_S[self.unseen_S]
        learned_ES, weights_ES = (t[self.unseen_E][:, self.unseen_S] for t in (self.learned_ES, self.weights_ES))
        mean_S, weight_S = weighted_mean(learned_ES, weights_ES)
        total = float(weight_S.sum())
        if not total > 0:
            raise DataError("The curves that judge the fit have no weight at the points that judge it. Record more.")
        form_S = values(replace(activation, base="zero"), x_S)
        centre = float((weight_S * mean_S).sum()) / total
        missed = float((weight_S * (form_S - mean_S).square()).sum())
        missed_each = float((weights_ES * (form_S - learned_ES).square()).sum())
        varied = float((weight_S * (mean_S - centre).square()).sum())
        if varied <= self.smallest**2 * total:  # a constant was learned: all of it is to be explained
            centre, varied = 0.0, float((weight_S * mean_S.square()).sum())
        varied_each = float((weights_ES * (learned_ES - centre).square()).sum())
        tiny = torch.finfo(torch.float64).tiny
        return ActivationErrors(
            rmse=math.sqrt(missed / total),
            explained=1 - missed / max(varied, tiny),
            explained_of_each=1 - missed_each / max(varied_each, tiny),
            spread=self.spread,
        )


def _best_sums(fitter: SumFitter, functions: Sequence[str], max_terms: int) -> Iterator[Sum]:
    """The best sum of 0 terms, of 1 term and so on, with snapped numbers."""
    beam = [fitter.fit(Sum())]
    yield fitter.snapped(beam[0]).sum
    for _ in range(max_terms):
        trials = [fitter.fit(start) for fitted in beam for start in fitter.extended(fitted.sum, functions, PER_SUM)]
        different = {
            (*sorted(trial.sum.functions), f"{trial.error:.3e}"): trial
            for trial in sorted(trials, key=lambda trial: trial.error, reverse=True)
            if fitter.is_visible(trial.sum)
        }
        beam = sorted(different.values(), key=lambda trial: trial.error)[:BEAM]
        if not beam:
            return
        yield fitter.snapped(beam[0]).sum
