"""A curve's formula: the library of functions, the batched fit, the choice and the export. Imports sympy late."""

from kansformer.symbolic.fit import fit_symbolic
from kansformer.symbolic.fits import SymbolicFits
from kansformer.symbolic.library import ACTIVATIONS, ALL_SYMBOLS, KAN_LIBRARY, LIBRARY, SCIENCE_LIBRARY
from kansformer.symbolic.symbol import Partner, Symbol, SymbolLibrary

__all__ = [
    "ACTIVATIONS",
    "ALL_SYMBOLS",
    "KAN_LIBRARY",
    "LIBRARY",
    "SCIENCE_LIBRARY",
    "Partner",
    "Symbol",
    "SymbolLibrary",
    "SymbolicFits",
    "fit_symbolic",
]
