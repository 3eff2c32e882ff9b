"""The curves of a model and the weights of their recorded inputs."""

import pytest
import torch
import transformers
from tiny_models import tiny_config

from kansformer import KANConfig, convert
from kansformer.discover import activation_curves, discover_activation
from kansformer.discover import curves as pooling
from kansformer.errors import DataError, SlotError
from kansformer.interp import record_edges
from kansformer.nn.curves import curves_of

TOKENS = torch.randint(0, 50, (4, 24), generator=torch.Generator().manual_seed(5))


def learned(x):
    return -0.6 * torch.cos(1.5 * x + 0.5)


def bent_model(**kan):
    """A model whose curves all are nearly `learned` on their domain."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(tiny_config(vocab_size=50, initializer_range=0.25))
    convert(model, KANConfig(grid_size=12, domain=(-4.0, 4.0), **kan))
    x_S = torch.linspace(-4, 4, 200, dtype=torch.float64)
    for layer in model.model.layers:
        act = layer.mlp.act_fn
        x_SP = x_S.unsqueeze(-1).expand(-1, len(act.coefficients))
        basis_SC = act.curves.basis.values(x_SP, curves_of(act).domain.double(), None)[:, 0]
        fitted = torch.linalg.lstsq(basis_SC, learned(x_S).unsqueeze(-1)).solution[:, 0]
        generator = torch.Generator().manual_seed(1)
        noise = 0.01 * torch.randn(act.coefficients.shape, generator=generator)
        act.coefficients.data.copy_(fitted + noise)
    return model.eval()


@pytest.mark.parametrize("kan", [dict(edges="group", groups=4), dict(edges="channel")], ids=str)
def test_curves_of_a_model_lead_to_their_formula(kan):
    model = bent_model(slots=("act",), **kan)
    with record_edges(model, sample=64) as records, torch.no_grad():
        model(input_ids=TOKENS)
    curves = activation_curves(model, records)
    layers, width = model.config.num_hidden_layers, model.config.intermediate_size
    per_layer = kan.get("groups", width)
    assert curves.y.shape == (layers * per_layer, 200) and curves.base == "silu"
    # Of all sampled inputs, 0.2 % lie beyond the outermost points.
    assert 0.995 <= curves.weights.sum() / (layers * width * 64) <= 1
    x = curves.x[curves.x.abs() < 4]
    torch.testing.assert_close(curves.learned.mean(0)[curves.x.abs() < 4], learned(x), rtol=0, atol=0.02)

    result = discover_activation(curves, name="silu-wave", max_terms=1)
    (term,) = result.activation.terms
    assert term.function == "cos" and result.activation.errors.explained > 0.99 and curves.spread < 0.02
    assert (term.factor, term.scale, term.shift) == pytest.approx((-0.6, 1.5, 0.5), rel=0.1)


def test_weights_are_counts_of_inputs_near_the_points():
    model = bent_model(slots=("act",), edges="group", groups=2)
    with record_edges(model, sample=16) as records, torch.no_grad():
        model(input_ids=TOKENS)
    curves = activation_curves(model, records, points=50)
    sample = records["model.layers.0.mlp", "act"].sample.double()
    half = sample[:, : sample.shape[1] // 2].flatten()
    width = curves.x[1] - curves.x[0]
    expected = ((half.unsqueeze(-1) - curves.x).abs() <= width / 2).sum(0)
    torch.testing.assert_close(curves.weights[0], expected.double())


def test_no_more_inputs_are_pooled_than_the_quantiles_take(monkeypatch):
    model = bent_model(slots=("act",), edges="group", groups=2)
    with record_edges(model, sample=64) as records, torch.no_grad():
        model(input_ids=TOKENS)
    every = activation_curves(model, records)
    pooled, cat = [], torch.cat
    monkeypatch.setattr(pooling, "MAX_QUANTILE", 500)
    monkeypatch.setattr(torch, "cat", lambda tensors, *args, **named: pooled.append(cat(tensors)) or cat(tensors))
    some = activation_curves(model, records)
    assert 400 < len(pooled[0]) < 510
    torch.testing.assert_close(some.x[[0, -1]], every.x[[0, -1]], rtol=0.3, atol=0)


def test_slots_without_such_curves_are_refused():
    model = bent_model(slots=("up", "act"), edges="channel")
    with record_edges(model) as records:
        pass
    with pytest.raises(SlotError, match=r"No layer has curves in 'gate'. Choose from: up, act"):
        activation_curves(model, records, slot="gate")
    with pytest.raises(DataError, match="No token reached model.layers.0.mlp.act_fn"):
        activation_curves(model, records)
    torch.manual_seed(0)
    full = transformers.AutoModelForCausalLM.from_config(tiny_config(vocab_size=50))
    convert(full, KANConfig(slots=("up",), edges="low_rank", rank=2))
    with record_edges(full) as records, torch.no_grad():
        full(input_ids=TOKENS)
    with pytest.raises(SlotError, match=r"up_proj has a curve per edge \('low_rank'\)"):
        activation_curves(full, records, slot="up")


def test_curves_before_the_weights_have_a_straight_base():
    model = bent_model(slots=("up", "act"), edges="channel")
    with record_edges(model) as records, torch.no_grad():
        model(input_ids=TOKENS)
    curves = activation_curves(model, records, slot="up")
    assert curves.base == "identity" and len(curves) == model.config.num_hidden_layers * model.config.hidden_size
    torch.testing.assert_close(curves.learned, torch.zeros_like(curves.learned))


def test_curves_that_layers_share_are_one():
    model = bent_model(edges="group", groups=2, share="model")
    with record_edges(model) as records, torch.no_grad():
        model(TOKENS)
    curves = activation_curves(model, records)
    apart = activation_curves(bent_model(edges="group", groups=2), records)
    assert len(curves.y) == 2 and len(apart.y) == 2 * len(model.model.layers)
    assert torch.equal(curves.weights, apart.weights.unflatten(0, (-1, 2)).sum(dim=0))
