"""Training and evaluation data: where they come from, tokenised and arranged for `transformers.Trainer`."""

from kansformer.training.data.prepare import PreparedData, prepare_data
from kansformer.training.data.spec import CORPORA, TASKS, DataRecipe, check_task

__all__ = ["CORPORA", "TASKS", "DataRecipe", "PreparedData", "check_task", "prepare_data"]
