"""Several sets of curves on one model: chosen, mixed by weight, off, saved; and a sentence for what cannot be."""

import copy

import peft
import pytest
import torch
from safetensors.torch import load_file

from kansformer import (
    KANConfig,
    LearnedActivation,
    convert,
    is_converted,
    load_curves,
    refine_grid,
    revert,
    save_curves,
    update_grid,
)
from kansformer.errors import ConfigError, ConversionStateError
from kansformer.hub import disable_curves, list_curves, print_trainable_parameters, set_curves
from kansformer.hub.curve_values import put_curves
from kansformer.nn.curves import curved_modules

PEFT_WARNING = "ignore:.*is_gradient_checkpointing:FutureWarning"  # of PEFT, under a transformers newer than itself
TOKENS = torch.arange(12).reshape(2, 6)
COEFFICIENTS = "model.layers.0.mlp.act_fn.coefficients"


@pytest.fixture
def save(make, tmp_path):
    """save(name, config, scale): the folder of random curves, others for each name."""

    def write(name, config=None, *, seed=0, domain=1.0, family="llama"):
        model = convert(make(family), config or KANConfig(slots=("input", "act")))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for _, module in curved_modules(model):
                module.coefficients.normal_(std=0.2, generator=generator)
                module.domain.mul_(domain)
        save_curves(model, tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def three(make, save):
    """A plain model with the sets style, law and code, code being active; and each alone on a model of its own."""
    folders = {name: save(name, seed=seed) for seed, name in enumerate(("style", "law", "code"))}
    model = make("llama")
    for name, folder in folders.items():
        load_curves(model, folder, name=name)
    return model, {name: load_curves(make("llama"), folder) for name, folder in folders.items()}


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(model, before):
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)


def test_each_set_is_what_it_is_alone(three, make, outputs):
    model, alone = three
    assert list_curves(model) == {"style": 0.0, "law": 0.0, "code": 1.0}
    parameter = model.get_parameter(COEFFICIENTS)
    for name in ("style", "law", "code", "style"):
        assert set_curves(model, name) is model
        assert torch.equal(outputs(model), outputs(alone[name]))
    assert model.get_parameter(COEFFICIENTS) is parameter, "the optimizer's"
    assert list_curves(model) == {"style": 1.0, "law": 0.0, "code": 0.0}
    assert torch.equal(outputs(set_curves(model, None)), outputs(make("llama")))
    assert list_curves(model) == {"style": 0.0, "law": 0.0, "code": 0.0} and is_converted(model)
    assert torch.equal(outputs(set_curves(model, "law")), outputs(alone["law"]))


def test_a_mixture_is_the_weighted_sum_of_the_curves(three, outputs, tmp_path):
    model, alone = three
    weights = {"style": 0.75, "law": -0.5}
    set_curves(model, weights)
    assert list_curves(model) == {"style": 0.75, "law": -0.5, "code": 0.0}
    x = torch.linspace(-6, 6, 50)[:, None]
    for path, module in curved_modules(model):
        parts = {name: other.get_submodule(path) for name, other in alone.items()}
        wide = x.expand(-1, module.in_features)
        curves = {name: part(wide) - part.without_curves()(wide) for name, part in parts.items()}
        expected = sum(weight * curves[name] for name, weight in weights.items())
        torch.testing.assert_close(module(wide) - module.without_curves()(wide), expected, rtol=0, atol=2e-6)
    save_curves(model, tmp_path / "mixed")
    mixed = outputs(model)
    set_curves(model, "code")
    assert torch.equal(outputs(load_curves(model, tmp_path / "mixed", name="mixed")), mixed)


