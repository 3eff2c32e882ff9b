"""Modules with curves of a served model compute what the converted model computes."""

import copy

import pytest
import torch
from tiny_models import randomize_curves, tiny_llama
from torch import nn

from kansformer import KANConfig, convert
from kansformer.conversion.record import record_of
from kansformer.nn import LearnedActivation
from kansformer.serving.checkpoint import Rank, ServedCurves
from kansformer.serving.modules import GatedActivation, MergedGate, serve_module


@pytest.fixture(params=["bspline", "rational"])
def model(request):
    return randomize_curves(convert(tiny_llama(), KANConfig(basis=request.param))).eval()


def test_a_gated_activation_is_activation_and_product(model):
    act = model.model.layers[0].mlp.act_fn
    gate, up = torch.randn(2, 5, 24)
    merged = GatedActivation.from_activation(act.activation, 24, act.curves)
    merged.load_state_dict(act.state_dict())
    torch.testing.assert_close(merged(torch.cat([gate, up], -1)), act(gate) * up)


def test_a_block_whose_gate_and_up_layers_are_merged(model):
    block = copy.deepcopy(model.model.layers[0].mlp)
    x = torch.randn(5, 16)
    expected = block(x)
    block.merged = nn.Linear(16, 48, bias=False)
    block.merged.weight.data = torch.cat([block.gate_proj.weight, block.up_proj.weight])
    del block.gate_proj, block.up_proj
    block.__dict__["forward"] = MergedGate(block, merged="merged", act="act_fn", down="down_proj")
    torch.testing.assert_close(block(x), expected)


def test_each_rank_has_its_channels_of_an_activation(model, tmp_path):
    record = record_of(model)
    x = torch.randn(5, 24)
    expected = model.model.layers[0].mlp.act_fn(x)
    weights = dict(model.state_dict())
    parts = []
    for index in range(2):
        curves = ServedCurves(record)
        for slot in record.slots:
            act = LearnedActivation.from_activation(nn.SiLU(), 24, curves.spec_of(slot), device="meta")
            serve_module(act, slot, curves, by="inputs", rank=Rank(index, 2), dtype=torch.float32)
            if slot.path.startswith("layers.0."):
                first = act
        list(curves.loading(weights.items()))
        assert first.in_features == 12
        parts.append(first(x.chunk(2, -1)[index]))
    torch.testing.assert_close(torch.cat(parts, -1), expected)
