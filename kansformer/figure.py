"""matplotlib, where it is installed."""

import importlib
from typing import Any

from kansformer.errors import ConfigError


def figure_class() -> Any:
    """matplotlib's Figure, which needs no display and leaves pyplot's state alone.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        return importlib.import_module("matplotlib.figure").Figure
    except ImportError:
        raise ConfigError("Pictures need matplotlib. Install it: pip install 'kansformer[plot]'.") from None
