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
        NamedActivation(
            name="gcu",
            base="zero",
            terms=(ActivationTerm(function="x*cos", factor=1.0),),
            source="The growing cosine unit of Noel et al., 2021; see docs/results.md for its figures as a gate.",
        ),
    )
}
"""Closed forms that come with the package.

Examples:
    >>> from kansformer.discover import KNOWN_ACTIVATIONS
    >>> KNOWN_ACTIVATIONS["silu-cosine"].formula
    'silu(x) - 0.643*cos(1.249*x + 0.75) - 0.167*x'
"""


def register_activation(activation: NamedActivation | str) -> NamedActivation:
    """Make an activation known to transformers, for configurations with `hidden_act` set to its name.

    This holds in the running process: call it wherever such a model is made or loaded, or import the file that
    `NamedActivation.python` writes. Registering the same again does nothing.

    Args:
        activation: of `discover_activation` or one's own, or the name of one of `KNOWN_ACTIVATIONS`.

    Returns:
        The activation.

    Raises:
        ConfigError: the name is not known, or transformers has another activation of that name.

    Examples:
        >>> from transformers import LlamaConfig, LlamaModel
        >>> from kansformer.discover import register_activation
        >>> activation = register_activation("silu-cosine")
        >>> config = LlamaConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=2, hidden_act="silu-cosine")
        >>> LlamaModel(config).layers[0].mlp.act_fn
        ClosedFormActivation(silu-cosine: silu(x) - 0.643*cos(1.249*x + 0.75) - 0.167*x)
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
