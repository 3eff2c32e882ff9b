"""The audit: every edge has a row, aggregates stand beside a random control, and the model stays as it is."""

import gc
import json
import math
import re
import tempfile
import warnings
from dataclasses import replace

import pandas
import pytest
import torch
import transformers
from interp_models import CONFIGS, FAMILIES

from kansformer import KANConfig, KANLinear, convert
from kansformer.conversion.slots import find_curve_slots
from kansformer.errors import ConfigError, ConversionStateError, DataError
from kansformer.interp import EdgeRef, audit, edge_curves, edit_curve, faithfulness, record_edges, summarize
from kansformer.interp.curves import sample_points
from kansformer.interp.edge_file import R2_COLUMNS, SCORE_COLUMNS
from kansformer.interp.edge_table import EdgeTable
from kansformer.interp.fidelity import RandomEdges
from kansformer.interp.wording import conclude
from kansformer.symbolic import KAN_LIBRARY, LIBRARY, SymbolLibrary, fit_symbolic

SHARES = ["10% as formulas", "50% as formulas", "100% as formulas"]
FAITHFUL = ["layers' means", "replacing layers"]


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
    assert [state[0] for state in seen if state[3].endswith(" batches/s")] == ["reading", *SHARES, *FAITHFUL]
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
@pytest.mark.parametrize("settings", ["act", "full"])
def test_the_formulas_are_measured_in_standard_metrics_too(settings, make_bent, batch, monkeypatch, tmp_path):
    model = make_bent("llama", CONFIGS[settings])
    monkeypatch.setattr(audit, "FAITHFUL_TOKENS", 50)
    with torch.enable_grad():
        summary = summarize(model, [batch, batch, batch], library=KAN_LIBRARY)
    result = summary.faithfulness
    assert result.tokens == 60 and list(result.controls) == ["base alone", "random curves"]
    assert result.original.ce_loss == pytest.approx(summary.loss, rel=1e-6)
    assert result.replaced.ce_loss == pytest.approx(summary.replaced[-1][2], rel=1e-6)
    for slot in find_curve_slots(model):
        slot.module.coefficients.zero_()
    assert result.controls["base alone"].ce_loss == pytest.approx(model(**batch).loss.item(), rel=1e-5)
    figures = json.loads(summary.to_json())
    assert figures["faithfulness"] == result.to_dict()
    for row in result.table():
        assert f"| {' | '.join(row)} |" in summary.to_markdown()
    summary.write_parquet(tmp_path / "edges.parquet")
    table = pandas.read_parquet(tmp_path / "edges.parquet")
    for slot in figures["slots"]:  # of the table at 64 of 60 tokens each, in the metrics at every token
        rows = table[(table["site"] == slot["site"]) & (table["slot"] == slot["slot"])]
        assert slot["l0"] == pytest.approx(rows["alive"].sum(), rel=1e-5)
        assert slot["share_alive"] == (rows["alive"] > 0).mean()
        path = next(s.slot.path for s in summary.slots if (s.slot.site, s.slot.name) == (slot["site"], slot["slot"]))
        assert slot["l0"] == pytest.approx(result.original.l0[path], rel=0.03)


def test_nothing_is_replaced_where_nothing_is_asked_for(make_bent, batch):
    assert summarize(make_bent(), batch, library=KAN_LIBRARY, replace=()).faithfulness is None
    assert summarize(make_bent(), {"input_ids": batch["input_ids"]}, library=KAN_LIBRARY).faithfulness is None


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


@pytest.mark.parametrize("part", ["edge", "learned"])
def test_curves_that_were_never_trained_are_not_counted_as_explained(part, batch):
    """A curve of zeros was explained to 100 % by a formula of its base."""
    model = convert(transformers.AutoModelForCausalLM.from_config(FAMILIES["llama"]()).eval(), KANConfig())
    summary = summarize(model, batch, part=part)
    assert math.isnan(summary.coverage("r2_learned")) and math.isnan(summary.coverage("r2_learned", control=True))
    assert summary.num_trained == 0 and not summary.to_pandas()["trained"].any()
    figures = json.loads(summary.to_json())
    assert figures["coverage_r2_learned"] is None and figures["trained"] == 0 == figures["slots"][0]["trained"]
    assert summary.conclusion == figures["conclusion"] and summary.conclusion in summary.to_markdown()
    assert re.match("No curve was trained: the learned part of all 48 edges is exactly zero", summary.conclusion)


