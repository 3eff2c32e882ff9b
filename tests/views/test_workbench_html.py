"""The pieces of the web demo's page: what is drawn lies where it should, and text is escaped."""

import re
from dataclasses import replace

import pytest
import torch

from kansformer.views.workbench import CurveView, NextToken
from kansformer.views.workbench_html import _ticks, curve_html, losses_html, tokens_html

X = torch.linspace(-2, 2, 5, dtype=torch.float64)
VIEW = CurveView(
    x=X, y=X, base=0 * X, loaded=X, histogram=[1, 0, 4], outside=0.25, handles=[-2.0, 2.0], values=[-2.0, 2.0]
)


def test_a_curve_is_drawn_over_its_base_and_inputs():
    page = curve_html(VIEW)
    assert page.count("<rect") == 2 and "25.0% of them outside" in page
    lines = dict(re.findall(r'<path d="(M[^"]*)" style="stroke:var\(--kf-(\w+)', page))
    assert list(lines.values()) == ["line", "base", "curve"]  # as loaded is the curve itself
    points = {
        name: [tuple(map(float, point.split())) for point in path[1:].split("L")]
        for path, name in lines.items()
        if "L" in path
    }
    assert {y for _, y in points["base"]} == {50.0}
    assert [x for x, _ in points["curve"]] == [0, 25, 50, 75, 100]
    heights = [y for _, y in points["curve"]]
    assert heights == sorted(heights, reverse=True) and heights[2] == 50
    assert re.search(r"--kf-base\);stroke-dasharray", page)
    for x, y in (points["curve"][0], points["curve"][-1]):  # the dots
        assert f'<i style="left:{x:.2f}%;top:{y:.2f}%">' in page
    assert "as loaded" not in page and "as loaded" in curve_html(replace(VIEW, y=X + 1))


def test_a_flat_curve_without_inputs_has_a_picture():
    page = curve_html(replace(VIEW, y=0 * X, loaded=0 * X, values=[0.0, 0.0], histogram=[0, 0, 0]))
    assert "nan" not in page and page.count("<rect") == 0


def test_tokens_are_escaped_and_spaces_visible():
    rows = [NextToken(0, 0.25, 0.5), NextToken(1, 0.1, 0.05), NextToken(2, 0.0, 0.0)]
    page = tokens_html(rows, ["<b> &\n", "", "é"].__getitem__)
    assert re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td>", page) == [
        ("&lt;b&gt;␣&amp;⏎", "25.00%", "50.00%"),
        ("&quot;&quot;", "10.00%", "5.00%"),
        ("é", "0.00%", "0.00%"),
    ]
    assert re.findall(r"width:([\d.]+)%", page) == ["50.0", "100.0", "20.0", "10.0", "0.0", "0.0"]
    assert "<tbody></tbody>" in tokens_html([], str)


def test_losses_have_a_signed_change():
    assert re.findall(r"<b>(.*?)</b>", losses_html(2.5, 2.25)) == ["2.5000", "2.2500", "-0.2500"]


@pytest.mark.parametrize(
    ("lower", "upper", "ticks"),
    [
        (-1.5, 3.3, [-1, 0, 1, 2, 3]),
        (0, 0.01, [0, 0.002, 0.004, 0.006, 0.008, 0.01]),
        (90, 410, [100, 150, 200, 250, 300, 350, 400]),
    ],
)
def test_ticks_are_round_numbers(lower, upper, ticks):
    assert _ticks(lower, upper) == pytest.approx(ticks)
