"""The closed form of an activation beside learned curves.

The form was searched for in another run of the same setting (`benchmarks/found_activation.py`), with its curves weighed
by where their inputs lie; of the run whose curves are kept (`benchmarks/activations.py`) no inputs are.
"""

from __future__ import annotations

import json

import torch
from matplotlib.figure import Figure
from torch.nn.functional import silu

from kansformer.conversion.found_curves import FoundCurves
from kansformer.discover import NamedActivation
from scripts.pictures.rows import RESULTS
from scripts.pictures.theme import SMALL, Theme

CURVES = RESULTS / "activation_curves" / "shakespeare-7000.safetensors"
TERMS = 1  # of the candidates in `found_activation.json`, the one that the search chose
ENDS = (-4.0, 4.0)


def draw(theme: Theme) -> Figure:
    """All curves of the gate thin, their mean, the form, and SiLU dashed."""
    curves = FoundCurves.read(CURVES)
    coefficients_PC, domain_P2 = curves.tensors["act.coefficients"].flatten(0, 1), curves.tensors["act.domain"]
    x_S = torch.linspace(*ENDS, 101)
    basis = curves.config.curve_spec("act").basis
    values_PSC = basis.values(x_S.expand(len(coefficients_PC), -1), domain_P2.flatten(0, 1).unsqueeze(1))
    y_PS = silu(x_S) + torch.einsum("psc,pc->ps", values_PSC, coefficients_PC)
    candidates = json.loads((RESULTS / "found_activation.json").read_text(encoding="utf-8"))["act"]
    form = next(NamedActivation.from_dict(row) for row in candidates if len(row["terms"]) == TERMS)
    figure = theme.figure(4.9)
    axes = figure.add_axes((0.1, 0.275, 0.87, 0.705))
    for y_S in y_PS:
        (one,) = axes.plot(x_S, y_S, color=theme.curve, alpha=0.3, linewidth=1)
    (base,) = axes.plot(x_S, silu(x_S), "--", color=theme.before)
    (mean,) = axes.plot(x_S, y_PS.mean(0), color=theme.curve, linewidth=3)
    (closed,) = axes.plot(x_S, form.module()(x_S), color=theme.accent, linewidth=3)
    axes.set(xlim=ENDS, xlabel="input", ylabel="output")
    axes.grid()
    axes.tick_params(length=0)
    lines = [one, mean, base, closed]
    names = [f"{len(y_PS)} learned curves", "their mean", "SiLU, the start", "closed form"]
    figure.legend(
        lines, names, loc="lower center", ncols=4, columnspacing=1.2, handlelength=1.4, bbox_to_anchor=(0.5, 0.055)
    )
    words = "the form is of another run of the same setting, and follows it where inputs lie"
    figure.text(0.5, 0.02, words, ha="center", fontsize=SMALL, color=theme.muted)
    formula = form.formula.replace("**2", "²").replace("*x", "x").replace("*", "·").replace("-", "−")
    axes.text(0.02, 0.93, formula, transform=axes.transAxes, color=theme.accent, fontsize=SMALL)
    return figure
