"""Pictures of results: the report of an audit as one file."""

from kansformer.views.report import write_report

__all__ = ["write_report"]
