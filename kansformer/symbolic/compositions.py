"""Formulas of one variable for a curve: functions of the library, powers, and compositions of two functions.

For a composition f(g(x)) the curve is inverted by f, for many constants inside f, and the results are compared with the
library at once. The closest ones are fitted as a whole.

Shape letters: S sample points, V variants of a curve.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import sympy
import torch
from torch import Tensor

from kansformer.symbolic.constants import TORCH_FUNCTIONS, Fitted, Formula, fit_constants
from kansformer.symbolic.dictionary import Dictionary, normalised
from kansformer.symbolic.fit import ranked_fits
from kansformer.symbolic.refine import refine
from kansformer.symbolic.symbol import Symbol, SymbolLibrary

Z = sympy.Symbol("z")
# Distances of an outer function's constant from the curve's values, in ranges of these; and factors of a logarithm.
DISTANCES = torch.logspace(-3, 1, 20, dtype=torch.float64)
FACTORS = (1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 1.5, -1.5, 3.0, -3.0)
POWERS = tuple(sympy.Rational(p) for p in ("-3", "-2", "-1", "-1/2", "1/2", "1", "2", "3", "5"))
INNER = {"x^2": Z**2, "1/x": 1 / Z, "sqrt": sympy.sqrt(Z), "log": sympy.log(Z)}
EXPONENTS = torch.linspace(-6, 6, 97, dtype=torch.float64)
MAX_EXPONENT = 300.0
# A library with this function has all powers.
FREE_POWER, POWER_COMPLEXITY = "x^1.5", 3.0
SIMPLE = ("x", "x^2", "exp")
# Of the coarse search: variants that are fitted as a whole, and steps of their fits.
CHOSEN, PER_KIND, PER_FUNCTION, REFINE_STEPS, STEPS = 18, 2, 96, 6, 25
# Bits that a number and an operation of a formula cost, as in `kansformer.symbolic.fit`.
BITS_PER_NUMBER, BITS_PER_OPERATION = 3.0, 1.6
MIN_R2 = 0.9
# Of the points of an inner function: their middle half, relative to their range.
MIN_SPREAD = 1e-5
# Sums of two functions that are fitted, and the smallest squared sine between two candidates.
PAIRS, MIN_ANGLE = 8, 1e-3
# Powers of ten that a unit of a function's complexity must improve the rest by, and the smallest rest that counts.
COMPLEXITY_COST, MIN_REST = 0.7, 1e-6


@dataclass(frozen=True)
class Outer:
    """An outer function f of a composition, for curves that are f(g(x)) or constant + f(g(x)).

    Args:
        name: of f in libraries.
        inverse: f's inverse for positive values.
        forward: f of a sympy expression.
    """

    name: str
    inverse: Callable[[Tensor], Tensor]
    forward: Callable[[sympy.Expr], sympy.Expr]


OUTER = (
    Outer("exp", torch.log, sympy.exp),
    Outer("1/x", torch.reciprocal, lambda g: 1 / g),
    Outer("sqrt", torch.square, sympy.sqrt),
    Outer("x^2", torch.sqrt, lambda g: g**2),
    Outer("1/sqrt(x)", lambda t: t**-2, lambda g: 1 / sympy.sqrt(g)),
    Outer("1/x^2", torch.rsqrt, lambda g: g**-2),
)


@dataclass(frozen=True)
class Named:
    """A formula for a curve.

    Args:
        expression: of the symbol z.
        cost: bits of its description; the lowest is the best.
        r2: coefficient of determination on the curve's points.
    """

    expression: sympy.Expr
    cost: float
    r2: float


def named_curve(
    x_S: Tensor, y_S: Tensor, *, library: SymbolLibrary, noise: float = 0.0, top: int = 4, compose: bool = True
) -> list[Named]:
    """The best formulas for one curve, the best first.

    Args:
        x_S: evenly spaced points, ascending.
        y_S: values of the curve there.
        library: functions to choose from.
        noise: share of the curve's variance that is error.
        top: number of formulas.
        compose: whether to try compositions where no function alone explains the curve to its noise.
    """
    variance = float(y_S.var(correction=0))
    if not variance > 1e-24 * float(y_S.square().mean()):
        return [Named(sympy.Float(float(y_S.mean())), 0.0, 1.0)]

    def share_of(fitted: Fitted) -> float:
        return fitted.error**2 / variance

    def cost(fitted: Fitted) -> float:
        bits = len(x_S) / 2 * math.log2(share_of(fitted) + max(noise, 1e-14))
        return bits + BITS_PER_NUMBER * len(fitted.formula.values) + BITS_PER_OPERATION * fitted.formula.size()

    tried = _direct(x_S, y_S, library, noise, top)
    if compose and not (tried and max(1 - share_of(fitted) for fitted in tried) > 1 - max(noise, 1e-11)):
        tried += [*_sums(x_S, y_S, library), *_composed(x_S, y_S, library)]
    finite = [(bits, fitted) for fitted in tried if math.isfinite(bits := cost(fitted))]
    best = sorted(finite, key=lambda pair: pair[0])[:top]
    return [Named(fitted.formula.expression(), bits, 1 - share_of(fitted)) for bits, fitted in best]


def affine_symbol(symbol: Symbol, a: float, b: float, c: float, d: float, x: sympy.Expr = Z) -> sympy.Expr:
    """c·f(a·x + b) + d without numbers that another one replaces: a is ±1 and b is 0 where c takes their part."""
    if not symbol.fit_scale and symbol.name != "x" and a:
        factor = float(symbol.function(torch.tensor(abs(a), dtype=torch.float64)))
        if symbol.name == "log":
            c, d, a, b = c, d + c * factor, math.copysign(1.0, a), b / abs(a)
        elif symbol.name != "sign":
            c, a, b = c * factor, math.copysign(1.0, a), b / abs(a)
    elif symbol.name == "x":
        return sympy.Float(c * a) * x + sympy.Float(c * b + d)
    elif symbol.name == "exp":
        c, b = c * math.exp(min(b, 700.0)), 0.0
    inner = x if a == 1 else sympy.Integer(-1) * x if a == -1 else sympy.Float(a) * x
    inner = inner + sympy.Float(b) if b else inner
    return sympy.Float(c) * symbol.sympy(inner) + sympy.Float(d)


def _direct(x_S: Tensor, y_S: Tensor, library: SymbolLibrary, noise: float, top: int) -> list[Fitted]:
    """Fits by one function, in x and, where x is positive, as a power of x."""
    result = []
    for fits in ranked_fits(
        x_S.unsqueeze(0), y_S.unsqueeze(0), library=library, noise=min(noise, 0.5), top=max(top, 4)
    ):
        if fits.names != ["constant"] and float(fits.r2_fit) > MIN_R2:
            a, b, c, d = (float(v) for v in (fits.a, fits.b, fits.c, fits.d))
            result.append(affine_symbol(library.named(fits.names[0]), a, b, c, d))
    if float(x_S[0]) > 0 and FREE_POWER in library.names:
        result += [sympy.Float(c) * Z ** sympy.Float(p) + sympy.Float(d) for p, c, d in _powers(x_S, y_S)]
    return [fit_constants(Formula.of(e, ["z"]), x_S.unsqueeze(-1), y_S, steps=STEPS) for e in result]


def _powers(x_S: Tensor, y_S: Tensor) -> list[tuple[float, float, float]]:
    """The best exponent p, c and d of c·x^p + d, from a grid; where a fit can begin."""
    unit_PS, varies = normalised(torch.exp((x_S / x_S[-1]).log() * EXPONENTS.unsqueeze(-1)))
    target = y_S - y_S.mean()
    p = float(EXPONENTS[int(((unit_PS @ target).square() * varies).nan_to_num(0).argmax())])
    return [(p, *_line(x_S**p, y_S))]


def _line(f_S: Tensor, y_S: Tensor) -> tuple[float, float]:
    """c and d of the line c·f + d closest to y."""
    centred = f_S - f_S.mean()
    c = float((centred * y_S).sum() / centred.square().sum())
    return c, float(y_S.mean() - c * f_S.mean())


def _sums(x_S: Tensor, y_S: Tensor, library: SymbolLibrary) -> list[Fitted]:
    """Fits by sums of two functions, from the pairs of candidates that explain most (Chen et al., 1989)."""
    u_S = torch.linspace(-1, 1, len(x_S), dtype=torch.float64)
    atoms_AS, pairs_A2, functions_A = Dictionary(library, u_S).candidates()
    target, _ = normalised(y_S.unsqueeze(0))
    product_A = atoms_AS @ target[0].float()
    ranked = list[tuple[float, int, int]]()
    complexity_A = torch.tensor([symbol.complexity for symbol in library], dtype=torch.float32)[functions_A]
    for first in _best_of_each(product_A.square(), functions_A):
        along_A = atoms_AS @ atoms_AS[first]
        rest_A = (product_A - product_A[first] * along_A).square() / (1 - along_A.square()).clamp(min=MIN_ANGLE)
        left_A = (1 - product_A[first].square() - rest_A).clamp(min=MIN_REST)
        cost_A = left_A.log10() + COMPLEXITY_COST * (complexity_A[first] + complexity_A)
        ranked += [
            (float(cost_A[second]), first, second)
            for second in cost_A.topk(min(2, len(cost_A)), largest=False).indices.tolist()
        ]
    centre, half = float(x_S[0] + x_S[-1]) / 2, float(x_S[-1] - x_S[0]) / 2
    result = list[Fitted]()
    for _, *atoms in sorted(ranked)[:PAIRS]:
        symbols = [library[int(functions_A[atom])] for atom in atoms]
        shapes = [(symbol, *pairs_A2[atom].tolist()) for symbol, atom in zip(symbols, atoms, strict=True)]
        columns = torch.stack([symbol.function(a * u_S + b) for symbol, a, b in shapes] + [torch.ones_like(u_S)], dim=1)
        *factors, constant = torch.linalg.lstsq(columns, y_S.unsqueeze(-1)).solution[:, 0].tolist()
        terms = [
            affine_symbol(symbol, a / half, b - a * centre / half, c, 0.0)
            for (symbol, a, b), c in zip(shapes, factors, strict=True)
        ]
        formula = Formula.of(sum(terms, sympy.Float(constant)), ["z"])
        if formula.values.isfinite().all():
            result.append(fit_constants(formula, x_S.unsqueeze(-1), y_S, steps=2 * STEPS))
    return result


def _best_of_each(scores_A: Tensor, functions_A: Tensor) -> list[int]:
    """The best candidate of every function, and the best of all."""
    rows = scores_A.argsort(descending=True).tolist()
    best = dict[int, int]()
    for row in rows:
        best.setdefault(int(functions_A[row]), row)
    return list(dict.fromkeys([*best.values(), *rows[: 2 * PAIRS]]))


def _composed(x_S: Tensor, y_S: Tensor, library: SymbolLibrary) -> list[Fitted]:
    """Fits by compositions of two functions, the closest ones of a coarse search."""
    variants = list(_variants(x_S, y_S, library.names))
    if not variants:
        return []
    values_VS = torch.stack([variant.values for variant in variants])
    unit_VS, varies = normalised(values_VS)
    unit_VS = unit_VS.where(varies.unsqueeze(-1), 0.0)
    inner = _inner_functions(x_S, values_VS, unit_VS, varies, library, [variant.kind for variant in variants])
    formulas = [variants[index].outside(inside) for _, index, inside in sorted(inner, key=lambda row: row[0])]
    if float(x_S[0]) > 0:
        formulas += [
            e.xreplace({Z: g})
            for name, g in INNER.items()
            if name in library.names
            for e in _in_terms_of(g, x_S, y_S, library)
        ]
    return [fit_constants(Formula.of(e, ["z"]), x_S.unsqueeze(-1), y_S, steps=STEPS) for e in formulas]


def _in_terms_of(g: sympy.Expr, x_S: Tensor, y_S: Tensor, library: SymbolLibrary) -> list[sympy.Expr]:
    """The best function of g(x)."""
    points = torch.as_tensor(sympy.lambdify(Z, g, modules=[TORCH_FUNCTIONS])(x_S))
    if points[0] > points[-1]:
        points, y_S = points.flip(0), y_S.flip(0)
    ends = points.quantile(points.new_tensor([0.0, 0.25, 0.75, 1.0]))
    if not ends.diff()[1] > MIN_SPREAD * (ends[-1] - ends[0]):
        return []  # a pole is next to the first point
    (fits,) = ranked_fits(points.unsqueeze(0), y_S.unsqueeze(0), library=library, top=1)
    if fits.names == ["constant"] or not float(fits.r2_fit) > MIN_R2:
        return []
    return [affine_symbol(library.named(fits.names[0]), *(float(v) for v in (fits.a, fits.b, fits.c, fits.d)))]


@dataclass(frozen=True)
class _Variant:
    """A curve whose formula g(x) gives that of the original one, outside(g); its kind is what outside is made of."""

    kind: str
    values: Tensor
    outside: Callable[[sympy.Expr], sympy.Expr]


def _variants(x_S: Tensor, y_S: Tensor, names: Sequence[str]) -> Iterator[_Variant]:
    """The curve inverted by all outer functions, with many constants; times powers of x where x is positive."""
    powers = POWERS if float(x_S[0]) > 0 else tuple(p for p in POWERS if p.is_integer and p < 0)
    powers = tuple(p for p in powers if _power_needs(p) in names)
    outers = [outer for outer in OUTER if outer.name in names]
    lower, upper = (float(end) for end in y_S.aminmax())
    reach = upper - lower
    for distance in DISTANCES.tolist():
        for constant, sign in ((lower - reach * distance, 1), (upper + reach * distance, -1)):
            for outer in outers:
                yield _Variant(outer.name, outer.inverse(sign * (y_S - constant)), _around(outer, 0, sign, constant))
    square = next((outer for outer in outers if outer.name == "x^2"), None)
    for turn, sign in ((int(y_S.argmin()), 1), (int(y_S.argmax()), -1)):
        if square is not None and 0 < turn < len(y_S) - 1:  # what is squared changes its sign where the curve turns
            constant = _extremum(y_S, turn)
            root_S = square.inverse((sign * (y_S - constant)).clamp(min=0))
            root_S[:turn] *= -1
            yield _Variant("turned x^2", root_S, _around(square, 0, sign, constant))
    for power in (0, *powers):
        scaled_S = y_S * x_S ** -float(power)
        if power:
            yield _Variant("power", scaled_S, _times(power))
        sign = 1 if (scaled_S > 0).all() else -1 if (scaled_S < 0).all() else 0
        if sign:
            for outer in outers:
                kind = f"power {outer.name}" if power else outer.name
                yield _Variant(kind, outer.inverse(sign * scaled_S), _around(outer, power, sign, 0.0))
    for factor in (*FACTORS, *(sign * reach * distance for distance in DISTANCES[6:].tolist() for sign in (1, -1))):
        if "log" in names and (y_S / factor).abs().max() < MAX_EXPONENT:
            for power in (0, *powers) if factor in FACTORS else (0,):
                values_S = torch.exp(y_S / factor) * x_S ** -float(power)
                yield _Variant("power log" if power else "log", values_S, _logarithm(factor, power))


def _extremum(y_S: Tensor, at: int) -> float:
    """The value where the parabola through three points turns."""
    before, here, after = y_S[at - 1 : at + 2].tolist()
    bend = before - 2 * here + after
    return here - (after - before) ** 2 / (8 * bend) if bend else here


def _power_needs(power: sympy.Rational) -> str:
    """The function that a library must have for factors of this power of x."""
    if not power.is_integer:
        return "sqrt"
    return "1/x" if power < 0 else "x" if power == 1 else "x^2"


def _times(power: sympy.Expr | int) -> Callable[[sympy.Expr], sympy.Expr]:
    return lambda g: Z**power * g


def _around(outer: Outer, power: sympy.Expr | int, sign: int, constant: float) -> Callable[[sympy.Expr], sympy.Expr]:
    return lambda g: (sympy.Float(constant) if constant else 0) + sign * Z**power * outer.forward(g)


def _logarithm(factor: float, power: sympy.Expr | int) -> Callable[[sympy.Expr], sympy.Expr]:
    return lambda g: sympy.Float(factor) * sympy.log(Z**power * g)


def _inner_functions(
    x_S: Tensor, values_VS: Tensor, unit_VS: Tensor, varies: Tensor, library: SymbolLibrary, kinds: list[str]
) -> list[tuple[float, int, sympy.Expr]]:
    """The closest functions, a few of every kind: 1 - R², the variant, and the formula of it."""
    u_S = torch.linspace(-1, 1, len(x_S), dtype=torch.float64)
    dictionary = Dictionary(library, u_S)
    r2_FV = dictionary.best_r2(unit_VS.float()).masked_fill(~varies, -1.0).nan_to_num(-1.0)
    rows = list[tuple[float, int, Symbol | float, float, float]]()
    for number, symbol in enumerate(library):
        chosen = r2_FV[number].topk(min(PER_FUNCTION, len(varies))).indices
        start = dictionary.start(number, unit_VS[chosen].float())
        a_V, b_V = (values.double() for values in start)
        fitted = refine(symbol, u_S, unit_VS[chosen], a_V, b_V, REFINE_STEPS)
        rows += [
            (1 - r2, index, symbol, a, b) for index, (a, b, r2) in zip(chosen.tolist(), fitted.T.tolist(), strict=True)
        ]
    if float(x_S[0]) > 0 and FREE_POWER in library.names:
        unit_PS, bent = normalised(torch.exp((x_S / x_S[-1]).log() * EXPONENTS.unsqueeze(-1)))
        unit_PS = unit_PS.where(bent.unsqueeze(-1), 0.0)
        r2_V, exponent_V = (unit_VS @ unit_PS.mT).square().max(dim=1)
        for index in r2_V.masked_fill(~varies, -1.0).topk(min(PER_FUNCTION, len(varies))).indices.tolist():
            rows.append((1 - float(r2_V[index]), index, float(EXPONENTS[exponent_V[index]]), 0.0, 0.0))
    result = list[tuple[float, int, sympy.Expr]]()
    centre, half = float(x_S[0] + x_S[-1]) / 2, float(x_S[-1] - x_S[0]) / 2
    counts, simple = Counter[str](), set[tuple[str, str]]()

    outer_names = {outer.name for outer in OUTER}

    def cost(row: tuple[float, int, Symbol | float, float, float]) -> float:
        complexity = row[2].complexity if isinstance(row[2], Symbol) else POWER_COMPLEXITY
        return math.log10(max(row[0], 1e-15)) + COMPLEXITY_COST * complexity

    for rest, index, function, a, b in sorted(rows, key=cost):
        kind, name = kinds[index], function.name if isinstance(function, Symbol) else FREE_POWER
        # Simple functions have a place of their own: others follow them closely, but are not them.
        is_simple = name in SIMPLE and kind in outer_names and (kind, name) not in simple
        if is_simple:
            simple.add((kind, name))
        elif counts[kind] >= PER_KIND or sum(counts.values()) >= CHOSEN:
            continue
        else:
            counts[kind] += 1
        if isinstance(function, float):
            c, d = _line(x_S**function, values_VS[index])
            result.append((rest, index, sympy.Float(c) * Z ** sympy.Float(function) + sympy.Float(d)))
        else:
            c, d = _line(function.function(a * u_S + b), values_VS[index])
            if all(map(math.isfinite, (a, b, c, d))):
                result.append((rest, index, affine_symbol(function, a / half, b - a * centre / half, c, d)))
    return result
