"""Training with curves: recipes, the Trainer they run on, distillation, and the loss on text.

    from kansformer.training import read_recipe, train

    result = train(read_recipe("tiny-cpu", ["training.max_steps=100"]), "a-folder")

Names are imported when they are first used, since transformers' Trainer takes seconds to import.
"""

from typing import TYPE_CHECKING

from kansformer._moved import lazy_names

if TYPE_CHECKING:
    from kansformer.nn.curve_shapes import CurveShape as CurveShape
    from kansformer.nn.curve_shapes import hold_curves as hold_curves
    from kansformer.training.callbacks import HoldCurves as HoldCurves
    from kansformer.training.distill import distill_feed_forwards as distill_feed_forwards
    from kansformer.training.evaluate import Evaluation as Evaluation
    from kansformer.training.evaluate import mean_loss as mean_loss
    from kansformer.training.recipe import Recipe as Recipe
    from kansformer.training.recipe_file import read_recipe as read_recipe
    from kansformer.training.result import TrainingResult as TrainingResult
    from kansformer.training.run import train as train
    from kansformer.training.trainer import KANTrainer as KANTrainer
    from kansformer.training.trainer import distillation_loss as distillation_loss
    from kansformer.training.trainer import kan_trainer as kan_trainer
    from kansformer.training.transcoder import RecordedNetwork as RecordedNetwork
    from kansformer.training.transcoder import TranscoderFit as TranscoderFit
    from kansformer.training.transcoder import record_network as record_network
    from kansformer.training.transcoder import train_transcoder as train_transcoder

PLACES = {
    "CurveShape": "nn.curve_shapes",
    "Evaluation": "training.evaluate",
    "HoldCurves": "training.callbacks",
    "KANTrainer": "training.trainer",
    "Recipe": "training.recipe",
    "RecordedNetwork": "training.transcoder",
    "TrainingResult": "training.result",
    "TranscoderFit": "training.transcoder",
    "distill_feed_forwards": "training.distill",
    "distillation_loss": "training.trainer",
    "hold_curves": "nn.curve_shapes",
    "kan_trainer": "training.trainer",
    "mean_loss": "training.evaluate",
    "read_recipe": "training.recipe_file",
    "record_network": "training.transcoder",
    "train": "training.run",
    "train_transcoder": "training.transcoder",
}

__all__ = [  # written out, as type checkers and the documentation read it
    "CurveShape",
    "Evaluation",
    "HoldCurves",
    "KANTrainer",
    "Recipe",
    "RecordedNetwork",
    "TrainingResult",
    "TranscoderFit",
    "distill_feed_forwards",
    "distillation_loss",
    "hold_curves",
    "kan_trainer",
    "mean_loss",
    "read_recipe",
    "record_network",
    "train",
    "train_transcoder",
]
__getattr__ = lazy_names(__name__, {name: f"kansformer.{module}.{name}" for name, module in PLACES.items()})
