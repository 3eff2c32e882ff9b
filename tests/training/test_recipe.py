"""Recipes check themselves, go through YAML, and name the field that is wrong."""

from dataclasses import replace

import pytest
import yaml
from tiny_models import SMALL, tiny_llama

from kansformer import convert, freeze_curves
from kansformer.config import KANConfig
from kansformer.errors import ConfigError
from kansformer.training.build import build_model, check_model
from kansformer.training.recipe import Penalty, Recipe
from kansformer.training.recipe_file import (
    dump_recipe,
    first_difference,
    read_recipe,
    recipe_names,
    recipe_title,
    write_recipe,
)

MINIMAL = {"task": "causal-lm", "model": {"path": "embedded"}, "data": {"corpus": "standard-library"}}


def make(**changes):
    return Recipe.from_dict({**MINIMAL, **changes})


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_that_come_with_the_package_are_right_and_survive_yaml(name, tmp_path):
    recipe = read_recipe(name)
    write_recipe(recipe, tmp_path / "recipe.yaml")
    assert read_recipe(tmp_path / "recipe.yaml") == recipe
    assert len(recipe_title(name)) > 40


@pytest.mark.parametrize("name", [name for name in recipe_names() if name != "smollm2-curves"])
def test_the_twin_of_a_recipe_is_it_without_curves(name):
    twin = read_recipe(name, ["kan=null"])
    assert twin.kan is None and twin.curves == read_recipe("tiny-cpu").curves


def test_a_recipe_says_only_what_differs_from_the_defaults():
    assert make().to_dict() == MINIMAL
    recipe = make(kan={"slots": ["act"]}, curves={"sparsity": 0.1, "refine_grid_at": {10: 16}}, trainable="curves")
    assert recipe.curves.sparsity == Penalty(weight=0.1)
    assert Recipe.from_dict(yaml.safe_load(dump_recipe(recipe))) == recipe


def test_the_curves_of_a_recipe_are_those_for_training_from_scratch_unless_it_says_otherwise():
    assert make(kan={}).kan.config == KANConfig.from_scratch()
    assert make(kan={"slots": ["act"], "grid_size": 3}).kan.config.edges == KANConfig.from_scratch().edges


def test_given_curves_bring_their_settings():
    recipe = make(kan={"curves": "a.safetensors", "trainable": False, "layers": [0]})
    assert recipe.kan.config == KANConfig(curves="a.safetensors", trainable=False, layers=[0])
    assert Recipe.from_dict(yaml.safe_load(dump_recipe(recipe))) == recipe
    assert make(kan={"share": "model"}).kan.config == replace(KANConfig.from_scratch(), share="model")


def test_fixed_curves_are_not_trained(tmp_path):
    model = convert(tiny_llama(), KANConfig())
    freeze_curves(model, tmp_path / "a.safetensors")
    config = {"model_type": "llama", **SMALL}
    kan = {"curves": str(tmp_path / "a.safetensors"), "trainable": False}
    check_model(make(model={"config": config}, kan=kan))
    with pytest.raises(ConfigError, match=r"trainable is \['curves'\].*kan\.trainable is false\. Choose all or lora"):
        make(model={"config": config}, kan=kan, trainable="curves")
    model.save_pretrained(tmp_path / "model")
    source = {"path": str(tmp_path / "model")}
    build_model(make(model=source))
    for changes, sentence in (
        ({"trainable": "curves"}, "trainable is .*those of model.path '.*model' are frozen"),
        (
            {"curves": {"smoothness": 1e-3}},
            r"curves\.smoothness is 0\.001, .* are frozen\. Leave curves\.smoothness out",
        ),
    ):
        with pytest.raises(ConfigError, match=sentence):
            build_model(make(model=source, **changes))


def test_an_activation_that_transformers_does_not_know_is_named():
    config = {"model_type": "llama", **SMALL, "hidden_act": "silu-sine"}
    with pytest.raises(ConfigError, match=r"model\.config: transformers does not know the activation 'silu-sine'"):
        check_model(make(model={"config": config}))


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("sparsity", 0.1, "0.1"),
        ("smoothness", {"weight": 0.2, "begin": 5}, "0.2"),
        ("update_grid_at", [5], r"\(5,\)"),
        ("refine_grid_at", {5: 10}, "{5: 10}"),
        ("domain", "data", "'data'"),
        ("lr_multiplier", 3.0, "3.0"),
        ("warm_up", 5, "5"),
    ],
)
def test_what_trains_curves_contradicts_fixed_ones(name, value, shown):
    kan = {"curves": "a.safetensors", "trainable": False}
    with pytest.raises(
        ConfigError, match=rf"curves\.{name} is {shown}, .*kan\.trainable is false\. Leave curves\.{name}"
    ):
        make(kan=kan, curves={name: value})
    make(kan=kan | {"trainable": True}, curves={name: value})


