"""A named activation: its closed form, how well it fits what was learned, and where it comes from."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from kansformer.checks import check_choice, check_number
from kansformer.discover.functions import BASES, ELEMENTARY
from kansformer.errors import ConfigError

if TYPE_CHECKING:
    from kansformer.discover.module import ClosedFormActivation

NAME = re.compile(r"[a-z][a-z0-9]*([-_.][a-z0-9]+)*")
MAX_NAME, MAX_TERMS, MAX_LINE = 64, 12, 96


@dataclass(frozen=True, kw_only=True)
class ActivationTerm:
    """One term of a closed form: factor · f(scale·x + shift).

    Args:
        function: f: `cos`, `x*cos` (z·cos z), `gaussian` (exp(-z²)), `tanh`, `silu`, `softplus`, `relu^2`, `x^2` or
            `x^3`.
        factor, scale, shift: its numbers.

    Raises:
        ConfigError: the function is not among these, a number is not finite, or the scale is 0.

    Examples:
        >>> from kansformer.discover import ActivationTerm
        >>> ActivationTerm(function="cos", factor=-0.5, scale=1.25)
        ActivationTerm(function='cos', factor=-0.5, scale=1.25, shift=0.0)
    """

    function: str
    factor: float
    scale: float = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        check_choice("function", self.function, ELEMENTARY)
        for name in ("factor", "scale", "shift"):
            object.__setattr__(self, name, check_number(f"{name} of {self.function}", getattr(self, name)))
        if self.scale == 0:
            raise ConfigError(f"scale of {self.function} must not be 0: add a constant to the activation instead.")


@dataclass(frozen=True, kw_only=True)
class ActivationErrors:
    """How well a closed form fits curves and points that its fit did not see; all weighted by how often inputs occur.

    Args:
        rmse: root mean square distance to the mean of the curves.
        explained: share of the variance of the mean curve, without its base, that the form explains; below 0 if it is
            worse than a constant.
        explained_of_each: the same share for the single curves; at most 1 - spread, up to sampling.
        spread: share of the variance of all single curves, without the base, that is not in their mean: what one
            function for all cannot explain.

    Examples:
        >>> from kansformer.discover import ActivationErrors
        >>> errors = ActivationErrors(rmse=0.012, explained=0.97, explained_of_each=0.61, spread=0.36)
        >>> print(errors)
        on unseen curves: error 0.012, 97.0% of the mean curve explained, 61.0% of the single curves; spread 36.0%
    """

    rmse: float
    explained: float
    explained_of_each: float
    spread: float

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, check_number(field.name, getattr(self, field.name)))

    def __str__(self) -> str:
        return (
            f"on unseen curves: error {self.rmse:.3g}, {self.explained:.1%} of the mean curve explained, "
            f"{self.explained_of_each:.1%} of the single curves; spread {self.spread:.1%}"
        )


@dataclass(frozen=True, kw_only=True)
class NamedActivation:
    """An activation in closed form: base(x) + Σ factor · f(scale·x + shift) + slope·x + constant.

    Args:
        name: under which transformers will find it: lower-case words with -, _ or . between them.
        base: `silu`, `gelu`, `gelu_tanh`, `relu`, `tanh`, `identity` or `zero`.
        terms: at most 12.
        slope, constant: of the line that is added.
        errors: of the fit; None if it was not fitted.
        source: where it comes from, a sentence.

    Raises:
        ConfigError: a value is not among these, or a number is not finite.

    Examples:
        >>> from kansformer.discover import ActivationTerm, NamedActivation
        >>> term = ActivationTerm(function="cos", factor=-0.5, scale=1.25, shift=0.75)
        >>> activation = NamedActivation(name="silu-wave", terms=(term,), slope=-0.2)
        >>> activation.formula
        'silu(x) - 0.5*cos(1.25*x + 0.75) - 0.2*x'
        >>> activation.module()(torch.randn(8)).shape
        torch.Size([8])
        >>> "kansformer" in activation.python()  # a file for machines without this package
        False
    """

    name: str
    base: str = "silu"
    terms: tuple[ActivationTerm, ...] = ()
    slope: float = 0.0
    constant: float = 0.0
    errors: ActivationErrors | None = None
    source: str = ""

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and len(self.name) <= MAX_NAME and NAME.fullmatch(self.name)):
            raise ConfigError(
                f"An activation's name must be lower-case words with -, _ or . between them, such as silu-cosine, of "
                f"at most {MAX_NAME} letters; got {self.name!r:.80}."
            )
        check_choice("base", self.base, BASES)
        terms = tuple(self.terms)
        if len(terms) > MAX_TERMS or not all(isinstance(term, ActivationTerm) for term in terms):
            raise ConfigError(f"{self.name}: terms must be at most {MAX_TERMS} ActivationTerms, got {terms!r:.200}.")
        if not isinstance(self.source, str):
            raise ConfigError(f"{self.name}: source must be text, got {self.source!r:.80}.")
        if not (self.errors is None or isinstance(self.errors, ActivationErrors)):
            raise ConfigError(f"{self.name}: errors must be ActivationErrors or None, got {self.errors!r:.80}.")
        object.__setattr__(self, "terms", terms)
        for name in ("slope", "constant"):
            object.__setattr__(self, name, check_number(f"{name} of {self.name}", getattr(self, name)))

    def __str__(self) -> str:
        return f"{self.name}: {self.formula}" + (f" ({self.errors})" if self.errors else "")

    @property
    def formula(self) -> str:
        """The closed form as one line, in SymPy's spelling; `silu`, `gelu` and `gelu_tanh` are those of torch."""
        return " ".join(self._written("formula"))

    def module(self) -> ClosedFormActivation:
        """An `nn.Module` without parameters that computes it with functions of torch, elementwise, any shape.

        It exports and compiles as plain operators. 16-bit inputs are computed in float32 and rounded once. In eager
        training it keeps its input only and differentiates in closed form.
        """
        from kansformer.discover.module import ClosedFormActivation

        return ClosedFormActivation(self)

    def python(self) -> str:
        """The text of a Python file that registers the activation in transformers and does not need kansformer."""
        words = "".join(part.capitalize() for part in re.split(r"[-_.]", self.name))
        parts = self._written("source")
        expression = " ".join(parts) if len(" ".join(parts)) <= MAX_LINE else "\n            ".join(parts)
        comment = textwrap.fill(self.source, MAX_LINE, initial_indent="# ", subsequent_indent="# ")
        return _FILE.format(
            name=self.name,
            formula=self.formula,
            comment=f"{comment}\n" if comment else "",
            words=words,
            expression=expression,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` is the inverse."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NamedActivation:
        """From `to_dict`.

        Args:
            values: what it gave.

        Raises:
            ConfigError: a field is unknown, missing or has a value that it cannot have.
        """
        values = dict(_checked(cls, values))
        terms, errors = values.get("terms", ()), values.get("errors")
        if not isinstance(terms, (list, tuple)):
            raise ConfigError(f"terms must be a list, got {terms!r:.80}.")
        values["terms"] = tuple(ActivationTerm(**_checked(ActivationTerm, term)) for term in terms)
        values["errors"] = None if errors is None else ActivationErrors(**_checked(ActivationErrors, errors))
        return cls(**values)

    def _written(self, spelling: Literal["formula", "source"]) -> list[str]:
        """The signed parts of the sum."""
        star = "*" if spelling == "formula" else " * "
        has_base = self.base != "zero" or not (self.terms or self.slope or self.constant)
        parts = [(1.0, getattr(BASES[self.base], spelling))] if has_base else []
        for term in self.terms:
            argument = " ".join(_signed([(term.scale, "x"), (term.shift, "")], star))
            pattern = getattr(ELEMENTARY[term.function], spelling)
            pattern = re.sub(r"^\({z}\)", "x", pattern) if argument == "x" else pattern
            parts.append((term.factor, pattern.replace("{z}", argument)))
        return _signed([*parts, (self.slope, "x"), (self.constant, "")], star)


def _signed(parts: list[tuple[float, str]], star: str) -> list[str]:
    """Numbers times expressions as parts of a sum, without those of 0; an empty expression is 1."""
    texts = list[str]()
    for number, expression in parts:
        if number:
            size = f"{abs(number):.15g}" if float(f"{abs(number):.15g}") == abs(number) else repr(abs(number))
            product = expression if expression and size == "1" else star.join(filter(None, (size, expression)))
            sign = "-" if number < 0 else "+"
            texts.append(f"{sign} {product}" if texts else f"{sign}{product}".removeprefix("+"))
    return texts or ["0"]


def _checked(kind: type, values: object) -> Mapping[str, Any]:
    """The fields of a dataclass, if all of them are known and none without a default is missing."""
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    required = {field.name for field in fields(kind) if field.default is MISSING}  # type: ignore[arg-type]
    if not isinstance(values, Mapping) or not required <= set(values) <= known:
        raise ConfigError(f"{kind.__name__} has the fields {', '.join(sorted(known))}; got {values!r:.200}.")
    return values


_FILE = '''\
"""The activation {name}: {formula}

Import this file before a model with hidden_act="{name}" is made or loaded.
"""

import torch
from torch.nn import functional as F
from transformers.activations import ACT2FN


{comment}class {words}Activation(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype, x = x.dtype, x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        return ({expression}).to(dtype)


ACT2FN["{name}"] = {words}Activation
'''
