"""A row of the study for each run, and what stages and report ask of all rows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from paired import paired_difference
from provenance import commit, processor

from activation_study.engine import Outcome, Run


@dataclass(frozen=True)
class Row:
    """A run and what it gave.

    Args:
        run: its settings.
        val_loss, parameters, learned, step_ms, peak_mb: as in `Outcome`.
        text: digest of the corpus.
        commit, torch, processor: where it ran.
    """

    run: Run
    val_loss: float
    parameters: int
    learned: int
    step_ms: float
    peak_mb: int
    text: str
    commit: str
    torch: str
    processor: str

    @classmethod
    def of(cls, run: Run, outcome: Outcome, text: str) -> Row:
        return cls(
            run=run,
            val_loss=round(outcome.val_loss, 5),
            parameters=outcome.parameters,
            learned=outcome.learned,
            step_ms=round(outcome.step_ms, 1),
            peak_mb=outcome.peak_mb,
            text=text,
            commit=commit(),
            torch=torch.__version__,
            processor=processor(),
        )


def check_text(rows: Iterable[Row], corpus: str, digest: str) -> None:
    """Check that a corpus is the one of the rows that are there, since runs are compared.

    Raises:
        SystemExit: it is another text.
    """
    others = sorted({row.text for row in rows if row.run.corpus == corpus} - {digest})
    if others:
        raise SystemExit(
            f"The text {corpus!r} of this machine has the digest {digest}, and the rows are of {', '.join(others)}: "
            "other versions of the packages. Begin a file of rows of your own with --out."
        )


def losses(rows: Iterable[Row], like: Run) -> dict[int, float]:
    """Validation losses by seed of the runs that differ from one only in their seed and source."""
    same = dict(seed=like.seed, source=like.source)
    return {row.run.seed: row.val_loss for row in rows if dataclasses.replace(row.run, **same) == like}


def rates_of(rows: Iterable[Row], size: str, optimizer: str) -> dict[float, dict[float, float]]:
    """SwiGLU's mean exploring losses by length and rate where several were tried, over the seeds that these share."""
    collected: dict[float, dict[float, dict[int, float]]] = {}
    for row in rows:
        run = row.run
        tuned = Run("explore", "swiglu", size, "python", run.length, optimizer, run.lr, run.seed)
        if run == tuned and not math.isnan(row.val_loss):
            collected.setdefault(run.length, {}).setdefault(run.lr, {})[run.seed] = row.val_loss
    means: dict[float, dict[float, float]] = {}
    for length, rates in sorted(collected.items()):
        seeds = set.intersection(*map(set, rates.values()))
        if len(rates) > 1 and seeds:
            means[length] = {lr: sum(rates[lr][seed] for seed in seeds) / len(seeds) for lr in sorted(rates)}
    return means


def best_rate(rows: Iterable[Row], size: str, length: float, optimizer: str) -> float:
    """The rate at which SwiGLU's exploring runs have the lowest mean loss; that of the nearest shorter length where
    none was tried at this one.

    Raises:
        LookupError: no rate was tried at this size with this optimizer.
    """
    shorter = {at: rates for at, rates in rates_of(rows, size, optimizer).items() if at <= length}
    if not shorter:
        raise LookupError(
            f"No learning rate was tried for {size} with {optimizer} up to {length:g} tokens a parameter."
        )
    rates = shorter[max(shorter)]
    return min(rates, key=lambda lr: rates[lr])


def best_variants(rows: Sequence[Row], names: Iterable[str], length: float, count: int) -> list[str]:
    """The variants with the lowest mean paired difference to SwiGLU in exploring runs at 0.8M.

    Raises:
        LookupError: fewer were tried at this length.
    """
    lr = best_rate(rows, "0.8M", length, "adamw")
    plain = Run("explore", "swiglu", "0.8M", "python", length, "adamw", lr, 0)
    baseline = losses(rows, plain)
    means = {}
    for name in names:
        difference = paired_difference(losses(rows, dataclasses.replace(plain, variant=name)), baseline)
        if difference.pairs and not math.isnan(difference.mean):
            means[name] = difference.mean
    if len(means) < count:
        raise LookupError(
            f"Only {len(means)} variants were tried at {length:g} tokens a parameter; {count} are needed."
        )
    return sorted(means, key=lambda name: means[name])[:count]
