"""Transcoders are compared at equal parameters, and a run that was interrupted goes on."""

import pytest
import transcoders as benchmark
from dataclass_csv import append_row, read_rows

from kansformer.nn.transcoder import Transcoder

SETTING = benchmark.Setting(
    model="embedded", layer=2, k=4, topk_latents=64, tokens=512, steps=3, batch_tokens=64, seed=0
)  # fmt: skip


def row(variant, seed, fvu, lr=0.01):
    setting = benchmark.replace(SETTING, seed=seed)
    return benchmark.Row(
        setting=setting, variant=variant, lr=lr, curve_multiplier=0.0, latents=64, parameters=1000, train_fvu=fvu,
        fvu=fvu, l0=4.0, share_alive=1.0, loss_tokens=0, loss_score=-1.0, kl_score=-1.0, named=3, curves=5,
        random_named=2, seconds=1.0, commit="abc", processor="a processor",
    )  # fmt: skip


@pytest.mark.parametrize("variant", benchmark.VARIANTS)
def test_a_variant_has_as_many_latents_as_the_parameters_allow(variant):
    budget = benchmark.num_parameters(Transcoder(16, 64, k=4, basis=None))
    latents = benchmark.latents_within(budget, 16, variant)
    sizes = [
        benchmark.num_parameters(Transcoder(16, n, k=4, **benchmark.VARIANTS[variant])) for n in (latents, latents + 1)
    ]
    assert sizes[0] <= budget < sizes[1]


def test_differences_are_to_the_same_without_curves_at_its_best_rate(tmp_path):
    rows = [row("topk", seed, 0.5 + 0.1 * seed) for seed in (0, 1)]
    rows += [row("topk", seed, 0.9, lr=0.1) for seed in (0, 1)]
    rows += [row("kan", seed, 0.4 + 0.1 * seed + 0.02 * seed, lr=0.1) for seed in (0, 1)]
    rows += [row("skip", seed, 0.3 + 0.11 * seed) for seed in (0, 1)]
    rows += [row("kan skip", seed, 0.25 + 0.13 * seed) for seed in (0, 1)]
    for one in rows:
        append_row(tmp_path / "rows.csv", one)
    assert read_rows(tmp_path / "rows.csv", benchmark.Row) == rows
    lines = benchmark.summary(rows).splitlines()
    assert len(lines) == 6 and "2 seeds  FVU 0.4600  to topk -0.0900" in lines[3]
    assert "to skip -0.0400" in lines[5]
