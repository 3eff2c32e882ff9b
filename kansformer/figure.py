"""matplotlib, where it is installed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from kansformer.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure_class() -> type[Figure]:
    """matplotlib's Figure, which needs no display and leaves pyplot's state alone.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        return importlib.import_module("matplotlib.figure").Figure
    except ImportError:
        raise ConfigError("Pictures need matplotlib. Install it: pip install 'kansformer[plot]'.") from None
