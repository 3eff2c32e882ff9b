"""The swap: plan it, build the new modules, prove them, put them in; and take them out again."""

from kansformer.conversion.convert import convert, is_converted, revert
from kansformer.conversion.plan import ConversionPlan, PlannedSite, plan_conversion
from kansformer.conversion.record import FORMAT_VERSION, ConversionRecord
from kansformer.conversion.replace import replace_feed_forwards

__all__ = [
    "FORMAT_VERSION",
    "ConversionPlan",
    "ConversionRecord",
    "PlannedSite",
    "convert",
    "is_converted",
    "plan_conversion",
    "replace_feed_forwards",
    "revert",
]
