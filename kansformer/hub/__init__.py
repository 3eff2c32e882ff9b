"""Loading and sharing: `from_pretrained` opens converted checkpoints; curves without their model; cards and uploads."""

from kansformer.hub.adapter import load_curves, save_curves
from kansformer.hub.autoload import register_loader
from kansformer.hub.card import write_card
from kansformer.hub.push import push_folder

__all__ = ["load_curves", "push_folder", "register_loader", "save_curves", "write_card"]
