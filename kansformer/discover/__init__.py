"""From many learned curves to one named activation: its closed form, its errors, a plain module, and `hidden_act`."""

from typing import TYPE_CHECKING

from kansformer._moved import lazy_names
from kansformer.discover.activation import ActivationErrors, ActivationTerm, NamedActivation
from kansformer.discover.curves import ActivationCurves, activation_curves
from kansformer.discover.registry import KNOWN_ACTIVATIONS, register_activation

if TYPE_CHECKING:
    from kansformer.discover.search import ActivationSearch, discover_activation

__all__ = [
    "KNOWN_ACTIVATIONS",
    "ActivationCurves",
    "ActivationErrors",
    "ActivationSearch",
    "ActivationTerm",
    "NamedActivation",
    "activation_curves",
    "discover_activation",
    "register_activation",
]

# The search takes sympy, which those who only register an activation need not wait for.
__getattr__ = lazy_names(
    __name__,
    {
        "ActivationSearch": "kansformer.discover.search.ActivationSearch",
        "discover_activation": "kansformer.discover.search.discover_activation",
    },
)
