"""One-dimensional curves: bases, their derivatives, least-squares fits and grid changes. Needs torch only."""

from kansformer.basis.basis import BASES, EXTRAPOLATIONS, Basis, elementwise_derivatives
from kansformer.basis.fit import fit_curves, refit_curves

__all__ = ["BASES", "EXTRAPOLATIONS", "Basis", "elementwise_derivatives", "fit_curves", "refit_curves"]
