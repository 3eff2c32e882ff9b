"""The study of gate functions: fair variants, runs that go on where they were stopped, and what the report computes."""

import dataclasses
import math
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def study(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] in ("activation_study", "contest")]:
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


def test_every_variant_has_as_many_weights_and_its_own_function():
    from activation_study.curve_sets import CurveSet
    from activation_study.engine import evaluate, fresh_model
    from activation_study.variants import GROUPS, VARIANTS

    from kansformer import convert

    learned = convert(fresh_model(make_run()), GROUPS)
    curves = CurveSet.of(learned)
    for coefficients in curves.slots.values():
        coefficients.normal_(generator=torch.Generator().manual_seed(0))
    tokens = torch.randint(96, (2, 65), generator=torch.Generator().manual_seed(1))
    plain = fresh_model(make_run())
    weights = sum(parameter.numel() for parameter in plain.model.layers.parameters())
    results = {}
    for name, variant in VARIANTS.items():
        model = fresh_model(make_run(name))
        variant.equip(model, curves, seed=3)
        count = sum(parameter.numel() for parameter in model.model.layers.parameters())
        assert abs(count / weights - 1) < 0.003, name
        results[name] = round(evaluate(model, tokens), 6)
    same = [name for name in VARIANTS if results[name] == results["swiglu"]]
    assert same == ["swiglu", "swish-beta", "swish-beta-x3", "curves", "curves-gate", "curves-tied"]  # at the start


def test_given_curves_are_frozen_and_tied_ones_are_one_parameter():
    from activation_study.curve_sets import CurveSet
    from activation_study.engine import fresh_model
    from activation_study.variants import GROUPS, VARIANTS

    from kansformer import convert
    from kansformer.nn.curves import curved_modules

    curves = CurveSet.of(convert(fresh_model(make_run()), GROUPS))
    frozen, tied = fresh_model(make_run(size="0.8M")), fresh_model(make_run(size="0.8M"))
    curves = CurveSet({slot: c.expand(4, -1, -1).clone() + 1 for slot, c in curves.slots.items()})
    VARIANTS["frozen"].equip(frozen, curves, seed=0)
    assert all(not m.coefficients.requires_grad and m.coefficients.eq(1).all() for _, m in curved_modules(frozen))
    VARIANTS["curves-tied"].equip(tied, None, seed=0)
    assert sum(p.numel() for n, p in tied.named_parameters() if n.endswith("coefficients")) == 22
    with pytest.raises(ValueError, match="needs the curves of another run"):
        VARIANTS["frozen"].equip(fresh_model(make_run()), None, seed=0)


def test_random_curves_keep_the_spectrum_and_permuted_ones_the_curves():
    from activation_study.curve_sets import CurveSet

    curves = CurveSet({"act_fn": torch.randn(3, 4, 11, generator=torch.Generator().manual_seed(0))})
    other = curves.random_like(1).slots["act_fn"]
    spectrum = torch.fft.rfft(curves.slots["act_fn"]).abs()
    torch.testing.assert_close(torch.fft.rfft(other).abs(), spectrum)
    assert not torch.allclose(other, curves.slots["act_fn"])
    permuted = curves.permuted(1).slots["act_fn"].flatten(0, 1)
    assert sorted(permuted[:, 0].tolist()) == sorted(curves.slots["act_fn"].flatten(0, 1)[:, 0].tolist())


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
    assert [entry[0] for entry in rest.trace] == [entry[0] for entry in whole.trace]


def test_rows_survive_the_file_and_say_the_best_rate(tmp_path):
    from activation_study.rows import append_row, best_rate, losses, read_rows

    rows = [make_row(make_run(lr=lr, length=3.0), loss) for lr, loss in [(1e-3, 1.5), (2e-3, 1.4), (4e-3, 1.6)]]
    for row in rows:
        append_row(tmp_path / "rows.csv", row)
    assert read_rows(tmp_path / "rows.csv") == rows
    assert best_rate(rows, "toy", 20.0, "adamw") == 2e-3  # that of the nearest shorter length
    with pytest.raises(LookupError, match="for toy with muon"):
        best_rate(rows, "toy", 20.0, "muon")
    more = make_row(dataclasses.replace(rows[0].run, seed=2), 1.7)
    assert losses([*rows, more], rows[0].run) == {1: 1.5, 2: 1.7}


def test_the_report_pairs_corrects_and_says_how_much_longer(tmp_path):
    from activation_study.report import Group, _lines, write_report

    rows = []
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
    assert "curves of 8 groups" in write_report(rows, tmp_path) and (tmp_path / "activations.png").exists()
