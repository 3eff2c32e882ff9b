"""`train` on tiny models: what it writes, what it keeps frozen, and what it refuses."""

import json
import re
import shutil

import pytest
import torch
import transformers
from tiny_models import SMALL
from tiny_run import LLAMA, PRETRAINED, log_rows, weights_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from kansformer import convert, is_converted, training
from kansformer.config import KANConfig
from kansformer.conversion.measured import digest_of_weights
from kansformer.errors import CheckpointError, ConfigError, ConversionStateError, DataError, SlotError
from kansformer.nn.curves import curved_modules
from kansformer.training.build import _plain_model, build_model, plain_model
from kansformer.training.recipe import ModelRecipe, Recipe
from kansformer.training.run import train

ENCODER = dict(
    model_type="bert", hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
    max_position_embeddings=32,
)  # fmt: skip


def test_a_run_from_scratch_writes_a_model_that_loads_plainly(make, tmp_path):
    seen = []
    recipe = make(training={"max_steps": 40})
    result = train(recipe, tmp_path / "run", progress=lambda *state: seen.append(state))
    assert result.losses[-1][1] < result.losses[0][1] - 0.3
    assert [(done, total) for _, done, total, _ in seen] == [(step, 40) for step in range(1, 41)]
    assert re.fullmatch(r"loss [\d.]+  [1-9][\d,]* tokens/s", seen[-1][3])
    assert not any("nan" in detail for *_, detail in seen), "a loss that is not known yet"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    assert is_converted(model) and result.parameters == sum(p.numel() for p in model.parameters())
    assert result.trainable == result.parameters and result.curve_parameters == 2 * 2 * 4 * 11
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    assert tokenizer.decode(tokenizer("7 green")["input_ids"]) == "7 green"
    written = json.loads((tmp_path / "run" / "training.json").read_text())
    assert written["evaluation"]["eval_loss"] == result.evaluation["eval_loss"] and written["facts"]["data"]
    assert written["weights"] == digest_of_weights(tmp_path / "run")
    rows = log_rows(tmp_path / "run")
    assert [int(row["step"]) for row in rows] == [*range(1, 41), 40] and float(rows[-1]["eval_loss"])
    assert not list((tmp_path / "run").rglob("*.bin"))


@pytest.mark.parametrize(("tokenizer", "expected"), [("characters", (None, None, None)), (300, (0, 0, 0))])
def test_a_model_from_scratch_has_the_special_tokens_of_its_tokenizer(make, text, tmp_path, tokenizer, expected):
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    config = {name: value for name, value in LLAMA.items() if name not in names}
    data = {"files": str(text), "tokenizer": tokenizer, "block": 16}
    train(make(model={"config": config}, data=data, training={"max_steps": 1}), tmp_path / "run")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    assert tuple(getattr(model.config, name) for name in names) == expected
    assert tuple(getattr(model.generation_config, name) for name in names) == expected
    if tokenizer == 300:  # the token between documents is also the pad token, and is learnt all the same
        fresh = build_model(make(model={"config": config}), vocabulary=300, special_tokens=dict.fromkeys(names, 0))
        assert fresh.get_input_embeddings().weight[0].abs().min() > 0
    given = build_model(
        make(model={"config": {**config, "eos_token_id": 7}}), vocabulary=300, special_tokens=dict.fromkeys(names, 5)
    )
    assert given.config.eos_token_id == 7 and given.config.bos_token_id == 5


def test_the_same_recipe_gives_the_same_bits(make, tmp_path):
    one, other = (train(make(), tmp_path / name) for name in ("one", "other"))
    assert one.losses == other.losses and one.evaluation == other.evaluation
    assert train(make(seed=1), tmp_path / "third").losses != one.losses


def test_a_finer_grid_is_trained_on(make, tmp_path):
    train(make(curves={"refine_grid_at": {3: 16}}), tmp_path / "run")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    shapes = {tuple(module.coefficients.shape) for _, module in curved_modules(model)}
    assert shapes == {(4, 19)}


