"""Photograph the page of `kansformer demo --web` after one curve was changed by hand: docs/pictures/demo-web.png.

    pip install '.[web]'                # and the program chromium
    python -m scripts.pictures.demo_web [--out FILE]

From the repository's root; offline, about a minute.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

from gradio_client import Client

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
SIZE = (1280, 960)
VIRTUAL_MILLISECONDS = (100_000, 1_000_000, 10_000_000)  # this time runs on while a busy machine answers the page
SITE, SLOT, PROMPT = "model.layers.0.mlp", "act", "class Stack:\n    def push(self, item):\n        self."
HANDLE, CHANGE = 3, -0.6
"""Which of the curve's six handles is moved, and by how much."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures" / "demo-web.png")
    out = parser.parse_args().out
    chromium = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if chromium is None:
        parser.error(f"needs one of the programs {', '.join(PROGRAMS)}")
    server = [sys.executable, "-u", "-m", "kansformer", "demo", "--web", "--no-browser"]
    with subprocess.Popen(server, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = next(filter(None, (re.search(r"http://\S+", line) for line in process.stdout)))[0]
            bend_a_curve(address)
            photograph(chromium, address, out)
        finally:
            process.terminate()
    print(f"{out}: {out.stat().st_size / 1024:.0f} KiB")


def bend_a_curve(address: str) -> None:
    """Move one handle of the curve that the page opens with."""
    client = Client(address, verbose=False, analytics_enabled=False)
    _, channels, *rest = client.predict(SITE, SLOT, None, "tanh", PROMPT, api_name="/pick")
    values = [slider["value"] for slider in rest[5:11]]
    values[HANDLE] += CHANGE
    client.predict(SITE, SLOT, channels["value"], PROMPT, *values, api_name="/bend")


def photograph(chromium: str, address: str, out: Path) -> None:
    """Write a picture of the page, as headless chromium shows it.

    Raises:
        SystemExit: the page has not shown a changed curve in time.
    """
    size = ",".join(map(str, SIZE))
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={size}"]
    for budget in VIRTUAL_MILLISECONDS:
        done = subprocess.run(
            [*command, f"--virtual-time-budget={budget}", "--dump-dom", f"--screenshot={out.resolve()}", address],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        if "as loaded" in done.stdout:
            return
    raise SystemExit(f"The page at {address} has not shown its curve in time.")


if __name__ == "__main__":
    main()
