"""`freeze_curves` and `KANConfig(curves=…)`: curves as a fixed function, in a file, and in other models."""

import json
import re
import warnings
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import assert_same_state, randomize_curves, snapshot, tiny_llama
from transformers import AutoModelForCausalLM

from kansformer import (
    KANConfig,
    convert,
    freeze_curves,
    is_converted,
    load_curves,
    optimizer_groups,
    plan_conversion,
    refine_grid,
    revert,
    save_curves,
    update_grid,
)
from kansformer.conversion import found_curves
from kansformer.conversion.found_curves import FoundCurves
from kansformer.errors import CheckpointError, ConfigError, ConversionStateError
from kansformer.nn import spread_curves
from kansformer.nn.curves import curve_tensors, curved_modules
from kansformer.nn.optim import curve_parameters, split_curves

IDS = torch.arange(12).reshape(2, 6)
GROUPS = KANConfig(slots=("up", "act"), edges="group", groups=4, grid_size=8, order=2, extrapolation="clamp")


def trained(config=GROUPS, **changes):
    return randomize_curves(convert(tiny_llama(**changes).eval(), config), domain=0.75)


@pytest.fixture
def file(tmp_path):
    """Curves of two layers."""
    freeze_curves(trained(), tmp_path / "found.safetensors", source="a run", figures={"loss": 1.5})
    return tmp_path / "found.safetensors"


@pytest.fixture
def mean(tmp_path):
    """One set of curves, the mean of two layers."""
    freeze_curves(trained(), tmp_path / "mean.safetensors", share="model")
    return tmp_path / "mean.safetensors"


def frozen_names(model):
    return [name for name, parameter in model.named_parameters() if not parameter.requires_grad]


def metadata_of(file):
    with safe_open(file, framework="pt") as tensors:
        return json.loads(tensors.metadata()["kansformer"])


def test_freezing_keeps_the_function_and_takes_the_gradients(tmp_path):
    model = trained()
    expected, curves = model(IDS).logits, [name for name, _ in curve_parameters(model)]
    result = freeze_curves(model)
    assert str(result) == "frozen: 160 curve coefficients in up of 2 layers, act of 2 layers" and result.path is None
    assert torch.equal(model(IDS).logits, expected) and frozen_names(model) == curves
    assert not any(g["name"].startswith("curves") for g in optimizer_groups(model, 1e-3))
    model(IDS, labels=IDS).loss.backward()
    assert all(parameter.grad is None for _, parameter in curve_parameters(model))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # none of curves that learn little
        torch.optim.AdamW(model.parameters(), lr=1e-3).step()
    model.save_pretrained(tmp_path / "whole")
    save_curves(model, tmp_path / "curves")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    beside = load_curves(tiny_llama().eval(), tmp_path / "curves", check_weights=False)
    assert frozen_names(again) == frozen_names(beside) == curves
    freeze_curves(again)
    assert again.config.quantization_config.to_dict() == model.config.quantization_config.to_dict()
    revert(again)
    assert frozen_names(again) == []


def test_a_fixed_function_keeps_its_grid():
    model = trained()
    freeze_curves(model)
    before = snapshot(model)
    changes = {
        "update_grid": lambda: update_grid(model, IDS), "refine_grid": lambda: refine_grid(model, 16),
        "spread_curves": lambda: spread_curves(model),
    }  # fmt: skip
    for name, change in changes.items():
        with pytest.raises(ConfigError, match=rf"{name} changes curves, and the model's are fixed \(trainable=False\)"):
            change()
    with pytest.raises(ConfigError, match=r"are fixed \(trainable=False\), for instance at 0\."):
        update_grid(torch.nn.Sequential(model), IDS)  # as DistributedDataParallel is around it
    assert_same_state(model, before)


