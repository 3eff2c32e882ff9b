"""Coefficients from samples, and from other coefficients when the grid or the domain changes.

Everything is solved in float64 on the CPU by orthogonal factorisation (not normal equations), which keeps a nested
refinement exact to about 1e-13 and cannot return NaN for finite input.

Shape letters: I inputs, S sample points, C coefficients, O outputs.
"""

import torch
from torch import Tensor

from kansformer.basis.basis import Basis
from kansformer.errors import DataError, ShapeError


def fit_curves(
    x_IS: Tensor,
    y_ISO: Tensor,
    basis: Basis,
    domain_I2: Tensor,
    *,
    denominator_ID: Tensor | None = None,
    ridge: float = 1e-8,
) -> Tensor:
    """Least-squares coefficients of curves through samples, all inputs at once.

    Args:
        x_IS: sample positions of each input, (I, S).
        y_ISO: values there of the O curves that share the input, (I, S, O).
        basis: the family of curves.
        domain_I2: each input's domain, (I, 2).
        denominator_ID: (I, D) for rational curves, else None.
        ridge: penalty on the coefficients' squares, per sample; keeps the fit finite where samples do not reach every
            basis function, for instance when all of them are equal.

    Returns:
        (I, C, O), in the dtype and on the device of `y_ISO`.

    Raises:
        ShapeError: samples and values do not belong together, or there are none.
        DataError: a position, a value or a domain is not finite, or a domain has no width.
    """
    if x_IS.ndim != 2 or y_ISO.shape[:2] != x_IS.shape or x_IS.shape[1] == 0:
        raise ShapeError(
            f"Samples of shape {tuple(x_IS.shape)} and values of shape {tuple(y_ISO.shape)} do not fit: "
            "expected (inputs, samples) with at least one sample, and (inputs, samples, outputs)."
        )
    _check_finite("positions", x_IS)
    _check_finite("values", y_ISO)
    design_ISC = _design(basis, x_IS, domain_I2, denominator_ID)
    inputs, samples, width = design_ISC.shape
    target_ISO = y_ISO.detach().to("cpu", torch.float64)
    penalty_CC = torch.eye(width, dtype=torch.float64, device="cpu") * (ridge * samples) ** 0.5
    design = torch.cat([design_ISC, penalty_CC.expand(inputs, -1, -1)], dim=1)
    target = torch.cat([target_ISO, target_ISO.new_zeros(inputs, width, target_ISO.shape[2])], dim=1)
    return torch.linalg.lstsq(design, target, driver="gelsd").solution.to(y_ISO)


def refit_curves(
    coefficients_ICO: Tensor,
    basis: Basis,
    domain_I2: Tensor,
    new_basis: Basis,
    new_domain_I2: Tensor,
    *,
    denominator_ID: Tensor | None = None,
) -> Tensor:
    """The same curves in another basis or on another domain.

    The new curve is the least-squares projection of the old one on the new domain. Where the new basis contains the
    old curves (the same domain and a grid that is a multiple of the old one, or a higher degree) the curve is kept
    exactly, to about 1e-13; otherwise to the projection's residual.

    Args:
        coefficients_ICO: the old coefficients, (I, C, O).
        basis, domain_I2: what they belong to.
        new_basis, new_domain_I2: what the new ones belong to.
        denominator_ID: (I, D) of rational curves; kept, since only the numerator can be projected.

    Returns:
        (I, C', O), in the dtype and on the device of `coefficients_ICO`; infinite where that dtype cannot hold them.

    Raises:
        DataError: a coefficient or a domain is not finite, or a domain has no width; domains are
            not checked where all coefficients are 0.
    """
    _check_finite("coefficients", coefficients_ICO)
    if not coefficients_ICO.any():  # as all curves are before training
        inputs, _, outputs = coefficients_ICO.shape
        return coefficients_ICO.new_zeros(inputs, new_basis.num_coefficients, outputs)
    old_I2, new_I2 = (d.detach().to("cpu", torch.float64) for d in (domain_I2, new_domain_I2))
    # Inputs that share both domains share the transfer matrix: solve once and let it broadcast.
    if denominator_ID is None and (old_I2 == old_I2[:1]).all() and (new_I2 == new_I2[:1]).all():
        old_I2, new_I2 = old_I2[:1], new_I2[:1]
    samples = 8 * (basis.num_coefficients + new_basis.num_coefficients)
    unit_S = torch.linspace(0, 1, samples, dtype=torch.float64, device="cpu")
    x_IS = new_I2[:, :1] + (new_I2[:, 1:] - new_I2[:, :1]) * unit_S
    old_ISC = _design(basis, x_IS, old_I2, denominator_ID)
    new_ISC = _design(new_basis, x_IS, new_I2, denominator_ID if new_basis.name == "rational" else None)
    transfer_ICC = torch.linalg.lstsq(new_ISC, old_ISC, driver="gelsd").solution
    return (transfer_ICC @ coefficients_ICO.detach().to("cpu", torch.float64)).to(coefficients_ICO)


def _check_finite(what: str, numbers: Tensor) -> None:
    bad = ~numbers.isfinite()
    if bad.any():
        place = tuple(bad.nonzero()[0].tolist())
        raise DataError(f"Curves cannot be fitted: the {what} are not finite at {place}: {numbers[place]}.")


def _design(basis: Basis, x_IS: Tensor, domain_I2: Tensor, denominator_ID: Tensor | None) -> Tensor:
    x_IS, domain_I2 = (t.detach().to("cpu", torch.float64) for t in (x_IS, domain_I2))
    _check_finite("domains", domain_I2)
    widths_I = domain_I2.diff(dim=-1)[:, 0]
    if not ((widths_I > 0) & widths_I.isfinite()).all():
        number = int((~((widths_I > 0) & widths_I.isfinite())).nonzero()[0])
        ends = domain_I2[number].tolist()
        raise DataError(f"Curves cannot be fitted: domain {number}, {ends[0]:g} to {ends[1]:g}, has no finite width.")
    denominator = None if denominator_ID is None else denominator_ID.detach().to("cpu", torch.float64).unsqueeze(1)
    return basis.values(x_IS, domain_I2.unsqueeze(1), denominator)
