"""The README's Python blocks run, one after the other, in one namespace and an empty folder."""

import re
from pathlib import Path

from kansformer.embedded import embedded_model_path

README = Path(__file__).resolve().parent.parent / "README.md"


def test_the_python_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    assert len(blocks) >= 5
    # The one model that would come from the Hub; tests have no network.
    source = "\n".join(blocks).replace("HuggingFaceTB/SmolLM2-135M", str(embedded_model_path()))
    exec(compile(source, "README.md", "exec"), {})  # noqa: S102 - our own text


def test_the_two_commands_are_there():
    text = README.read_text(encoding="utf-8")
    assert re.search(r"<!-- demo command -->\n```bash\npython3 -m venv .*kansformer demo\n```", text)
    assert re.search(r"<!-- test command -->\n```bash\npython3 -m venv .*pytest -n auto\n```", text)