def test_fields_are_changed_on_the_command_line():
    changes = ["training.max_steps=7", "training.learning_rate=1e-3", "kan.slots=[act]", "seed=3"]
    recipe = read_recipe("tiny-cpu", changes)
    assert recipe.training["max_steps"] == 7 and recipe.training["learning_rate"] == 1e-3
    assert recipe.kan.config.slots == ("act",) and recipe.seed == 3
    assert read_recipe("tiny-cpu", ["kan=null"]).kan is None


@pytest.mark.parametrize("name", ["tiny-cpu", "gpt2-small-fineweb"])
def test_a_source_of_data_on_the_command_line_replaces_that_of_the_recipe(name):
    own, data = read_recipe(name).data, read_recipe(name, ["data.files=t.txt"]).data
    assert data == replace(own, corpus=None, dataset=None, dataset_config=None, streaming=False, files=("t.txt",))
    assert read_recipe(name, ["data.files=t.txt", "data.files=null"]).data == own
    with pytest.raises(ConfigError, match="corpus='digits' and files=.'t.txt',. were given"):
        read_recipe(name, ["data.files=t.txt", "data.corpus=digits"])
    with pytest.raises(ConfigError, match="eval_split='test' goes with dataset, not with files"):
        read_recipe(name, ["data.files=t.txt", "data.eval_split=test"])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"kann": {}}, "Unknown field 'kann'. Choose from: task, model"),
        ({"self": 1}, "Unknown field 'self'"),
        ({"data": {"corpus": "standard-library", "blok": 3}}, "Unknown field 'data.blok'"),
        ({"curves": {"warmup": 3}, "kan": {}}, "Unknown field 'curves.warmup'"),
        ({"kan": {"gridsize": 3}}, "kan: Unknown setting 'gridsize'"),
        ({"kan": {"grid_size": 0}}, "kan: grid_size must be"),
        ({"task": "translation"}, "task is 'translation'. Choose one of: causal-lm"),
        ({"model": {}}, "exactly one of: path"),
        ({"model": {"config": {"hidden_size": 8}}}, "model.config needs a model_type"),
        ({"model": {"path": "embedded", "dtype": "int8"}}, "model.dtype is 'int8'"),
        ({"trainable": ["curves"], "model": {"config": {"model_type": "llama"}}}, "no kan section"),
        ({"trainable": ["lora"], "lora": {}, "kan": {}, "curves": {"sparsity": 1}}, "need trainable curves"),
        ({"distill": {"ffn_steps": 5}}, "and none is: set kan.hidden"),
        ({"trainable": ["all", "lora"], "lora": {}}, "trainable has 'all' beside others"),
        ({"trainable": ["lora"]}, "lora must be among trainable and have a section"),
        ({"curves": {"domain": "wide"}, "kan": {}}, "curves.domain is 'wide'"),
        ({"curves": {"quantile": 0.2}, "kan": {}}, "curves.quantile must be above 0.5"),
        ({"curves": {"sparsity": {"weight": -1}}, "kan": {}}, "curves.sparsity.weight must be at least 0, got -1"),
        ({"curves": {"update_grid_at": [0]}, "kan": {}}, "curves.update_grid_at must be at least 1, got 0"),
        ({"training": {"seed": 3}}, "training.seed is set by train itself"),
        ({"distill": {"logits": 2}}, "distill.logits must be at most 1, got 2"),
        ({"model": {"config": {"model_type": "llama"}}, "distill": {}}, "distill needs model.path"),
        ({"model": "embedded"}, "model must be a table of named fields"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"seed": "many"}, "seed must be a whole number, got 'many'"),
        ({"seed": True}, "seed must be a whole number, got True"),
        ({"shard": True, "kan": {"share": "model"}}, "kan.share is 'model'. Choose kan.share=slot or shard=false"),
        ({"shard": "yes"}, "shard must be true or false, got 'yes'"),
        ({"kan": {"hidden": 1.5}}, "kan.hidden must be a whole number, got 1.5"),
        ({"curves": {"refine_grid_at": {"soon": 8}}, "kan": {}}, "curves.refine_grid_at.soon must be a whole number"),
        ({"curves": {"spread": float("inf")}, "kan": {}}, "curves.spread must be a finite number, got inf"),
        ({"data": {"corpus": "standard-library", "block": "many"}}, "data.block must be a whole number, got 'many'"),
        ({"data": {"files": [3]}}, "data.files must be a text, got 3"),
        ({"data": {"corpus": "digits", "block": 1}}, "data.block must be at least 2, got 1"),
        ({"kan": {"curves": "a"}, "curves": {"spread": 1.0}}, "curves.spread draws curves, and kan.curves gives them"),
        ({"trainable": []}, "trainable is empty. Choose any of: all"),
        ({"transcoder": {"layers": 0, "latents": 8, "k": 2}}, "task=transcoder and the section transcoder belong"),
        ({"trainable": ["everything"]}, "trainable is 'everything'. Choose one of: all, curves, lora"),
    ],
)
def test_a_wrong_recipe_is_refused_by_its_field(changes, sentence):
    with pytest.raises(ConfigError, match=sentence.replace("(", r"\(")):
        make(**changes)


