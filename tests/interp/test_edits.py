"""Replaced edges: the same function changes nothing, another one changes exactly this edge, and all comes back."""

import accelerate
import pytest
import torch
import transformers
from interp_models import CONFIGS, FAMILIES
from tiny_models import randomize_curves
from transformers.modeling_outputs import CausalLMOutput

from kansformer import KANLinear, LearnedActivation, convert, update_grid
from kansformer.conversion import find_curve_slot, find_curve_slots
from kansformer.errors import ConfigError, ConversionStateError, ShapeError, SlotError
from kansformer.interp import (
    EdgeRef,
    ablate,
    edge_curves,
    edge_scores,
    edit_curve,
    edit_edge,
    faithfulness,
    record_edges,
    replace_by_symbol,
)
from kansformer.symbolic import fit_symbolic

SITE = "model.layers.1.mlp"


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


@pytest.mark.parametrize("settings", CONFIGS)
@torch.no_grad()
def test_a_replaced_edge_changes_its_output_and_no_other(settings, make_bent):
    model = make_bent("llama", CONFIGS[settings])
    for place in find_curve_slots(model):
        layer = place.module
        points = edge_curves(model, place.site, place.name, inputs=[3], outputs=[7], points=9)
        x_NI = torch.zeros(9, layer.in_features)
        x_NI[:, 3] = points.x[0]
        before, channel = layer(x_NI), int(points.outputs[0])
        with edit_edge(model, points.refs[0], lambda x: 5 + x):
            change = layer(x_NI) - before
        torch.testing.assert_close(change[:, channel], 5 + x_NI[:, 3] - points.y[0], rtol=1e-5, atol=1e-5)
        change[:, channel] = 0
        assert not change.any()
        assert torch.equal(layer(x_NI), before)
    assert not any(module._forward_hooks for module in model.modules())


@torch.no_grad()
def test_an_edited_channel_is_the_function_rounded_once():
    model = torch.nn.Sequential(LearnedActivation(4, base="silu")).bfloat16()
    x = 300 * torch.randn(50, 4).bfloat16()
    before = model(x)
    edges = [EdgeRef("", "0", channel, channel) for channel in range(4)]
    with edit_edge(model, edges[1], lambda x: 0.01 * torch.sin(x)):
        assert torch.equal(model(x)[:, 1], (0.01 * torch.sin(x[:, 1].float())).bfloat16())
        assert torch.equal(model(x)[:, [0, 2, 3]], before[:, [0, 2, 3]])
    with ablate(model, iter(edges)):
        assert not model(x).any()
    assert torch.equal(model(x), before)


def test_edges_that_accelerate_keeps_elsewhere_are_not_read(make_bent):
    model = make_bent()
    accelerate.cpu_offload(model.model.layers[1], execution_device=torch.device("cpu"))
    for read in (lambda: edge_curves(model, SITE, "act"), lambda: record_edges(model).__enter__()):
        with pytest.raises(ConversionStateError, match="accelerate keeps the curves of .* Load the model without offl"):
            read()
    assert len(edge_curves(model, SITE.replace("1", "0"), "act"))


def test_ablation_follows_the_attribution(make_bent, batch):
    model = make_bent()
    score = edge_scores(model, batch)[SITE, "act"].attribution[:, 0]
    with record_edges(model) as records:
        before = model(**batch).loss.item()
    worst = int(score.argmax())
    with ablate(model, [EdgeRef(SITE, "act", worst, worst)], records):
        change = abs(model(**batch).loss.item() - before)
    assert change == pytest.approx(float(score[worst]), rel=0.5)
    with ablate(model, [EdgeRef(SITE, "act", i, i) for i in range(24)]):
        outputs = []
        handle = model.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda _, args: outputs.append(args[0]))
        logits(model, batch)
        handle.remove()
    assert outputs[0].abs().max() < 1e-5  # every activation is held at zero


