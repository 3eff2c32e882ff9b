"""numpy's numbers are numbers, in every setting, and what is saved has Python's."""

import json
from pathlib import Path

import numpy
import pytest
from tiny_models import tiny_llama

from kansformer import KANConfig, KANLinear, convert
from kansformer.conversion import replace_feed_forwards
from kansformer.errors import ConfigError
from kansformer.kan import KAN, create_dataset
from kansformer.training.preflight import training_arguments
from kansformer.training.recipe import Recipe
from kansformer.training.recipe_file import dump_recipe

ONE, TWO, FOUR = map(numpy.int64, (1, 2, 4))


@pytest.mark.parametrize(
    ("layers", "expected"),
    [(ONE, (1,)), ([ONE, 0], (1, 0)), (numpy.arange(2), (0, 1)), (slice(ONE, TWO), "1:2:"), (range(2), (0, 1))],
    ids=str,
)
def test_layers(layers, expected):
    assert KANConfig(layers=layers).layers == expected


@pytest.mark.parametrize("layers", [numpy.array([1.0]), [True], numpy.array([True]), [None], 1.5], ids=str)
def test_what_is_not_a_whole_number_is_not_a_layer(layers):
    with pytest.raises(ConfigError, match="Unknown layers"):
        KANConfig(layers=layers)


def test_a_config_is_ready_for_json():
    numbers = dict(grid_size=FOUR, order=TWO, rank=ONE, groups=FOUR, domain=numpy.float32([-1, 1]), layers=[ONE])
    plain = dict(grid_size=4, order=2, rank=1, groups=4, domain=(-1.0, 1.0), layers=[1])
    assert json.dumps(KANConfig(**numbers).to_dict()) == json.dumps(KANConfig(**plain).to_dict())


def test_a_converted_model_saves(tmp_path):
    config = KANConfig(edges="group", groups=FOUR, grid_size=FOUR, layers=[ONE])
    convert(tiny_llama(), config).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["quantization_config"]["groups"] == 4


def test_widths_and_seeds():
    replace_feed_forwards(tiny_llama(), KANConfig(), hidden=FOUR, start="random", seed=ONE)
    KANLinear(FOUR, TWO, edges="low_rank", rank=TWO)
    data = create_dataset(lambda x: x, num_inputs=ONE, seed=ONE)
    KAN([ONE, ONE], grid_size=FOUR, order=TWO, seed=ONE).fit(data, steps=ONE)
    with pytest.raises(ConfigError, match=r"seed must be a whole number from .*, got 1\.5"):
        KAN([1, 1], seed=1.5)


def test_a_recipe():
    values = {
        "task": "causal-lm",
        "model": {"config": {"model_type": "llama", "hidden_size": FOUR}},
        "data": {"corpus": "standard-library", "block": FOUR, "tokenizer": numpy.int32(300)},
        "kan": {"grid_size": FOUR},
        "curves": {"refine_grid_at": {TWO: FOUR}, "update_grid_at": numpy.array([1]), "sparsity": numpy.float32(0.5)},
        "training": {"max_steps": TWO, "learning_rate": numpy.float64(0.5)},
        "seed": ONE,
        "early_stop": ONE,
    }
    recipe = Recipe.from_dict(values)
    assert recipe == Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())) | {"curves": recipe.curves})
    assert "numpy" not in dump_recipe(recipe) and recipe.curves.update_grid_at == (1,)
    assert training_arguments(recipe, Path("out")).max_steps == 2