def test_only_trained_curves_are_judged_by_what_they_learned(make_bent, batch):
    model = make_bent()
    with torch.no_grad():
        model.model.layers[0].mlp.act_fn.coefficients.zero_()
        model.model.layers[1].mlp.act_fn.coefficients[:4] = 0
    summary = summarize(model, batch)
    assert [slot.totals.trained for slot in summary.slots] == [0, 20] and summary.num_trained == 20
    assert summary.counts("r2_learned")[1] == 20 == int(summary.to_pandas()["trained"].sum())
    assert "of the 20 of 48 edges that were trained" in summary.conclusion


def test_the_conclusion_compares_with_chance():
    figures = {"edges": 1000, "trained": 1000, "loss": 3.33434, "loss_with_formulas": 3.43456}
    text = conclude(model=(90, 1000), control=(0.01, 2000), **figures)
    assert text == (
        "One known function explains what was learned on 9.0% of all 1,000 edges, more than by chance: of random "
        "curves it explains 1.0%; with every edge computed by its formula the loss is 3.4346 nats instead of 3.3343."
    )
    assert "hardly more than by chance" in conclude(model=(45, 1000), control=(0.01, 2000), **figures)
    assert "no more than by chance" in conclude(model=(12, 1000), control=(0.01, 2000), **figures)
    some = conclude(model=(4, 4), control=(0.01, 2000), **figures)
    assert "100.0% of the 4 edges, of all 1,000 edges, whose learned part varies at the recorded inputs, more" in some
    assert "do not vary at the recorded inputs" in conclude(model=(0, 0), control=(math.nan, 0), **figures)


def test_places_that_share_a_layer_and_a_slot_are_told_apart():
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = torch.nn.ModuleList([torch.nn.ModuleDict({"up": KANLinear(2, 3)})])
            self.decoder = torch.nn.ModuleList([torch.nn.ModuleDict({"up": KANLinear(2, 3)})])
            self.head = KANLinear(2, 1)

        def forward(self, x):
            return self.encoder[0]["up"](x), self.decoder[0]["up"](x), self.head(x)

    names = summarize(Two(), {"x": torch.randn(9, 2)}).place_names()
    assert names == ["layer 0's up projection in encoder.0", "layer 0's up projection in decoder.0", "'head'"]


@pytest.mark.parametrize("settings", ["act", "full", "low rank"])
def test_small_groups_and_chunks_give_the_same_audit(settings, make_bent, batch, monkeypatch, tmp_path):
    model = make_bent("llama", CONFIGS[settings])
    whole = summarize(model, batch)
    monkeypatch.setattr(audit, "BUDGET", 150_000)
    monkeypatch.setattr(audit, "EDGE_CHUNK", 100)
    stages = []
    parts = summarize(model, batch, progress=lambda stage, *_: stages.append(stage))
    assert stages.count("reading") > 1
    first, second = whole.to_pandas(), parts.to_pandas()
    # The last digits of a fit depend on the curves that are fitted with it.
    numbers = [name for name in first.select_dtypes("number") if name not in ("a", "b", "c", "d", "complexity")]
    same = first["function"] == second["function"]
    pandas.testing.assert_frame_equal(first.loc[same, numbers], second.loc[same, numbers], rtol=1e-3, atol=1e-4)
    assert same.mean() > 0.98
    assert parts.loss == whole.loss and parts.tokens == whole.tokens
    parts.write_parquet(tmp_path / "edges.parquet")
    written = pandas.read_parquet(tmp_path / "edges.parquet")
    rounded = ["a", "b", "c", "d", *SCORE_COLUMNS, *R2_COLUMNS]
    pandas.testing.assert_frame_equal(written.drop(columns=rounded), second.drop(columns=rounded))
    assert list(written) == list(second)