def test_a_missing_field_is_named():
    with pytest.raises(ConfigError, match="The field 'data' is missing"):
        Recipe.from_dict({"task": "causal-lm", "model": {"path": "embedded"}})


def test_a_file_that_is_no_recipe(tmp_path):
    with pytest.raises(ConfigError, match=r"no recipe 'tiny-cpv'. Did you mean tiny-cpu\?"):
        read_recipe("tiny-cpv")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_recipe(tmp_path / "none.yaml")
    path = tmp_path / "bad.yaml"
    path.write_text("task: [")
    with pytest.raises(ConfigError, match="is not YAML"):
        read_recipe(path)
    path.write_text("- 1")
    with pytest.raises(ConfigError, match="must hold a table"):
        read_recipe(path)
    with pytest.raises(ConfigError, match="is not a change of a field"):
        read_recipe("tiny-cpu", ["training.max_steps"])
    with pytest.raises(ConfigError, match=r"tiny-cpu.yaml: Unknown field 'data.rows'"):
        read_recipe("tiny-cpu", ["data.rows=3"])


BOMB = "\n".join(f"b{n}: &b{n} [{f'*b{n - 1}, ' * 9 if n else ''}]" for n in range(12))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (BOMB, "found more than 100000 characters, aliases written out"),
        (BOMB.replace("[", "{<<: [").replace("]", "]}"), "found more than 100000 characters, aliases written out"),
        (f"a: &a {'x' * 5000}\nb: &b [{'*a, ' * 9}]\nc: [{'*b, ' * 9}]", "found more than 100000 characters, aliases"),
        ("x: &a [*a]", "found a value that is part of itself"),
        ("x: " + "[" * 5000, "found more than 64 levels of nesting"),
        ("x: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("x: !!timestamp soon", "is not YAML"),
        ("x: 0x" + "f" * 9000, "has a whole number of 36000 bits"),
        ("x: 2024-01-01", r"has a date, .*\. If it is meant as a text, quote it"),
        ("# " + "x" * 100_000, "a recipe has 100,000 at most"),
    ],
    ids=["aliases", "merges", "long texts", "cycle", "depth", "tag", "time", "number", "date", "length"],
)
def test_a_stranger_s_recipe_is_data_only(line, sentence, tmp_path):
    path = tmp_path / "strange.yaml"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(ConfigError, match=sentence):
        read_recipe(path)


def test_texts_that_look_like_numbers_stay_texts(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(make(data={"files": "1e-3"})), encoding="utf-8")
    assert read_recipe(path).data.files == ("1e-3",)


def test_the_first_difference_names_the_field_and_both_values():
    one, other = read_recipe("tiny-cpu"), read_recipe("tiny-cpu", ["training.max_steps=9"])
    assert first_difference(one, one) is None
    assert first_difference(one, other) == "training.max_steps is 500 in one and 9 in the other"


def test_a_penalty_sets_in_and_ramps_up():
    penalty = Penalty(weight=2.0, begin=10, ramp=3)
    assert [penalty.at(step) for step in (0, 9, 10, 11, 13, 50)] == [0.0, 0.0, 0.5, 1.0, 2.0, 2.0]


def test_numbers_are_decimal_and_no_field_stands_twice(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(make()), encoding="utf-8")
    assert read_recipe(path, ["kan.layers=1:10"]).kan.config.layers == "1:10"
    with pytest.raises(ConfigError, match="seed"):
        read_recipe(path, ["seed=010"])
    path.write_text(dump_recipe(make()) + "seed: 1\nseed: 2\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="found the field 'seed' twice"):
        read_recipe(path)
