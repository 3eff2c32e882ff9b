"""The swap: plan it, build the new modules, verify them, install them; and take them out again."""

from kansformer._moved import moved_names
from kansformer.conversion.convert import convert, is_converted, revert
from kansformer.conversion.freeze import freeze_curves
from kansformer.conversion.plan import ConversionPlan, plan_conversion
from kansformer.conversion.record import FORMAT_VERSION, ConversionRecord
from kansformer.conversion.replace import replace_feed_forwards
from kansformer.conversion.slots import CurveSlot, find_curve_slot, find_curve_slots

__all__ = [
    "FORMAT_VERSION",
    "ConversionPlan",
    "ConversionRecord",
    "CurveSlot",
    "convert",
    "find_curve_slot",
    "find_curve_slots",
    "freeze_curves",
    "is_converted",
    "plan_conversion",
    "replace_feed_forwards",
    "revert",
]

__getattr__ = moved_names(__name__, {"PlannedSite": "kansformer.sites.Site"})