@pytest.mark.parametrize("trainable", [["curves"], ["lora"], ["curves", "lora"]])
def test_only_what_is_trainable_changes(make, start, text, tmp_path, trainable):
    lora = {"r": 2, "target_modules": ["q_proj"]} if "lora" in trainable else None
    recipe = make(
        model={"path": str(start)},
        data={"files": str(text), **PRETRAINED},
        kan={"groups": 4} if "curves" in trainable else None,
        curves={"domain": "data"} if "curves" in trainable else None,
        trainable=trainable,
        lora=lora,
    )
    result = train(recipe, tmp_path / "run")
    before, after = weights_of(start), weights_of(tmp_path / "run")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    q_proj = {name for name in before if "q_proj" in name}
    assert changed == (q_proj if "lora" in trainable else set())
    curves = [value for name, value in after.items() if name.endswith("coefficients")]
    assert bool(curves) == ("curves" in trainable) and all(value.abs().max() > 0 for value in curves)
    assert result.trainable == result.curve_parameters + (2 * 2 * 2 * 32 if lora else 0)


def test_a_converted_model_is_tuned_without_a_section_kan(make, start, text, tmp_path):
    convert(plain_model(ModelRecipe(path=str(start)), "causal-lm"), KANConfig()).save_pretrained(tmp_path / "kan")
    changes = dict(kan=None, trainable=["curves"], curves={"domain": "data"})
    data = {"files": str(text), "tokenizer": str(start), "block": 16}
    result = train(make(model={"path": str(tmp_path / "kan")}, data=data, **changes), tmp_path / "run")
    assert 0 < result.trainable == result.curve_parameters
    with pytest.raises(ConfigError, match="has none. Add a section kan"):
        train(make(model={"path": str(start)}, data=data, **changes), tmp_path / "none")


@pytest.mark.parametrize("trainable", [["curves"], ["lora"]])
def test_a_new_classifier_is_trained_in_any_case(make, text, tmp_path, trainable):
    start = tmp_path / "start"
    train(make(kan=None, data={"files": str(text), "tokenizer": 300, "block": 16}), start)
    rows = ["text,label", *(f"{'red' if i % 2 else 'blue'} thing {i},{'warm' if i % 2 else 'cold'}" for i in range(40))]
    (tmp_path / "rows.csv").write_text("\n".join(rows))
    recipe = make(
        task="sequence-classification",
        model={"path": str(start)},
        data={"files": str(tmp_path / "rows.csv"), "tokenizer": str(start), "block": 32},
        kan={"groups": 4} if "curves" in trainable else None,
        trainable=trainable,
        lora={"r": 2, "target_modules": ["q_proj"]} if "lora" in trainable else None,
    )
    result = train(recipe, tmp_path / "run")
    extra = result.trainable - result.curve_parameters - (2 * 2 * 2 * 32 if "lora" in trainable else 0)
    assert extra == 2 * 32  # the classifier: 32 features, 2 labels


def test_distillation_from_the_original(make, start, text, tmp_path):
    recipe = make(
        model={"path": str(start)},
        data={"files": str(text), **PRETRAINED},
        kan={"slots": ["up", "down"], "edges": "full", "grid_size": 2, "hidden": 8, "layers": [1]},
        distill={"logits": 1.0, "ffn_steps": 20, "ffn_lr": 1e-2},
        training={"max_steps": 30, "learning_rate": 1e-3},
    )
    result = train(recipe, tmp_path / "run")
    losses = [loss for _, loss in result.losses]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert losses[-1] < 0.5  # a divergence, not the loss on text, which is above 2
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "run").model.layers[1].mlp.up_proj.out_features == 8


def test_early_stop_takes_the_best_model(make, tmp_path):
    recipe = make(
        early_stop=1,
        training={
            "learning_rate": 0.3, "max_steps": 30, "eval_strategy": "steps", "eval_steps": 2,
        },
    )  # fmt: skip
    result = train(recipe, tmp_path / "run")
    assert result.steps < 30
    evaluations = [float(row["eval_loss"]) for row in log_rows(tmp_path / "run") if row["eval_loss"]]
    assert result.evaluation["eval_loss"] == pytest.approx(min(evaluations))


def test_digits(tmp_path):
    config = dict(
        model_type="vit", image_size=8, patch_size=4, num_channels=1, hidden_size=16, intermediate_size=32,
        num_hidden_layers=1, num_attention_heads=2,
    )  # fmt: skip
    values = {
        "task": "image-classification",
        "model": {"config": config},
        "data": {"corpus": "digits"},
        "kan": {"slots": ["act"]},
        "training": {"max_steps": 120, "per_device_train_batch_size": 32, "learning_rate": 1e-2},
    }
    result = train(Recipe.from_dict(values), tmp_path / "run")
    assert result.evaluation["eval_accuracy"] > 0.5


