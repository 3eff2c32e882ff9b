"""What the web demo shows, as pieces of HTML: a curve, next-token probabilities and losses. Text is escaped here.

Lines are SVG stretched to the place; all text and dots are HTML above it, which a narrow screen does not squeeze.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from torch import Tensor

from kansformer.views.workbench import CurveView, NextToken

STYLE = """
.kf { --kf-curve: #1f6feb; --kf-base: #57616c; --kf-loaded: #c2661a; --kf-bars: #8a94a0; --kf-line: #d9dee3;
  --kf-faint: #57616c; color: var(--body-text-color); display: flow-root; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
.dark .kf { --kf-curve: #6ba4ff; --kf-base: #b4bfca; --kf-loaded: #f0a35e; --kf-bars: #93a0ad; --kf-line: #3a434d;
  --kf-faint: #b4bfca; }
.kf-curve { padding-bottom: 2.4rem; }
.kf-plot { position: relative; height: 19rem; margin: .4rem .8rem 0 3.6rem; }
.kf-plot svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }
.kf-plot path { fill: none; vector-effect: non-scaling-stroke; }
.kf-plot span { position: absolute; font-size: .75rem; color: var(--kf-faint); white-space: nowrap; }
.kf-plot .kf-x { top: calc(100% + .25rem); transform: translateX(-50%); }
.kf-plot .kf-y { right: calc(100% + .4rem); transform: translateY(-50%); }
.kf-plot .kf-x-title { top: calc(100% + 1.4rem); left: 50%; transform: translateX(-50%); }
.kf-plot .kf-y-title { right: calc(100% + 2.2rem); top: 50%; transform: translate(50%, -50%) rotate(-90deg); }
.kf-plot i { position: absolute; width: .6rem; height: .6rem; margin: -.3rem; border-radius: 50%;
  background: var(--kf-curve); border: 2px solid var(--block-background-fill); }
.kf-legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin: .2rem 0 .2rem; font-size: .8rem; }
.kf-legend b { display: inline-block; width: 1.4rem; margin-right: .4rem; vertical-align: middle; }
.kf table { width: 100%; border-collapse: collapse; } .kf table, .kf tr { border: 0; }
.kf th { text-align: right; font-weight: 600; }
.kf td, .kf th { border: 0; padding: .15rem .4rem; white-space: nowrap; } .kf td { text-align: right; }
.kf td:first-child, .kf th:first-child { text-align: left; padding-left: 0; }
.kf td:first-child { max-width: 9rem; overflow: hidden; text-overflow: ellipsis; font-family: monospace; }
.kf td.kf-bar { width: 40%; min-width: 3rem; padding-right: 0; }
.kf-bar div { height: .38rem; border-radius: 2px; min-width: 1px; margin: 1px 0; }
.kf-figures { display: flex; flex-wrap: wrap; gap: .4rem 1.2rem; } .kf-figures b { display: block; font-size: 1.2rem; }
.kf-figures span { font-size: .8rem; color: var(--kf-faint); }
"""
"""The style sheet of all pieces. They use the variables of Gradio's themes, and its class `dark`."""

MAX_TICKS = 7
MARGIN = 0.08
"""Above and below the curves, as a share of their height."""