def test_formulas_take_the_place_of_curves(make_bent, batch):
    model = make_bent()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.act_fn.coefficients.zero_()
    before = logits(model, batch)
    with record_edges(model) as records:
        logits(model, batch)
    curves = edge_curves(model, SITE, "act", records=records)
    fits = fit_symbolic(curves.x.double(), torch.nn.functional.silu(curves.x.double()))
    with replace_by_symbol(model, curves, fits):
        replaced = logits(model, batch)
    assert 0 < (replaced - before).abs().max() < 1e-3
    with pytest.raises(ShapeError, match="There are 24 curves and 2 fits"), replace_by_symbol(model, curves, fits[:2]):
        pass


def test_where_a_formula_has_no_value_the_edge_stays(make_bent, batch):
    model = make_bent()
    before = logits(model, batch)
    with edit_edge(model, EdgeRef(SITE, "act", 0, 0), lambda x: x * float("nan")):
        assert torch.equal(logits(model, batch), before)


def test_an_edge_is_replaced_once(make_bent, batch):
    model = make_bent()
    ref, other = EdgeRef(SITE, "act", 0, 0), EdgeRef(SITE, "act", 1, 1)
    with ablate(model, [ref]):
        with ablate(model, [other]):
            pass
        with pytest.raises(ConfigError, match=r"act\[0->0\] is replaced already"), ablate(model, [other, ref]):
            pass
    with ablate(model, [ref]):
        pass


def test_a_layer_with_one_output_has_weights():
    layer = KANLinear(5, 1)
    model = torch.nn.Sequential(layer)
    x = torch.randn(7, 5)
    with record_edges(model) as records:
        before = layer(x)
    assert float(records["", "0"].shares().sum()) == pytest.approx(1.0)
    curves = edge_curves(model, "", "0", records=records)
    assert [str(ref) for ref in curves.refs] == [f"/0[{i}->0]" for i in range(5)]
    with ablate(model, curves.refs):
        torch.testing.assert_close(layer(x), layer.bias.expand(7, 1), rtol=0, atol=1e-6)
    assert torch.equal(layer(x), before)


def test_bad_input(make_bent, batch):
    model = make_bent("llama", CONFIGS["full"])
    before = logits(model, batch)
    for ref, message in {
        EdgeRef(SITE, "up", 16, 0): "up has no input 16: choose from 0 to 15",
        EdgeRef(SITE, "up", 0, 24): "up has no output 24: choose from 0 to 23",
        EdgeRef(SITE, "act", 0, 1): "act has no weights: the edge of input 0 has output 0, not 1",
        EdgeRef("elsewhere", "up", 0, 0): "No site with curves is at 'elsewhere'",
    }.items():
        with pytest.raises(SlotError, match=message), ablate(model, [EdgeRef(SITE, "up", 0, 0), ref]):
            pass
    assert torch.equal(logits(model, batch), before)


@pytest.mark.parametrize("settings", ["act", "channel", "full"])
def test_an_ablated_edge_has_no_gradient(settings, make_bent, batch):
    model = make_bent("llama", CONFIGS[settings])
    place = find_curve_slots(model)[0]
    edges = [EdgeRef(place.site, place.name, 3, o) for o in (range(place.num_outputs) if place.has_weights else [3])]
    with ablate(model, edges):
        model(**batch).loss.backward()
    gradient = place.module.coefficients.grad
    assert gradient[3].abs().max() < 1e-4 * gradient.abs().max()


class _WithoutAttention(transformers.LlamaForCausalLM):
    """A language model of which dynamo traces less."""

    def forward(self, input_ids, labels):
        first, second = self.model.layers
        hidden = first.mlp(self.model.embed_tokens(input_ids))
        logits = self.lm_head(hidden + second.mlp(hidden))
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)


def make_short():
    """A model with bent curves, to be compiled."""
    torch.manual_seed(0)
    return randomize_curves(convert(_WithoutAttention(FAMILIES["llama"]()).eval()), 0.3)


