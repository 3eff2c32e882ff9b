"""Layers with extreme inputs, and the rule that they are held to: where the plain layer is finite, so is the bent one.

`benchmarks/extreme_inputs.py` runs the full cross product, the tests here a part of it.

Shape letters: N tokens, I inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain, product
from typing import Any

import torch
from torch import Tensor, nn

from kansformer.basis import BASES, EXTRAPOLATIONS
from kansformer.errors import ConfigError
from kansformer.nn import GatedKANFeedForward, KANLinear, LearnedActivation
from kansformer.nn.base import BASE_FUNCTIONS
from kansformer.nn.curves import EDGES
from kansformer.ops import set_backend

FEATURES, HIDDEN, TOKENS, BAD_ROW = 6, 8, 9, 3
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
BACKENDS = ("reference", "cpu", "native")
BASES_AND_ORDERS = [("bspline", order) for order in range(1, 6)] + [(name, 3) for name in BASES if name != "bspline"]
LAYERS_AND_EDGES = [
    *(("activation", edges) for edges in ("channel", "group")),
    *(("linear", edges) for edges in EDGES),
    *(("gated", edges) for edges in ("channel", "group")),
]
# Relative L2 error of wrong numbers, not of rounded ones, which `numerics` has the table for: against the definition in
# float64, and in 16 bits against the definition in the same dtype. Gradients start at a size of 1; what is smaller than
# the floor is zero.
RIGHT = {torch.float64: 1e-7, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 8e-2}
FLOOR = 1e-6


@dataclass(frozen=True)
class Inputs:
    """One class of inputs.

    Args:
        make: from normal numbers (N, I) in float64, the scale of the domain, and the dtype they will have, to x.
        domain: of all curves.
        tokens: N.
        grid_size: of all curves.
        spoiled: the value of one row that may spoil itself, and nothing else.
        autocast: in which dtype a layer of float32 shall run, or None.
    """

    make: Callable[[Tensor, torch.dtype], Tensor] = lambda normal_NI, dtype: normal_NI
    domain: tuple[float, float] = (-1.5, 2.0)
    tokens: int = TOKENS
    grid_size: int = 4
    spoiled: float | None = None
    autocast: torch.dtype | None = None


def _at(value: float) -> Callable[[Tensor, torch.dtype], Tensor]:
    return lambda normal_NI, dtype: torch.full_like(normal_NI, value)


def _times(scale: float) -> Callable[[Tensor, torch.dtype], Tensor]:
    return lambda normal_NI, dtype: normal_NI * scale


def _of_range(share: str, factor: float) -> Callable[[Tensor, torch.dtype], Tensor]:
    """Numbers of about that multiple of the dtype's `max` or `tiny`, of both signs."""
    return lambda normal_NI, dtype: normal_NI.clamp(-2, 2) * getattr(torch.finfo(dtype), share) * factor


INPUTS = {
    "normal": Inputs(),
    "empty": Inputs(tokens=0),
    "one row": Inputs(tokens=1),
    "zeros": Inputs(_at(0.0)),
    "constant": Inputs(_at(0.7)),
    "at the end of the domain": Inputs(_at(2.0)),
    "subnormal": Inputs(_of_range("tiny", 0.1)),
    "far outside": Inputs(_times(1e3)),
    "farther outside": Inputs(_times(1e9)),
    "huge": Inputs(_of_range("max", 1e-2)),
    "NaN in a row": Inputs(spoiled=torch.nan),
    "inf in a row": Inputs(spoiled=torch.inf),
    "-inf in a row": Inputs(spoiled=-torch.inf),
    "largest in a row": Inputs(spoiled=3e38),
    "NaN among few rows": Inputs(tokens=4, spoiled=torch.nan),
    "largest among few rows": Inputs(tokens=4, spoiled=3e38),
    "domain 1e-30 wide": Inputs(_times(1e-30), domain=(-5e-31, 5e-31)),
    "domain 1e-30 wide, inputs of 1": Inputs(domain=(-5e-31, 5e-31)),
    "domain 1e30 wide": Inputs(_times(1e30), domain=(-5e29, 5e29)),
    "domain 1e30 wide, inputs of 1": Inputs(domain=(-5e29, 5e29)),
    "grid of 1": Inputs(grid_size=1),
    "grid of 1000": Inputs(grid_size=1000),
    "grid of 1000, far outside": Inputs(_times(1e9), grid_size=1000),
    "autocast to float16": Inputs(_times(1e3), autocast=torch.float16),
    "autocast to float16, overflowing": Inputs(_times(1e6), autocast=torch.float16),
    "autocast to bfloat16": Inputs(_times(1e3), autocast=torch.bfloat16),
}


