"""Loading and sharing: `from_pretrained` opens converted checkpoints; curves without their model; cards and uploads."""

from kansformer.hub.adapter import load_curves as load_curves
from kansformer.hub.adapter import save_curves as save_curves
from kansformer.hub.autoload import register_loader as register_loader
from kansformer.hub.card import write_card
from kansformer.hub.curve_sets import disable_curves, list_curves, set_curves
from kansformer.hub.push import push_folder
from kansformer.hub.trainable import print_trainable_parameters
from kansformer.hub.transcoders import export_circuit_tracer, export_sae_lens

__all__ = [
    "disable_curves",
    "export_circuit_tracer",
    "export_sae_lens",
    "list_curves",
    "print_trainable_parameters",
    "push_folder",
    "set_curves",
    "write_card",
]
