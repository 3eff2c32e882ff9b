"""Every code block and command of the README and of the site's pages runs, in a fresh folder, as a reader types it, but
trainings and audits are shorter."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from docs.blocks import NOT_RUN, blocks_of

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
PAGES.remove(ROOT / "docs" / "reading_tools.md")  # each block is a test of tests/neighbours/test_reading_tools.py
RUN = [page for page in PAGES if any(block.not_run is None for block in blocks_of(page))]
# A reader's trainings and audits read more of the same texts.
SHORTER = {
    "tiny-cpu training": "tiny-cpu data.max_train_tokens=20000 data.max_eval_tokens=10000 training",
    "tiny-cpu kan=null": "tiny-cpu kan=null data.max_train_tokens=20000 data.max_eval_tokens=10000",
    "embedded-curves": "embedded-curves data.max_train_tokens=20000 data.max_eval_tokens=10000",
    "max_steps=20": "max_steps=4",
    "--max-tokens 2048": "--max-tokens 512",
}
SLOW = {"train", "read", "get_started", "serve"}  # they train, or audit


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=page.stem, marks=[pytest.mark.slow] if page.stem in SLOW else []) for page in RUN],
)
def test_the_blocks_run(page, environment, request, tmp_path):
    # The README's process is new, as a reader's is: nothing is imported that it does not import.
    start = [sys.executable] if page == README else request.getfixturevalue("forked")
    text = page.read_text(encoding="utf-8")
    for written, shorter in SHORTER.items():
        text = text.replace(written, shorter)
    (copy := tmp_path / "page" / page.name).parent.mkdir()
    copy.write_text(text, encoding="utf-8")
    (folder := tmp_path / "folder").mkdir()
    job = subprocess.run(
        [*start, str(ROOT / "tests/docs/blocks.py"), str(copy)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert job.returncode == 0, f"{job.stdout[-3000:]}\n{job.stderr[-3000:]}"


def test_what_is_made_shorter_is_on_a_page():
    text = "".join(page.read_text(encoding="utf-8") for page in RUN)
    assert all(written in text for written in SHORTER)


def test_what_is_not_run_says_why():
    reasons = [block.not_run for page in PAGES for block in blocks_of(page) if block.not_run is not None]
    assert {reason for reason in reasons if not reason.startswith(NOT_RUN)} == {"demo command", "test command"}
    assert len(reasons) <= 9, reasons


def test_the_readme_is_short_and_has_the_two_commands():
    text = README.read_text(encoding="utf-8")
    assert text.count("\n") <= 180
    assert re.search(r"<!-- demo command -->\n```bash\npython3 -m venv .*kansformer demo\n```", text)
    assert re.search(r"<!-- test command -->\n```bash\npython3 -m venv .*pytest -n auto\n```", text)


def test_links_and_pictures_are_there():
    """Of the README, which the site's own strict build does not read."""
    targets = re.findall(r"\]\(([^)#:\s]+)", README.read_text(encoding="utf-8"))
    targets += re.findall(r'(?:src|srcset)="([^"]+)"', README.read_text(encoding="utf-8"))
    for page in (ROOT / "docs").glob("*.md"):
        targets += [f"docs/{path}" for path in re.findall(r'(?:src|srcset)="([^"]+)"', page.read_text("utf-8"))]
    missing = sorted({target for target in targets if not (ROOT / target).exists()})
    assert not missing
