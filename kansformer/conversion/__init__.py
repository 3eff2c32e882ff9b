"""The swap: plan it, build the new modules, prove them, put them in; and take them out again."""

from kansformer.conversion.convert import convert, is_converted, revert
from kansformer.conversion.plan import ConversionPlan, PlannedSite, plan_conversion
from kansformer.conversion.record import FORMAT_VERSION, ConversionRecord
from kansformer.conversion.replace import replace_feed_forwards
from kansformer.conversion.slots import CurveSlot, find_curve_slot, find_curve_slots

__all__ = [
    "FORMAT_VERSION",
    "ConversionPlan",
    "ConversionRecord",
    "CurveSlot",
    "PlannedSite",
    "convert",
    "find_curve_slot",
    "find_curve_slots",
    "is_converted",
    "plan_conversion",
    "replace_feed_forwards",
    "revert",
]
