"""What a module's curves are made of, and the parameters that hold them. Every KAN module is built on this file.

Shape letters: `...` any, I inputs, O outputs, C coefficients per curve, D denominator parameters, R rank, P curves
that an input axis has (one per channel or one per group).
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling
from torch.utils._python_dispatch import _disable_current_modes

from kansformer.basis import Basis
from kansformer.basis.rational import INITIAL_DENOMINATOR
from kansformer.checks import check_choice, check_integer
from kansformer.errors import ConfigError, ShapeError
from kansformer.nn.optim_check import watch_curves
from kansformer.ops import Curves, apply_curves, backend, sum_edges
from kansformer.ops.functional import is_autocast_enabled
from kansformer.ops.native.inference import Inference
from kansformer.ops.triton import BASES

M = TypeVar("M", bound=nn.Module)

EDGES = ("full", "low_rank", "channel", "group")

CURVE_PARAMETERS = ("coefficients", "mix", "denominator")
"""Names of the trainable tensors that curves add to a module; the buffer `domain` comes on top."""

CURVE_TENSORS = (*CURVE_PARAMETERS, "domain")

INSTALLED = "installed_by_convert"
"""Attribute of modules with curves that `convert` or a loader put into a model, whose config speaks of them."""

NEVER = (None, None, None, None)
"""What a module keeps before its first call without gradients."""


class _Kept(tuple):
    """What it keeps from then on, with an address of this process; copies and pickles of the module begin anew."""

    def __reduce__(self) -> tuple:
        return tuple, (NEVER,)


@dataclass(frozen=True, kw_only=True)
class CurveSpec:
    """Basis and sharing of a module's curves.

    Args:
        basis: the family of curves.
        edges: `full` (a curve per edge, s_oi = Σ_c A_ico B_c), `low_rank` (every edge its own curve in a family of
            rank R, s_oi = Σ_r U_ro Σ_c V_icr B_c), `channel` (a curve per input channel before the weights) or
            `group` (neighbouring channels share one).
        domain: lower and upper end of the interval that the grid covers.
        rank: R of `low_rank`.
        groups: number of groups of `group`; must divide the input width.

    Raises:
        ConfigError: a value is not among the choices.
    """

    basis: Basis = field(default_factory=Basis)
    edges: str = "channel"
    domain: tuple[float, float] = (-1.0, 1.0)
    rank: int = 16
    groups: int = 8

    def __post_init__(self) -> None:
        check_choice("edges", self.edges, EDGES)
        try:
            lower, upper = (float(end) for end in self.domain)
        except (TypeError, ValueError):
            raise ConfigError(f"domain must be two numbers, lower and upper end, got {self.domain!r}.") from None
        if not (math.isfinite(lower) and math.isfinite(upper) and lower < upper):
            raise ConfigError(f"domain must run from a lower to a higher finite number, got ({lower}, {upper}).")
        object.__setattr__(self, "domain", (lower, upper))
        object.__setattr__(self, "rank", check_integer("rank", self.rank, 1))
        object.__setattr__(self, "groups", check_integer("groups", self.groups, 1))

    @property
    def is_per_channel(self) -> bool:
        """Whether the curves act on the input channels, before any weight, rather than on edges."""
        return self.edges in ("channel", "group")

    def shapes(self, in_features: int, out_features: int | None) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor that the curves add to a module, buffers included.

        Args:
            in_features: I.
            out_features: O; None for a module without weights, which takes `channel` and `group` only.

        Raises:
            ConfigError: the groups do not divide the inputs, or edges were asked of a module without weights.
        """
        curves = in_features
        if self.edges == "group":
            if in_features % self.groups:
                raise ConfigError(f"groups={self.groups} does not divide the {in_features} input channels.")
            curves = self.groups
        width = self.basis.num_coefficients
        shapes: dict[str, tuple[int, ...]]
        if self.is_per_channel:
            shapes = {"coefficients": (curves, width)}
        elif out_features is None:
            raise ConfigError(f"Without weights there are no edges: edges={self.edges!r} must be channel or group.")
        elif self.edges == "full":
            shapes = {"coefficients": (curves, width, out_features)}
        else:
            shapes = {"coefficients": (curves, width, self.rank), "mix": (self.rank, out_features)}
        if self.basis.num_denominator:
            shapes["denominator"] = (curves, self.basis.num_denominator)
        shapes["domain"] = (curves, 2)
        return shapes

    def num_parameters(self, in_features: int, out_features: int | None) -> int:
        """Trainable numbers that the curves add."""
        shapes = self.shapes(in_features, out_features)
        return sum(math.prod(shape) for name, shape in shapes.items() if name in CURVE_PARAMETERS)