def test_disabled_curves_come_back(three, make, outputs):
    model, alone = three
    with disable_curves(model) as same:
        assert same is model and torch.equal(outputs(model), outputs(make("llama")))
        with disable_curves(model):
            pass
        with pytest.raises(ConversionStateError, match="The sets of curves cannot be read or changed inside disable"):
            set_curves(model, "law")
        with pytest.raises(ConversionStateError, match="Grids cannot be refined inside disable_curves"):
            refine_grid(model, 10)
        with pytest.raises(ConversionStateError, match="Curves cannot be saved inside disable_curves"):
            save_curves(model, "folder")
    assert torch.equal(outputs(model), outputs(alone["code"]))
    with pytest.raises(RuntimeError, match="interrupted"), disable_curves(model):
        raise RuntimeError("interrupted")
    assert torch.equal(outputs(set_curves(model, "code")), outputs(alone["code"]))
    with pytest.raises(ConfigError, match="has no curves, so there are none to disable"), disable_curves(make("llama")):
        pass


def test_a_backward_pass_after_the_context_is_that_of_straight_curves():
    layer, x = LearnedActivation(4), torch.randn(3, 4, requires_grad=True)
    torch.nn.init.normal_(layer.coefficients)
    (expected,) = torch.autograd.grad(torch.nn.functional.silu(x).sin().sum(), x)
    with disable_curves(layer):
        loss = layer(x).sin().sum()
    (actual,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(actual, expected)
    assert layer.coefficients.any() and layer.coefficients.requires_grad


def test_curves_that_are_exchanged_before_the_backward_pass_are_noticed(three):
    model, _ = three
    loss = model(input_ids=torch.arange(6)[None], labels=torch.arange(6)[None]).loss
    set_curves(model, "law")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.filterwarnings(PEFT_WARNING)
def test_curves_are_disabled_under_an_adapter(three, make, outputs):
    model, _ = three
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"]))
    with disable_curves(adapted):
        assert torch.equal(outputs(adapted), outputs(make("llama")))
    with pytest.raises(ConversionStateError, match="has adapters"):
        set_curves(model, "law")


def test_what_a_set_learns_stays_in_it(three, outputs):
    model, alone = three
    with torch.no_grad():
        model.get_parameter(COEFFICIENTS).add_(0.5)
    learned = outputs(model)
    set_curves(model, "law")
    assert torch.equal(outputs(set_curves(model, "code")), learned)
    assert not torch.equal(learned, outputs(alone["code"]))


@pytest.mark.parametrize(("state", "words"), [({"style": 0.5, "law": 2}, "0.5 × style"), (None, "they were off")])
def test_what_a_mixture_learns_becomes_a_set_with_a_warning(state, words, three, outputs):
    model, _ = three
    set_curves(model, state)
    with torch.no_grad():
        model.get_parameter(COEFFICIENTS).add_(0.5)
    learned = outputs(model)
    with pytest.warns(UserWarning, match=rf"changed while {words}.* They are kept as the set 'changed'"):
        set_curves(model, "law")
    assert torch.equal(outputs(set_curves(model, "changed")), learned)
    assert list(list_curves(model)) == ["style", "law", "code", "changed"]


def test_sets_with_different_slots_and_grids_are_chosen_but_not_mixed(save, make, outputs):
    small, other = save("small"), save("other", KANConfig(slots=("up", "down"), grid_size=8), seed=1)
    model = load_curves(load_curves(make("llama"), small, name="small"), other, name="other")
    alone = {name: outputs(load_curves(make("llama"), folder)) for name, folder in (("small", small), ("other", other))}
    assert torch.equal(outputs(model), alone["other"])
    for name in ("small", "other"):
        assert torch.equal(outputs(set_curves(model, name)), alone[name])
        assert (
            model.config.quantization_config.config.slots == {"small": ("input", "act"), "other": ("up", "down")}[name]
        )
    before = state_of(model)
    with pytest.raises(ConfigError, match="Sets with different grid_size cannot be mixed: 5 in 'small', 8 in 'other'"):
        set_curves(model, {"small": 0.5, "other": 0.5})
    assert_same(model, before)
    assert torch.equal(outputs(set_curves(model, None)), outputs(make("llama")))
    assert torch.equal(outputs(revert(model)), outputs(make("llama"))) and list_curves(model) == {}
    assert list_curves(convert(model)) == {"default": 1.0}


NOT_MIXED = {
    "rational": (KANConfig(basis="rational"), {}, {}, "Rational curves are fractions"),
    "low_rank": (KANConfig(slots=("up",), edges="low_rank", rank=2), {}, {}, "products of two factors"),
    "domains": (KANConfig(), {}, {"domain": 0.5}, r"different domains, .* at layers\.0\.mlp\.act_fn, and"),
    "layers": (KANConfig(), {"config": KANConfig(layers=0)}, {}, r"only one .* has curves at layers\.1\.mlp\.act_fn"),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_MIXED)
def test_sets_whose_sum_would_not_be_exact_are_not_mixed(case, save, make):
    config, first, second, sentence = NOT_MIXED[case]
    one, two = save("one", **{"config": config, **first}), save("two", config, seed=1, **second)
    model = load_curves(load_curves(make("llama"), one, name="one"), two, name="two")
    before, sets = state_of(model), list_curves(model)
    with pytest.raises(ConfigError, match=sentence):
        set_curves(model, {"one": 0.5, "two": 0.5})
    assert_same(model, before)
    assert list_curves(model) == sets


def test_sets_of_different_layers_in_words_but_the_same_slots_are_mixed(save, make):
    one, two = save("one", KANConfig(layers=(0, 1))), save("two", KANConfig(), seed=1)
    model = load_curves(load_curves(make("llama"), one, name="one"), two, name="two")
    assert list_curves(set_curves(model, {"one": 0.5, "two": 0.5})) == {"one": 0.5, "two": 0.5}


@pytest.mark.parametrize(
    ("curves", "sentence"),
    [
        ("poem", "There is no set of curves 'poem'. Choose from: style, law, code"),
        ({"style": 1, "poem": 1}, "There is no set of curves 'poem'"),
        ({"style": float("nan")}, "the weight of 'style' must be"),
        ({"style": "much"}, "the weight of 'style' must be"),
        ({}, r"curves must be the name of a set, weights by name .*; got \{\}"),
        (3, "got 3"),
    ],
)
def test_wrong_choices_are_refused(curves, sentence, three):
    model, _ = three
    before = state_of(model)
    with pytest.raises(ConfigError, match=sentence):
        set_curves(model, curves)
    assert_same(model, before)
    assert list_curves(model)["code"] == 1


def test_a_set_that_does_not_fit_changes_nothing(three, save, make, tmp_path):
    model, _ = three
    gpt2 = save("gpt2", KANConfig(), family="gpt2")
    before, sets = state_of(model), list_curves(model)
    broken = save("broken", KANConfig(slots=("up",)))
    tensors = load_file(broken / "curves.safetensors")
    (broken / "curves.safetensors").write_bytes((gpt2 / "curves.safetensors").read_bytes())
    for folder in (gpt2, broken):
        with pytest.raises(ValueError, match="another model|do not fit the model"):
            load_curves(model, folder, name="new")
        assert_same(model, before)
        assert list_curves(model) == sets and tensors
    with pytest.raises(ConversionStateError, match="sets of curves with names: style, law, code. Give these a name"):
        load_curves(model, tmp_path / "style")
    for name in ("", 3):
        with pytest.raises(ConfigError, match="name must be a text"):
            load_curves(model, tmp_path / "style", name=name)
    assert_same(model, before)


def test_further_weights_take_no_name(make, tmp_path):
    model = convert(make("llama"))
    save_curves(model, tmp_path / "x", also=["lm_head"])
    with pytest.raises(ConfigError, match="come with weights of 'lm_head'.* Load them without a name"):
        load_curves(make("llama"), tmp_path / "x", name="x")


def test_curves_that_had_no_name_are_the_default(make, save, outputs):
    model = load_curves(make("llama"), save("one"))
    unnamed = outputs(model)
    assert list_curves(model) == {"default": 1.0} and list_curves(make("llama")) == {}
    load_curves(model, save("two", seed=1), name="two")
    assert list_curves(model) == {"default": 0.0, "two": 1.0}
    assert torch.equal(outputs(set_curves(model, "default")), unnamed)
    with pytest.raises(ConversionStateError, match="has no curves to choose from"):
        set_curves(make("llama"), "default")


def test_a_name_can_be_given_again(three, save, outputs, make):
    model, _ = three
    new = save("new", seed=7)
    load_curves(model, new, name="law")
    assert list(list_curves(model)) == ["style", "law", "code"]
    set_curves(model, "style")
    assert torch.equal(outputs(set_curves(model, "law")), outputs(load_curves(make("llama"), new)))


def test_grids_may_change_in_one_set(three, outputs):
    model, _ = three
    update_grid(refine_grid(model, 10), TOKENS)
    changed = outputs(model)
    set_curves(model, "law")
    assert model.config.quantization_config.config.grid_size == 5
    assert torch.equal(outputs(set_curves(model, "code")), changed)
    assert model.config.quantization_config.config.grid_size == 10


def test_a_copy_and_another_dtype_keep_their_sets(three, outputs):
    model, alone = three
    other = copy.deepcopy(model)
    set_curves(other, "law")
    assert torch.equal(outputs(other), outputs(alone["law"])) and list_curves(model)["code"] == 1
    with torch.no_grad():
        other.get_parameter(COEFFICIENTS).zero_()
    assert torch.equal(outputs(set_curves(model, "law")), outputs(alone["law"]))
    set_curves(model.bfloat16(), "style")
    assert outputs(model).isfinite().all()


def test_the_whole_model_saves_with_the_active_set(three, outputs, tmp_path):
    model, _ = three
    set_curves(model, "law")
    model.save_pretrained(tmp_path / "whole")
    again = type(model).from_pretrained(tmp_path / "whole")
    assert torch.equal(outputs(again.eval()), outputs(model)) and list_curves(again) == {"default": 1.0}


@pytest.mark.parametrize("name", ["law", "other"])
def test_an_interruption_while_choosing_changes_nothing(name, three, save, monkeypatch):
    model, _ = three
    load_curves(model, save("other", KANConfig(slots=("down",), grid_size=8)), name="other")
    set_curves(model, "code")
    before, sets = state_of(model), list_curves(model)

    def put_and_stop(*arguments):
        put_curves(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr("kansformer.hub.curve_sets.put_curves", put_and_stop)
    with pytest.raises(KeyboardInterrupt):
        set_curves(model, name)
    assert_same(model, before)
    assert list_curves(model) == sets


@pytest.mark.filterwarnings(PEFT_WARNING)
def test_trainable_parameters_are_printed_as_peft_does(make, capsys):
    model = convert(make("llama"))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith("coefficients"))
    print_trainable_parameters(model)
    curves, total = 2 * 24 * 8, sum(parameter.numel() for parameter in model.parameters())
    expected = f"trainable params: {curves:,} || all params: {total:,} || trainable%: {100 * curves / total:.4f}\n"
    assert capsys.readouterr().out == expected
    adapted = peft.get_peft_model(make("llama"), peft.LoraConfig(target_modules=["q_proj"]))
    adapted.print_trainable_parameters()
    print_trainable_parameters(adapted)
    theirs, ours = capsys.readouterr().out.splitlines()
    assert ours == theirs


def test_a_stored_set_is_not_changed_while_there_is_none(three, outputs):
    model, alone = three
    set_curves(model, None)
    update_grid(model, {"input_ids": TOKENS})
    with pytest.warns(UserWarning, match="The curves were changed"):
        set_curves(model, "style")
    assert torch.equal(outputs(model), outputs(alone["style"]))
