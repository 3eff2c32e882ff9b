"""matplotlib, where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
import io
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kansformer.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def has_matplotlib() -> bool:
    """Whether pictures can be drawn."""
    return importlib.util.find_spec("matplotlib") is not None


def check_format(path: Path) -> str:
    """The format of a picture by the ending of its file, such as "png", which is also that of a file without ending.

    Raises:
        ConfigError: matplotlib is not installed, or does not write such files.
    """
    choices = sorted(figure_class()().canvas.get_supported_filetypes())
    name = path.suffix[1:].lower() or "png"
    if name not in choices:
        raise ConfigError(f"{str(path)!r} is not a picture that can be written. Choose one of: {', '.join(choices)}.")
    return name


@cache
def figure_class() -> type[Figure]:
    """matplotlib's Figure, which needs no display and leaves pyplot's state alone, and which a notebook shows.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        figure: Any = importlib.import_module("matplotlib.figure").Figure
    except ImportError:
        raise ConfigError("Pictures need matplotlib. Install it: pip install 'kansformer[plot]'.") from None

    class ShownFigure(figure):
        def _repr_png_(self) -> bytes:
            """IPython asks for this where nobody has used pyplot, which would otherwise say how figures are shown."""
            picture = io.BytesIO()
            self.savefig(picture, format="png")
            return picture.getvalue()

    return ShownFigure
