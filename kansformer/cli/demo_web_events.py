"""What the page of `kansformer demo --web` does: from the values of its components to their new values."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from kansformer.errors import DataError, KansformerError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from kansformer.interp import EdgeRef
    from kansformer.views.workbench import CurveView, Workbench

BLOCK, MAX_TOKENS = 128, 512
# Of a slider: how far it goes beyond the curve, and its steps, in heights of the curve.
REACH, STEPS = 1.0, 100


class PageEvents:
    """The events of a page.

    A refused change is a warning on the page, which shows the model as it then is. Channels are named by the text
    "input,output" of their edge.

    Args:
        bench: the state.
        tokenizer: of its model.

    Attributes:
        sites: paths of the modules that have curves.
    """

    def __init__(self, bench: Workbench, tokenizer: PreTrainedTokenizerBase) -> None:
        self.bench, self.tokenizer = bench, tokenizer
        self.model: Any = bench.model
        self.sites = list(dict.fromkeys(slot.site for slot in bench.slots))

    def slots_of(self, site: str) -> list[str]:
        """Names of the slots at a site."""
        return [slot.name for slot in self.bench.slots if slot.site == site]

    def pick(self, site: str, slot: str, channel: str | None, function: str, prompt: str) -> list:
        """The menus of slots and channels, the formula's numbers, and what `show` gives.

        A slot or channel that the site does not have is replaced by the first one.
        """
        import gradio

        names = self.slots_of(site)
        slot = slot if slot in names else names[0]
        choices = [
            (f"{curve.name}: {curve.score:.2g} nats", f"{curve.edge.input},{curve.edge.output}")
            for curve in self.bench.ranked_curves(site, slot)
        ]
        keys = [key for _, key in choices]
        channel = channel if channel in keys else keys[0]
        menus = [gradio.update(choices=names, value=slot), gradio.update(choices=choices, value=channel)]
        numbers = self.closest_formula(site, slot, channel, function)
        return [*menus, *numbers, *self.show(_edge(site, slot, channel), prompt)]

    def show(self, edge: EdgeRef, prompt: str) -> list:
        """The picture, the sliders, the next tokens, the losses, the list of edits, and both undo buttons."""
        import gradio

        from kansformer.views.workbench_html import curve_html, losses_html

        view = self.bench.view(edge)
        values, lowest, highest, step = _slider_scale(view)
        sliders = [
            gradio.update(value=value, minimum=lowest, maximum=highest, step=step, label=f"x = {x:.2f}")
            for x, value in zip(view.handles, values, strict=True)
        ]
        steps = [f"{number}. {step.edge}: {step.words}" for number, step in enumerate(self.bench.steps, start=1)]
        buttons = [gradio.update(interactive=bool(steps))] * 2
        return [
            curve_html(view), *sliders, self.predict(prompt), losses_html(*self.bench.losses()),
            "\n".join(steps) or "No edits so far.", *buttons,
        ]  # fmt: skip

    def predict(self, prompt: str) -> str:
        """The table of next tokens."""
        import gradio

        from kansformer.views.workbench_html import tokens_html

        ids_T = self.tokenizer(prompt, return_tensors="pt").input_ids[0].long().to(self.model.device)
        try:
            rows = self.bench.next_tokens(ids_T[-_positions(self.model) :])
        except KansformerError as error:
            gradio.Warning(str(error))
            rows = []
        return tokens_html(rows, lambda token: str(self.tokenizer.decode([token])))

    def bend(self, site: str, slot: str, channel: str, prompt: str, *values: float) -> list:
        """What `show` gives, without the sliders: they stay as they were put, since one of them is being dragged."""
        edge = _edge(site, slot, channel)
        picture, *others = self._show_after(partial(self.bench.bend, edge, values), edge, prompt)
        return [picture, *others[len(values) :]]

    def closest_formula(self, site: str, slot: str, channel: str, function: str) -> list[float]:
        """The numbers a, b, c and d of a function that comes closest to the curve."""
        numbers = self.bench.closest_formula(_edge(site, slot, channel), function)
        return [float(f"{number:.4g}") for number in numbers]

    def write_formula(
        self, site: str, slot: str, channel: str, prompt: str, function: str, *numbers: float | None
    ) -> list:
        """What `show` gives after a formula was written into a curve; an empty number is 0."""
        edge = _edge(site, slot, channel)
        a, b, c, d = (0.0 if number is None else number for number in numbers)
        return self._show_after(partial(self.bench.write_formula, edge, function, a, b, c, d), edge, prompt)

    def read_text(self, text: str, site: str, slot: str, channel: str, function: str, prompt: str) -> list:
        """What `pick` gives after another text was read."""
        import gradio

        try:
            self.bench.read_text(text_blocks(text, self.model, self.tokenizer))
        except KansformerError as error:
            gradio.Warning(str(error))
        return self.pick(site, slot, channel, function, prompt)

    def undo(self, site: str, slot: str, channel: str, prompt: str) -> list:
        """What `show` gives after the latest edit was taken back."""
        return self._show_after(self.bench.undo, _edge(site, slot, channel), prompt)

    def undo_all(self, site: str, slot: str, channel: str, prompt: str) -> list:
        """What `show` gives after all edits were taken back."""
        return self._show_after(self.bench.undo_all, _edge(site, slot, channel), prompt)

    def _show_after(self, change: Callable[[], None], edge: EdgeRef, prompt: str) -> list:
        import gradio

        try:
            change()
        except KansformerError as error:
            gradio.Warning(str(error))
        return self.show(edge, prompt)


def text_blocks(text: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Token numbers of the first 512 tokens of a text in equal blocks, (N, T), on the model's device.

    Raises:
        DataError: the text has fewer than 2 tokens.
    """
    from kansformer.training.data.packing import tokenize_blocks

    count = len(tokenizer(text).input_ids)
    if count < 2:
        raise DataError("The text is too short: a loss needs 2 tokens or more.")
    block = min(BLOCK, _positions(model), count)
    return tokenize_blocks(text, tokenizer, block)[: max(1, MAX_TOKENS // block)].to(model.device)


def site_choices(sites: list[str]) -> list[tuple[str, str]]:
    """Sites for the menu, each after its name: the layer's number, or the path where several sites have one number."""
    from kansformer.interp.wording import layer_of

    layers = [layer_of(site) for site in sites]
    unique = None not in layers and len(set(layers)) == len(sites)
    return [(str(layer) if unique else site, site) for layer, site in zip(layers, sites, strict=True)]


def _positions(model: PreTrainedModel) -> int:
    """Tokens that a model can read at once, MAX_TOKENS at most."""
    return min(MAX_TOKENS, getattr(model.config.get_text_config(), "max_position_embeddings", None) or MAX_TOKENS)


def _edge(site: str, slot: str, channel: str) -> EdgeRef:
    from kansformer.interp import EdgeRef

    source, target = map(int, channel.split(","))
    return EdgeRef(site, slot, source, target)


def _slider_scale(view: CurveView) -> tuple[list[float], float, float, float]:
    """Rounded values of the sliders, and their lowest and highest value and step."""
    low, high = float(view.y.min()), float(view.y.max())
    height = high - low or 1.0
    digits = 3 - math.floor(math.log10(height))
    bounds = (round(low - REACH * height, digits - 1), round(high + REACH * height, digits - 1))
    return [round(value, digits) for value in view.values], *bounds, float(f"{height / STEPS:.1g}")
