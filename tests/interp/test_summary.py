"""The audit: every edge has a row, aggregates stand beside a random control, and the model stays as it is."""

import json

import pytest
import torch
from interp_models import CONFIGS

from kansformer.conversion.slots import find_curve_slots
from kansformer.errors import ConfigError, ConversionStateError, DataError
from kansformer.interp import EdgeRef, edge_curves, edit_curve, record_edges, summarize
from kansformer.interp.curves import sample_points
from kansformer.interp.fidelity import RandomEdges
from kansformer.symbolic import KAN_LIBRARY, LIBRARY, fit_symbolic

SHARES = ["10% as formulas", "50% as formulas", "100% as formulas"]


@pytest.mark.parametrize("settings", CONFIGS)
def test_every_edge_has_a_row(settings, make_bent, batch):
    model = make_bent("llama", CONFIGS[settings])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen = []
    summary = summarize(model, batch, library=KAN_LIBRARY, progress=lambda *state: seen.append(state))
    table = summary.to_pandas()
    edges = sum(place.module.in_features * place.num_outputs for place in find_curve_slots(model))
    of_edges = [state for state in seen if state[3].endswith(" edges/s")]
    assert len(table) == edges == of_edges[-1][1] == of_edges[-1][2]
    assert [state[0] for state in seen if state[3].endswith(" batches/s")] == ["reading", "scoring", *SHARES]
    assert not table.drop(columns=["function"]).isna().any().any()
    figures = json.loads(summary.to_json())
    assert figures["edges"] == edges and figures["tokens"] == 60
    assert [row["share"] for row in figures["replaced"]] == [0.1, 0.5, 1.0]
    assert figures["loss"] == pytest.approx(model(**batch).loss.item(), rel=1e-5)
    assert len(summary.to_markdown().splitlines()) > len(summary.slots)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for m in [model] for module in _own(m))


def _own(model):
    from kansformer.sites.surgery import has_input_curve

    return [module for module in model.modules() if not has_input_curve(module)]


def test_the_table_is_that_of_the_curves(make_bent, batch):
    model = make_bent("llama", CONFIGS["full"])
    site = "model.layers.1.mlp"
    summary = summarize(model, batch, slots=[(site, "up")])
    table = summary.to_pandas()
    with record_edges(model) as records, torch.no_grad():
        model(**batch)
    curve = edge_curves(model, site, "up", records=records, inputs=[5], outputs=[9], points=64)
    row = table[(table["input"] == 5) & (table["output"] == 9)]
    fitted = summary.slots[0].fits[int(row.index[0])]
    residual = (fitted.evaluate(curve.x) - curve.y).square().sum() / (curve.y - curve.y.mean()).square().sum()
    assert 1 - residual.item() == pytest.approx(float(row["r2_fit"].iloc[0]), abs=0.02)
    assert float(row["lower"].iloc[0]) == pytest.approx(curve.x[0, 0].item())


@pytest.mark.parametrize("settings", CONFIGS)
def test_what_was_learned_is_named_apart_from_the_base(settings, make_bent, batch):
    model = make_bent("llama", CONFIGS[settings])
    place = find_curve_slots(model)[0]
    summary = summarize(model, batch, part="learned", library=LIBRARY.subset(["sin", "x"]), replace=(0.0, 1.0))
    slot = summary.slots[0]
    with record_edges(model) as records, torch.no_grad():
        model(**batch)
    curves = edge_curves(model, place.site, place.name, records=records)
    again = fit_symbolic(curves.x, curves.learned, library=LIBRARY.subset(["sin", "x"]))
    assert torch.equal(slot.fits.symbols, again.symbols)
    assert json.loads(summary.to_json())["part"] == "learned" and "what was learned on top" in summary.to_markdown()
    assert summary.replaced[0][2] == pytest.approx(summary.loss, rel=1e-6)
    assert summary.replaced[1][2] == pytest.approx(_loss_of_formulas(model, batch, summary), rel=1e-4)


