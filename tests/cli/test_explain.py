"""`kansformer explain` writes the four files, keeps what it had when stopped, and says what is wrong."""

import html
import json
import re
import sys

import pandas
import pytest
from tiny_models import randomize_curves
from transformers import AutoModelForCausalLM, AutoTokenizer

from kansformer import KANConfig, convert
from kansformer.conversion.measured import digest_of_weights
from kansformer.interp import audit


@pytest.fixture
def bent(tiny, tmp_path):
    model = randomize_curves(convert(AutoModelForCausalLM.from_pretrained(tiny), KANConfig()))
    model.save_pretrained(tmp_path / "bent")
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path / "bent")
    return tmp_path / "bent"


def test_four_files(run, bent, text, tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "new" / "out")
    result = run("explain", bent, "--text", text, "--out", tmp_path / "out", "--block", 32, "--max-tokens", 256)
    assert result.exit_code == 0, result.output
    names = {"report.html", "summary.md", "summary.json", "edges.parquet"}
    assert {file.name for file in (tmp_path / "out").iterdir()} == names
    figures = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert figures["weights"] == digest_of_weights(bent)
    assert figures["edges"] == len(pandas.read_parquet(tmp_path / "out" / "edges.parquet"))
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S).group(1))
    markdown = (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")
    for place in (result.output, markdown, html.unescape(page)):
        assert figures["conclusion"] in place
    for share, edges, loss in data["replaced"]:
        assert f"| {share} | {edges} | {loss} |" in markdown
    assert data["loss"] == f"{figures['loss']:.4f}" and f"Loss {data['loss']}; with 100%" in result.output
    rows = data["faithfulness"]["rows"]
    assert [row[0] for row in rows][1:4] == ["original", "replaced", "base alone"] and rows[2][1] in markdown
    assert f"the loss recovered is {rows[2][3]} (base alone {rows[3][3]}, random curves {rows[4][3]})" in result.output
    assert f"{figures['edges']:,} edges in" in result.output and f"Loss {figures['loss']:.4f}" in result.output


def test_a_second_call_goes_on_where_the_first_was_stopped(run, bent, text, tmp_path, monkeypatch):
    arguments = ("explain", bent, "--text", text, "--out", tmp_path / "out", "--block", 32, "--max-tokens", 64)
    fitted, real = [], audit.fit_symbolic

    def stopping(x, y, **settings):
        if len(fitted) == 2:  # the first slot and its control are done
            raise KeyboardInterrupt
        fitted.append(len(x))
        return real(x, y, **settings)

    monkeypatch.setattr(audit, "fit_symbolic", stopping)
    result = run(*arguments)
    assert result.exit_code == 130 or isinstance(result.exception, (KeyboardInterrupt, SystemExit))
    assert [file.name for file in (tmp_path / "out").iterdir()] == [".fits"]
    calls = []
    monkeypatch.setattr(audit, "fit_symbolic", lambda x, y, **s: (calls.append(len(x)), real(x, y, **s))[1])
    assert run(*arguments).exit_code == 0
    figures = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert len(calls) == 2 * len(figures["slots"]) - 1
    assert not (tmp_path / "out" / ".fits").exists()


def test_only_files_of_an_earlier_audit_are_replaced(run, refused, bent, text, tmp_path):
    out, rows = tmp_path / "out", tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"body": text.read_text()}) + "\n")
    arguments = ("explain", bent, "--text", rows, "--column", "body", "--block", 32, "--max-tokens", 64, "--out", out)
    out.symlink_to(tmp_path / "target")
    (tmp_path / "target" / ".fits").mkdir(parents=True)
    (out / ".fits" / "m31.fits").write_text("mine")
    sentence = f"'{out / '.fits'}' holds more than the fits of an earlier audit. Choose another --out."
    assert refused(*arguments) == sentence
    (out / ".fits" / "m31.fits").rename(out / "m31.fits")
    (out / ".fits" / "kansformer-audit-12_ab").mkdir()  # of an audit that was killed
    for name, content in (("summary.md", "mine"), ("summary.json", '{"edges": 3}')):
        (out / name).write_text(content)
        assert refused(*arguments).startswith(f"'{out / name}' would be replaced, and is not known to be from")
        assert (out / name).read_text() == content
        (out / name).unlink()
    for _ in range(2):
        result = run(*arguments)
        assert result.exit_code == 0, result.output
        names = {"report.html", "summary.md", "summary.json", "edges.parquet", "m31.fits"}
        assert {file.name for file in out.iterdir()} == names
    assert (out / "m31.fits").read_text() == "mine"


def test_bad_requests_end_in_a_sentence(refused, bent, tiny, text, tmp_path):
    out = tmp_path / "out"
    assert "The model has no curves to read" in refused("explain", tiny, "--text", text, "--out", out)
    assert "No site of this model has 'decoder' in its path" in refused(
        "explain", bent, "--text", text, "--out", out, "--sites", "decoder"
    )
    assert "is a file. Choose another folder to write into" in refused("explain", bent, "--text", text, "--out", text)
    assert not out.exists()


def test_without_plotly_the_audit_does_not_begin(refused, bent, text, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    sentence = refused("explain", bent, "--text", text, "--out", tmp_path / "out")
    assert sentence == "The report needs plotly. Install it: pip install 'kansformer[report]'."
    assert not (tmp_path / "out").exists()
