"""One row of the survey: everything about one model type. Runs in a worker process."""

from __future__ import annotations

import dataclasses
import time
import warnings

import torch
import transformers

from zoo.build import Specimen, small_model
from zoo.classes import modality, model_class
from zoo.outputs import all_finite, run, same


@dataclasses.dataclass
class Row:
    """A line of the results; the field names are the columns."""

    transformers: str
    type: str
    cls: str = ""
    modality: str = ""
    fed: str = ""
    size: str = ""
    ran: str = "no"
    parameters: int = 0
    sites: int = 0
    act: str = "not_run"
    low_rank: str = "not_run"
    idle: int = 0
    missed: int = 0
    alive: str = ""
    reverted: str = ""
    reason: str = ""
    seconds: float = 0.0


def survey_type(task: tuple[str, bool]) -> Row:
    """Build, run and, unless `run_only`, convert one model type."""
    model_type, run_only = task
    started = time.perf_counter()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    row = Row(transformers.__version__, model_type)
    try:
        row.cls = model_class(model_type).__name__
        row.modality = modality(model_class(model_type))
        specimen = small_model(model_type)
        _describe(row, specimen)
        if not run_only:
            _convert(row, specimen)
    except Exception as error:  # whatever a model raises is its row's reason
        row.reason = _sentence(f"{type(error).__name__}: {error}")
    row.seconds = round(time.perf_counter() - started, 2)
    return row


def _describe(row: Row, specimen: Specimen) -> None:
    row.ran, row.fed, row.size = "yes", specimen.fed, specimen.size
    row.parameters = sum(parameter.numel() for parameter in specimen.model.parameters())
    if not same(specimen.outputs, run(specimen.model, specimen.inputs)):
        row.ran, row.reason = "no", "two runs of the original with the same seed differ"
    elif not all_finite(specimen.outputs):
        row.reason = "some of the original's outputs are not finite"


def _convert(row: Row, specimen: Specimen) -> None:
    from zoo.checks import PRESETS, check  # here, so that --run-only needs no kansformer

    if row.ran == "no":
        return
    reasons, alive, reverted = [row.reason] if row.reason else [], [], []
    for name, config in PRESETS.items():
        verdict = check(specimen, config)
        setattr(row, name, verdict.status)
        row.sites = max(row.sites, verdict.sites)
        if verdict.alive is not None:
            alive.append(verdict.alive)
            reverted.append(verdict.reverted)
        if name == "act":
            row.idle, row.missed = verdict.idle, len(verdict.missed)
            if verdict.missed and verdict.status == "equal":
                reasons.append(f"outside every site: {verdict.missed[0]}")
        if verdict.reason and verdict.reason not in reasons:
            reasons.append(
                verdict.reason if verdict.status in ("no_ffn", "convolutional") else f"{name}: {verdict.reason}"
            )
        if verdict.reverted is False:
            specimen = small_model(row.type)
    row.alive = _yes(alive)
    row.reverted = _yes(reverted)
    row.reason = _sentence(". ".join(reasons))


def _yes(answers: list[bool]) -> str:
    return "" if not answers else "yes" if all(answers) else "no"


def _sentence(text: str) -> str:
    return " ".join(text.split())[:400]