def _loss_of_formulas(model, batch, summary):
    """With every layer computed from bases and formulas, edge by edge."""
    handles = []
    for slot in summary.slots:

        def hook(module, args, kwargs, output, slot=slot):
            x_NI = args[0].reshape(-1, args[0].shape[-1])
            outputs = slot.slot.num_outputs
            fitted = slot.fits.evaluate(x_NI.mT.repeat_interleave(outputs, dim=0)).reshape(x_NI.shape[1], outputs, -1)
            base = module.base(x_NI) if callable(getattr(module, "base", None)) else x_NI
            if slot.slot.has_weights:
                new = (base.mT[:, None] * module.weight.mT[..., None] + fitted).sum(0).mT
                new = new if module.bias is None else new + module.bias
            else:
                new = base + fitted[:, 0].mT
            factor = args[1] if len(args) > 1 else kwargs.get("factor")
            new = new.reshape(output.shape)
            return new if factor is None else new * factor

        handles.append(slot.slot.module.register_forward_hook(hook, with_kwargs=True))
    with torch.no_grad():
        loss = model(**batch).loss.item()
    for handle in handles:
        handle.remove()
    return loss


@torch.no_grad()
def test_a_learned_sine_is_found_beneath_its_base(make_bent, batch):
    model = make_bent()
    place = find_curve_slots(model)[0]
    with torch.no_grad():
        for module in (p.module for p in find_curve_slots(model)):
            module.coefficients.zero_()
        model.model.layers[0].mlp.gate_proj.weight.mul_(15)  # inputs from about -3 to 3
    edit_curve(model, EdgeRef(place.site, place.name, 3, 3), lambda x: torch.nn.functional.silu(x) + torch.sin(2 * x))
    with torch.enable_grad():
        slot = summarize(model, batch, part="learned").slots[0]
    assert slot.fits.names[3] == "sin" and slot.fidelity.r2_learned[3] > 0.99
    assert set(slot.fits.names[:3]) == {"constant"}


def test_straight_curves_are_their_activation_and_formulas_cost_nothing(make_bent, batch):
    model = make_bent()
    with torch.no_grad():
        for place in find_curve_slots(model):
            place.module.coefficients.zero_()
    summary = summarize(model, batch)
    assert summary.coverage() == 1.0
    assert summary.replaced[-1][2] == pytest.approx(summary.loss, abs=1e-3)


@torch.no_grad()
def test_the_control_is_as_bent_as_the_model(make_bent, batch):
    model = make_bent("llama", CONFIGS["full"])
    with record_edges(model) as records:
        model(**batch)
    for place in find_curve_slots(model):
        x, y, _ = RandomEdges(place).at(sample_points(place, records, 64))
        real = edge_curves(model, place.site, place.name, records=records)
        assert len(x) == min(len(real), 2048) or place.num_outputs == 1
        assert y.std(dim=-1).mean() == pytest.approx(real.y.std(dim=-1).mean().item(), rel=0.5)


def test_dead_and_distant_channels_have_a_row(make_bent, batch):
    model = make_bent()
    with torch.no_grad():
        up = model.model.layers[0].mlp
        up.gate_proj.weight[:3] = 0
        up.gate_proj.register_forward_hook(lambda _, args, output: output + torch.arange(24) * 1e4)
    table = summarize(model, batch).to_pandas()
    assert len(table) == 48 and table["r2"].between(-1, 1).all()


def test_a_loss_that_is_not_finite_is_no_number(make_bent, batch, tmp_path):
    summary = summarize(make_bent(), {**batch, "labels": torch.full((3, 20), -100)})
    figures = json.loads(summary.to_json())
    assert figures["loss"] is None and "nan" in summary.to_markdown()


def test_without_labels_there_is_no_loss(make_bent, batch):
    summary = summarize(make_bent(), {"input_ids": batch["input_ids"]})
    assert summary.loss is None and summary.replaced == ()
    assert "learned_attribution" not in summary.to_pandas()


def test_bad_input(make_bent, batch):
    model = make_bent()
    with pytest.raises(ConversionStateError, match="no curves to read"):
        summarize(torch.nn.Linear(2, 2), {})
    with pytest.raises(DataError, match=r"No token of these batches reached 2 slots, such as model.layers.0.mlp/act"):
        summarize(model, [])
    with pytest.raises(ConfigError, match="Unknown part 'base' of edges. Choose edge or learned"):
        summarize(model, batch, part="base")
    with pytest.raises(ConfigError, match=r"shares to replace must be from 0 to 1, got \(2,\)"):
        summarize(model, batch, replace=(2,))
    with pytest.raises(ConfigError, match=r"\('a', 'act'\) has no curves. Choose from 2, such as"):
        summarize(model, batch, slots=[("a", "act")])
