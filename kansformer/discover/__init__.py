"""From many learned curves to one named activation: its closed form, its errors, a plain module, and `hidden_act`."""

from kansformer.discover.activation import ActivationErrors, ActivationTerm, NamedActivation
from kansformer.discover.curves import ActivationCurves, activation_curves
from kansformer.discover.registry import KNOWN_ACTIVATIONS, register_activation
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
