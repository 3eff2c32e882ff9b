"""Training with curves: recipes, the Trainer they run on, distillation, and the loss on text.

    from kansformer.training import read_recipe, train

    result = train(read_recipe("tiny-cpu", ["training.max_steps=100"]), "a-folder")

Names are imported when they are first used, since transformers' Trainer takes seconds to import.
"""

from typing import TYPE_CHECKING

from kansformer._moved import lazy_names

if TYPE_CHECKING:
    from kansformer.training.distill import distill_feed_forwards as distill_feed_forwards
    from kansformer.training.evaluate import Evaluation as Evaluation
    from kansformer.training.evaluate import mean_loss as mean_loss
    from kansformer.training.recipe import Recipe as Recipe
    from kansformer.training.recipe_file import read_recipe as read_recipe
    from kansformer.training.run import TrainingResult as TrainingResult
    from kansformer.training.run import train as train
    from kansformer.training.trainer import KANTrainer as KANTrainer
    from kansformer.training.trainer import distillation_loss as distillation_loss
    from kansformer.training.trainer import kan_trainer as kan_trainer
    from kansformer.training.transcoder import RecordedNetwork as RecordedNetwork
    from kansformer.training.transcoder import TranscoderFit as TranscoderFit
    from kansformer.training.transcoder import record_network as record_network
    from kansformer.training.transcoder import train_transcoder as train_transcoder

PLACES = {
    "Evaluation": "evaluate",
    "KANTrainer": "trainer",
    "Recipe": "recipe",
    "RecordedNetwork": "transcoder",
    "TrainingResult": "run",
    "TranscoderFit": "transcoder",
    "distill_feed_forwards": "distill",
    "distillation_loss": "trainer",
    "kan_trainer": "trainer",
    "mean_loss": "evaluate",
    "read_recipe": "recipe_file",
    "record_network": "transcoder",
    "train": "run",
    "train_transcoder": "transcoder",
}

__all__ = [  # written out, as type checkers and the documentation read it
    "Evaluation",
    "KANTrainer",
    "Recipe",
    "RecordedNetwork",
    "TrainingResult",
    "TranscoderFit",
    "distill_feed_forwards",
    "distillation_loss",
    "kan_trainer",
    "mean_loss",
    "read_recipe",
    "record_network",
    "train",
    "train_transcoder",
]
__getattr__ = lazy_names(__name__, {name: f"{__name__}.{module}.{name}" for name, module in PLACES.items()})
