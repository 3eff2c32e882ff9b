"""Pictures of results: the report of an audit as one file, curves, diagrams of networks."""

from kansformer.views.curves import plot_curves
from kansformer.views.diagram import plot_edge, plot_history, plot_kan
from kansformer.views.report import write_report

__all__ = ["plot_curves", "plot_edge", "plot_history", "plot_kan", "write_report"]
