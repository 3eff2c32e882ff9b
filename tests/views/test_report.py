"""The report is one file that works offline: in a real browser it loads without errors and its filters work."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from statistics import median
from types import SimpleNamespace

import pytest
import torch
from tiny_models import randomize_curves, tiny_llama

from kansformer import KANConfig, convert
from kansformer.interp import edge_curves, summarize
from kansformer.symbolic import KAN_LIBRARY
from kansformer.views import report as report_module
from kansformer.views import write_report
from kansformer.views.report import HEIGHTS, report_data

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def summary():
    model = tiny_llama(vocab_size=50, num_hidden_layers=3).eval()
    randomize_curves(convert(model, KANConfig(slots=("input", "act"))), 0.3)
    tokens = torch.randint(50, (3, 20))
    return summarize(model, {"input_ids": tokens, "labels": tokens})


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S).group(1))


@pytest.fixture(scope="module")
def report(summary, tmp_path_factory):
    return write_report(summary, tmp_path_factory.mktemp("report") / "report.html", title="<A> model")


def test_the_page_is_whole_and_asks_for_nothing(report, summary):
    page = report.read_text(encoding="utf-8")
    assert "<title>&lt;A&gt; model</title>" in page and "{{" not in re.sub(
        r"<script>.*?</script>", "", page, flags=re.S
    )
    assert not re.search(r"""<(script|link|img)[^>]*(src|href)=""", page)
    data = data_of(page)
    assert sum(slot["edges"] for slot in data["slots"]) == len(data["dots"]["score"]) == len(data["edges"]) == 120
    scores = [edge["score"] for edge in data["edges"]]
    assert scores == sorted(scores, reverse=True)
    edge, row = data["edges"][0], summary.to_pandas().sort_values("attribution", ascending=False).iloc[0]
    place = data["slots"][edge["slot"]]
    assert (place["site"], place["slot"]) == (row["site"], row["slot"])
    assert (edge["input"], edge["output"]) == (row["input"], row["output"])
    assert data["functions"][edge["function"]] == row["function"] and edge["r2"] == pytest.approx(row["r2"], rel=1e-3)


def test_nothing_is_left_of_a_page_that_failed(summary, tmp_path, monkeypatch):
    monkeypatch.setattr("kansformer.views.report.report_data", lambda summary: {"bad": float("nan")})
    (tmp_path / "report.html").write_text("old")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_report(summary, tmp_path / "report.html")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_the_first_screen_has_a_conclusion_and_the_words(report, summary):
    page = report.read_text(encoding="utf-8")
    first_screen = html.unescape(page[: page.index("<h2>")])
    assert summary.conclusion in first_screen and summary.conclusion.count(". ") == 0
    for term in ("edge", "slot", "base", "attribution", "at tokens", "learned"):
        assert re.search(f"<dt>{term}</dt><dd>.{{40,}}?</dd>", first_screen), term


def test_the_page_has_the_digits_of_the_other_files(summary):
    """4 significant digits of a loss, then 4 after the point, gave 3.3340 for the 3.3343 of the summary."""
    replaced = ((0.5, 60, 3.43456), (1.0, 120, 3.55565))
    changed = replace(summary, loss=3.33434, replaced=replaced)
    data, markdown, figures = report_data(changed), changed.to_markdown(), json.loads(changed.to_json())
    assert data["loss"] == "3.3343" and "| none | 0 | 3.3343 |" in markdown and f"{figures['loss']:.4f}" == "3.3343"
    for row in data["replaced"]:
        assert f"| {' | '.join(row)} |" in markdown
    assert [row[2] for row in data["replaced"]] == ["3.3343", "3.4346", "3.5556"]
    for row in data["coverage"]:
        assert f"| {' | '.join(row)} |" in markdown


def test_edges_are_named_by_layer_and_slot(report, summary):
    assert summary.place_names() == [f"layer {n}'s {slot}" for n in range(3) for slot in ("activation", "input")]
    assert {slot["place"] for slot in data_of(report.read_text(encoding="utf-8"))["slots"]} == {*summary.place_names()}
    assert "layer 2's activation" in summary.to_markdown()


def test_two_networks_of_a_layer_have_two_places(summary):
    first, second, third, *_ = summary.slots[::2]  # activations
    twin = replace(second, slot=replace(second.slot, site=first.slot.site.replace("mlp", "experts")))
    places = [slot["where"] for slot in report_data(replace(summary, slots=[first, twin, third]))["slots"]]
    assert places == ["0 mlp", "0 experts", "2"]


def test_curves_are_drawn_where_they_are(summary):
    edge = report_data(summary)["edges"][0]
    slot = summary.slots[edge["slot"]]
    curves = edge_curves(torch.nn.Sequential(slot.slot.module), "", "0", inputs=[edge["input"]], at=_points(edge))
    drawn = torch.tensor(edge["y"]) / HEIGHTS * (edge["high"] - edge["low"]) + edge["low"]
    assert (drawn - curves.y[0]).abs().max() < 2e-3 * (edge["high"] - edge["low"])
    assert max(edge["y"] + edge["base"] + edge["fit"]) == HEIGHTS and min(edge["y"] + edge["base"] + edge["fit"]) == 0


def _points(edge):
    return torch.linspace(edge["from"], edge["to"], len(edge["y"]), dtype=torch.float64)[None]


def test_the_page_of_a_large_model_stays_small(monkeypatch, tmp_path):
    """Twice the edges give the same page: 4 MB is the bound at a thousand curves and ten thousand dots."""
    monkeypatch.setattr(report_module, "MAX_SHOWN", 20)
    monkeypatch.setattr(report_module, "MAX_DOTS", 100)
    sizes = []
    for width in (100, 400):
        model = tiny_llama(vocab_size=50, num_hidden_layers=1, intermediate_size=width).eval()
        randomize_curves(convert(model, KANConfig()), 0.3)
        summary = summarize(model, {"input_ids": torch.arange(20)[None]}, library=KAN_LIBRARY)
        data = report_data(summary)
        assert len(data["edges"]) == 20 and len(data["dots"]["score"]) <= 100
        sizes.append(write_report(summary, tmp_path / "report.html").stat().st_size)
    assert sizes[1] < 1.02 * sizes[0]
    data = json.dumps(data["edges"], separators=(",", ":")), json.dumps(data["dots"], separators=(",", ":"))
    plotly = sizes[1] - sum(map(len, data))
    assert plotly + 50 * len(data[0]) + 100 * len(data[1]) < 3.9e6


def test_curves_that_were_never_trained_are_called_so(tmp_path):
    model = convert(tiny_llama(vocab_size=50, num_hidden_layers=1).eval(), KANConfig())
    summary = summarize(model, {"input_ids": torch.arange(20)[None]})
    data = report_data(summary)
    assert data["trained"] == 0 and data["coverage"][2][1:] == ["–", "–"]
    assert not any(edge["trained"] for edge in data["edges"]) and {edge["learned"] for edge in data["edges"]} == {None}
    page = write_report(summary, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "No curve was trained" in page[: page.index("<h2>")]


@pytest.fixture(scope="module")
def plain_view(report):
    return _dump(report.as_uri())


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs the program chromium: apt-get install chromium")
@pytest.mark.parametrize(
    "filters",
    ["", "function=FIRST&r2=MEDIAN", "search=channel 4 of layer 1's&slot=act", "search=mlp/input[1&layer=1&sort=worst"],
)
def test_it_works_in_a_browser(filters, report, plain_view):
    data = data_of(report.read_text(encoding="utf-8"))
    first = data["functions"][data["edges"][0]["function"]]
    filters = filters.replace("FIRST", first).replace("MEDIAN", str(median(edge["r2"] for edge in data["edges"])))
    expected = dict(part.split("=") for part in filters.split("&") if part)
    edges = edges_of(data, expected)
    for key in expected.keys() - {"sort"}:  # each leaves edges out that the others do not
        assert len(edges) < len(edges_of(data, {other: expected[other] for other in expected.keys() - {key}})), key
    dom, log = _dump(f"{report.as_uri()}#{filters.replace(' ', '%20')}") if filters else plain_view
    assert not re.search(r"Uncaught|ERROR:CONSOLE|SEVERE", log), log
    assert 'data-ready="yes"' in dom and dom.count("js-plotly-plot") >= 4
    rows = re.search(r'<tbody id="rows">(.*?)</tbody>', dom, re.S).group(1)
    assert rows.count("<tr") == min(200, len(edges)) > 0
    if expected.get("sort") == "worst":
        shown = [float(row[3]) for row in (re.findall(r"<td>(.*?)</td>", row) for row in rows.split("</tr>")) if row]
        assert shown == sorted(shown) != [edge["r2"] for edge in edges]


def edges_of(data, expected):
    """The edges that pass the filters, in the order of their scores."""
    return [
        edge
        for edge in data["edges"]
        if ("function" not in expected or data["functions"][edge["function"]] == expected["function"])
        and ("slot" not in expected or data["slots"][edge["slot"]]["slot"] == expected["slot"])
        and ("layer" not in expected or str(data["slots"][edge["slot"]]["layer"]) == expected["layer"])
        and ("r2" not in expected or edge["r2"] >= float(expected["r2"]))
        and ("search" not in expected or expected["search"].lower() in name_of(data, edge).lower())
    ]


def name_of(data, edge):
    slot = data["slots"][edge["slot"]]
    path = f"{slot['site']}/{slot['slot']}[{edge['input']}->{edge['output']}]"
    return f"channel {edge['input']} of {slot['place']} {path}"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs the program chromium: apt-get install chromium")
def test_pictures_have_titles_units_and_scales(plain_view):
    """The heat map, the bars, the dots and one curve."""
    dom, _ = plain_view
    text = html.unescape(dom)
    titles = ["layer (number)", "slot", "edges (%)", "share of the layer's edges (%)", "1 − R² at recorded inputs"]
    titles += ["(nats)", "x, input of the edge (no unit)", "φ(x), output of the edge (no unit)", "inputs in a bar (%)"]
    for title in titles:
        assert re.search(rf"<text[^>]*>[^<]*{re.escape(title)}", text), title
    assert "cbaxis" in dom and not re.search(r'id="too-old"(?![^>]*hidden)', dom)


def _dump(address: str) -> tuple[str, str]:
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    command += ["--virtual-time-budget=6000", "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


@pytest.mark.parametrize(
    ("name", "written"),
    [("x^2", "2·(1·x + 0.5)^2 + 3"), ("exp", "2·exp(1·x + 0.5) + 3"), ("x*cos", "2·(1·x + 0.5)·cos(1·x + 0.5) + 3")],
)
def test_formulas_are_written_with_their_input(name, written):
    params = torch.tensor([[1.0, 0.5, 2.0, 3.0]], dtype=torch.float64)
    assert report_module._formula(SimpleNamespace(params=params, names=[name]), 0) == written