class Curved(Protocol):
    """What `attach_curves` makes of a module; `mix` is None except for `low_rank`, `denominator` except for rational
    curves."""

    in_features: int
    curves: CurveSpec
    coefficients: nn.Parameter
    domain: Tensor
    denominator: nn.Parameter | None
    mix: nn.Parameter | None


class CurvedLinear(Curved, Protocol):
    """A module with curves and a linear part."""

    def activate(self, x: Tensor) -> Tensor: ...

    def project(self, activated: Tensor) -> Tensor: ...


class CurvedModule(nn.Module, Curved):
    """A module with curves, for annotations only: nothing is an instance of this class."""

    without_curves: Callable[[], nn.Module]


def attach_curves(
    module: nn.Module,
    spec: CurveSpec,
    in_features: int,
    out_features: int | None,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Give a module the parameters and buffers of its curves, not yet initialised, and store the spec.

    The domain is at least float32: rounded to 16 bits, the knots of a fine or wide grid move by whole intervals. The
    module's class keeps it so, by `wide_domain`.
    """
    dtype = torch.get_default_dtype() if dtype is None else dtype
    for name, shape in spec.shapes(in_features, out_features).items():
        if name in CURVE_PARAMETERS:
            module.register_parameter(name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        else:
            wide = torch.promote_types(dtype, torch.float32)
            module.register_buffer(name, torch.empty(shape, device=device, dtype=wide))
    for name in ("mix", "denominator"):
        if name not in module._parameters:
            vars(module)[name] = None
    vars(module)["curves"] = spec
    watch_curves(module)


def detach_curves(module: nn.Module) -> None:
    """Take everything away that `attach_curves` gave, and a forward of the module's own, as `kernelize` and
    `module.compile()` set it, which may compute the curves."""
    for name in ("forward", "_compiled_call_impl"):
        vars(module).pop(name, None)
    for name in (*CURVE_PARAMETERS, "domain", "curves"):
        delattr(module, name)
    for name in ("_inference", INSTALLED):
        vars(module).pop(name, None)


@contextmanager
def wide_domain(module: Curved) -> Iterator[None]:
    """Context in which a module's tensors are moved or cast; its domain stays float32 at least."""
    before = module.domain
    yield
    wide = torch.promote_types(module.domain.dtype, torch.float32)
    if module.domain.dtype != wide:
        module.domain = before.to(device=module.domain.device, dtype=wide)


def has_curves(module: object) -> bool:
    """Whether something is a module with curves of its own."""
    return isinstance(module, nn.Module) and isinstance(vars(module).get("curves"), CurveSpec)


def curved_modules(model: nn.Module) -> Iterator[tuple[str, CurvedModule]]:
    """Path and module of everything in a model that has curves."""
    for path, module in model.named_modules():
        if has_curves(module):
            yield path, cast(CurvedModule, module)


def require_curves(model: nn.Module, otherwise: str) -> dict[str, CurvedModule]:
    """Everything in a model that has curves, by path.

    Raises:
        ConfigError: nothing has; `otherwise` ends the sentence.
    """
    modules = dict(curved_modules(model))
    if not modules:
        raise ConfigError(f"The model has no curves{otherwise}")
    return modules


def curve_tensors(module: Curved) -> dict[str, Tensor]:
    """The parameters and the buffer that a module's curves are made of, by name."""
    tensors = dict(coefficients=module.coefficients, mix=module.mix, denominator=module.denominator)
    return {name: t for name, t in tensors.items() if t is not None} | {"domain": module.domain}


def copy_as(kind: type[M], module: nn.Module) -> M:
    """A module of another class with the same tensors, hooks, mode and attributes; they share nothing else."""
    other = kind.__new__(kind)
    nn.Module.__init__(other)
    for name, value in vars(module).items():
        other.__dict__[name] = value.copy() if isinstance(value, (dict, set)) else value
    return other


def curve_dtype(weight: Tensor) -> torch.dtype:
    """The dtype of curves beside a weight: the weight's own, or the default where a quantiser made it integer."""
    return weight.dtype if weight.dtype.is_floating_point else torch.get_default_dtype()


@torch.no_grad()
def reset_curves(module: Curved, *, noise: float = 0.0, generator: torch.Generator | None = None) -> None:
    """Set all curves to zero, or to random ones whose coefficients have the standard deviation `noise`.

    The generator's device must be the parameters'; None is torch's global one.

    Raises:
        ConfigError: the module's dtype cannot hold the domain.
    """
    with _disable_current_modes():  # such as that of tensors without values
        ends = torch.tensor(module.curves.domain, dtype=torch.float64, device="cpu").to(module.domain.dtype)
        lower, upper = ends.double().tolist()
    if not 0 < upper - lower < math.inf:
        raise ConfigError(f"domain {module.curves.domain} has no width, or an infinite one, in {module.domain.dtype}.")
    module.domain[:, 0], module.domain[:, 1] = lower, upper
    if noise:
        module.coefficients.normal_(0.0, noise, generator=generator)
    else:
        module.coefficients.zero_()
    if module.mix is not None:
        module.mix.normal_(0.0, module.mix.shape[0] ** -0.5, generator=generator)
    if module.denominator is not None:
        module.denominator.fill_(INITIAL_DENOMINATOR)


def check_input(module: Curved, x: Tensor) -> None:
    """Raise a ShapeError unless the last axis of x is that of the module's curves."""
    if x.shape[-1:] != (module.in_features,):
        raise ShapeError(
            f"{type(module).__name__} has curves for {module.in_features} channels, got input {tuple(x.shape)}."
        )


def has_hub_kernel(module: Curved) -> bool:
    """Whether the kernels in `kernels/` compute the module's basis."""
    return module.curves.basis.name in BASES


def curves_of(module: Curved) -> Curves:
    """A module's curves as operators take them."""
    return Curves(module.coefficients, module.domain, module.denominator, module.curves.basis)


def curves_for(module: Curved, x: Tensor) -> Curves:
    """`curves_of` a module whose input x (..., I) is checked first."""
    if x.shape[-1:] != (module.in_features,):  # asked here, since a call costs a generated token time
        check_input(module, x)
    return Curves(module.coefficients, module.domain, module.denominator, module.curves.basis)


def apply_curve(module: Curved, x: Tensor, base: Tensor | str, factor: Tensor | None = None) -> Tensor:
    """(base + ψ(x)) · factor with the curves ψ of a `channel` or `group` module, all (..., I); rounded to the base's
    dtype. Without a factor it is 1.

    The name of a function in `ACTIVATIONS` stands for that function of x, and costs less than its value.
    Where the curves are zero the sum is the base, bit for bit (a negative zero becomes a positive one).
    """
    # Once per token and layer, so it asks little, and calls nothing for tensors that the short way does not take. It is
    # kept as long as backend, basis and width stay.
    if (
        x.is_cpu
        and x.dtype is torch.float32
        and isinstance(module, nn.Module)
        and not torch.is_grad_enabled()
        and not is_dynamo_compiling()
    ):
        tensors, basis = module._parameters, module.curves.basis
        coefficients, domain = tensors.get("coefficients"), module._buffers.get("domain")
        if coefficients is not None and domain is not None:  # not parametrized
            requested, known, width, infer = vars(module).get("_inference", NEVER)
            if requested is not backend.requested or known is not basis or width != module.in_features:
                infer = _keep_inference(module, x)
            if infer is not None:
                y = infer(x, coefficients, domain, tensors.get("denominator"), base, factor)
                if y is not None:
                    return y
    return apply_curves(x, curves_for(module, x), base, factor)


def _keep_inference(module: Curved, x: Tensor) -> Inference | None:
    """The backend's short way for a module, which keeps it; None where the backend has none."""
    check_input(module, x)
    kind = backend.backend_for(x).inference
    infer = None if kind is None else kind(module.in_features, curves_of(module))
    vars(module)["_inference"] = _Kept((backend.requested, module.curves.basis, module.in_features, infer))
    return infer


def add_edges(module: Curved, x: Tensor, base: Tensor) -> Tensor:
    """base + Σ_i s_oi(x_i) with the curves of a `full` or `low_rank` module; x (..., I), base and result (..., O)."""
    if module.mix is None:
        return sum_edges(x, curves_of(module), base)
    if is_autocast_enabled(x.device.type):
        with torch.autocast(x.device.type, enabled=False):
            return add_edges(module, x, base)
    sums = sum_edges(x, curves_of(module))
    return (base.to(sums.dtype) + sums @ module.mix.to(sums.dtype)).to(base.dtype)


def forward_with_curves(module: CurvedLinear, x: Tensor) -> Tensor:
    """The output of a linear module with curves on straight edges: its `project`, and the curves."""
    if module.curves.is_per_channel:
        return module.project(apply_curve(module, x, "identity"))
    return add_edges(module, x, module.project(x))