def test_a_fixed_function_that_requires_gradients_is_not_trained(tmp_path):
    model = trained()
    freeze_curves(model, tmp_path / "found.safetensors")
    model.requires_grad_(True)
    curves = {id(parameter) for _, parameter in curve_parameters(model)}
    assert not any(id(parameter) in curves for group in optimizer_groups(model, 1e-3) for parameter in group["params"])
    optimizer = torch.optim.AdamW(model.parameters())
    split_curves(optimizer, model)
    assert not any(id(parameter) in curves for group in optimizer.param_groups for parameter in group["params"])
    assert model.config.quantization_config.config.curves.startswith("found@")
    model.save_pretrained(tmp_path / "whole")  # nobody knows what another optimizer has done
    assert KANConfig.from_pretrained(tmp_path / "whole").curves == "frozen in place"


def test_the_file_may_have_another_name_than_the_checkpoint_says(tmp_path):
    model = trained()
    freeze_curves(model, tmp_path / "one.safetensors")
    model.save_pretrained(tmp_path / "whole")
    (tmp_path / "one.safetensors").rename(tmp_path / "other.safetensors")
    config = KANConfig(curves=tmp_path / "other.safetensors", slots=("up", "act"), trainable=False)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", quantization_config=config)
    assert again.config.quantization_config.config.curves.startswith("one@")


def test_the_file_says_what_is_in_it(file):
    values = metadata_of(file)
    assert values.pop("digest") == FoundCurves.read(file).digest
    settings = {name: GROUPS.to_dict()[name] for name in found_curves.CURVE_SETTINGS}
    assert values == {
        "format_version": 1, "settings": settings, "model_type": "llama", "source": "a run", "figures": {"loss": 1.5},
    }  # fmt: skip
    assert {name: tuple(t.shape) for name, t in load_file(file).items()} == {
        "up.coefficients": (2, 4, 10), "up.domain": (2, 4, 2), "act.coefficients": (2, 4, 10), "act.domain": (2, 4, 2),
    }  # fmt: skip


@pytest.mark.parametrize("trainable", [True, False])
def test_curves_of_a_file_go_into_another_model(file, trainable):
    model, config = tiny_llama().eval(), KANConfig(curves=file, trainable=trainable)
    plan = plan_conversion(model, config)
    convert(model, config)
    assert torch.equal(model(IDS).logits, trained()(IDS).logits)
    assert plan.parameters_after == model.num_parameters()
    assert frozen_names(model) == ([] if trainable else [name for name, _ in curve_parameters(model)])
    assert "found.safetensors" not in str(plan.config) and str(file.parent) not in json.dumps(model.config.to_dict())


def test_a_checkpoint_does_not_need_the_file(file, tmp_path):
    model = convert(tiny_llama().eval(), KANConfig(curves=str(file), trainable=False))
    digest = FoundCurves.read(file).digest[:16]
    file.unlink()
    model.save_pretrained(tmp_path / "whole")
    text = (tmp_path / "whole" / "config.json").read_text()
    assert f'"curves": "found@{digest}"' in text and str(tmp_path) not in text
    assert json.loads(text)["quantization_config"]["format_version"] == 5
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    assert again.config.quantization_config.config == model.config.quantization_config.config
    with pytest.raises(ConversionStateError, match=rf"found before \('found@{digest}'\).*does not have their values"):
        AutoModelForCausalLM.from_config(again.config)
    config = KANConfig.from_pretrained(tmp_path / "whole")
    with pytest.raises(ConfigError, match=rf"no curves 'found@{digest}'\. Give a file that freeze_curves wrote"):
        convert(tiny_llama(), config)


def test_the_mean_of_the_layers_fits_any_number_of_them(mean):
    source, model = trained(), tiny_llama(num_hidden_layers=3, intermediate_size=32).eval()
    convert(model, KANConfig(curves=mean, trainable=False, share="model"))
    for slot in ("up_proj", "act_fn"):
        parts = [curve_tensors(getattr(layer.mlp, slot)) for layer in source.model.layers]
        for layer in model.model.layers:
            values = curve_tensors(getattr(layer.mlp, slot))
            assert torch.allclose(values["coefficients"], sum(p["coefficients"] for p in parts) / 2)
            assert torch.equal(values["domain"], parts[0]["domain"])
    assert model.model.layers[0].mlp.act_fn.coefficients is model.model.layers[2].mlp.act_fn.coefficients
    assert metadata_of(mean)["mean_of"] == 2


