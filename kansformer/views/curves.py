"""Pictures of the curves inside a transformer: what each was, what it became, and where its inputs lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kansformer.errors import ConfigError
from kansformer.figure import figure_class
from kansformer.interp import EdgeCurves, EdgeRecords
from kansformer.interp.wording import place_name

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

CURVE, BASE, INPUTS = "#1f4e79", "#8a94a0", "#5f6b78"
MAX_EDGES = 64
WIDTH, HEIGHT = 2.4, 1.9  # inches, of one curve


def plot_curves(curves: EdgeCurves, *, records: EdgeRecords | None = None, columns: int = 4) -> Figure:
    """Draw edges side by side: φ(x) as a line, its base dashed, and the share of inputs behind them.

    Args:
        curves: of `edge_curves`, at most 64 edges.
        records: of `record_edges`, for the inputs; None leaves them out.
        columns: pictures in a row.

    Returns:
        A matplotlib figure; `figure.savefig(path)` writes it.

    Raises:
        ConfigError: matplotlib is not installed, or there are no edges, or too many, or no column.

    Examples:
        >>> from kansformer import KANLinear
        >>> from kansformer.interp import edge_curves
        >>> from kansformer.views import plot_curves
        >>> model = torch.nn.Sequential(KANLinear(4, 3))
        >>> figure = plot_curves(edge_curves(model, "", "0", inputs=[0, 1], outputs=[2]))
        >>> len(figure.axes)
        2
    """
    if not 1 <= len(curves) <= MAX_EDGES:
        raise ConfigError(f"A picture holds 1 to {MAX_EDGES} edges, got {len(curves)}: choose inputs= and outputs=.")
    if columns < 1:
        raise ConfigError(f"columns must be at least 1, got {columns}.")
    columns = min(columns, len(curves))
    rows = -(-len(curves) // columns)
    figure = figure_class()(figsize=(WIDTH * columns, HEIGHT * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes in grid[len(curves) :]:
        axes.set_axis_off()
    has_weights = curves.slot.has_weights
    for index, axes in enumerate(grid[: len(curves)]):
        source, target = int(curves.inputs[index]), int(curves.outputs[index])
        order = curves.x[index].argsort()  # the caller's points may be in any order
        x, y, learned = (values[index][order] for values in (curves.x, curves.y, curves.learned))
        if records is not None:
            sample = records[curves.slot.site, curves.slot.name].sample[:, source]
            bars = _draw_inputs(axes, sample, float(x[0]), float(x[-1]))
        axes.plot(x.numpy(), (y - learned).numpy(), color=BASE, linewidth=1.2, linestyle="--", zorder=2)
        axes.plot(x.numpy(), y.numpy(), color=CURVE, linewidth=1.8, zorder=3)
        axes.set_title(f"{source} → {target}" if has_weights else f"channel {source}", fontsize=9)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25)
    place, site = place_name(curves.slot), curves.slot.site
    figure.suptitle(f"{place} ({site})" if site else place, fontsize=10)
    figure.supxlabel("x, input of the edge (no unit)", fontsize=9)
    figure.supylabel("φ(x), output of the edge (no unit)", fontsize=9)
    base_line, edge_line = grid[0].lines
    shown = [(edge_line, "edge"), (base_line, "base")]
    if records is not None:
        shown.append((bars, "inputs (relative number)"))
    handles, labels = zip(*shown, strict=True)
    figure.legend(handles, labels, loc="outside lower right", ncols=len(shown), fontsize=8, frameon=False)
    return figure


def _draw_inputs(axes: Axes, sample: Tensor, lower: float, upper: float) -> Artist:
    twin = axes.twinx()
    twin.hist(sample.float().numpy(), bins=30, range=(lower, upper), color=INPUTS, alpha=0.2)
    twin.set_yticks([])
    axes.set_zorder(twin.get_zorder() + 1)
    axes.patch.set_visible(False)
    return twin.patches[0]
