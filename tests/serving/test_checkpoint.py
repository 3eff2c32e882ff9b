"""The curves of a checkpoint on their way into a served model: split, checked by name, stored."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import randomize_curves, tiny_llama

from kansformer import KANConfig, convert
from kansformer.conversion.record import ConversionRecord
from kansformer.errors import CheckpointError
from kansformer.nn.curves import CURVE_TENSORS
from kansformer.nn.parallel import split_axes
from kansformer.serving.checkpoint import Rank, ServedCurves

ALL = ("input", "up", "gate", "act", "down")
SPLITS = {"input": None, "up": "outputs", "gate": "outputs", "act": "inputs", "down": "inputs"}
CONFIGS = {
    "channel": KANConfig(slots=ALL, basis="rational"),
    "group": KANConfig(slots=ALL, edges="group", groups=4),
    "low rank": KANConfig(slots=("up", "down"), edges="low_rank", rank=3),
    "full": KANConfig(slots=("gate", "down"), edges="full", basis="rational"),
}


@pytest.fixture
def checkpoint(tmp_path):
    """A function from a config to the settings and the tensors of a saved model."""

    def save(config=None):
        randomize_curves(convert(tiny_llama(), config or KANConfig())).save_pretrained(tmp_path)
        settings = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
        return settings, load_file(tmp_path / "model.safetensors")

    return save


def place_all(curves, rank=None, dtype=torch.float32):
    """Parameters of all slots by path, as one of several ranks has them."""
    parameters = {}
    for slot in curves.record.slots:
        outputs = {"up": 24, "gate": 24, "down": 16}.get(slot.name)
        parameters[slot.curve_path] = curves.make_parameters(
            [slot], curves.spec_of(slot), slot.features, outputs, by=SPLITS[slot.name], rank=rank or Rank(), dtype=dtype
        )
    return parameters


def serve(settings, tensors, rank=None, dtype=torch.float32):
    curves = ServedCurves(ConversionRecord.from_dict(settings))
    parameters = place_all(curves, rank, dtype)
    others = dict(curves.loading(tensors.items()))
    return parameters, others


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("count", [1, 2])
def test_the_parts_of_all_ranks_are_the_checkpoint(name, count, checkpoint):
    settings, tensors = checkpoint(CONFIGS[name])
    ranks = [serve(settings, tensors, Rank(index, count)) for index in range(count)]
    curves = {key: tensor for key, tensor in tensors.items() if key.rpartition(".")[2] in CURVE_TENSORS}
    assert curves and all(set(others) == set(tensors) - set(curves) for _, others in ranks)
    for key, tensor in curves.items():
        path, _, last = key.removeprefix("model.").rpartition(".")
        slot = next(s for s in ConversionRecord.from_dict(settings).slots if s.curve_path == path)
        axis = split_axes(CONFIGS[name].curve_spec(slot.name), SPLITS[slot.name]).get(last)
        parts = [parameters[path][last] for parameters, _ in ranks]
        assert all(not part.requires_grad for part in parts)
        whole = parts[0] if axis is None else torch.cat(parts, axis)
        assert torch.equal(whole, tensor), key


def test_domains_stay_float32_in_a_bfloat16_model(checkpoint):
    parameters, _ = serve(*checkpoint(), dtype=torch.bfloat16)
    for tensors in parameters.values():
        assert {name: tensor.dtype for name, tensor in tensors.items()} == {
            "coefficients": torch.bfloat16,
            "domain": torch.float32,
        }


def test_merged_layers_have_an_axis_of_their_own(checkpoint):
    settings, tensors = checkpoint(KANConfig(slots=("gate", "up"), edges="full", layers=0))
    curves = ServedCurves(ConversionRecord.from_dict(settings))
    by_name = {slot.name: slot for slot in curves.record.slots}
    merged = curves.make_parameters(
        [by_name["gate"], by_name["up"], None], curves.spec_of(by_name["up"]), 16, 24,
        by="outputs", rank=Rank(1, 2), dtype=torch.float32, stacked=True,
    )["coefficients"]  # fmt: skip
    assert merged.shape == (3, 16, 8, 12)
    list(curves.loading(tensors.items()))
    for number, name in enumerate(("gate_proj", "up_proj")):
        assert torch.equal(merged[number], tensors[f"model.layers.0.mlp.{name}.coefficients"][..., 12:])


def test_curves_that_do_not_divide_are_refused_by_name(checkpoint):
    settings, _ = checkpoint(KANConfig(edges="group", groups=3))
    curves = ServedCurves(ConversionRecord.from_dict(settings))
    with pytest.raises(CheckpointError, match=r"layers\.0\.mlp\.act_fn\.coefficients has 3 curves, .* among 2 tensor-"):
        place_all(curves, Rank(0, 2))


def test_another_width_is_refused_by_name(checkpoint):
    curves = ServedCurves(ConversionRecord.from_dict(checkpoint()[0]))
    slot = curves.record.slots[0]
    with pytest.raises(CheckpointError, match=r"24 channels at layers\.0\.mlp\.act_fn, where this model has 32\."):
        curves.make_parameters([slot], curves.spec_of(slot), 32, None, by=None, rank=Rank(), dtype=torch.float32)


CURVE = "model.layers.1.mlp.act_fn.coefficients"
DAMAGES = {
    "missing": (lambda settings, tensors: tensors.pop(CURVE), r"layers\.1\.mlp\.act_fn\.coefficients is missing\."),
    "misshapen": (
        lambda settings, tensors: tensors.update({CURVE: tensors[CURVE][:5]}),
        rf"{re.escape(CURVE)} has shape \(5, 8\) instead of \(24, 8\)\.",
    ),
    "not finite": (lambda settings, tensors: tensors[CURVE].fill_(torch.nan), rf"{re.escape(CURVE)} has non-finite"),
    "changed": (lambda settings, tensors: tensors[CURVE].mul_(2), "curves are not those that were saved"),
    "settings changed": (lambda settings, tensors: settings.update(domain=[-1, 1]), "settings were changed after"),
    "newer": (lambda settings, tensors: settings.update(format_version=99), "format version 99"),
    "of another basis": (
        lambda settings, tensors: tensors.update({CURVE.replace("coefficients", "mix"): torch.zeros(2, 2)}),
        r"act_fn\.mix does not belong to channel curves with bspline",
    ),
    "of no slot": (
        lambda settings, tensors: tensors.update({"model.layers.7.mlp.act_fn.coefficients": torch.zeros(24, 8)}),
        r"layers\.7\.mlp\.act_fn\.coefficients does not belong to a slot",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_wrong_checkpoints_are_refused_by_name(name, checkpoint):
    settings, tensors = checkpoint()
    change, sentence = DAMAGES[name]
    change(settings, tensors)
    with pytest.raises(CheckpointError, match=sentence):
        serve(settings, tensors)


def test_a_slot_without_a_place_is_refused_unless_another_process_has_it(checkpoint):
    settings, tensors = checkpoint()
    curves = ServedCurves(ConversionRecord.from_dict(settings))
    with pytest.raises(CheckpointError, match=r"curves at layers\.0\.mlp\.act_fn, but the served model has no place"):
        list(curves.loading(tensors.items()))
    for slot in curves.record.slots:
        curves.skip(slot)
    assert not any("act_fn" in key for key, _ in curves.loading(tensors.items()))


def test_weights_may_be_loaded_again_in_parts(checkpoint):
    settings, tensors = checkpoint()
    curves = ServedCurves(ConversionRecord.from_dict(settings))
    parameters = place_all(curves)
    list(curves.loading(tensors.items()))
    list(curves.loading([(CURVE, tensors[CURVE] + 1)]))
    assert torch.equal(parameters["layers.1.mlp.act_fn"]["coefficients"], tensors[CURVE] + 1)


def test_names_are_compared_after_a_server_renamed_them(checkpoint):
    settings, tensors = checkpoint()
    renamed = {key.replace("mlp", "old_mlp"): tensor for key, tensor in tensors.items()}
    del settings["digest"]  # it has the keys of the files in it
    curves = ServedCurves(ConversionRecord.from_dict(settings))
    parameters = place_all(curves)
    others = dict(curves.loading(renamed.items(), lambda key: key.replace("old_mlp", "mlp")))
    assert "model.layers.0.old_mlp.up_proj.weight" in others
    assert torch.equal(parameters["layers.1.mlp.act_fn"]["coefficients"], tensors[CURVE])