@dataclass(frozen=True)
class Case:
    """A layer, where and in what it runs, and the name of its inputs in `INPUTS`."""

    inputs: str
    layer: str
    edges: str
    basis: str
    order: int
    backend: str
    dtype: torch.dtype
    base: str = "silu"
    extrapolation: str = "linear"

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return (
            f"{self.inputs}, {self.layer}, {self.edges}, {self.basis} {self.order}, {self.backend}, {dtype}, "
            f"{self.base}, {self.extrapolation}"
        )


def all_cases() -> Iterator[Case]:
    """The full cross product."""
    return chain.from_iterable(map(cases_of, INPUTS))


def cases_of(name: str) -> Iterator[Case]:
    """Those of a class of inputs; functions beside the curves and ways outside the domain vary one at a time."""
    varied = [("silu", "linear"), *((base, "linear") for base in BASE_FUNCTIONS if base != "silu")]
    varied += [("silu", extrapolation) for extrapolation in EXTRAPOLATIONS if extrapolation != "linear"]
    for (layer, edges), (basis, order), backend, dtype, extra in product(
        LAYERS_AND_EDGES, BASES_AND_ORDERS, BACKENDS, DTYPES, varied
    ):
        if INPUTS[name].autocast is None or dtype == torch.float32:
            yield Case(name, layer, edges, basis, order, backend, dtype, *extra)


@contextmanager
def running_on(backend: str) -> Iterator[None]:
    set_backend(backend)
    try:
        yield
    finally:
        set_backend(None)


def build(case: Case) -> nn.Module:
    """The layer with random weights and bent curves.

    Raises:
        ConfigError: its dtype cannot hold the domain.
    """
    given = INPUTS[case.inputs]
    settings: dict[str, Any] = dict(basis=case.basis, order=case.order, edges=case.edges, base=case.base, groups=2)
    settings |= dict(grid_size=given.grid_size, domain=given.domain, extrapolation=case.extrapolation)
    if case.layer == "linear":
        module: nn.Module = KANLinear(FEATURES, 4, rank=3, dtype=case.dtype, **settings)
    elif case.layer == "activation":
        module = LearnedActivation(FEATURES, dtype=case.dtype, **settings)
    else:
        module = GatedKANFeedForward(FEATURES, HIDDEN, dtype=case.dtype, **settings)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            fresh = 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if name.endswith("coefficients"):  # neighbours alike: a fine grid shall not be a rough curve
                shape = (1, -1, *(1,) * (parameter.ndim - 2))
                along = torch.linspace(0, 2, parameter.shape[1], dtype=torch.float64).reshape(shape)
                fresh = (along + fresh[:, :1] * 10).sin() / (1 + along * parameter.shape[1] * (case.basis == "fourier"))
            parameter.copy_(fresh)
    return module


def plain_twin(module: nn.Module) -> nn.Module:
    """The same layer without curves: its function, its weights."""
    module = deepcopy(module)
    if isinstance(module, LearnedActivation):
        return Plain(module.activation)
    if isinstance(module, KANLinear):
        return nn.Sequential(Plain(BASE_FUNCTIONS[module.base]), module.without_curves())
    return PlainGated(module)


