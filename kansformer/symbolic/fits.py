"""The result of a symbolic fit: a table of one function per curve, and the formulas in it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kansformer.errors import ConfigError, ShapeError
from kansformer.symbolic.library import LIBRARY
from kansformer.symbolic.symbol import CONSTANT, SymbolLibrary, symbol_values

if TYPE_CHECKING:
    import numpy as np
    import pandas
    import sympy
    from numpy.typing import ArrayLike

IS_CONSTANT = -1


@dataclass(frozen=True)
class SymbolicFits:
    """c·f(a·x + b) + d for every curve of a batch; `fits[i]` is a batch of fewer.

    Args:
        library: where the functions are from.
        symbols: index of each curve's function in the library, (E,); -1 where the curve is constant.
        a, b, c, d: parameters in units of x and y, (E,), float64; a = b = c = 0 for constants.
        r2: coefficient of determination on points that the fit did not see, but for the jump of a step function, (E,);
            1 for constants, which d fits.
        r2_fit: the same on the points of the fit.
        best_r2: the highest `r2_fit` of any function that was fitted to the curve, (E,).

    Examples:
        >>> from kansformer.symbolic import fit_symbolic
        >>> x = torch.linspace(0, 3, 64).expand(2, 64)
        >>> fits = fit_symbolic(x, torch.stack([torch.exp(x[0]), 2 * x[0] - 1]))
        >>> fits.names, fits.r2.round(decimals=3).tolist()
        (['exp', 'x'], [1.0, 1.0])
        >>> fits.formula(1, digits=3)
        2.0*x - 1.0
    """

    library: SymbolLibrary
    symbols: Tensor
    a: Tensor
    b: Tensor
    c: Tensor
    d: Tensor
    r2: Tensor
    r2_fit: Tensor
    best_r2: Tensor

    def __len__(self) -> int:
        return len(self.symbols)

    def __getitem__(self, index: int | slice | Sequence[int] | Sequence[bool] | Tensor) -> SymbolicFits:
        chosen = torch.as_tensor(range(len(self))[index] if isinstance(index, slice) else index).reshape(-1)
        return SymbolicFits(
            self.library, self.symbols[chosen], *(column[chosen] for column in self._numbers().values())
        )

    def _numbers(self) -> dict[str, Tensor]:
        """The columns after the functions."""
        return {field.name: vars(self)[field.name] for field in fields(self)[2:]}

    @classmethod
    def cat(cls, parts: Sequence[SymbolicFits]) -> SymbolicFits:
        """One table from several of the same library."""
        columns = zip(*((part.symbols, *part._numbers().values()) for part in parts), strict=True)
        return cls(parts[0].library, *map(torch.cat, columns))

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in self.families().items())
        return f"{len(self)} curves: {counts}. R² ≥ 0.99 on unseen points: {self.coverage():.1%}."

    @property
    def names(self) -> list[str]:
        """The function of each curve; `constant` for one that does not vary."""
        names = [*self.library.names, CONSTANT]
        return [names[index] for index in self.symbols.tolist()]

    @property
    def varies(self) -> Tensor:
        """Which curves are not constant, (E,)."""
        return (self.symbols != IS_CONSTANT) | (self.r2 < 1)  # the points of the fit may all lie where it is flat

    @property
    def complexity(self) -> Tensor:
        """Complexity of each curve's function, (E,); 0 for constants."""
        return torch.tensor([*(symbol.complexity for symbol in self.library), 0.0], dtype=torch.float64)[self.symbols]

    @property
    def params(self) -> Tensor:
        """a, b, c and d of each curve, (E, 4)."""
        return torch.stack([self.a, self.b, self.c, self.d], dim=-1)

    def families(self) -> dict[str, int]:
        """How many curves each function was fitted to, the most frequent first."""
        return dict(Counter(self.names).most_common())

    def coverage(self, r2: float = 0.99) -> float:
        """Share of the curves that vary whose `r2` is at least this; NaN if none varies."""
        return (self.r2[self.varies] >= r2).double().mean().item()  # the mean of nothing is NaN

    def evaluate(self, x_ES: Tensor) -> Tensor:
        """The fitted functions.

        Args:
            x_ES: points for each curve.

        Returns:
            Their values, (E, S), in the dtype of x, or float64 for integers; NaN outside a function's domain.

        Raises:
            ShapeError: there is not one row per curve.
        """
        if x_ES.ndim != 2 or len(x_ES) != len(self):
            raise ShapeError(
                f"There are {len(self)} fits, so x must be ({len(self)}, points), got {tuple(x_ES.shape)}."
            )
        symbols, params = self.symbols.to(x_ES.device), self.params.to(x_ES.device)
        y_ES = params[:, 3:].expand(x_ES.shape).clone()
        for index in set(self.symbols.tolist()) - {IS_CONSTANT}:
            rows, symbol = (symbols == index).nonzero()[:, 0], self.library[index]
            a, b, c, d = (p[:, None] for p in params[rows].unbind(-1))
            z = a * x_ES[rows].double() + b
            inside = (z > symbol.domain[0]) & (z < symbol.domain[1])
            y_ES[rows] = torch.where(inside, c * symbol_values(symbol, z) + d, math.nan)
        return y_ES.to(x_ES.dtype) if x_ES.is_floating_point() else y_ES

    def function(self, index: int) -> Callable[[Tensor], Tensor]:
        """One fitted function as a function of tensors of any shape."""
        fit = self[index]
        return lambda x: fit.evaluate(x.reshape(1, -1)).reshape(x.shape)

    def numpy_function(self, index: int) -> Callable[[ArrayLike], np.ndarray]:
        """One fitted function as a function of arrays of any shape."""

        def on_array(x: ArrayLike) -> np.ndarray:
            return self.function(index)(torch.as_tensor(x)).numpy()

        return on_array

    def formula(self, index: int, digits: int | None = None) -> sympy.Expr:
        """One fitted function as a sympy expression in x.

        Args:
            index: which.
            digits: significant digits of its numbers; None keeps all.
        """
        import sympy

        a, b, c, d = (sympy.Float(value, digits or 17) for value in self.params[index].tolist())
        symbol = int(self.symbols[index])
        if symbol == IS_CONSTANT:
            return d
        return c * self.library[symbol].sympy(a * sympy.Symbol("x", real=True) + b) + d

    def latex(self, index: int, digits: int = 3) -> str:
        """One fitted function in LaTeX."""
        import sympy

        return sympy.latex(self.formula(index, digits))

    def to_pandas(self) -> pandas.DataFrame:
        """One row per curve: name, a, b, c, d, r2, r2_fit, best_r2, complexity."""
        import pandas

        columns = {name: column.numpy() for name, column in self._numbers().items()}
        return pandas.DataFrame({"name": self.names, **columns, "complexity": self.complexity.numpy()})

    def to_dict(self) -> dict[str, list]:
        """JSON-ready, functions by name; `from_dict` is the inverse."""
        return {"name": self.names, **{name: column.tolist() for name, column in self._numbers().items()}}

    @classmethod
    def from_dict(cls, values: dict[str, list], library: SymbolLibrary = LIBRARY) -> SymbolicFits:
        """From `to_dict`.

        Args:
            values: what it gave.
            library: has every function that is named.

        Raises:
            ConfigError: a column is missing or has another length, or a function is not in the library.
        """
        numbers = [field.name for field in fields(cls)[2:]]
        if set(values) != {"name", *numbers} or len({len(column) for column in values.values()}) > 1:
            raise ConfigError(f"A table of fits has the columns name, {', '.join(numbers)}, all of one length.")
        named = {name: library.named(name).name for name in set(values["name"]) - {CONSTANT}}
        for name in set(named.values()) - set(library.names):
            raise ConfigError(f"The function {name!r} is not in the library. Choose from: {', '.join(library.names)}.")
        indices = {name: library.names.index(own) for name, own in named.items()}
        indices[CONSTANT] = IS_CONSTANT
        symbols = torch.tensor([indices[name] for name in values["name"]], dtype=torch.long)
        return cls(library, symbols, *(torch.tensor(values[n], dtype=torch.float64) for n in numbers))
