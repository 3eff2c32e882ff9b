"""Reading a model: the inputs of its curves, the curves themselves, and which of them matter."""

from kansformer._moved import moved_names
from kansformer.conversion.slots import EdgeRef
from kansformer.interp.audit import summarize as summarize
from kansformer.interp.curves import EdgeCurves, edge_curves
from kansformer.interp.edits import CurveEdit, ablate, edit_curve, edit_edge, replace_by_symbol
from kansformer.interp.effects import Faithfulness
from kansformer.interp.pruning import PruneResult, drop_straight_curves, prune, prune_channels, sparsity_curve
from kansformer.interp.ranks import reduce_rank
from kansformer.interp.recording import EdgeRecords, RecordedSlot, record_edges
from kansformer.interp.recovery import faithfulness
from kansformer.interp.scores import EdgeScores, edge_scores
from kansformer.interp.slot_summary import SlotSummary
from kansformer.interp.summary import ModelSummary
from kansformer.interp.transcoder import TranscoderFigures, measure_transcoder
from kansformer.nn.transcoder import Transcoder

__all__ = [
    "CurveEdit",
    "EdgeCurves",
    "EdgeRecords",
    "EdgeRef",
    "EdgeScores",
    "Faithfulness",
    "ModelSummary",
    "PruneResult",
    "RecordedSlot",
    "SlotSummary",
    "Transcoder",
    "TranscoderFigures",
    "ablate",
    "drop_straight_curves",
    "edge_curves",
    "edge_scores",
    "edit_curve",
    "edit_edge",
    "faithfulness",
    "measure_transcoder",
    "prune",
    "prune_channels",
    "record_edges",
    "reduce_rank",
    "replace_by_symbol",
    "sparsity_curve",
]

__getattr__ = moved_names(
    __name__,
    {
        "Place": "kansformer.conversion.CurveSlot",
        "find_place": "kansformer.conversion.find_curve_slot",
        "find_places": "kansformer.conversion.find_curve_slots",
        "replace_edges": "kansformer.interp.edits.replace_edges",
    },
)