def test_no_table_of_edges_stays_in_memory(make_bent, batch, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = make_bent("llama", CONFIGS["low rank"])
    largest = []
    append = EdgeTable.append
    monkeypatch.setattr(audit, "EDGE_CHUNK", 96)
    monkeypatch.setattr(audit, "BUDGET", 2**16)

    def append_and_look(self, columns):
        append(self, columns)
        if self.folder.count % 10 == 0:  # looking at all objects takes a while
            largest.append(held())

    monkeypatch.setattr(EdgeTable, "append", append_and_look)

    def held():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other libraries' objects that are looked at
            known = {id(value) for value in (*model.parameters(), *model.buffers())}
            alive = [value for value in gc.get_objects() if type(value) is torch.Tensor and id(value) not in known]
        return max(value.numel() for value in alive if value.dtype == torch.float64 and value.ndim <= 1)

    summary = summarize(model, batch)
    assert (
        summary.num_edges == 4 * 16 * 24 and len(largest) >= 2 and max(largest) <= 400
    )  # of one chunk, or of one slot's random edges
    assert list(tmp_path.iterdir())
    del summary
    gc.collect()
    assert not list(tmp_path.iterdir())


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


def test_layers_that_the_first_tokens_do_not_reach_are_audited_too(monkeypatch):
    class Experts(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = torch.nn.ModuleList([KANLinear(4, 4), KANLinear(4, 4)])

        def forward(self, x, labels):
            y = self.experts[int(labels[0, 0])](x)
            return transformers.utils.ModelOutput(loss=(y - labels).pow(2).mean(), logits=y)

    batches = [{"x": torch.randn(8, 4), "labels": torch.full((8, 4), float(expert))} for expert in (0, 1)]
    model = Experts()
    for expert in model.experts:
        torch.nn.init.normal_(expert.coefficients)
    monkeypatch.setattr(audit, "FAITHFUL_TOKENS", 0)
    assert len(summarize(model, batches).to_pandas()) == 32


def test_inputs_that_are_no_tokens_are_not_all_held(monkeypatch):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = KANLinear(4, 4)

        def forward(self, x, labels):
            y = self.layer(x)
            return transformers.utils.ModelOutput(loss=(y - labels).pow(2).mean(), logits=y)

    held = []

    def looked(model, edit, batches, **settings):
        held.append(len(batches))
        return faithfulness(model, edit, batches, **settings)

    monkeypatch.setattr(audit, "FAITHFUL_TOKENS", 16)
    monkeypatch.setattr(audit, "faithfulness", looked)
    summarize(Model(), [{"x": torch.randn(8, 4), "labels": torch.randn(8, 4)} for _ in range(5)])
    assert held == [2]


def test_kept_fits_are_of_the_same_prices(make_bent, batch, tmp_path):
    model, counts = make_bent(), []
    costly = SymbolLibrary([replace(symbol, complexity=symbol.complexity + 9) for symbol in KAN_LIBRARY])
    for library in (KAN_LIBRARY, KAN_LIBRARY, costly):
        summarize(model, {"input_ids": batch["input_ids"]}, library=library, kept=tmp_path)
        counts.append(len([path for path in tmp_path.rglob("*.parquet") if re.search(r"-\d+-\d+$", path.stem)]))
    assert counts[0] == counts[1] == counts[2] / 2


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


def test_batches_without_labels_are_all_read(make_bent):
    model, tokens = make_bent(), torch.randint(50, (6, 12), generator=torch.Generator().manual_seed(1))
    parts = summarize(model, [{"input_ids": part} for part in tokens.split(2)], library=KAN_LIBRARY)
    whole = summarize(model, {"input_ids": tokens}, library=KAN_LIBRARY)
    assert parts.tokens == whole.tokens == 72
    expected = whole.to_pandas()["variance"].to_numpy()
    assert parts.to_pandas()["variance"].to_numpy() == pytest.approx(expected, rel=1e-3)