class Plain(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class PlainGated(nn.Module):
    """SwiGLU with the weights of a `GatedKANFeedForward`."""

    def __init__(self, bent: Any) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = bent.gate_proj, bent.up_proj, bent.down_proj
        self.function = bent.act_fn.activation

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.function(self.gate_proj(x)) * self.up_proj(x))


def inputs_of(case: Case) -> Tensor:
    """x (N, I) in the layer's dtype, with the spoiled row."""
    given = INPUTS[case.inputs]
    normal_NI = torch.randn(given.tokens, FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x_NI = given.make(normal_NI, case.dtype).to(case.dtype)
    if given.spoiled is not None:
        x_NI[BAD_ROW] = min(given.spoiled, torch.finfo(case.dtype).max) if given.spoiled == 3e38 else given.spoiled
    return x_NI


@dataclass(frozen=True)
class Outcome:
    """Output, gradient of the input, and gradients of the parameters by their names."""

    output: Tensor
    slope: Tensor
    gradients: dict[str, Tensor]

    def named(self) -> Iterator[tuple[str, Tensor]]:
        yield "the output", self.output
        yield "the input's gradient", self.slope
        for name, gradient in self.gradients.items():
            yield f"the gradient of {name}", gradient


def run(module: nn.Module, x_NI: Tensor, autocast: torch.dtype | None = None) -> Outcome:
    """Forward, and backward from a gradient of the size of 1."""
    x_NI = x_NI.clone().requires_grad_()
    with torch.autocast("cpu", autocast) if autocast else nullcontext():
        output = module(x_NI)
    pull = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).reshape(output.shape).to(output)
    names, parameters = zip(*module.named_parameters(), strict=True) if list(module.parameters()) else ((), ())
    if not output.requires_grad:  # the plain layer of the base `zero`
        return Outcome(output, torch.zeros_like(x_NI), {})
    slope, *found = torch.autograd.grad(output, (x_NI, *parameters), pull, allow_unused=True, materialize_grads=True)
    return Outcome(output.detach(), slope, dict(zip(names, found, strict=True)))


def largest_inside(module: nn.Module, x_NI: Tensor) -> float:
    """The largest number that goes into or comes out of a part of a layer, forward or backward, in float64."""
    found = [0.0]

    def see(tensor: Tensor) -> None:
        found.append(
            float(tensor.detach().nan_to_num(0.0, torch.inf, -torch.inf).abs().max()) if tensor.numel() else 0.0
        )
        if tensor.requires_grad:
            tensor.register_hook(see)

    def hook(part: nn.Module, arguments: tuple, output: Tensor) -> None:
        for tensor in (*arguments, output):
            see(tensor)

    module = deepcopy(module).double()
    for part in module.modules():
        part.register_forward_hook(hook)
        if isinstance(part, KANLinear):
            projected = part.project

            def project(activated: Tensor, projected: Any = projected) -> Tensor:
                see(activated)
                return projected(activated)

            part.project = project
    run(module, x_NI.double())
    return max(found)


FINITE, DOCUMENTED, LOST = "finite", "documented", "lost"


@dataclass(frozen=True)
class Verdict:
    """What became of a case: `finite`, `documented` or `lost`, and why if it was not the first."""

    kind: str
    why: str = ""


