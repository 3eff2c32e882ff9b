"""A figure as a small SVG file that is the same to the byte whenever it is drawn."""

from __future__ import annotations

import io
import re
from pathlib import Path

from matplotlib.figure import Figure

FONTS = "-apple-system, 'Segoe UI', 'Helvetica Neue', Helvetica, Arial, sans-serif"
GEOMETRY = re.compile(r'(?<= )(?:d|x|y|width|height|transform|viewBox)="[^"]*"')
LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}(?:e-?\d+)?")


def write_svg(figure: Figure, path: Path) -> None:
    """Write a figure, with lengths to a hundredth of a point and the fonts that readers have.

    Args:
        figure: drawn under `drawing_in`, whose settings decide how text is written.
        path: of the file; one that is there is replaced.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = GEOMETRY.sub(lambda match: LONG_NUMBER.sub(_rounded, match[0]), buffer.getvalue())
    text = re.sub(r"'DejaVu Sans'(?:, [\w-]+)*", FONTS, text)
    text = re.sub(r"^ *<!--.*?-->\n", "", text, flags=re.MULTILINE)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _rounded(match: re.Match[str]) -> str:
    return f"{float(match[0]):.2f}".rstrip("0").rstrip(".")
