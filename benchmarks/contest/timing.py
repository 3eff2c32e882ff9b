"""Time of a training step of every variant, as ratios of alternating rounds in one process."""

import statistics
import time
from collections.abc import Callable

import torch

from contest.variants import VARIANTS, recipe_of, register_activations
from kansformer.nn import optimizer_groups
from kansformer.training.build import build_model

BASELINE = "swiglu"
STEPS = 5


def step_ratios(names: list[str], text: str, rounds: int, report: Callable[[int, int], None]) -> dict[str, tuple]:
    """Quartiles of the time of a step relative to SwiGLU: forward, backward, clipping and AdamW, one thread.

    Args:
        names: keys of `VARIANTS`.
        text: file of tinyshakespeare, for the recipe.
        rounds: in each, all take their turn.
        report: called with rounds done and in all.
    """
    register_activations()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        steps = {name: _make_step(name, text) for name in dict.fromkeys([BASELINE, *names])}
        for step in steps.values():
            step()
            step()
        times: dict[str, list[float]] = {name: [] for name in steps}
        for done in range(rounds):
            for name, step in steps.items():
                begin = time.perf_counter()
                for _ in range(STEPS):
                    step()
                times[name].append(time.perf_counter() - begin)
            report(done + 1, rounds)
    finally:
        torch.set_num_threads(threads)
    ratios = {name: [a / b for a, b in zip(taken, times[BASELINE], strict=True)] for name, taken in times.items()}
    return {name: tuple(statistics.quantiles(values, n=4)) for name, values in ratios.items()}


def _make_step(name: str, text: str) -> Callable[[], None]:
    recipe = recipe_of(VARIANTS[name], text=text, steps=1, seed=0)
    model = build_model(recipe, vocabulary=65).train()
    groups = optimizer_groups(model, 1e-3, weight_decay=0.1, curve_lr_multiplier=recipe.curves.lr_multiplier)
    optimizer = torch.optim.AdamW(groups, fused=True)
    tokens = torch.randint(65, (12, 65), generator=torch.Generator().manual_seed(0))

    def step() -> None:
        loss = model(input_ids=tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step
