"""The swap: plan it, build the new modules, prove them, put them in; and take them out again."""

from kansformer.conversion.convert import convert, is_converted, revert
from kansformer.conversion.plan import ConversionPlan, PlannedSite, plan_conversion
from kansformer.conversion.record import FORMAT_VERSION, ConversionRecord

__all__ = [
    "FORMAT_VERSION",
    "ConversionPlan",
    "ConversionRecord",
    "PlannedSite",
    "convert",
    "is_converted",
    "plan_conversion",
    "revert",
]
