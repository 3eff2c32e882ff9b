"""The words of an audit's pages: names, terms, the conclusion, and numbers as text, the same in all of them."""

import math
import re

from kansformer.conversion.slots import CurveSlot
from kansformer.interp.effects import Effect, Faithfulness, number_text

# An R² from here on counts as a good fit.
GOOD = 0.99
# A share that is higher than that of random curves by less says little: these are like the model's, not the same.
MIN_GAIN = 0.05
PART_TEXTS = {"edge": "whole edges", "learned": "what was learned on top of the base"}
CONTROL = "random curves of the same kind"
SLOT_WORDS = {
    "input": "input",
    "up": "up projection",
    "gate": "gate projection",
    "act": "activation",
    "down": "down projection",
}
GLOSSARY = {
    "edge": "one function φ(x) of one number, from one input channel of a slot to one output channel. φ is the base "
    "plus a learned curve. In an activation or input slot every channel has one edge, to itself.",
    "slot": "a place in a layer that has curves: its input, the up, gate or down projection, or the activation.",
    "base": "the part of an edge that the original model has: its weight times its activation function. A curve that "
    "was never trained leaves the edge at its base.",
    "learned": "the part of an edge that training added to the base. R² of what was learned is the share of that "
    "part's variance that the formula explains beyond the base: 1 is all of it, 0 no more than the base explains.",
    "at tokens": "at inputs that the model had when it read the text, frequent ones counting more; else points are "
    "spread evenly over the range of the input.",
    "attribution": "how much an edge matters on this text: about how far the mean loss, in nats, would move if it "
    "always gave its mean. On other text the first ones may not matter. Without labels edges are sorted by variance.",
    "CE, KL": "the model's loss, and how far its predictions are from the original's, both in nats. A score is the "
    "share that is kept: 1 is the original model, 0 one whose layers give zero (or their mean, if the column says so).",
    "FVU": "the share of the variance of a layer's output that is not explained, on the original's inputs; the mean of "
    "the layers.",
    "L0, alive": "a learned curve is alive at a token where it exceeds 1 % of the root mean square of its slot's "
    "edges. L0 is the mean number of them at a token, and alive the share of curves that are at one token or more (of "
    "slots: at one of 64 typical tokens). An edge computed by a formula has no curve alive.",
    "random curves": "the control: random learned curves of the same size around the same bases, fitted in the same "
    "way. What they reach too says nothing about training.",
}


def layer_of(site: str) -> int | None:
    """The first number in a site's path."""
    number = re.search(r"\d+", site)
    return int(number.group()) if number else None


def place_name(slot: CurveSlot) -> str:
    """A name for a slot, such as "layer 0's activation"; two slots of a model may have the same."""
    layer, word = layer_of(slot.site), SLOT_WORDS.get(slot.name, repr(slot.name))
    return word if layer is None else f"layer {layer}'s {word}"


def percent(share: float) -> str:
    """A share as text, a dash where there is none."""
    return f"{share:.1%}" if math.isfinite(share) else "–"


def loss_text(loss: float | None) -> str:
    """A loss as text."""
    return "–" if loss is None else f"{loss:.4f}"


def faithful_caption(result: Faithfulness) -> str:
    """What the rows of the standard metrics are."""
    return (
        f"In the metrics of work on sparse autoencoders, on {result.tokens:,} tokens: all edges computed by their "
        "formulas (replaced), by their bases alone, and with random learned curves of the same size."
    )


def faithful_sentence(result: Faithfulness) -> str:
    """The share of the loss that formulas keep, beside the controls', and the other metrics."""

    def score(effect: Effect) -> str:
        return number_text(result.score(effect, "ce_loss"), ".4f")

    replaced = result.replaced
    controls = ", ".join(f"{name} {score(effect)}" for name, effect in result.controls.items())
    return (
        f"With all edges as formulas the loss recovered is {score(replaced)} ({controls}), KL "
        f"{number_text(replaced.kl_div, '.5f')} nats, FVU {number_text(replaced.mean_fvu, '.5f')}, on "
        f"{result.tokens:,} tokens; L0 {number_text(result.l0(result.original), ',.1f')} of "
        f"{sum(result.curves.values()):,} learned curves."
    )


def conclude(
    *,
    edges: int,
    trained: int,
    model: tuple[int, int],
    control: tuple[float, int],
    loss: float | None,
    loss_with_formulas: float | None,
) -> str:
    """What an audit says, in one sentence.

    Args:
        edges: number of edges.
        trained: those whose learned curve is not zero.
        model: edges whose formula explains what was learned, and edges that learned anything at the recorded inputs.
        control: share of random edges whose formula explains their random curve, and the number of them.
        loss: of the model, None without labels.
        loss_with_formulas: with all edges computed by their formulas, None where that was not tried.
    """
    if not trained:
        return (
            f"No curve was trained: the learned part of all {edges:,} edges is exactly zero (never trained, or pruned)"
            ", so every edge is its base and there is nothing learned to explain."
        )
    good, counted = model
    who = f"all {edges:,} edges" if trained == edges else f"the {trained:,} of {edges:,} edges that were trained"
    if not counted:
        return f"The learned parts of {who} do not vary at the recorded inputs, so there is nothing to explain."
    share, drawn = control
    if counted < trained:
        who = f"the {counted:,} edges, of {who}, whose learned part varies at the recorded inputs"
    sentence = f"One known function explains what was learned on {percent(good / counted)} of {who}"
    if math.isfinite(share):
        common = (good + share * drawn) / (counted + drawn)
        error = math.sqrt(common * (1 - common) * (1 / counted + 1 / drawn))  # of the difference of two shares
        gain = good / counted - share
        verdict = "no more" if gain <= 2 * error else "hardly more" if gain < MIN_GAIN else "more"
        sentence += f", {verdict} than by chance: of random curves it explains {percent(share)}"
    if loss is not None and loss_with_formulas is not None:
        sentence += (
            f"; with every edge computed by its formula the loss is {loss_text(loss_with_formulas)} nats "
            f"instead of {loss_text(loss)}"
        )
    return sentence + "."
