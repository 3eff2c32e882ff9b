"""Known activations by name, and their registration for transformers' `hidden_act`."""

from functools import partial

from kansformer.checks import check_choice
from kansformer.discover.activation import ActivationTerm, NamedActivation
from kansformer.discover.module import ClosedFormActivation
from kansformer.errors import ConfigError

_FOUND = (
    "Found on tinyshakespeare, 0.8M parameters, 1,200 steps, as the mean curve learned in the gate; gains fade with "
    "length, see docs/results.md."
)

KNOWN_ACTIVATIONS: dict[str, NamedActivation] = {
    activation.name: activation
    for activation in (
        NamedActivation(
            name="silu-cosine",
            terms=(ActivationTerm(function="cos", factor=-0.643, scale=1.249, shift=0.75),),
            slope=-0.167,
            source=_FOUND,
        ),
        # -0.635·exp(-(x + 0.432)² / 0.592)
        NamedActivation(
            name="silu-gaussian",
            terms=(ActivationTerm(function="gaussian", factor=-0.635, scale=1.2997, shift=0.56147),),
            source=_FOUND,
        ),
    )
}
"""Closed forms that come with the package."""


def register_activation(activation: NamedActivation | str) -> NamedActivation:
    """Make an activation known to transformers, for configurations with `hidden_act` set to its name.

        register_activation("silu-cosine")
        model = AutoModelForCausalLM.from_config(LlamaConfig(hidden_act="silu-cosine"))

    This holds in the running process: call it wherever such a model is made or loaded, or import the file that
    `NamedActivation.python` writes. Registering the same again does nothing.

    Args:
        activation: of `discover_activation` or one's own, or the name of one of `KNOWN_ACTIVATIONS`.

    Returns:
        The activation.

    Raises:
        ConfigError: the name is not known, or transformers has another activation of that name.
    """
    from transformers.activations import ACT2FN

    if not isinstance(activation, NamedActivation):
        activation = KNOWN_ACTIVATIONS[check_choice("activation", activation, KNOWN_ACTIVATIONS)]
    present = dict.get(ACT2FN, activation.name)  # its own [] makes an instance
    if present is None:
        ACT2FN[activation.name] = partial(ClosedFormActivation, activation)
    elif not (isinstance(present, partial) and present.func is ClosedFormActivation and present.args == (activation,)):
        raise ConfigError(f"transformers has an activation named {activation.name!r} already. Choose another name.")
    return activation
