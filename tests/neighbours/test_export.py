"""torch.export, and ONNX run by onnxruntime: curves become ordinary operators."""

import pytest
import torch
from tiny_models import randomize_curves
from torch import nn

from kansformer import KANConfig, convert

KINDS = {
    "input and act": dict(slots=("input", "act")),
    "full edges": dict(slots=("up", "down"), edges="full"),
    "low rank": dict(slots=("up", "down"), edges="low_rank", rank=2),
    "rational": dict(slots=("gate", "act"), basis="rational"),
    "fourier": dict(slots=("act",), basis="fourier"),
}


class Logits(nn.Module):
    """A model that returns a tensor, without a cache."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens):
        return self.model(input_ids=tokens, use_cache=False).logits


@pytest.fixture
def make_logits(make_plain):
    """make_logits(**fields of KANConfig): of a model with one layer, its curves bent at random."""

    def build(**fields):
        return Logits(randomize_curves(convert(make_plain(num_hidden_layers=1), KANConfig(**fields)))).eval()

    return build


@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_program_gives_the_same_logits(kind, make_logits, tokens):
    model = make_logits(**KINDS[kind])
    length = torch.export.Dim("length", min=2, max=32)
    program = torch.export.export(model, (tokens,), dynamic_shapes={"tokens": {1: length}})
    operators = {node.target for node in program.graph.nodes if isinstance(node.target, torch._ops.OpOverload)}
    assert {operator.namespace for operator in operators} == {"aten"}
    for ids in (tokens, tokens[:, :4]):
        torch.testing.assert_close(program.module()(ids), model(ids), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", ["input and act", "full edges"])
def test_onnxruntime_gives_the_same_logits(kind, make_logits, tokens, tmp_path):
    reason = "ONNX is measured where it is installed: pip install onnx onnxscript onnxruntime"
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name, reason=reason)
    onnxruntime = pytest.importorskip("onnxruntime", reason=reason)
    model = make_logits(**KINDS[kind])
    torch.onnx.export(model, (tokens,), tmp_path / "model.onnx", dynamo=True, verbose=False, input_names=["tokens"])
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"tokens": tokens.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("adapted", [False, True], ids=["block", "adapted layer"])
@pytest.mark.parametrize("strict", [False, True])
def test_a_block_and_an_adapted_layer_are_exported_alone(adapted, strict, make_bent):
    if adapted:
        peft = pytest.importorskip("peft", reason="needs the extra `lora`: pip install 'kansformer[lora]'")
        model = make_bent(slots=("up", "down"), edges="low_rank", rank=2)
        config = peft.LoraConfig(target_modules=["up_proj"], init_lora_weights=False)
        part = peft.get_peft_model(model, config).base_model.model.model.layers[0].mlp.up_proj
    else:
        part = make_bent(slots=("input", "act")).model.layers[0].mlp
    x = torch.randn(2, 5, part.in_features if adapted else part.gate_proj.in_features)
    program = torch.export.export(part.eval(), (x,), strict=strict)
    torch.testing.assert_close(program.module()(x), part(x), rtol=1e-5, atol=1e-6)
