"""Which basis a kernel is specialised for: the checked description, and the compile-time constants it becomes."""

from dataclasses import dataclass

from .bases import BASES, EXTRAPOLATIONS, MAX_ORDER, num_coefficients, num_denominator


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A family of curves that are linear in their coefficients.

    Args:
        basis: `bspline`, `chebyshev` or `rational`.
        grid_size: G ≥ 1, intervals of a B-spline; the others ignore it.
        order: K, the polynomial degree.
        extrapolation: `linear`, `clamp` or `zero`, outside the domain.

    Raises:
        ValueError: a value is not among the choices.
    """

    basis: str
    grid_size: int
    order: int
    extrapolation: str = "linear"

    def __post_init__(self) -> None:
        if self.basis not in BASES:
            raise ValueError(f"Unknown basis {self.basis!r}. The kernels have: {', '.join(BASES)}.")
        if self.extrapolation not in EXTRAPOLATIONS:
            raise ValueError(
                f"Unknown extrapolation {self.extrapolation!r}. Choose one of: {', '.join(EXTRAPOLATIONS)}."
            )
        if not 1 <= self.order <= MAX_ORDER[self.basis]:
            highest = MAX_ORDER[self.basis]
            raise ValueError(f"order must be from 1 to {highest} for the basis {self.basis!r}, got {self.order!r}.")
        if self.grid_size < 1:
            raise ValueError(f"grid_size must be at least 1, got {self.grid_size!r}.")

    @property
    def num_coefficients(self) -> int:
        """C, coefficients per curve."""
        return num_coefficients(self.basis, self.grid_size, self.order)

    @property
    def num_denominator(self) -> int:
        """D, denominator parameters per curve; 0 for every basis but `rational`."""
        return num_denominator(self.basis, self.order)

    def constants(self) -> dict[str, int]:
        """The constants of this name in every kernel."""
        return dict(
            BASIS=BASES[self.basis],
            G=self.grid_size,
            K=self.order,
            C=self.num_coefficients,
            D=self.num_denominator,
            EXTRAPOLATION=EXTRAPOLATIONS[self.extrapolation],
        )
