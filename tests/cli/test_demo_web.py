"""`kansformer demo --web`: what needs no server, and the page as a browser and a client see it."""

import os
import re
import shutil
import socket
import subprocess
import sys

import pytest

from kansformer.cli.demo_web_events import site_choices

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WEB = "needs the extra web: pip install 'kansformer[web]'"
SITE = "model.layers.0.mlp"


def test_arguments_belong_to_one_of_the_demos(refused):
    assert refused("demo", "some/model") == "A model is for the demo with --web."
    assert refused("demo", "--port", 8000) == "--port is for the demo with --web."
    assert refused("demo", "--no-browser") == "--no-browser is for the demo with --web."
    assert refused("demo", "--web", "--steps", 3) == "--steps is for the demo without --web."
    assert refused("demo", "--web", "--output", "x") == "--output is for the demo without --web."


def test_without_gradio_there_is_a_sentence(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    sentence = refused("demo", "--web")
    assert sentence == "This needs gradio, which is not installed: pip install 'kansformer[web]'."


def test_nothing_imports_gradio_before_the_page_is_asked_for():
    code = "import sys, kansformer.cli.demo_web, kansformer.views.workbench_html; print('gradio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_layers_have_their_numbers_where_these_are_names():
    assert site_choices(["h.0.mlp", "h.1.mlp"]) == [("0", "h.0.mlp"), ("1", "h.1.mlp")]
    experts = ["h.0.up", "h.0.down"]
    assert site_choices(experts) == [(site, site) for site in experts]
    assert site_choices(["mlp"]) == [("mlp", "mlp")]


@pytest.fixture(scope="module")
def page(tiny, tmp_path_factory):
    """Address of a running demo of a tiny model, in a process of its own."""
    pytest.importorskip("gradio", reason=WEB)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-u", "-m", "kansformer", "demo", "--web", tiny, "--port", port, "--no-browser"]
    log = tmp_path_factory.mktemp("web") / "stderr"
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(log.parent), "OMP_NUM_THREADS": "1"}
    with log.open("w") as errors, subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
    ) as process:  # fmt: skip
        lines = []
        for line in process.stdout:
            lines.append(line)
            if match := re.search(r"Bend the curves of tiny at (http://127\.0\.0\.1:\d+/) ", line):
                break
        else:
            pytest.fail(f"The server ended: {lines} {log.read_text()[-2000:]}")
        assert match[1] == f"http://127.0.0.1:{port}/"
        yield match[1]
        process.terminate()


@pytest.mark.slow
def test_curves_are_bent_over_the_page(page):
    """The page's own calls, by Gradio's client: pick, bend, write, a refused formula, undo."""
    from gradio_client import Client

    client = Client(page, verbose=False, analytics_enabled=False)
    where = (SITE, "act")
    slots, channels, *rest = client.predict(*where, None, "tanh", "The dog", api_name="/pick")
    assert slots["value"] == "act" and len(channels["choices"]) == 24
    scores = [float(name.split()[1]) for name, _ in channels["choices"]]
    assert scores == sorted(scores, reverse=True)
    place = (*where, channels["value"], "The dog")
    picture, *sliders, tokens, losses, edits = rest[4:14]
    assert "kf-plot" in picture and len(sliders) == 6 and edits == "No edits so far."
    assert "+0.0000" in losses and len(re.findall("<tr>", tokens)) == 11
    values = [slider["value"] for slider in sliders]

    bent, new_tokens, new_losses, edits, *_ = client.predict(
        *place, values[0], values[1] + 0.5, *values[2:], api_name="/bend"
    )
    assert "as loaded" in bent and new_losses != losses and new_tokens != tokens
    assert edits.endswith("bent by hand") and "2." not in edits

    numbers = client.predict(*where, channels["value"], "gaussian", api_name="/closest_formula")
    written = client.predict(*place, "gaussian", *numbers, api_name="/write_formula")
    assert re.search(r"2\. .*act\[\d+->\d+\]: .*·gaussian\(", written[9])
    refused = client.predict(*place, "log", 1, 0, 1, 0, api_name="/write_formula")
    assert refused[7:10] == written[7:10]

    undone = client.predict(*place, api_name="/undo")
    assert undone[8] == new_losses
    back = client.predict(*place, api_name="/undo_all")
    assert back[0] == picture and back[7:10] == (tokens, losses, "No edits so far.")
    assert [slider["value"] for slider in back[1:7]] == values

    second = client.predict("model.layers.1.mlp", "input", "99,99", "tanh", "The dog", api_name="/pick")
    assert second[0]["value"] == "act" and second[1]["value"] == second[1]["choices"][0][1] != "99,99"
    assert second[6] != picture

    reread = client.predict("The dog sleeps. " * 9, *where, None, "tanh", "The dog", api_name="/read_text")
    assert reread[14] != losses
    short = client.predict("", *where, None, "tanh", "The dog", api_name="/read_text")
    assert short[14] == reread[14]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs the program chromium: apt-get install chromium")
def test_the_page_works_in_a_browser_and_asks_nobody_else(page):
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    for budget in (10_000, 100_000, 1_000_000):  # virtual time runs on while a busy machine answers
        done = subprocess.run(
            [*command, f"--virtual-time-budget={budget}", "--dump-dom", page],
            capture_output=True, text=True, timeout=180, check=True,
        )  # fmt: skip
        assert not re.search(r"Uncaught|Content Security Policy|ERROR:CONSOLE", done.stderr), done.stderr
        if "kf-plot" in done.stdout:
            break
    assert "Bend the curves of tiny" in done.stdout and done.stdout.count('type="range"') == 6
    assert "x = -" in done.stdout and "x, input of the curve (no unit)" in done.stdout
    rows = re.findall(r"<tr><td>.*?</tr>", done.stdout)
    assert len(rows) == 10
    sources = re.findall(r"""<(?:script|link|img|iframe)[^>]*(?:src|href)=["']?(https?://[^"'> ]*)""", done.stdout)
    assert all(source.startswith(page) for source in sources), sources


@pytest.mark.slow
def test_the_server_is_for_this_machine_and_forbids_other_sources(page, refused):
    from urllib.request import urlopen

    with urlopen(page) as answer:  # noqa: S310
        assert answer.headers["content-security-policy"].startswith("default-src 'self' ")
        config = answer.read().decode()
    assert '"analytics_enabled":false' in config.replace(" ", "")
    port = page.rstrip("/").rpartition(":")[2]
    assert f"Port {port} of 127.0.0.1 is taken" in refused("demo", "--web", "--port", port, "--no-browser")
