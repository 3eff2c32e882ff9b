"""Whole suites on tiny sizes: every row is there, and nothing is left out silently."""

import pytest
from speed.blocks import EDGE_VARIANTS, Variant
from speed.models import measure_model
from speed.sizes import SIZES
from speed.suites import Options, measure_size
from speed.variants import variants_for
from tiny_models import tiny_llama
from torch import nn

from kansformer.errors import ConfigError

QUICK = Options(rounds=1, least_seconds=0, memory=False)
TINY = SIZES["tiny"]


@pytest.mark.parametrize("name", ["tiny", "gated-tiny"])
def test_every_variant_has_its_rows(name):
    variants = variants_for(SIZES[name], "cuda", peers=False, compiled=False)  # the longer list; runs anywhere
    report = measure_size("cpu", SIZES[name], variants, QUICK)
    assert [(row.variant, row.measure) for row in report.rows] == [
        (variant.name, measure) for variant in variants for measure in ("forward", "step")
    ]
    assert not report.skips
    for row in report.rows:
        assert row.ratio > 0 and row.parameters > 0 and row.milliseconds is None and row.baseline == variants[0].name
    assert report.rows[0].ratio == 1


def test_memory_comes_with_the_ratio_to_the_baseline(monkeypatch):
    monkeypatch.setattr("speed.memory.peak_of_fresh_process", lambda variant, size: None)
    told = []
    options = Options(rounds=1, least_seconds=0, progress=lambda *state: told.append(state))
    rows = {row.measure: row for row in measure_size("cpu", TINY, EDGE_VARIANTS[:1], options).rows}
    assert list(rows) == ["forward", "step", "saved"]  # no peak where the system cannot tell
    assert rows["saved"].mib == 2 * TINY.tokens * TINY.equal_hidden * 4 / 2**20 and rows["saved"].ratio == 1
    assert told[0] == ("memory of MLP", 0, 1) and told[-1] == ("MLP", 1, 1)


def test_what_cannot_run_is_skipped_with_its_reason():
    def fail(size):
        raise RuntimeError("no compiler\nfor you")

    variants = (
        EDGE_VARIANTS[0],
        Variant(name="shy", build=EDGE_VARIANTS[0].build, refuses=lambda size: f"not at {size.name}"),
        Variant(name="broken", build=fail),
    )
    report = measure_size("cpu", TINY, variants, QUICK)
    assert {row.variant for row in report.rows} == {"MLP"}
    assert [(skip.variant, skip.reason) for skip in report.skips] == [
        ("shy", "not at tiny"),
        ("broken", "it failed with RuntimeError: no compiler"),
    ]
    with pytest.raises(RuntimeError, match="no compiler"):
        measure_size("cpu", TINY, variants[2:], QUICK)


def test_only_parameters_that_a_step_reaches_are_counted():
    def build(size):
        block = EDGE_VARIANTS[0].build(size)
        block.idle = nn.Parameter(block.up_proj.weight.detach().clone())
        return block

    variants = (EDGE_VARIANTS[0], Variant(name="idle", build=build))
    counts = {row.parameters for row in measure_size("cpu", TINY, variants, QUICK).rows}
    assert counts == {2 * TINY.features * TINY.equal_hidden}


def small_llama(**changes):
    return tiny_llama(**dict(intermediate_size=12, num_hidden_layers=1, max_position_embeddings=96) | changes)


def test_a_model_against_itself_converted():
    model = small_llama()
    names = [name for name, _ in model.named_parameters()]
    report = measure_model("model", "small", model, QUICK, write=3)
    assert [(row.measure, row.variant) for row in report.rows] == [
        (measure, variant) for measure in ("prefill", "train", "generate") for variant in ("original", "converted")
    ]
    assert all(row.tokens_per_second > 0 and row.milliseconds is None for row in report.rows)
    assert [row.ratio for row in report.rows if row.variant == "original"] == [1, 1, 1]
    assert "96 tokens read, 3 written after 32" in report.rows[0].note
    assert "96 parameters more" in report.rows[1].note and report.rows[1].parameters > report.rows[0].parameters
    assert [name for name, _ in model.named_parameters()] == names  # the original is left alone


def test_a_model_with_too_few_positions_is_refused():
    with pytest.raises(ConfigError, match="small has 96 positions, too few for 97 tokens"):
        measure_model("model", "small", small_llama(), QUICK, read=97)
