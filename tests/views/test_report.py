"""The report is one file that works offline: in a real browser it loads without errors and its filters work."""

import json
import re
import shutil
import subprocess

import pytest
import torch
from tiny_models import randomize_curves, tiny_llama

from kansformer import KANConfig, convert
from kansformer.interp import summarize
from kansformer.views import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def summary():
    model = tiny_llama(vocab_size=50, num_hidden_layers=3).eval()
    randomize_curves(convert(model, KANConfig(slots=("input", "act"))), 0.3)
    tokens = torch.randint(50, (3, 20))
    return summarize(model, {"input_ids": tokens, "labels": tokens})


@pytest.fixture(scope="module")
def report(summary, tmp_path_factory):
    return write_report(summary, tmp_path_factory.mktemp("report") / "report.html", title="<A> model")


def test_the_page_is_whole_and_asks_for_nothing(report, summary):
    page = report.read_text(encoding="utf-8")
    assert "<title>&lt;A&gt; model</title>" in page and "{{" not in re.sub(
        r"<script>.*?</script>", "", page, flags=re.S
    )
    assert not re.search(r"""<(script|link|img)[^>]*(src|href)=""", page)
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S).group(1))
    assert sum(slot["edges"] for slot in data["slots"]) == len(data["dots"]["score"]) == len(data["edges"]) == 120
    scores = [edge["score"] for edge in data["edges"]]
    assert scores == sorted(scores, reverse=True)
    edge, row = data["edges"][0], summary.to_pandas().sort_values("attribution", ascending=False).iloc[0]
    assert edge["name"] == f"{row['site']}/{row['slot']}[{row['input']}->{row['output']}]"
    assert data["functions"][edge["function"]] == row["function"] and edge["r2"] == pytest.approx(row["r2"], rel=1e-3)


def test_nothing_is_left_of_a_page_that_failed(summary, tmp_path, monkeypatch):
    monkeypatch.setattr("kansformer.views.report.report_data", lambda summary: {"bad": float("nan")})
    (tmp_path / "report.html").write_text("old")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_report(summary, tmp_path / "report.html")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs the program chromium: apt-get install chromium")
@pytest.mark.parametrize(
    "filters", ["", "function=FIRST", "slot=act&layer=1", "r2=0.999", "search=mlp/input[3", "sort=worst"]
)
def test_it_works_in_a_browser(filters, report):
    page = report.read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S).group(1))
    first = data["functions"][data["edges"][0]["function"]]
    filters = filters.replace("FIRST", first)
    wanted = dict(part.split("=") for part in filters.split("&") if part)
    edges = [
        edge
        for edge in data["edges"]
        if ("function" not in wanted or data["functions"][edge["function"]] == wanted["function"])
        and ("slot" not in wanted or data["slots"][edge["slot"]]["slot"] == wanted["slot"])
        and ("layer" not in wanted or str(data["slots"][edge["slot"]]["layer"]) == wanted["layer"])
        and ("r2" not in wanted or edge["r2"] >= float(wanted["r2"]))
        and ("search" not in wanted or wanted["search"] in edge["name"])
    ]
    dom, log = _dump(f"{report.as_uri()}#{filters}")
    assert not re.search(r"Uncaught|ERROR:CONSOLE|SEVERE", log), log
    assert 'data-ready="yes"' in dom and dom.count("js-plotly-plot") >= 4
    rows = re.search(r'<tbody id="rows">(.*?)</tbody>', dom, re.S).group(1)
    assert rows.count("<tr") == min(200, len(edges)) > 0
    if wanted.get("sort") == "worst":
        shown = [float(row[3]) for row in (re.findall(r"<td>(.*?)</td>", row) for row in rows.split("</tr>")) if row]
        assert shown == sorted(shown)


def _dump(address: str) -> tuple[str, str]:
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    command += ["--virtual-time-budget=6000", "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr
