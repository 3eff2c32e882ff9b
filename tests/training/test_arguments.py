"""transformers' arguments out of a recipe."""

import pytest

from kansformer.errors import ConfigError
from kansformer.training.preflight import training_arguments
from kansformer.training.recipe_file import read_recipe


def test_models_are_saved_when_they_are_evaluated(tmp_path):
    changes = ["training.eval_strategy=steps", "training.save_strategy=no", "early_stop=2"]
    recipe = read_recipe("tiny-cpu", changes)
    for name in ("save_strategy", "save_steps", "eval_steps"):
        recipe.training.pop(name, None)
    arguments = training_arguments(recipe, tmp_path)
    assert (
        arguments.save_strategy == "steps" and arguments.save_steps == arguments.eval_steps == arguments.logging_steps
    )


def test_an_unquoted_no_is_a_strategy(tmp_path):
    changes = ["training.eval_strategy=no", "training.save_strategy=no", "early_stop=null"]
    arguments = training_arguments(read_recipe("shakespeare-char-10m", changes), tmp_path)
    assert arguments.eval_strategy == arguments.save_strategy == "no"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("max_steps=many", "training.max_steps must be a whole number, got 'many'"),
        ("max_steps=-2", "training.max_steps must be at least -1, got -2"),
        ("max_steps=true", "training.max_steps must be a whole number, got True"),
        ("per_device_train_batch_size=0", "training.per_device_train_batch_size must be at least 1, got 0"),
        ("learning_rate='1e-3'", "training.learning_rate must be a number, got '1e-3'"),
        ("learning_rate=.nan", "training.learning_rate must be a finite number, got nan"),
        ("adam_beta2=1", "training.adam_beta2 must be below 1, got 1"),
        ("eval_steps=0", "training.eval_steps must be above 0, got 0"),
        ("bf16=often", "training.bf16 must be true or false, got 'often'"),
        ("report_to=3", "training.report_to must be a text, got 3"),
        ("lr_scheduler_type=cosin", "training.lr_scheduler_type is 'cosin'. Choose one of: linear, cosine"),
        ("lr_scheduler_kwargs=3", "training.lr_scheduler_kwargs must be a table of named fields, got 3"),
        ("lr=1", "Unknown field 'training.lr'. Choose from: "),
    ],
)
def test_a_wrong_type_or_range_is_named_by_its_field(tmp_path, change, sentence):
    recipe = read_recipe("tiny-cpu", [f"training.{change}"])
    with pytest.raises(ConfigError, match=sentence.replace(".", r"\.")):
        training_arguments(recipe, tmp_path)


@pytest.mark.parametrize("change", ["eval_steps=null", "report_to=none", "bf16=false", "optim=sgd"])
def test_other_values_of_a_field_are_taken(tmp_path, change):
    training_arguments(read_recipe("tiny-cpu", [f"training.{change}"]), tmp_path)