def judge(case: Case) -> Verdict:
    """Run a case and hold it to the rule.

    - Where the plain layer's output or gradient is finite, the bent one's is, unless the exact value is too large for
      the dtype.
    - What is finite is right: near what the definition gives in float64.
    - A spoiled row leaves the bits of the others alone, and is what the definition makes of it.
    """
    given = INPUTS[case.inputs]
    try:
        module = build(case)
    except ConfigError as error:
        return Verdict(DOCUMENTED, str(error))
    x_NI = inputs_of(case)
    with running_on(case.backend):
        bent = run(module, x_NI, given.autocast)
    plain = run(plain_twin(module), x_NI, given.autocast)
    with running_on("reference"):
        exact = run(deepcopy(module).double(), x_NI.double())
        defined = run(module, x_NI, given.autocast)
    if given.spoiled is not None:
        clean_NI = x_NI.clone()
        clean_NI[BAD_ROW] = 0.5
        with running_on(case.backend):
            undisturbed = run(module, clean_NI, given.autocast)
        if why := _disturbed(bent, undisturbed) or _different(bent, defined, given.spoiled):
            return Verdict(LOST, why)
    dtype = case.dtype if given.autocast is None else given.autocast
    if given.spoiled != given.spoiled:  # seen above: NaN is what NaN becomes, also where the plain layer forgets it
        plain.output[BAD_ROW] = plain.slope[BAD_ROW] = torch.nan
        plain.gradients.update(
            {name: torch.full_like(gradient, torch.nan) for name, gradient in plain.gradients.items()}
        )
    loose = 30.0 if given.grid_size == 1000 else 1.0  # an ulp of an input is so much longer in an interval of the grid
    tolerance = loose * RIGHT[dtype]
    return _finite_and_right(bent, plain, exact, defined, dtype, tolerance, lambda: largest_inside(module, x_NI))


def _disturbed(bent: Outcome, undisturbed: Outcome) -> str:
    others = [row for row in range(len(bent.output)) if row != BAD_ROW]
    for (name, found), (_, expected) in zip(bent.named(), undisturbed.named(), strict=True):
        if name in ("the output", "the input's gradient") and not torch.equal(found[others], expected[others]):
            return f"{name}: a spoiled row changes others"
    return ""


def _different(bent: Outcome, defined: Outcome, spoiled: float) -> str:
    """Whether the spoiled row is another one than that of the definition."""
    found, expected = bent.output[BAD_ROW], defined.output[BAD_ROW]
    if not (torch.equal(found.isnan(), expected.isnan()) and torch.equal(found.isinf(), expected.isinf())):
        return f"the output of the spoiled row: {found.tolist()} instead of {expected.tolist()}"
    if spoiled != spoiled:
        for name, gradient in bent.gradients.items():
            if bool(gradient.isnan().any()) != bool(defined.gradients[name].isnan().any()):
                return f"the gradient of {name}: NaN in one backend only"
    return ""


def _finite_and_right(
    bent: Outcome,
    plain: Outcome,
    exact: Outcome,
    defined: Outcome,
    dtype: torch.dtype,
    tolerance: float,
    inside: Callable[[], float],
) -> Verdict:
    documented = ""
    plain_finite = all(tensor.isfinite().all() for _, tensor in plain.named())
    largest = torch.finfo(dtype).max
    known = dict(plain.named())
    narrow = torch.finfo(dtype).bits == 16
    for (name, found), (_, right), (_, same) in zip(bent.named(), exact.named(), defined.named(), strict=True):
        # What goes into curves is finite if everything in the plain layer is.
        of_curves = torch.full_like(found, plain_finite, dtype=torch.bool)
        asked = known[name].isfinite() if name in known else of_curves
        missing = asked & ~found.isfinite()
        if missing.any():
            place = tuple(missing.nonzero()[0].tolist())
            why = f"{name} at {place}: {found[place]}, exactly {right[place]:g}"
            if not (right.abs() > largest).any() and not inside() > largest:
                return Verdict(LOST, why)
            documented = f"exact values are above {largest:.3g}: {why}"
        elif not asked.all():
            documented = documented or f"{name}: the plain layer is not finite either"
        expected = same if narrow else right
        both = found.isfinite() & expected.isfinite() & asked
        # By the largest, whose square would be infinite far outside; of both, since a 16-bit product may put an input
        # inside of a domain in which it is not.
        sizes = torch.cat([right.flatten(), expected.flatten().double()]).abs()
        scale = max(float(sizes[sizes.isfinite()].max()) if sizes.isfinite().any() else 0.0, FLOOR)
        error = float(((found[both].double() - expected[both].double()) / scale).norm())
        if error > tolerance:
            return Verdict(LOST, f"{name}: relative error {error:.1e}")
    return Verdict(DOCUMENTED if documented else FINITE, documented)
