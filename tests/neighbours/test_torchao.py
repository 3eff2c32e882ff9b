"""torchao: the weights of a converted model in eight bits, its curves as they were."""

import pytest
import torch
from torch import nn

from kansformer import KANLinear, revert, save_curves
from kansformer.errors import CheckpointError
from kansformer.nn.curves import curved_modules

quantization = pytest.importorskip("torchao.quantization", reason="pip install torchao, which fits one torch only")


@pytest.mark.parametrize("edges", ["channel", "low_rank", "full"])
def test_the_weights_become_int8_and_curves_stay(edges, make_bent, tokens, tmp_path):
    model = make_bent(slots=("up", "act", "down"), edges=edges, rank=4)
    curves = {path: module.coefficients for path, module in curved_modules(model)}
    with torch.no_grad():
        expected = model(tokens).logits
        quantization.quantize_(model, quantization.Int8WeightOnlyConfig())  # no filter: KANLinear is an nn.Linear
        linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
        assert any(isinstance(module, KANLinear) for module in linears)
        assert all(type(module.weight).__name__ == "Int8Tensor" for module in linears)
        assert all(module.coefficients is curves[path] for path, module in curved_modules(model))
        assert {values.dtype for values in curves.values()} == {torch.float32}
        assert 0 < (model(tokens).logits - expected).norm() < 0.02 * expected.norm()
    with pytest.raises(CheckpointError, match="is a Int8Tensor. Curves alone are saved and loaded beside ordinary"):
        save_curves(model, tmp_path / "curves")
    assert not list(curved_modules(revert(model)))
