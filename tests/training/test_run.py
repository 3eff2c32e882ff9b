"""`train` on tiny models: what it writes, and what it keeps frozen."""

import json
import re

import pytest
import torch
import transformers
from tiny_models import SMALL
from tiny_run import BERT, LLAMA, PRETRAINED, log_rows, weights_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from kansformer import convert, is_converted, training
from kansformer.config import KANConfig
from kansformer.conversion.measured import digest_of_weights
from kansformer.errors import ConfigError
from kansformer.nn.curves import curved_modules
from kansformer.training.build import _plain_model, build_model, plain_model
from kansformer.training.recipe import ModelRecipe, Recipe
from kansformer.training.run import train


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
    config = {"config": {**BERT, "problem_type": "regression"}}
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
    recipe = make(
        task="sequence-classification",
        model={"config": BERT},
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
    losses = []
    for batch, accumulated in ((8, 1), (2, 4)):
        recipe = make(
            task="sequence-classification",
            model={"config": BERT},
            kan=None,
            data={"files": str(tmp_path / "rows.csv"), "tokenizer": 300},
            training={"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulated},
        )
        losses.append([loss for _, loss in train(recipe, tmp_path / f"run-{batch}").losses])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


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