def test_freezing_with_a_mean_leaves_the_model_its_own_curves(tmp_path):
    model = trained()
    expected = model(IDS).logits
    result = freeze_curves(model, tmp_path / "mean.safetensors", share="model")
    assert torch.equal(model(IDS).logits, expected) and result.mean_of == 2 and result.written == 96
    assert "the mean of 2 layers, SHA-256 " in str(result)
    assert model.config.quantization_config.config.curves == "frozen in place"


def test_a_model_with_shared_curves_writes_one_set(tmp_path):
    model = trained(KANConfig(share="model"))
    freeze_curves(model, tmp_path / "one.safetensors")
    other = convert(tiny_llama(num_hidden_layers=3).eval(), KANConfig(curves=tmp_path / "one.safetensors"))
    expected = model.model.layers[1].mlp.act_fn.coefficients
    assert all(torch.equal(module.coefficients, expected) for _, module in curved_modules(other))


@pytest.mark.parametrize(("share", "layers"), [(None, 1), ("model", 1), ("slot", 2)])
def test_a_model_with_shared_curves_writes_what_was_asked_for(share, layers, tmp_path):
    model = trained(KANConfig(share="model"))
    result = freeze_curves(model, tmp_path / "found.safetensors", share=share)
    values = load_file(tmp_path / "found.safetensors")["act.coefficients"]
    assert len(values) == layers and (values == model.model.layers[0].mlp.act_fn.coefficients).all()
    assert result.mean_of is None and result.written == layers * 24 * (8 + 2)


def test_copies_that_were_trained_apart_are_not_written(tmp_path):
    model = trained(KANConfig(share="model"))
    act = model.model.layers[1].mlp.act_fn
    act.coefficients = torch.nn.Parameter(act.coefficients.detach() + 1)
    with pytest.raises(CheckpointError, match=r"share='model'.*are different"):
        freeze_curves(model, tmp_path / "found.safetensors")
    assert not list(tmp_path.iterdir()) and frozen_names(model) == []


def test_the_digest_is_computed_once(tmp_path, monkeypatch):
    calls = []
    sha256 = found_curves.hashlib.sha256
    monkeypatch.setattr(found_curves.hashlib, "sha256", lambda *args: calls.append(args) or sha256(*args))
    curves = freeze_curves(trained(), tmp_path / "found.safetensors")
    of_curves = [args for args in calls if args and args[0].startswith(b"{")]
    assert len(of_curves) == 1 and len(curves.digest) == 64


