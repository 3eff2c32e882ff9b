"""Formulas whose target, transformed, is a sum of few products of powers of the inputs: T(y) = c₁ m₁(x) + c₂ m₂(x) + …

The products are chosen one by one from all with few factors by orthogonal least squares (Chen et al., 1989), and their
number by the length of the description.

Shape letters: N samples, I inputs, M products, R rows of a beam.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import sympy
import torch
from torch import Tensor

from kansformer.kan.structures import TRANSFORMATIONS, Transformation
from kansformer.symbolic import SymbolLibrary

# Exponents of products by the number of their factors; more than MAX_INPUTS inputs take products of two.
EXPONENTS = {
    1: ("-3", "-2", "-1", "-1/2", "1/2", "1", "3/2", "2", "3", "4"),
    2: ("-2", "-1", "-1/2", "1/2", "1", "2", "3", "4"),
    3: ("-2", "-1", "-1/2", "1/2", "1", "2", "3"),
    4: ("-2", "-1", "1", "2"),
}
MAX_INPUTS, MAX_ROWS, MAX_TERMS, STARTS = 7, 300, 8, 2
# Transformations by their names, and their derivatives, by which errors of T(y) become errors of y.
DERIVATIVES = {"x": lambda y: torch.ones_like(y), "1/x": lambda y: y**-2, "sqrt": lambda y: 2 * y,
               "1/sqrt(x)": lambda y: 2 * y**-3, "exp": lambda y: 1 / y}  # fmt: skip
# Relative error of a sum that is exact, and the smallest share of a product that the chosen ones do not explain.
EXACT, MIN_REST = 1e-10, 1e-6


def sums_of_monomials(x: Tensor, y: Tensor, names: Sequence[str], library: SymbolLibrary) -> Iterator[sympy.Expr]:
    """The best sum for every transformation, for inputs (N, I) and targets (N,)."""
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(0), device="cpu")[:MAX_ROWS]
    x, y = x[rows], y[rows]
    exponents_MI = _exponents(x, library)
    products_MN = _products(x, exponents_MI)
    usable = products_MN.isfinite().all(dim=1)
    exponents_MI, products_MN = exponents_MI[usable], products_MN[usable]
    for transformation in TRANSFORMATIONS:
        sign = -1 if (y < 0).all() and transformation.name != "x" else 1
        target = transformation.forward(sign * y)
        if transformation.name not in (*library.names, "x") or transformation.name not in DERIVATIVES:
            continue
        if not target.isfinite().all() or (transformation.name != "x" and y.abs().min() < 1e-9 * y.abs().max()):
            continue
        yield from _best_sum(exponents_MI, products_MN, target, sign, y, transformation, names)


def _best_sum(
    exponents_MI: Tensor,
    products_MN: Tensor,
    target: Tensor,
    sign: int,
    y: Tensor,
    transformation: Transformation,
    names: Sequence[str],
) -> Iterator[sympy.Expr]:
    """The sum with the shortest description."""
    weight_N = 1 / DERIVATIVES[transformation.name](y).abs()
    weighted_MN, goal = products_MN * weight_N, target * weight_N
    size_M = weighted_MN.norm(dim=1)
    unit_MN = (weighted_MN / size_M.clamp(min=1e-300).unsqueeze(-1)).nan_to_num(0.0)
    low_MN, spread = unit_MN.float(), float(y.std(correction=0)) or 1.0
    largest = goal.abs().max()  # float32 has neither the squares of very small targets nor those of large ones
    best: tuple[float, list[int], Tensor] | None = None
    for first in (low_MN @ (goal / largest).float()).square().topk(min(STARTS, len(low_MN))).indices.tolist():
        chosen, rest_M = [first], 1 - (low_MN @ low_MN[first]).square()
        while True:
            columns_NK = unit_MN[chosen].mT
            factors_K = torch.linalg.lstsq(columns_NK, goal.unsqueeze(-1)).solution[:, 0]
            residual = goal - columns_NK @ factors_K
            error = max(float(residual.square().mean()) ** 0.5 / spread, EXACT)
            price = len(chosen) * (math.log(len(low_MN)) + 0.5 * math.log(len(y)))
            length = len(y) * math.log(error) + price
            if math.isfinite(length) and (best is None or length < best[0]):
                best = (length, list(chosen), factors_K / size_M[chosen])
            if error <= EXACT or len(chosen) == MAX_TERMS or not math.isfinite(error):
                break
            gain_M = (low_MN @ (residual / largest).float()).square() / rest_M.clamp(min=MIN_REST)
            gain_M[rest_M < MIN_REST] = 0.0
            chosen.append(int(gain_M.argmax()))
            new = unit_MN[chosen[-1]]
            basis, _ = torch.linalg.qr(unit_MN[chosen[:-1]].mT)
            orthogonal = new - basis @ (basis.mT @ new)
            rest_M = rest_M - (low_MN @ (orthogonal / orthogonal.norm().clamp(min=1e-12)).float()).square()
    if best is not None:
        terms = [
            sympy.Float(float(c))
            * sympy.Mul(*(sympy.Symbol(n) ** sympy.nsimplify(p) for n, p in zip(names, row, strict=True)))
            for c, row in zip(best[2], exponents_MI[best[1]].tolist(), strict=True)
        ]
        yield sign * transformation.sympy(sympy.Add(*terms))


def _exponents(x: Tensor, library: SymbolLibrary) -> Tensor:
    """The exponents of all products, (M, I)."""
    count, result = x.shape[1], [[0.0] * x.shape[1]]
    one_sign = ((x > 0).all(dim=0) | (x < 0).all(dim=0)).tolist()
    positive = (x > 0).all(dim=0).tolist()
    varies = [i for i in range(count) if x[:, i].min() < x[:, i].max()]

    def allowed(i: int, p: sympy.Rational) -> bool:
        if not p.is_integer and not (positive[i] and "sqrt" in library.names):
            return False
        return p > 0 or (one_sign[i] and "1/x" in library.names)

    for factors, powers in EXPONENTS.items():
        if factors > 2 and count > MAX_INPUTS:
            break
        for inputs in itertools.combinations(varies, factors):
            choices = [[float(sympy.Rational(p)) for p in powers if allowed(i, sympy.Rational(p))] for i in inputs]
            for chosen in itertools.product(*choices):
                row = [0.0] * count
                for i, p in zip(inputs, chosen, strict=True):
                    row[i] = p
                result.append(row)
    return torch.tensor(result, dtype=torch.float64)


def _products(x: Tensor, exponents_MI: Tensor) -> Tensor:
    """Values of all products at the samples, (M, N)."""
    logarithm = x.abs().clamp(min=1e-300).log()
    sign_MN = torch.ones(len(exponents_MI), len(x), dtype=torch.float64)
    for i in (x < 0).any(dim=0).nonzero()[:, 0].tolist():
        odd = exponents_MI[:, i].remainder(2) == 1
        sign_MN[odd] *= x[:, i].sign()
    return sign_MN * torch.exp(exponents_MI @ logarithm.mT)
