"""Pictures of results: the report of an audit as one file, and curves of converted models."""

from kansformer._moved import moved_names
from kansformer.views.curves import plot_curves
from kansformer.views.report import write_report

__all__ = ["plot_curves", "write_report"]

__getattr__ = moved_names(
    __name__,
    {
        "plot_edge": "kansformer.kan.KAN.plot_edge",
        "plot_history": "kansformer.kan.FitHistory.plot",
        "plot_kan": "kansformer.kan.KAN.plot",
    },
    stand_ins="kansformer.fitting",
)
