"""Networks from formulas: every function becomes an edge, every sum and product a node."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import sympy
import torch

from kansformer.errors import ConfigError
from kansformer.kan.edges import cut_edges
from kansformer.kan.network import KAN
from kansformer.symbolic import ALL_SYMBOLS
from kansformer.symbolic.names import MAX_EXPONENT, plain_name

# Powers that are functions of the library; others are made of products, from their names, or of exp and log.
POWERS = {
    "2": "x^2", "3": "x^3", "4": "x^4", "-1": "1/x", "-2": "1/x^2", "1/2": "sqrt", "-1/2": "1/sqrt(x)", "3/2": "x^1.5",
}  # fmt: skip
FUNCTIONS = {
    "sin": "sin", "tan": "tan", "tanh": "tanh", "exp": "exp", "log": "log", "atan": "arctan", "asin": "arcsin",
    "acos": "arccos", "atanh": "arctanh", "cosh": "cosh", "sinh": "sinh", "Abs": "abs", "sign": "sign", "erf": "erf",
}  # fmt: skip
MAX_FACTORS = (
    4096  # of a whole power, in a product of half as many each; beyond, exp and log, for positive numbers only
)

# Factors of exponentials between exp(-MAX_SHIFT) and exp(MAX_SHIFT) stay as they are written.
MAX_SHIFT = 10.0


def _checked(formula: sympy.Expr) -> sympy.Expr:
    """A formula with variables known by their names, integers as whole exponents, and max(0, z) the only extremum."""
    if not isinstance(formula, sympy.Expr):
        raise ConfigError(f"A formula must be a sympy expression, got {type(formula).__name__}: {formula!r}.")
    for number in formula.atoms(sympy.Number, sympy.NumberSymbol, sympy.I.func, sympy.zoo.func):
        if not number.is_real or not number.is_finite:
            raise ConfigError(f"{number} in {formula!s:.200} is not a real number.")
    formula = formula.xreplace({symbol: sympy.Symbol(symbol.name) for symbol in formula.free_symbols})
    formula = formula.replace(lambda part: isinstance(part, (sympy.Max, sympy.Min)), _with_relu)
    return formula.replace(
        lambda part: part.is_Pow and part.exp.is_Float and float(part.exp).is_integer(),
        lambda part: part.base ** sympy.Integer(int(part.exp)),
    )


def _with_relu(part: sympy.Expr) -> sympy.Expr:
    """max(a, b) = a + max(0, b - a), and min(a, b) = a - max(0, a - b)."""
    sign = 1 if isinstance(part, sympy.Max) else -1
    first, *others = sorted(part.args, key=lambda arg: not arg.is_number)  # a number goes into the bias
    for other in others:
        first = first + sign * sympy.Max(0, sign * (other - first))
    return first


class _Term(NamedTuple):
    """c·f(a·node + b), an edge."""

    symbol: str
    node: sympy.Expr
    a: float = 1.0
    b: float = 0.0
    c: float = 1.0


class _Sum(NamedTuple):
    """Edges into one node, and its bias."""

    terms: tuple[_Term, ...]
    constant: float = 0.0


def kan_from_formula(
    formulas: sympy.Expr | Sequence[sympy.Expr],
    *,
    variables: Sequence[str] | None = None,
    basis: str = "bspline",
    grid_size: int = 5,
    order: int = 3,
    domain: tuple[float, float] = (-1.0, 1.0),
) -> KAN:
    """Build a network that computes formulas, with a symbol on every edge.

    `KAN.unfix_symbol` turns edges into curves, so that a fit can start from known physics.

    Args:
        formulas: sympy expressions, one for each output: sums, products and powers of real numbers, variables and the
            functions of `kansformer.symbolic.ALL_SYMBOLS` that sympy has, each with its domain there: 1/x, roots and
            logarithms are NaN for negative x, exp and cosh bounded.
        variables: names of the network's inputs; None takes those that occur, in alphabetical order.
        basis, grid_size, order, domain: of the curves that edges may become, as in `KAN`.

    Returns:
        The network, as wide and deep as the formulas need.

    Raises:
        ConfigError: a function is unknown, a number is not real, or a variable not among the inputs.

    Examples:
        >>> import sympy
        >>> from kansformer.kan import kan_from_formula
        >>> model = kan_from_formula(sympy.sympify("exp(x) * y"))
        >>> model.predict(torch.tensor([[0.0, 3.0]]))
        tensor([[3.]], dtype=torch.float64)
        >>> model.formula(variables=["x", "y"], digits=4)
        [y*exp(x)]
    """
    given = list(formulas) if isinstance(formulas, (list, tuple)) else [formulas]
    outputs = [_checked(formula) for formula in given]
    used = sorted({symbol.name for output in outputs for symbol in output.free_symbols})
    names = used if variables is None else list(variables)
    unknown = [name for name in used if name not in names]
    if unknown:
        raise ConfigError(f"The variable {unknown[0]!r} is not among the inputs {names}.")
    if not names or len(set(names)) < len(names) or not outputs:
        raise ConfigError(f"There must be a formula, and inputs with names of their own, got {names}.")
    plan = _Plan()
    depth = max(1, *(plan.height(output, is_output=True) for output in outputs))
    layers = [_Level(plan) for _ in range(depth)]
    for number, output in enumerate(outputs):
        is_here = plan.height(output, is_output=True) == depth or output.is_number
        layers[-1].sums[sympy.Tuple(number, output)] = plan.sum_of(output) if is_here else _Sum((_Term("x", output),))
    for height in range(depth - 1, 0, -1):
        for edges in layers[height].outputs:
            for term in edges.terms:
                layers[height - 1].ensure(term.node, height)
    inputs = {sympy.Symbol(name): number for number, name in enumerate(names)}
    width: list[int | list[int]] = [len(names), *([len(level.sums), len(level.products)] for level in layers)]
    model = KAN(width, basis=basis, grid_size=grid_size, order=order, domain=domain)
    for index, level in enumerate(layers):
        level.write(model, index, inputs if index == 0 else layers[index - 1].numbers)
    return model


def _real(number: sympy.Expr) -> float:
    """A sympy number as a float; a ConfigError if it is not real, or too large."""
    try:
        value = float(number)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{number!s:.200} is not a real number.") from None
    if not math.isfinite(value):
        raise ConfigError(f"{number!s:.200} in the formula is too large for a network, which has float64.")
    return value


def _is_exponential(part: sympy.Expr) -> bool:
    """Whether an expression is exp(z), or a power that becomes exp(p·log(z))."""
    if isinstance(part, sympy.exp) or not part.is_Pow:
        return isinstance(part, sympy.exp)
    if part.exp.is_Integer:
        return bool(abs(part.exp) > MAX_FACTORS)
    return not (part.exp.is_Rational and abs(part.exp) <= MAX_EXPONENT)


def _shift(number: sympy.Expr) -> float:
    """log|c| of an extreme factor c of an exponential, as that of years has; 0 for any other."""
    shift = _real(sympy.log(abs(number))) if number.is_real else 0.0
    return shift if abs(shift) > MAX_SHIFT else 0.0


def _split(product: sympy.Expr) -> tuple[sympy.Expr, sympy.Expr]:
    """A number and the rest; 1 and the whole product where an exponential needs the number."""
    number, rest = product.as_independent(*product.free_symbols, as_Add=False)
    if any(map(_is_exponential, sympy.Mul.make_args(rest))) and _shift(number):
        return sympy.Integer(1), product
    return number, rest


class _Plan:
    """How expressions become sums and products."""

    def __init__(self) -> None:
        self._heights: dict[sympy.Expr, int] = {}

    def height(self, expression: sympy.Expr, is_output: bool = False) -> int:
        """In which layer a node of this expression is at the earliest; 0 for inputs."""
        if is_output:
            return 1 + max((self.height(t.node) for t in self.sum_of(expression).terms), default=0)
        if expression.is_Symbol:
            return 0
        if expression not in self._heights:
            parts = self.factors(expression) or (expression,)
            nodes = [term.node for part in parts for term in self.sum_of(part).terms]
            self._heights[expression] = 1 + max((self.height(node) for node in nodes), default=0)
        return self._heights[expression]

    def factors(self, expression: sympy.Expr) -> tuple[sympy.Expr, sympy.Expr] | None:
        """The two factors of a product of expressions, None for anything else."""
        if expression.is_Mul:
            number, rest = expression.as_independent(*expression.free_symbols, as_Add=False)
            parts = sympy.Mul.make_args(rest)
            if len(parts) > 1:
                parts = sorted(parts, key=lambda part: not _is_exponential(part))  # one takes the number
                return number * parts[0], sympy.Mul(*parts[1:])
        if expression.is_Pow and expression.exp.is_Integer and str(expression.exp) not in POWERS:
            base, exponent = expression.args
            if 4 < exponent <= MAX_FACTORS:
                half = int(exponent) // 2
                return base**half, base ** (exponent - half)
        return None

    def sum_of(self, expression: sympy.Expr) -> _Sum:
        """An expression as edges from nodes, no two of them from the same one."""
        parts = sympy.Add.make_args(expression)
        constant = sum(_real(part) for part in parts if part.is_number)
        terms = {part: self._term(part) for part in parts if not part.is_number}
        while True:  # a term that becomes a node of its own may meet another one there
            nodes = Counter(term.node for term in terms.values())
            apart = {part: term if nodes[term.node] == 1 else _Term("x", part) for part, term in terms.items()}
            if apart == terms:
                return _Sum(tuple(terms.values()), constant)
            terms = apart

    def _term(self, part: sympy.Expr) -> _Term:
        """c·f(a·node + b)."""
        number, rest = part.as_independent(*part.free_symbols, as_Add=False)
        if _is_exponential(rest):
            base, exponent = rest.as_base_exp()
            return self._exponential(exponent if base == sympy.E else exponent * sympy.log(base), number)
        number, rest = _split(part)
        c = _real(number)
        if rest.is_Symbol or rest.is_Mul or rest.is_Add or self.factors(rest) is not None:
            return _Term("x", rest, c=c)
        if rest.is_Pow:
            base, exponent = rest.args
            if str(exponent) in POWERS:
                return self._of(POWERS[str(exponent)], base, c)
            if exponent.is_Integer and -MAX_FACTORS <= exponent < 0:
                return self._of("1/x", base**-exponent, c)
            return self._of(plain_name(f"x^({exponent})"), base, c)
        name = type(rest).__name__
        if name == "cos":
            return self._of("sin", rest.args[0] + sympy.pi / 2, c)
        if name == "Max":
            return self._of("relu", next(arg for arg in rest.args if not arg.is_number), c)
        if name in FUNCTIONS and len(rest.args) == 1:
            return self._of(FUNCTIONS[name], rest.args[0], c)
        functions = ", ".join((*FUNCTIONS, "cos", "Max", "Min"))
        raise ConfigError(f"{rest} cannot be an edge. The functions are: {functions}, and powers.")

    def _exponential(self, exponent: sympy.Expr, number: sympy.Expr) -> _Term:
        """c·exp(z), an extreme c within the exponential: edges bound z, which is large where c is tiny."""
        if not (shift := _shift(number)):
            return self._of("exp", exponent, _real(number))
        term = self._of("exp", exponent, 1.0 if number.is_positive else -1.0)
        return term._replace(b=term.b + shift)

    def _of(self, symbol: str, argument: sympy.Expr, c: float) -> _Term:
        symbols = argument.free_symbols
        shift, rest = argument.as_independent(*symbols, as_Add=True)
        scale, node = _split(rest)
        return _Term(symbol, node, _real(scale), _real(shift), c)


class _Level:
    """A layer and the nodes behind it."""

    def __init__(self, plan: _Plan) -> None:
        self.plan = plan
        self.sums: dict[sympy.Expr, _Sum] = {}
        self.products: dict[sympy.Expr, list[_Sum]] = {}

    def ensure(self, node: sympy.Expr, height: int) -> None:
        """Make an expression a node here, if it is not one yet."""
        if node in self.sums or node in self.products:
            return
        if self.plan.height(node) < height:
            self.sums[node] = _Sum((_Term("x", node),))
        elif (factors := self.plan.factors(node)) is not None:
            self.products[node] = [self.plan.sum_of(factor) for factor in factors]
        else:
            self.sums[node] = self.plan.sum_of(node)

    @property
    def outputs(self) -> list[_Sum]:
        return [*self.sums.values(), *(factor for pair in self.products.values() for factor in pair)]

    @property
    def numbers(self) -> dict[sympy.Expr, int]:
        return {node: number for number, node in enumerate([*self.sums, *self.products])}

    @torch.no_grad()
    def write(self, model: KAN, index: int, numbers: dict[sympy.Expr, int]) -> None:
        """Put the edges into a network's layer."""
        alive, formulas = model.alive[index], model.formulas[index]
        cut_edges(model, index, torch.ones_like(alive))
        for output, edges in enumerate(self.outputs):
            model.layers[index].bias[output] = edges.constant
            for term in edges.terms:
                node, symbol = numbers[term.node], ALL_SYMBOLS.named(term.symbol)
                formulas.add(node, output, symbol, (term.a, term.b, term.c, 0.0))
                alive[node, output] = True