def curve_html(view: CurveView) -> str:
    """A curve with its base dashed, the curve as loaded where it is another one, and the histogram of its inputs."""
    left, right = float(view.x[0]), float(view.x[-1])
    lines = {"loaded": view.loaded, "base": view.base, "curve": view.y}
    bottom, top = _range(list(lines.values()))

    def across(x: float) -> float:
        return 100 * (x - left) / (right - left)

    def down(y: float) -> float:
        return 100 * (top - y) / (top - bottom)

    x_ticks, y_ticks = _ticks(left, right), _ticks(bottom, top)
    grid = "".join(f"M0 {down(y):.2f}H100" for y in y_ticks) + "".join(f"M{across(x):.2f} 0V100" for x in x_ticks)
    paths = [f'<path d="{grid}" style="stroke:var(--kf-line)"/>']
    tallest = max(view.histogram, default=0) or 1
    width = 100 / max(len(view.histogram), 1)
    paths += [
        f'<rect x="{index * width:.2f}" y="{100 - 30 * count / tallest:.2f}" width="{0.9 * width:.2f}" '
        f'height="{30 * count / tallest:.2f}" style="fill:var(--kf-bars);opacity:.35"/>'
        for index, count in enumerate(view.histogram)
        if count
    ]
    shown = [name for name in lines if name != "loaded" or not view.loaded.equal(view.y)]
    dashes = {"base": "stroke-dasharray:6 4;stroke-width:1.5px", "loaded": "stroke-width:1.5px"}
    paths += [
        f'<path d="{_path(view.x, lines[name], across, down)}" '
        f'style="stroke:var(--kf-{name});{dashes.get(name, "stroke-width:2.5px")}"/>'
        for name in shown
    ]
    labels = [f'<span class="kf-x" style="left:{across(x):.2f}%">{x:g}</span>' for x in x_ticks]
    labels += [f'<span class="kf-y" style="top:{down(y):.2f}%">{y:g}</span>' for y in y_ticks]
    labels += [
        '<span class="kf-x-title">x, input of the curve (no unit)</span>',
        '<span class="kf-y-title">φ(x)</span>',
    ]
    dots = [
        f'<i style="left:{across(x):.2f}%;top:{down(y):.2f}%"></i>'
        for x, y in zip(view.handles, view.values, strict=True)
    ]
    words = {"base": "base", "loaded": "as loaded", "curve": "curve now"}
    legend = [
        f'<span><b style="border-top:3px {"dashed" if name == "base" else "solid"} var(--kf-{name})"></b>{words[name]}'
        "</span>"
        for name in reversed(shown)
    ]
    legend.append(
        '<span><b style="height:.7rem;background:var(--kf-bars);opacity:.45"></b>'
        f"inputs on the text, {view.outside:.1%} of them outside of this domain</span>"
    )
    picture = f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{"".join(paths)}</svg>'
    return (
        f'<div class="kf kf-curve"><div class="kf-legend">{"".join(legend)}</div>'
        f'<div class="kf-plot">{picture}{"".join(labels)}{"".join(dots)}</div></div>'
    )


def tokens_html(rows: Sequence[NextToken], name: Callable[[int], str]) -> str:
    """Probabilities of the next token before and after the edits, as a table with bars.

    Args:
        rows: of `Workbench.next_tokens`.
        name: the text of a token.
    """
    largest = max([value for row in rows for value in (row.before, row.after)], default=1.0) or 1.0

    def bar(value: float, colour: str) -> str:
        return f'<div style="width:{100 * value / largest:.1f}%;background:var(--kf-{colour})"></div>'

    body = "".join(
        f"<tr><td>{escape(visible_text(name(row.token)))}</td><td>{row.before:.2%}</td><td>{row.after:.2%}</td>"
        f'<td class="kf-bar">{bar(row.before, "loaded")}{bar(row.after, "curve")}</td></tr>'
        for row in rows
    )
    return (
        '<div class="kf"><table><thead><tr><th>next token</th><th style="color:var(--kf-loaded)">before</th>'
        f'<th style="color:var(--kf-curve)">after</th><th></th></tr></thead><tbody>{body}</tbody></table></div>'
    )


def losses_html(before: float, after: float) -> str:
    """The loss on the text before and after the edits, and its change."""
    figures = {"loss as loaded": f"{before:.4f}", "now": f"{after:.4f}", "change": f"{after - before:+.4f}"}
    cells = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for name, value in figures.items())
    return f'<div class="kf"><div class="kf-figures">{cells}</div></div>'


def visible_text(text: str) -> str:
    """A token's text with its spaces, line ends and tabs as signs, and quoted where there is nothing to see."""
    return text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥") or '""'


def _path(x_S: Tensor, y_S: Tensor, across: Callable[[float], float], down: Callable[[float], float]) -> str:
    points = zip(x_S.tolist(), y_S.tolist(), strict=True)
    return "M" + "L".join(f"{across(x):.2f} {down(y):.2f}" for x, y in points)


def _range(lines: list[Tensor]) -> tuple[float, float]:
    bottom, top = min(float(line.min()) for line in lines), max(float(line.max()) for line in lines)
    margin = MARGIN * (top - bottom) or 1.0
    return bottom - margin, top + margin


def _ticks(lower: float, upper: float) -> list[float]:
    """Round numbers between two numbers, at most 8."""
    rough = (upper - lower) / MAX_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.ceil(lower / step), math.floor(upper / step)
    return [round(number * step, 12) for number in range(first, last + 1)]
