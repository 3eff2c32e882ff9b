"""The site is built without a warning: no broken link, no page that the navigation forgets."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="pip install 'kansformer[docs]'")

ROOT = Path(__file__).resolve().parents[2]


def test_the_site_builds_strictly(tmp_path):
    job = subprocess.run(  # without --quiet, which would hide the warnings from --strict
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert job.returncode == 0, job.stderr[-3000:]
    page = (tmp_path / "site" / "api" / "kansformer.html").read_text(encoding="utf-8")
    assert "kansformer.convert" in page and (tmp_path / "site" / "search" / "search_index.json").exists()
