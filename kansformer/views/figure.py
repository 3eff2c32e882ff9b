"""matplotlib, where it is installed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from kansformer.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor


def figure_class() -> type[Figure]:
    """matplotlib's Figure, which needs no display and leaves pyplot's state alone.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        return importlib.import_module("matplotlib.figure").Figure
    except ImportError:
        raise ConfigError("Pictures need matplotlib. Install it: pip install 'kansformer[plot]'.") from None


def draw_inputs(axes: Axes, sample: Tensor, *, bins: int, color: str, ends: tuple[float, float] | None = None) -> None:
    """Draw the histogram of a curve's inputs behind its line, on an axis of its own without a scale."""
    twin = axes.twinx()
    twin.hist(sample.detach().float().cpu().numpy(), bins=bins, range=ends, color=color, alpha=0.2)
    twin.set_yticks([])
    axes.set_zorder(twin.get_zorder() + 1)
    axes.patch.set_visible(False)