def test_edits_and_records_reach_a_compiled_model(batch):
    model, edge = make_short(), EdgeRef("model.layers.0.mlp", "act", 3, 3)
    with torch.no_grad(), ablate(model, [edge]):
        expected = logits(model, batch)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        compiled(**batch)
        with ablate(model, [edge]):
            assert torch.equal(compiled(**batch).logits, expected)
        with record_edges(model) as records:
            compiled(**batch)
    assert records["model.layers.0.mlp", "act"].tokens == 60


def test_records_reach_a_model_that_was_compiled_before(batch):
    model = make_short()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        compiled(**batch)
        with record_edges(model) as records:
            compiled(**batch)
    assert records["model.layers.0.mlp", "act"].tokens == 60


def test_what_runs_a_compiled_model_sees_all_of_it(batch):
    place = ("model.layers.0.mlp", "act")
    figures = []
    for compiled in ("not", "in place", "around"):
        model = make_short()
        if compiled == "in place":
            model.compile(backend="eager")
        elif compiled == "around":
            model = torch.compile(model, backend="eager")
        with torch.no_grad(), record_edges(model) as records:
            model(**batch)
        model(**batch).loss.backward()  # compiled without hooks
        with torch.no_grad():
            model(**batch)
        effect = faithfulness(model, ablate(model, [EdgeRef(*place, 3, 3)]), batch)
        attribution = edge_scores(model, batch, records=records)[place].attribution
        update_grid(model, batch)
        figures.append((effect.to_dict(), attribution.tolist(), find_curve_slot(model, *place).module.domain.tolist()))
    assert figures[0] == figures[1] == figures[2] and figures[0][0]["original"]["l0"]


class _ByName(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.act = LearnedActivation(3)

    def forward(self, input):
        return self.act(x=input)


def test_a_layer_may_be_called_by_keyword():
    model, x = _ByName(), torch.rand(9, 3)
    update_grid(model, x)
    with record_edges(model) as records, ablate(model, [EdgeRef("", "act", 0, 0)]):
        assert torch.equal(model(x)[:, 0], torch.zeros(9))
    assert records["", "act"].tokens == 9
    assert edge_scores(model, {"input": x}, attribution=False)["", "act"].variance.shape == (3, 1)


@pytest.mark.parametrize("numbers", [1, 20])
def test_activations_with_numbers_of_their_own_are_read(numbers):
    """A PReLU takes inputs of its own dtype only, and may have a slope for each channel."""
    act = LearnedActivation(20, base=torch.nn.PReLU(numbers))
    torch.nn.init.normal_(act.coefficients)
    act.weight.data.uniform_(0.5, 1)
    model, x = torch.nn.Sequential(act), torch.randn(7, 20)
    with ablate(model, [EdgeRef("", "0", 3, 3)]):
        y = model(x)
    expected = act(x)
    expected[:, 3] = 0
    assert torch.allclose(y, expected, atol=1e-6)
    points = edge_curves(model, "", "0", inputs=[3], points=9)
    x_SI = points.x[0].float().unsqueeze(-1).expand(-1, 20)
    assert torch.allclose(points.y[0].float(), act(x_SI)[:, 3], atol=1e-6)
    edit_curve(model, EdgeRef("", "0", 3, 3), torch.sin)
    assert torch.allclose(act(x.clamp(-1, 1))[:, 3], x[:, 3].clamp(-1, 1).sin(), atol=0.05)
    model.bfloat16()
    with record_edges(model) as records:
        model(x.bfloat16())
    assert records["", "0"].tokens == 7


def test_a_part_of_a_model_replaces_no_edge_again():
    model = torch.nn.Sequential(torch.nn.Sequential(KANLinear(3, 2)))
    again = ablate(model[0], [EdgeRef("", "0", 0, 0)])
    with ablate(model, [EdgeRef("0", "0", 0, 0)]), pytest.raises(ConfigError, match="is replaced already"), again:
        pass
