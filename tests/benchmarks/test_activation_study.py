"""The study of gate functions: fair variants, runs that go on where they were stopped, and what the report computes."""

import dataclasses
import math
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def study(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    before = set(sys.modules)  # others hold what they have imported
    yield
    own = ("activations", "activation_study", "contest", "speed")
    for name in [name for name in sys.modules if name not in before and name.split(".")[0] in own]:
        del sys.modules[name]


@pytest.fixture
def corpus():
    from activation_study.corpora import BLOCK, Corpus

    tokens = torch.randint(96, (200, BLOCK), generator=torch.Generator().manual_seed(0), dtype=torch.int8)
    return Corpus("noise", tokens[:-8], tokens[-8:], "0")


def make_run(variant="swiglu", seed=1, **changes):
    from activation_study.engine import Run

    values = dict(phase="explore", size="toy", corpus="python", length=0.01, optimizer="adamw", lr=2e-3)
    return Run(variant=variant, seed=seed, **values | changes)


def make_row(run, loss):
    from activation_study.rows import Row

    return Row(run, loss, 1, 0, 1.0, 1, "text", "commit", "torch", "processor")


@pytest.fixture
def curves_file(tmp_path):
    """Random curves of a toy run."""
    from activation_study.engine import fresh_model
    from activation_study.variants import GROUPS

    from kansformer import convert, freeze_curves
    from kansformer.nn.curves import curved_modules

    model = convert(fresh_model(make_run()), GROUPS)
    generator = torch.Generator().manual_seed(0)
    for _, module in curved_modules(model):
        module.coefficients.data.normal_(generator=generator)
    freeze_curves(model, tmp_path / "source.safetensors", source="a test")
    return tmp_path / "source.safetensors"


def test_every_variant_has_as_many_weights_and_its_own_function(curves_file):
    from activation_study.engine import evaluate, fresh_model
    from activation_study.variants import VARIANTS

    tokens = torch.randint(96, (2, 65), generator=torch.Generator().manual_seed(1))
    plain = fresh_model(make_run())
    weights = sum(parameter.numel() for parameter in plain.model.layers.parameters())
    results = {}
    for name, variant in VARIANTS.items():
        model = fresh_model(make_run(name))
        variant.equip(model, curves_file, seed=3)
        count = sum(parameter.numel() for parameter in model.model.layers.parameters())
        assert abs(count / weights - 1) < 0.003, name
        results[name] = round(evaluate(model, tokens), 6)
    same = [name for name in VARIANTS if results[name] == results["swiglu"]]
    assert same == ["swiglu", "swish-beta", "swish-beta-x3", "curves", "curves-gate", "curves-tied"]  # at the start
    # In one layer the curves are permuted over groups only, and a form that is as strong as itself is itself.
    assert results["silu-cosine-deeper"] == results["silu-cosine-half"]


def test_positions_that_are_known_are_those_of_the_model():
    from activation_study.engine import fresh_model

    tokens = torch.randint(96, (2, 65), generator=torch.Generator().manual_seed(1))
    model = fresh_model(make_run())
    known = [model(blocks).logits for blocks in (tokens, tokens[:, :-1])]  # the Trainer reads whole blocks
    model.model.rotary_emb = type(model.model)(model.config).rotary_emb
    for blocks, logits in zip((tokens, tokens[:, :-1]), known, strict=True):
        assert torch.equal(model(blocks).logits, logits)


def test_given_curves_are_frozen_and_tied_ones_are_one_parameter(curves_file):
    from activation_study.engine import fresh_model
    from activation_study.variants import VARIANTS

    from kansformer.nn.curves import curved_modules

    frozen, tied = fresh_model(make_run()), fresh_model(make_run(size="0.8M"))
    VARIANTS["frozen"].equip(frozen, curves_file, seed=0)
    assert not any(module.coefficients.requires_grad for _, module in curved_modules(frozen))
    VARIANTS["frozen-start"].equip(started := fresh_model(make_run()), curves_file, seed=0)
    assert all(module.coefficients.requires_grad for _, module in curved_modules(started))
    VARIANTS["curves-tied"].equip(tied, None, seed=0)
    assert sum(p.numel() for n, p in tied.named_parameters() if n.endswith("coefficients")) == 22
    with pytest.raises(ValueError, match="needs the curves of another run"):
        VARIANTS["frozen"].equip(fresh_model(make_run()), None, seed=0)


def test_random_curves_keep_the_spectrum_and_permuted_ones_the_curves():
    from activation_study.given_curves import mean_of_all, mean_of_layer, permuted, random_phases

    curves = torch.randn(3, 4, 11, generator=torch.Generator().manual_seed(0))
    other = random_phases(curves, torch.Generator().manual_seed(1))
    torch.testing.assert_close(torch.fft.rfft(other).abs(), torch.fft.rfft(curves).abs())
    assert not torch.allclose(other, curves)
    shuffled = permuted(curves, torch.Generator().manual_seed(1))
    assert not torch.equal(shuffled, curves)
    assert sorted(shuffled[..., 0].flatten().tolist()) == sorted(curves[..., 0].flatten().tolist())
    torch.testing.assert_close(mean_of_layer(curves, None)[1, 2], curves[1].mean(0))
    torch.testing.assert_close(mean_of_all(curves, None)[1, 2], curves.mean((0, 1)))


def test_no_block_is_read_twice_and_a_short_text_is_refused(corpus):
    blocks = torch.cat(list(corpus.batches(6, 32, seed=1)))
    assert len(blocks.unique(dim=0)) == len(blocks) == 192
    assert not torch.equal(blocks, torch.cat(list(corpus.batches(6, 32, seed=2))))
    with pytest.raises(ValueError, match="has 192 blocks, and 224 are needed"):
        corpus.batches(7, 32, seed=1)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_stopped_run_goes_on_to_the_same_loss(corpus, tmp_path, monkeypatch, optimizer):
    from activation_study import engine

    run = make_run("curves", optimizer=optimizer)
    whole = engine.train(run, corpus, fast=False)
    clock = iter(range(1000))
    monkeypatch.setattr(engine.time, "monotonic", lambda: next(clock))
    state = tmp_path / "state.pt"
    assert engine.train(run, corpus, fast=False, state_file=state, deadline=2) is None and state.exists()
    rest = engine.train(run, corpus, fast=False, state_file=state)
    assert rest.val_loss == whole.val_loss and not state.exists()
    assert whole.learned == 176
    assert [(tokens, loss) for tokens, _, loss in rest.trace] == [(tokens, loss) for tokens, _, loss in whole.trace]


def test_minutes_end_a_run_and_the_next_call_goes_on(corpus, tmp_path, monkeypatch):
    import activations
    from activation_study import engine

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(activations, "read_corpus", lambda name, folder: corpus)
    monkeypatch.setattr(activations, "train", partial(engine.train, fast=False))
    clock = iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    assert activations.train_run(make_run(), tmp_path, tmp_path, end=2) is None
    (kept,) = activations.STATES.iterdir()
    assert torch.load(kept, weights_only=True)["step"] > 0
    assert activations.train_run(make_run(), tmp_path, tmp_path, end=math.inf).run == make_run()
    assert not kept.exists()


def test_a_run_that_diverges_has_a_row(corpus, monkeypatch):
    from activation_study import engine
    from activation_study.rows import Row

    monkeypatch.setattr(engine, "evaluate", lambda model, blocks: math.nan)
    outcome = engine.train(make_run(), corpus, fast=False)
    assert math.isnan(Row.of(make_run(), outcome, "0").val_loss)


def test_rows_survive_the_file_and_say_the_best_rate_and_variants(tmp_path):
    from activation_study.rows import Row, best_rate, best_variants, check_text, losses
    from dataclass_csv import append_row, read_rows

    tried = [(1e-3, 1.5), (2e-3, 1.4), (4e-3, 1.6), (8e-3, math.nan)]
    rows = [make_row(make_run(lr=lr, length=3.0, size="0.8M"), loss) for lr, loss in tried]
    for row in rows[:3]:
        append_row(tmp_path / "rows.csv", row)
    assert read_rows(tmp_path / "rows.csv", Row) == rows[:3]
    assert best_rate(rows, "0.8M", 20.0, "adamw") == 2e-3  # that of the nearest shorter length
    with pytest.raises(LookupError, match="for 0.8M with muon"):
        best_rate(rows, "0.8M", 20.0, "muon")
    more = make_row(dataclasses.replace(rows[0].run, seed=2), 1.7)
    assert losses([*rows, more], rows[0].run) == {1: 1.5, 2: 1.7}
    gains = {"geglu": 0.02, "bilinear": -0.01, "frozen": 0.03}
    for name, gain in gains.items():
        source = "shakespeare" if name == "frozen" else ""
        rows.append(make_row(make_run(name, lr=2e-3, length=3.0, size="0.8M", source=source), 1.4 - gain))
    assert best_variants(rows, gains, 3.0, 2) == ["frozen", "geglu"]
    with pytest.raises(LookupError, match="Only 3 variants were tried at 3 tokens a parameter; 4 are needed"):
        best_variants(rows, gains, 3.0, 4)
    check_text(rows, "python", "text")
    with pytest.raises(SystemExit, match="has the digest other, and the rows are of text"):
        check_text(rows, "python", "other")


def test_stages_wait_for_those_that_choose_for_them():
    from activation_study.stages import STAGES

    assert len(list(STAGES["rates"]([]))) == 8
    rows = [make_row(run, 1.0 + run.lr) for run in STAGES["rates"]([])]
    transfer = list(STAGES["transfer"](rows))
    assert len(transfer) == 32 and {run.lr for run in transfer} == {1e-3}
    assert {run.variant for run in transfer[:4]} == {"swiglu", "frozen", "frozen-one", "silu-cosine"}
    with pytest.raises(LookupError, match="variants were tried"):
        list(STAGES["second-screen"](rows))


def test_the_report_pairs_corrects_and_says_how_much_longer(tmp_path):
    from activation_study.report import Group, _lines, write_report
    from activation_study.times import StepTime

    rows = []
    for length, loss in [(1.0, 2.0), (10.0, 1.5)]:
        rows += [make_row(make_run(length=length, lr=lr), loss + bad) for lr, bad in [(2e-3, 0.0), (4e-3, 0.1)]]
    for seed in range(4):
        for length, loss in [(1.0, 2.0), (10.0, 1.5)]:
            rows.append(make_row(make_run(seed=seed, length=length, phase="confirm"), loss + 0.01 * seed))
        for name, gain in [("curves", 0.25 + 0.001 * seed), ("geglu", 0.001 * seed)]:
            rows.append(make_row(make_run(name, seed=seed, length=1.0, phase="confirm"), 2.0 + 0.01 * seed - gain))
    group = Group("confirm", "toy", "python", 1.0, "adamw", 2e-3)
    best, middle, last = _lines(rows, group)
    assert (best.variant, middle.variant, last.variant) == ("curves", "geglu", "swiglu")
    assert best.difference.mean == pytest.approx(-0.2515) and best.holm == pytest.approx(2 * best.difference.p)
    assert best.speed == pytest.approx(10 ** (0.2515 / 0.5), rel=1e-6)
    assert math.isnan(last.difference.p)
    page = write_report(rows, [StepTime("curves", "toy", 1.0, 1.04, 1.1, 5, "commit", "torch", "processor")], tmp_path)
    assert "curves of 8 groups" in page and "1.04 (1.00–1.10)" in page and (tmp_path / "activations.png").exists()


def test_a_step_is_timed_beside_one_of_swiglu(corpus, monkeypatch):
    from activation_study.times import time_step

    monkeypatch.setattr(torch, "compile", lambda function, **_: function)  # compiling takes longer than all else
    row = time_step(make_run("relu2-glu", length=1.0), corpus, None, rounds=2)
    assert (row.variant, row.size, row.rounds) == ("relu2-glu", "toy", 2)
    assert 0 < row.lower <= row.ratio <= row.upper