REFUSED = {
    "another number of layers": (
        dict(num_hidden_layers=3), {}, r"curves of 2 layers in the slot 'up', and the model has 3.*share='model'",
    ),
    "one set of several": (dict(), dict(share="model"), r"share='model' needs one set of curves.*those of 2 layers"),
    "groups": (dict(intermediate_size=26), {}, r"groups=4 does not divide the 26 input channels"),
    "a setting": (dict(), dict(grid_size=7), r"grid_size=7 contradicts the curves in 'found', which have grid_size=8"),
    "a slot that no layer has": (
        dict(), dict(target_modules=["up_proj"]), r"target_modules=\('up_proj',\) leaves no slot 'act'",
    ),
    "a slot": (dict(), dict(slots=("up",)), r"slots=\('up',\) contradicts the curves"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_and_changes_nothing(case, file):
    changes, settings, sentence = REFUSED[case]
    model = tiny_llama(**changes)
    before = snapshot(model)
    with pytest.raises(ConfigError, match=sentence):
        convert(model, KANConfig(curves=file, trainable=False, **settings))
    assert_same_state(model, before)
    assert not is_converted(model)


def test_channels_fit_one_width_only(tmp_path):
    freeze_curves(trained(KANConfig()), tmp_path / "found.safetensors", share="model")
    with pytest.raises(ConfigError, match=r"24 curves in the slot 'act', one per channel, and .* has 32 channels"):
        convert(tiny_llama(intermediate_size=32), KANConfig(curves=tmp_path / "found.safetensors"))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (dict(trainable=False), "trainable=False without curves would change nothing"),
        (dict(curves="", trainable=False), "curves must be a file, a name, or None; got ''"),
        (dict(curves=3), "curves must be a file, a name, or None; got 3"),
        (dict(curves="x", trainable=1), "trainable must be True or False, got 1"),
    ],
)
def test_impossible_settings_are_refused(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        KANConfig(**settings)


def test_files_of_the_package_are_found_by_name(file, monkeypatch):
    plain = tiny_llama().eval()(IDS).logits
    model = convert(tiny_llama().eval(), KANConfig(curves="shakespeare", trainable=False, share="model"))
    assert not torch.equal(model(IDS).logits, plain) and not any(p.requires_grad for _, p in curve_parameters(model))
    monkeypatch.setattr(found_curves, "SHIPPED", file.parent)
    model = convert(tiny_llama().eval(), KANConfig(curves="found"))
    assert torch.equal(model(IDS).logits, trained()(IDS).logits)
    with pytest.raises(ConfigError, match=r"no curves 'valley'.*, or choose from: found\."):
        convert(tiny_llama(), KANConfig(curves="valley"))


ARGUMENTS = {
    "plain model": (lambda model, path: freeze_curves(tiny_llama(), path), ConversionStateError, "is not converted"),
    "suffix": (lambda model, path: freeze_curves(model, path.with_suffix(".bin")), ConfigError, r"end in \.safe"),
    "folder": (lambda model, path: freeze_curves(model, path / "x.safetensors"), CheckpointError, "cannot be written"),
    "share": (lambda model, path: freeze_curves(model, path, share="all"), ConfigError, "Choose one of: slot, model"),
    "source": (lambda model, path: freeze_curves(model, path, source="a\nb"), ConfigError, "source must be one line"),
    "figures": (lambda model, path: freeze_curves(model, path, figures=[1]), ConfigError, "figures must be a table"),
    "not JSON": (lambda model, path: freeze_curves(model, path, figures={"a": {1}}), ConfigError, "figures has a set"),
    "no path": (lambda model, path: freeze_curves(model, source="x"), ConfigError, "are about the file"),
}  # fmt: skip


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments_are_checked_before_anything_is_frozen(case, tmp_path):
    call, error, sentence = ARGUMENTS[case]
    model, path = trained(), tmp_path / "found.safetensors"
    if case == "folder":
        path.touch()
    with pytest.raises(error, match=sentence):
        call(model, path)
    assert frozen_names(model) == [] and (case == "folder" or not list(tmp_path.iterdir()))


def test_curves_that_no_file_can_hold_can_still_be_frozen(tmp_path):
    model = trained(KANConfig(slots=("up",), edges="full"))
    with pytest.raises(ConfigError, match=r"edges='full' cannot be written into a file of curves"):
        freeze_curves(model, tmp_path / "found.safetensors")
    assert str(freeze_curves(model)).startswith("frozen: 6,144 curve coefficients in up")


def test_the_mean_of_other_domains_is_refused(tmp_path):
    model = trained()
    model.model.layers[0].mlp.act_fn.domain.mul_(2)
    with pytest.raises(ConfigError, match=r"layers of the slot 'act' have different domains.*Train them on one domain"):
        freeze_curves(model, tmp_path / "mean.safetensors", share="model")
    freeze_curves(model, tmp_path / "each.safetensors")


def rewrite(file, *, tensors=None, **changes):
    """The file with other tensors, or other entries of its metadata."""
    values = metadata_of(file) | changes
    save_file(tensors or load_file(file), file, metadata={"kansformer": json.dumps(values)})


def without(file, name):
    return {key: tensor for key, tensor in load_file(file).items() if key != name}


GRID = torch.tensor([-1.0, 1.0]).expand(2, 4, 2).contiguous()


def edited(file, **settings):
    return metadata_of(file)["settings"] | settings


CHANGED = {
    "newer": (lambda f: rewrite(f, format_version=2), "format version 2; this package reads 1.*pip install --upgrade"),
    "a setting": (lambda f: rewrite(f, settings=edited(f, order=3, grid_size=7)), "were changed after it was written"),
    "no settings": (lambda f: rewrite(f, settings={}), "must be basis, grid_size, order"),
    "impossible": (lambda f: rewrite(f, settings=edited(f, order=77)), "settings in .* are wrong: .*order"),
    "edges": (lambda f: rewrite(f, settings=edited(f, edges="full")), "per channel or group"),
    "unknown": (lambda f: rewrite(f, more=1), "unknown entry 'more'"),
    "mean": (lambda f: rewrite(f, mean_of="x"), "mean_of in .* must be a number of layers"),
    "a value": (
        lambda f: rewrite(f, tensors=load_file(f) | {"up.coefficients": torch.zeros(2, 4, 10)}),
        "were changed",
    ),
    "a shape": (lambda f: rewrite(f, tensors=load_file(f) | {"up.coefficients": torch.zeros(2, 4, 9)}), "do not fit"),
    "an axis": (lambda f: rewrite(f, tensors=load_file(f) | {"up.coefficients": torch.zeros(4, 10)}), "do not fit"),
    "missing": (lambda f: rewrite(f, tensors=without(f, "up.domain")), "do not fit its settings"),
    "more": (lambda f: rewrite(f, tensors=load_file(f) | {"x": torch.zeros(1)}), "do not fit its settings"),
    "not finite": (
        lambda f: rewrite(f, tensors=load_file(f) | {"up.coefficients": torch.full((2, 4, 10), torch.nan)}),
        "non-finite values",
    ),
    "no metadata": (lambda f: save_file(load_file(f), f), "no metadata 'kansformer'"),
    "not JSON": (lambda f: save_file(load_file(f), f, metadata={"kansformer": "{"}), "is not JSON"),
    "not a table": (lambda f: save_file(load_file(f), f, metadata={"kansformer": "[1]"}), "must hold a table"),
    "not safetensors": (lambda f: f.write_bytes(b"x" * 100), "cannot be read"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_files_of_anyone_are_checked(case, file):
    change, sentence = CHANGED[case]
    change(file)
    model = tiny_llama()
    with pytest.raises(CheckpointError, match=re.compile(sentence, re.S)):
        convert(model, KANConfig(curves=file))
    assert not is_converted(model)


def test_rational_curves_and_other_dtypes(tmp_path):
    config = KANConfig(basis="rational", order=4, slots=("input", "act"))
    model = trained(config).to(torch.bfloat16)
    freeze_curves(model, tmp_path / "found.safetensors")
    other = convert(tiny_llama().eval().to(torch.bfloat16), KANConfig(curves=tmp_path / "found.safetensors"))
    assert torch.equal(other(IDS).logits, model(IDS).logits)
    with pytest.raises(ConfigError, match="different denominators"):
        freeze_curves(model, tmp_path / "mean.safetensors", share="model")


def test_values_that_a_dtype_cannot_hold_are_refused(tmp_path):
    model = trained()
    with torch.no_grad():
        model.model.layers[0].mlp.act_fn.coefficients.fill_(1e30)
    freeze_curves(model, tmp_path / "found.safetensors")
    half = tiny_llama().half()
    before = snapshot(half)
    with pytest.raises(ConfigError, match=r"curves in 'found' are not finite in torch\.float16"):
        convert(half, KANConfig(curves=tmp_path / "found.safetensors"), verify=False)
    assert_same_state(half, before)


def test_the_folder_of_the_package_holds_files_that_can_be_read():
    assert Path(found_curves.SHIPPED).is_dir()
    for file in found_curves.SHIPPED.glob("*.safetensors"):
        FoundCurves.read(file)
