"""torch's own encoder: in inference it is one fused operator, which would go round every curve."""

import copy

import pytest
import torch
from tiny_models import randomize_curves
from torch import nn

from kansformer import KANConfig, convert, freeze_curves, refine_grid, revert
from kansformer.conversion.convert import drop_slots
from kansformer.conversion.record import check_record, record_of
from kansformer.errors import ConfigError

SLOTS = [("act",), ("up", "down"), ("input",), ("input", "up", "act", "down")]


def encoder(activation="relu"):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, activation=activation)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=isinstance(activation, str))


def outputs(model, padding=None):
    """Those of training mode, and those of inference."""
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))
    trained = model.train()(x, src_key_padding_mask=padding)
    with torch.no_grad():
        return trained, model.eval()(x, src_key_padding_mask=padding)


@pytest.mark.parametrize("activation", ["relu", "gelu", nn.SiLU()], ids=str)
@pytest.mark.parametrize("slots", SLOTS, ids=",".join)
def test_curves_are_computed_in_training_and_in_inference(slots, activation):
    model = encoder(activation)
    before = copy.deepcopy(model)
    trained, inferred = outputs(model)
    convert(model, KANConfig(slots=slots))
    assert torch.equal(outputs(model)[0], trained)
    torch.testing.assert_close(outputs(model)[1], inferred)  # the fused operator rounds in its own way
    randomize_curves(model)
    bent, bent_inferred = outputs(model)
    assert not torch.allclose(bent, trained, atol=1e-3)
    torch.testing.assert_close(bent_inferred, bent)  # the attention is still fused
    again = outputs(copy.deepcopy(model))[1]
    assert torch.equal(again, bent_inferred)
    revert(model)
    assert torch.equal(outputs(model)[1], inferred)
    for module, original in zip(model.train().modules(), before.modules(), strict=True):
        own = {name: value for name, value in vars(original).items() if isinstance(value, (bool, int))}
        assert {name: vars(module)[name] for name in own} == own and vars(module).keys() == vars(original).keys()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_padded_tokens_are_computed_too():
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    model = encoder()
    _, inferred = outputs(model, padding)
    convert(model)
    torch.testing.assert_close(outputs(model, padding)[1][~padding], inferred[~padding])
    randomize_curves(model)
    bent, bent_inferred = outputs(model, padding)
    torch.testing.assert_close(bent_inferred[~padding], bent[~padding])
    assert not torch.allclose(bent[~padding], inferred[~padding], atol=1e-3)


def test_layers_without_curves_stay_fused():
    model = encoder()
    convert(model, KANConfig(layers=[1]))
    assert [layer.activation_relu_or_gelu for layer in model.layers] == [1, 0]
    drop_slots(model, ["layers.1.activation"])
    assert [layer.activation_relu_or_gelu for layer in model.layers] == [1, 1] and model.use_nested_tensor


def test_the_switch_of_the_process_is_left_as_it_was():
    convert(encoder())
    assert torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        convert(encoder())
        assert not torch.backends.mha.get_fastpath_enabled()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_a_record_without_a_config_follows_the_grid_and_guards_fixed_curves():
    model = convert(encoder(), KANConfig(grid_size=4))
    refine_grid(model, 8)
    check_record(model)
    assert record_of(model).config.grid_size == 8
    freeze_curves(model)
    with pytest.raises(ConfigError, match=r"refine_grid changes curves, and the model's are fixed"):
        refine_grid(model, 16)
