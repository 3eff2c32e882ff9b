"""The suites of single blocks: every variant of every size, timed against the first, and its memory."""

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

from speed.actions import make_actions
from speed.blocks import Variant, prepare
from speed.harness import MIN_SECONDS, Action, Progress, Rounds, alternate, clock_for
from speed.memory import Memory, measure_memory
from speed.sizes import Size
from speed.table import Row, Skip

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to measure.

    Args:
        device: `cpu` or `cuda`.
        rounds, least_seconds: see `alternate`.
        memory: whether to measure it; on a CPU that takes one process per variant.
        allocator: the state of this process's, for the rows of times; empty where nobody has set it.
        progress: see `alternate`.
    """

    device: str = "cpu"
    rounds: int = 9
    least_seconds: float = MIN_SECONDS
    memory: bool = True
    allocator: str = ""
    progress: Progress | None = None


@dataclass
class Report:
    """What came out of a suite so far."""

    rows: list[Row] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)


def measure_size(suite: str, size: Size, variants: Sequence[Variant], options: Options) -> Report:
    """All variants of one size against the first.

    A variant that refuses or fails is skipped with its reason; the baseline's failure is an error.
    """
    report = Report()
    timed: dict[str, dict[str, Action]] = {"forward": {}, "step": {}}
    parameters: dict[str, int] = {}
    memory: dict[str, Memory] = {}
    with _compilers_that_specialise():
        for variant in variants:
            reason = variant.refuses(size)
            if reason is None:
                try:
                    parts = prepare(variant, size, options.device)
                    actions = make_actions(variant, size, options.device, *parts)
                    actions["forward"]()
                    parameters[variant.name] = _parameters_of(actions["step"]())
                    if options.memory:
                        _tell(options, f"memory of {variant.name}", len(memory), len(variants))
                        memory[variant.name] = measure_memory(variant, size, options.device, *parts)
                except Exception as error:  # a peer or a compiler may raise anything; the others still count
                    if variant is variants[0]:
                        raise
                    sentence = next(iter(str(error).strip().splitlines()), "no message")
                    reason = f"it failed with {type(error).__name__}: {sentence}"
            if reason is not None:
                report.skips.append(Skip(shape=size.name, variant=variant.name, reason=reason))
                continue
            for measure, action in actions.items():
                timed[measure][variant.name] = action
        # Forward and step are timed one after the other, so that a variant meets its own kind only.
        results = {measure: _time(actions, options) for measure, actions in timed.items()}

    baseline = variants[0].name
    for variant in variants:
        if variant.name in timed["forward"]:
            common = dict(
                suite=suite, shape=size.name, variant=variant.name, baseline=baseline,
                parameters=parameters[variant.name], note=variant.note,
            )  # fmt: skip
            report.rows += _time_rows(common, results, options)
            if options.memory:
                report.rows += _memory_rows(common, memory)
    return report


def _time(actions: Mapping[str, Action], options: Options) -> Rounds:
    return alternate(
        actions,
        rounds=options.rounds,
        clock=clock_for(options.device),
        least_seconds=options.least_seconds,
        progress=options.progress,
    )


def _time_rows(common: dict, results: Mapping[str, Rounds], options: Options) -> Iterator[Row]:
    for measure, rounds in results.items():
        name = common["variant"]
        ratio = rounds.ratio(name, common["baseline"])
        yield Row(
            **common,
            measure=measure,
            ratio=ratio.median,
            ratio_lower=ratio.lower,
            ratio_upper=ratio.upper,
            rounds=options.rounds,
            calls=rounds.calls[name],
            allocator=options.allocator,
            page_faults=median(rounds.page_faults[name]) if options.device == "cpu" else None,
            milliseconds=1000 * rounds.time(name).median if options.device == "cuda" else None,
        )


def _memory_rows(common: dict, memory: Mapping[str, Memory]) -> Iterator[Row]:
    own, base = memory[common["variant"]], memory[common["baseline"]]
    for measure in ("saved", "peak"):
        value, unit = getattr(own, measure), getattr(base, measure)
        if value is not None:
            yield Row(**common, measure=measure, mib=value / MIB, ratio=value / unit if unit else None)


def _parameters_of(gradients) -> int:
    return sum(gradient.numel() for gradient in gradients[1:] if gradient is not None)


def _tell(options: Options, what: str, done: int, total: int) -> None:
    if options.progress is not None:
        options.progress(what, done, total)


@contextmanager
def _compilers_that_specialise() -> Iterator[None]:
    """Compile for each shape by itself, which is the faster code, and forget it at the end.

    Otherwise the second layer of a peer, being another shape, would get code for any shape.
    """
    import torch._dynamo

    torch.compiler.reset()
    try:
        with torch._dynamo.config.patch(automatic_dynamic_shapes=False):
            yield
    finally:
        torch.compiler.reset()
        gc.collect()
