"""transformers' arguments out of a recipe."""

from kansformer.training.arguments import training_arguments
from kansformer.training.recipe_file import read_recipe


def test_an_unquoted_no_is_a_strategy(tmp_path):
    changes = ["training.eval_strategy=no", "training.save_strategy=no", "early_stop=null"]
    arguments = training_arguments(read_recipe("shakespeare-char-10m", changes), tmp_path)
    assert arguments.eval_strategy == arguments.save_strategy == "no"
