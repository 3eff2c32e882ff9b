"""Coefficients of rising and of convex B-splines on a uniform grid.

The derivative of a spline has the differences of its coefficients, over the grid's step, as coefficients, and B-splines
are not negative. So a curve whose coefficients never fall never falls, and one whose differences never fall is convex;
its linear extrapolation as well. Both are sufficient, and for orders 1 and 2 (rising) or 1 to 3 (convex) almost
necessary. On knots with unequal steps the differences would have to be divided by these steps first; the grids of this
package are uniform.

Shape letters: `...` any, C coefficients.
"""

import math

import torch
from torch import Tensor


def nearest_rising(coefficients: Tensor) -> Tensor:
    """The nearest coefficients (..., C) that never fall, in squares: isotonic regression, by its min-max formula.

    Element j is max over i ≤ j of min over k ≥ j of the mean from i to k (Robertson et al., 1988).
    """
    count = coefficients.shape[-1]
    places = torch.arange(count, device=coefficients.device)
    sums = torch.nn.functional.pad(coefficients.cumsum(-1), (1, 0))
    lengths = places - places.unsqueeze(-1) + 1
    means = (sums[..., 1:].unsqueeze(-2) - sums[..., :-1].unsqueeze(-1)) / lengths.clamp(min=1)
    means = means.masked_fill(lengths < 1, math.inf)
    lowest = means.flip(-1).cummin(-1).values.flip(-1).masked_fill(lengths < 1, -math.inf)
    return lowest.amax(-2).cummax(-1).values  # the latter for rounding


def convex(coefficients: Tensor, *, rising: bool = False) -> Tensor:
    """Convex coefficients (..., C) with the same mean, whose differences are the nearest ones.

    Args:
        coefficients: of any curves.
        rising: whether they must rise as well.
    """
    slopes = nearest_rising(coefficients.diff(dim=-1))
    slopes = slopes.clamp(min=0) if rising else slopes
    result = torch.nn.functional.pad(slopes.cumsum(-1), (1, 0))
    return result + (coefficients - result).mean(-1, keepdim=True)


def nearest_of_shape(coefficients: Tensor, rising: int, bent: int) -> Tensor:
    """The nearest coefficients (..., C) of one shape; with `bent`, those of `convex`.

    Args:
        coefficients: of any curves.
        rising: 1 for curves that never fall, -1 for those that never rise, 0 for either.
        bent: 1 for convex curves, -1 for concave ones, 0 for either.
    """
    if not bent:
        return rising * nearest_rising(rising * coefficients) if rising else coefficients
    is_mirrored = rising * bent < 0  # a convex curve that falls is one that rises, seen from the other side
    sides = bent * (coefficients.flip(-1) if is_mirrored else coefficients)
    held = bent * convex(sides, rising=rising != 0)
    return held.flip(-1) if is_mirrored else held
