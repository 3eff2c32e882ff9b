"""The runs: each one `train` of a recipe, in a process of its own with one thread; rows are kept as they come."""

from __future__ import annotations

import dataclasses
import multiprocessing
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass

from provenance import commit

from contest.variants import VARIANTS, count_ffn, recipe_of, register_activations


@dataclass(frozen=True)
class Job:
    """One run.

    Args:
        variant: key of `VARIANTS`.
        steps: optimizer steps.
        seed: of weights and data.
        lr: learning rate.
    """

    variant: str
    steps: int
    seed: int
    lr: float


@dataclass(frozen=True)
class Row:
    """What a run gave; the columns of the CSV.

    Args:
        variant, steps, seed, lr: the job's.
        val_loss: on all of the validation text, in nats per character.
        width: hidden width.
        ffn_parameters: of one block.
        parameters: of the model.
        seconds: of training; runs share the machine, so compare only roughly.
        versions: kansformer's commit and torch's version.
    """

    variant: str
    steps: int
    seed: int
    lr: float
    val_loss: float
    width: int
    ffn_parameters: int
    parameters: int
    seconds: float
    versions: str

    @property
    def job(self) -> Job:
        return Job(self.variant, self.steps, self.seed, self.lr)


def run_job(job: Job, text: str) -> tuple[Row, list[tuple[int, float]]]:
    """Train and evaluate; the row, and the training losses, each the mean of 50 steps."""
    import torch
    from transformers.utils import logging

    from kansformer.training.run import train

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    register_activations()
    recipe = recipe_of(VARIANTS[job.variant], text=text, steps=job.steps, seed=job.seed, lr=job.lr)
    with tempfile.TemporaryDirectory() as folder:
        result = train(recipe, folder)
    width = recipe.model.config["intermediate_size"]
    row = Row(
        **dataclasses.asdict(job),
        val_loss=round(result.evaluation["eval_loss"], 5),
        width=width,
        ffn_parameters=count_ffn(recipe.to_dict(), width),
        parameters=result.parameters,
        seconds=round(result.seconds, 1),
        versions=f"{commit()} torch {torch.__version__}",
    )
    return row, list(result.losses)


def run_all(jobs: list[Job], text: str, processes: int) -> Iterator[tuple[Row, list[tuple[int, float]]]]:
    """Run jobs in several processes at once, in their order; results come as they are ready."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        futures = [pool.submit(run_job, job, text) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)
