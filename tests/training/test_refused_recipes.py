"""Recipes that `train` refuses, before it writes anything, and runs that it ends."""

import shutil

import pytest
from tiny_run import BERT, LLAMA, PRETRAINED

from kansformer import convert
from kansformer.config import KANConfig
from kansformer.errors import CheckpointError, ConfigError, ConversionStateError, DataError, SlotError
from kansformer.training.build import plain_model
from kansformer.training.recipe import ModelRecipe
from kansformer.training.run import train


def test_nothing_is_overwritten(make, tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.txt").write_text("precious")
    with pytest.raises(CheckpointError, match="not empty"):
        train(make(), tmp_path / "used")
    assert (tmp_path / "used" / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"training": {"lr": 1e-3}}, ConfigError, "Unknown field 'training.lr'"),
        (
            {"training": {"eval_strategy": "sometimes"}},
            ConfigError,
            "training.eval_strategy is 'sometimes'. Choose one of: no, steps, epoch",
        ),
        (
            {"training": {"optim": "galore_adamw"}},
            ConfigError,
            "training.optim 'galore_adamw' cannot be made: .*[Gg]a[Ll]ore",
        ),
        (
            {"training": {"optim": "schedule_free_sgd"}},
            ConfigError,
            "training.optim 'schedule_free_sgd' cannot be made",
        ),
        ({"training": {"per_device_train_batch_size": 9999}}, DataError, "fewer than the 9999 of one step"),
        ({"model": {"config": {**LLAMA, "model_type": "lama"}}}, ConfigError, "model_type 'lama'"),
        ({"model": {"config": {**LLAMA, "width": 3}}}, ConfigError, "Unknown field 'model.config.width'"),
        ({"model": {"config": {**LLAMA, "vocab_size": 5}}}, ConfigError, r"data.tokenizer has \d+ tokens"),
        ({"model": {"config": {**LLAMA, "max_position_embeddings": 8}}}, ConfigError, "data.block is 16, and .* 8 pos"),
        ({"shard": True, "curves": {"smoothness": 1}}, ConfigError, "curves.smoothness cannot work on sharded curves"),
        (
            {"shard": True, "curves": {"update_grid_at": [1]}},
            ConfigError,
            "curves.update_grid_at cannot work on sharded",
        ),
        (
            {"shard": True, "trainable": ["lora"], "lora": {}},
            ConfigError,
            "lora, which cannot be merged into a sharded",
        ),
        ({"shard": True, "curves": {"refine_grid_at": {2: 16}}}, ConfigError, "refine_grid_at cannot work on sharded"),
        (
            {"early_stop": 1, "curves": {"refine_grid_at": {2: 16}}, "training": {"eval_strategy": "steps"}},
            ConfigError,
            "may have a coarser grid",
        ),
        (
            {
                "curves": {"refine_grid_at": {2: 16}},
                "training": {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch"},
            },
            ConfigError,
            "training.load_best_model_at_end takes back the best checkpoint, which may have a coarser grid",
        ),
        ({"seed": 2**32}, ConfigError, "seed"),
        ({"training": {"max_steps": 0}}, ConfigError, "max_steps"),
        ({"training": {"lr_scheduler_kwargs": {"mim_lr": 1}}}, ConfigError, "training.lr_scheduler_.*mim_lr"),
        ({"training": {"metric_for_best_model": "accuracy"}}, ConfigError, "metric_for_best_model"),
        (
            {"model": {"config": BERT}},
            ConfigError,
            "BertLMHeadModel sees the tokens that it predicts: .* Set model.config.is_decoder=true",
        ),
        ({"early_stop": 3}, ConfigError, "early_stop needs evaluations"),
        (
            {
                "early_stop": 1,
                "training": {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 4},
            },
            ConfigError,
            "takes back the best model, which has to be saved: training.save_steps is 4, and evaluations come every 2",
        ),
        (
            {"curves": {"sparsity": 1}, "training": {"fp16": True, "max_grad_norm": 0}},
            ConfigError,
            "need training.max_grad_norm above 0",
        ),
        ({"kan": {"groups": 5}}, ConfigError, "groups=5 does not divide"),
        (
            {"training": {"fsdp": "full_shard"}},
            ConfigError,
            "training.fsdp spreads a model over processes. Start",
        ),
        ({"shard": True}, ConfigError, "shard=true spreads a model over processes, and there is one"),
        ({"rows_per_step": 5}, ConfigError, "rows_per_step is 5, which 1 process does not make up of batches of 4"),
    ],
)
def test_what_is_refused_before_anything_is_written(make, tmp_path, changes, error, sentence):
    with pytest.raises(error, match=sentence):
        train(make(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_soft_targets_are_not_smoothed_as_well(make, start, text, tmp_path):
    data = {"files": str(text), **PRETRAINED}
    recipe = make(
        model={"path": str(start)}, data=data, distill={"logits": 0.5}, training={"label_smoothing_factor": 0.1}
    )
    with pytest.raises(ConfigError, match=r"label_smoothing_factor does not go with distill.logits"):
        train(recipe, tmp_path / "run")


def test_a_converted_model_is_not_converted_again(make, start, text, tmp_path):
    convert(plain_model(ModelRecipe(path=str(start)), "causal-lm"), KANConfig()).save_pretrained(tmp_path / "kan")
    data = {"files": str(text), "tokenizer": str(start), "block": 16}
    recipe = make(model={"path": str(tmp_path / "kan")}, data=data)
    with pytest.raises(ConversionStateError, match="has curves already. Take the section kan out"):
        train(recipe, tmp_path / "run")
    train(make(model={"path": str(tmp_path / "kan")}, data=data, kan=None), tmp_path / "again")


def test_a_full_disk_is_seen_before_the_run(make, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(CheckpointError, match=r"has 0 MB free, and the run, for model and checkpoint, needs"):
        train(make(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


FRESH = [
    ({"hidden_size": "x"}, "model.config: .*'hidden_size' expected int, got str"),
    ({"hidden_size": -32}, "model.config: "),
    ({"hidden_size": 31}, "model.config: .*not a multiple of the number of attention heads"),
    ({"num_attention_heads": 0}, "model.config: "),
    ({"intermediate_size": 0}, "gives a weight without numbers, model.layers.0.mlp.gate_proj.weight: one of its sizes"),
    ({"hidden_act": "foo"}, "model.config: transformers does not know the activation 'foo'"),
    ({"rope_parameters": {"rope_type": "foo"}}, "model.config: "),
    ({"max_position_embeddings": 8}, "data.block is 16, and LlamaForCausalLM has 8 positions"),
    ({"foo": 3}, "Unknown field 'model.config.foo'"),
    ({"model_type": "vit"}, "model.config"),
]


SWAPS = [
    ({"kan": {"edges": "group", "groups": 7}}, "groups=7 does not divide"),
    ({"training": {"report_to": "foo"}}, "training.report_to: foo is not supported"),
    ({"training": {"accelerator_config": "nowhere.json"}}, "training: .*nowhere.json"),
    ({"kan": {"layers": [5]}}, "There is no layer 5"),
    ({"kan": {"slots": ["down"], "edges": "low_rank", "rank": 64}}, "rank=64 is above 32"),
    ({"kan": {}, "trainable": "lora", "lora": {"r": "x"}}, "lora: "),
    ({"kan": {}, "trainable": "lora", "lora": {"r": 0}}, "lora: .*should be a positive integer value"),
    ({"kan": {}, "trainable": "lora", "lora": {"foo": 1}}, "lora: .*unexpected keyword argument 'foo'"),
    ({"kan": {}, "trainable": "lora", "lora": {"target_modules": ["nothing"]}}, "lora: .*not found in the base model"),
    ({"kan": {}, "trainable": "lora", "lora": {"lora_alpha": "x"}}, "lora: "),
    ({"kan": {}, "trainable": "lora", "lora": {"lora_dropout": 5}}, "lora: .*dropout probability"),
    ({"kan": {}, "trainable": "lora", "lora": {"target_modules": "("}}, "lora: "),
]


@pytest.mark.parametrize(
    ("changes", "sentence"), [*(({"model": {"config": LLAMA | own}}, said) for own, said in FRESH), *SWAPS], ids=str
)
def test_the_fields_of_a_recipe_are_checked_before_data_and_model(make, tmp_path, monkeypatch, changes, sentence):
    monkeypatch.setattr("kansformer.training.run.prepare_data", None)
    recipe = make(**changes)
    with pytest.raises((ConfigError, SlotError), match=sentence):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_swap_of_a_pretrained_model_is_checked_before_data_and_model(make, start, tmp_path, monkeypatch):
    monkeypatch.setattr("kansformer.training.run.prepare_data", None)
    for kan, sentence in (({"groups": 7}, "groups=7 does not divide"), ({"hidden": 1000}, "from 1 to 48, got 1000")):
        with pytest.raises(ConfigError, match=sentence):
            train(make(model={"path": str(start)}, kan=kan), tmp_path / "run")


@pytest.mark.parametrize(
    ("steps", "rate", "sentence"),
    [(20, 1e30, r"The loss became nan at step \d+ in process 0"), (1, 1e39, "infinite or NaN.* no model is saved")],
)
def test_numbers_that_are_none_end_the_run(make, tmp_path, steps, rate, sentence):
    training = {"learning_rate": rate, "max_steps": steps, "max_grad_norm": 0}
    with pytest.raises(ConfigError, match=sentence):
        train(make(training=training), tmp_path / "run")
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_fsdp_of_accelerate_on_cpus_is_refused(make, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="set shard=true in the recipe"):
        train(make(), tmp_path / "run")