def test_a_network_of_convolutions_is_trained(tmp_path):
    config = dict(model_type="convnext", num_channels=1, image_size=8, patch_size=2, hidden_sizes=[8], depths=[1])
    values = {
        "task": "image-classification",
        "model": {"config": {**config, "num_stages": 1}},
        "data": {"corpus": "digits"},
        "training": {"max_steps": 1},
    }
    assert train(Recipe.from_dict(values), tmp_path / "run").steps == 1


def test_a_head_for_regression_becomes_one_for_labels(make, text, tmp_path):
    transformers.BertForSequenceClassification(
        transformers.BertConfig(**SMALL | {"vocab_size": 300}, num_labels=1, problem_type="regression")
    ).save_pretrained(tmp_path / "start")
    fields = ModelRecipe(path=str(tmp_path / "start"))
    model, _ = _plain_model(fields, "sequence-classification", label_names=("a", "b", "c"))
    assert model(torch.ones(2, 4, dtype=int), labels=torch.tensor([0, 2])).loss > 0
    assert model.config.problem_type == "single_label_classification"
    config = {"config": {**ENCODER, "problem_type": "regression"}}
    rows = ["text,label", *(f"thing {i},{'ab'[i % 2]}" for i in range(40))]
    (tmp_path / "rows.csv").write_text("\n".join(rows))
    data = {"files": str(tmp_path / "rows.csv"), "tokenizer": 300}
    with pytest.raises(ConfigError, match="problem_type is 'regression', and in sequence-classification a row has one"):
        train(make(task="sequence-classification", model=config, data=data), tmp_path / "run")


def test_masked_language_model(make_masked, tmp_path):
    assert train(make_masked(), tmp_path / "run").evaluation["eval_loss"] < 7


def test_sequence_classification(make, tmp_path):
    rows = ["text,label", *(f"{'red' if i % 2 else 'blue'} thing {i},{'warm' if i % 2 else 'cold'}" for i in range(80))]
    (tmp_path / "rows.csv").write_text("\n".join(rows))
    config = dict(
        model_type="bert", hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=64,
    )  # fmt: skip
    recipe = make(
        task="sequence-classification",
        model={"config": config},
        kan={"slots": ["act"], "groups": 4},
        data={"files": str(tmp_path / "rows.csv"), "tokenizer": 300},
        training={"max_steps": 40, "learning_rate": 1e-2},
    )
    result = train(recipe, tmp_path / "run")
    assert result.evaluation["eval_accuracy"] > 0.9
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert set(config["label2id"]) == {"cold", "warm"}


def test_accumulated_batches_give_the_loss_of_one(make, tmp_path):
    """transformers' Trainer would give its sum: BERT's loss does not look at the number of labels that it is told."""
    rows = ["text,label", *(f"{'red' if i % 3 else 'blue'} thing {i},{'warm' if i % 2 else 'cold'}" for i in range(80))]
    (tmp_path / "rows.csv").write_text("\n".join(rows))
    config = dict(
        model_type="bert", hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    losses = []
    for batch, accumulated in ((8, 1), (2, 4)):
        recipe = make(
            task="sequence-classification",
            model={"config": config},
            kan=None,
            data={"files": str(tmp_path / "rows.csv"), "tokenizer": 300},
            training={"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulated},
        )
        losses.append([loss for _, loss in train(recipe, tmp_path / f"run-{batch}").losses])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


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
            {"model": {"config": {**ENCODER, "hidden_act": "gelu"}}},
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
    assert not (tmp_path / "run" / "model.safetensors").exists()


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


def test_the_public_names_are_there():
    assert len(training.__all__) <= 17 and all(callable(getattr(training, name)) for name in training.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        training.trian  # noqa: B018 - a misspelt name


def test_fields_that_configs_take_under_other_names_are_known():
    for model_type, config in (("llama", {"rope_theta": 5000.0}), ("gpt2", {"hidden_size": 32, "n_head": 4})):
        fields = {"model_type": model_type, "vocab_size": 30, "num_hidden_layers": 1, **config}
        if model_type == "llama":
            fields |= {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
        assert plain_model(ModelRecipe(config=fields), "causal-lm").config.hidden_size == 32
    with pytest.raises(ConfigError, match="model_type 'llama', which does not suit masked-lm"):
        plain_model(ModelRecipe(config={**LLAMA, "vocab_size": 30}), "masked-lm")


def test_fsdp_of_accelerate_on_cpus_is_refused(make, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="set shard=true in the recipe"):
        train(make(), tmp_path / "run")
