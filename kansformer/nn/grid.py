"""Move a model's grids to where its data is, and make them finer, without changing what it computes.

Shape letters: N tokens, I inputs, P curves of the input axis, S samples.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from kansformer.basis import refit_curves
from kansformer.checks import check_number
from kansformer.errors import ConfigError, ConversionStateError, DataError
from kansformer.nn.adapted import module_called_at
from kansformer.nn.curve_checks import check_not_disabled, check_not_fixed, check_own_parameters, find_records
from kansformer.nn.curves import CurvedModule, CurveSpec, curve_tensors, require_curves
from kansformer.nn.eval_mode import run_batches
from kansformer.nn.hooks import input_of
from kansformer.nn.sharing import sharing_modules
from kansformer.nn.transaction import outside_inference_mode, undone_afterwards

# The narrowest domain, relative to the numbers in it: half a width of 1/64 holds several inputs in bfloat16, to which
# models are cast. Dates and coordinates are in float64, which has inputs enough in less.
MIN_WIDTH = 1 / 64
# And relative to the domain before, lest the next step of an optimizer meet a cliff. A channel that is dead in these
# inputs says nothing about its range, and keeps the width, or the domain if that holds it.
MIN_WIDTH_SHARE = 0.05
# Half a range relative to its numbers, up to which they are constant.
CONSTANT = 4 * torch.finfo(torch.float64).eps
# The widest: float32, in which curves are evaluated, must hold the difference of the ends.
MAX_END = torch.finfo(torch.float32).max / 4


@runtime_checkable
class Constrained(Protocol):
    """A network whose curves obey constraints, which a refit would break."""

    def hold_constraints(self) -> None: ...


def update_grid(
    model: nn.Module, inputs: Tensor | Mapping[str, Tensor] | Iterable, *, margin: float = 0.05, quantile: float = 1.0
) -> nn.Module:
    """Set the domain of every curve to the range of its inputs, and refit the curve there.

    The curves stay as they are to the residual of a least-squares fit: straight curves exactly, bent ones as well as
    a grid of the same size can follow them on the new domain. So call it before training or early in it; a periodic
    (`fourier`) curve cannot be moved. A domain becomes at most 20 times narrower, and of constant inputs no narrower.
    Curves that no input reaches (an expert that was never chosen) keep their domain. Curves that layers share get one
    domain, for the inputs of all of them.

    Args:
        model: any model with curves, in place.
        inputs: a tensor or mapping that the model is called with, or an iterable of such batches.
        margin: widens each domain on both sides, as a fraction of its width.
        quantile: the share of inputs that each side should cover, in (0.5, 1]; 1 covers all of them.

    Returns:
        The model.

    Raises:
        ConfigError: the model has no curves, or fixed ones; `quantile` or `margin` is out of range, or a curve is not
            finite or would not be on its new domain.
        DataError: an input that reaches a curve is not finite, or none reaches any.
        ConversionStateError: curves are disabled, not in memory, or computed from other tensors (parametrize, prune).

    Whatever is raised, the model is left as it was.

    Examples:
        >>> from kansformer import LearnedActivation, update_grid
        >>> activation = LearnedActivation(1, domain=(-1, 1))
        >>> update_grid(activation, torch.linspace(-3, 5, 50).unsqueeze(-1), margin=0).domain
        tensor([[-3.,  5.]])
    """
    return move_grids(model, inputs, margin=margin, quantile=quantile)


def move_grids(
    model: nn.Module,
    inputs: Tensor | Mapping[str, Tensor] | Iterable,
    *,
    margin: float = 0.05,
    quantile: float = 1.0,
    min_width: float | None = None,
) -> nn.Module:
    """`update_grid`, with the narrowest domain relative to the numbers in it; None is for models that may be cast."""
    modules = require_curves(model, ", so there is no grid to update.")
    if not 0.5 < quantile <= 1.0:
        raise ConfigError(f"quantile must be above 0.5 and at most 1, got {quantile!r}.")
    check_number("margin", margin, 0)
    check_not_fixed(model, "update_grid")
    _check_changeable(modules, model, "Grids cannot be moved")
    sharing = {next(iter(group)): group for group in sharing_modules(modules)}
    owners = {path: owner for owner, group in sharing.items() for path in group}
    ranges = _record_ranges(model, modules, owners, inputs, quantile)
    if not ranges:
        raise DataError("No input reached any curve, so there is no range to set the grids to.")
    moved = []
    for path, range_P2 in ranges.items():
        module = modules[path]
        narrowest = min_width or (width_for(module.domain) if module.domain.dtype == torch.float64 else MIN_WIDTH)
        domain_P2 = _widened(range_P2, margin, module.domain, narrowest).to(module.domain)
        moved.append(_refit(path, [*sharing[path].values()], module.curves, domain_P2))
    _write_all(model, moved)
    return model


def refine_grid(model: nn.Module, grid_size: int) -> nn.Module:
    """Give every curve a finer (or coarser) grid on the same domain: the grid extension of Liu et al. (2024).

    When the new grid size is a multiple of the old one, B-spline curves are kept exactly (to rounding).

    Args:
        model: any model with curves, in place. Its coefficients are new parameters: make the optimizer anew.
        grid_size: G of all curves.

    Returns:
        The model.

    Raises:
        ConfigError: the model has no curves, or fixed ones, the grid size is not a whole number of at least 1, or a
            curve is not finite or would not be on the new grid; the model is left as it was.
        ConversionStateError: curves are disabled, not in memory, or computed from other tensors (parametrize, prune).

    Examples:
        >>> from kansformer import KANLinear, refine_grid
        >>> layer, x = KANLinear(4, 3, grid_size=5), torch.randn(2, 4)
        >>> before = layer(x)
        >>> torch.allclose(refine_grid(layer, 10)(x), before, atol=1e-5)
        True
        >>> layer.coefficients.shape
        torch.Size([4, 13, 3])
    """
    modules = require_curves(model, ", so there is no grid to refine.")
    check_not_fixed(model, "refine_grid")
    _check_changeable(modules, model, "Grids cannot be refined")
    refined = []
    for group in sharing_modules(modules):
        path, module = next(iter(group.items()))
        spec = replace(module.curves, basis=replace(module.curves.basis, grid_size=grid_size))
        refined.append(_refit(path, [*group.values()], spec, module.domain))
    records = [(owner, name, record.with_grid_size(grid_size)) for owner, name, record in find_records(model)]
    _write_all(model, refined)
    for owner, name, record in records:  # a converted model says what its curves are made of
        setattr(owner, name, record)
    return model


def _check_changeable(modules: Mapping[str, CurvedModule], model: nn.Module, what: str) -> None:
    check_not_disabled(model, what)
    check_own_parameters(model, what)
    for path, module in modules.items():
        if module.coefficients.is_meta:
            raise ConversionStateError(
                f"{what} while the curves of {path} are not in memory. Load the model without offloading."
            )


def _record_ranges(
    model: nn.Module,
    modules: Mapping[str, CurvedModule],
    owners: Mapping[str, str],
    inputs: Tensor | Mapping | Iterable,
    quantile: float,
) -> dict[str, Tensor]:
    """Ranges (P, 2) of the inputs of curves, by path of the first module with these curves: `owners[path]`."""
    ranges: dict[str, Tensor] = {}

    def record(path: str, module: CurvedModule, _: nn.Module, args: tuple, kwargs: dict) -> None:
        x = input_of(args, kwargs).detach()
        x_NI = x.reshape(-1, x.shape[-1])
        if not x_NI.numel():
            return
        if not x_NI.isfinite().all():
            raise DataError(f"The input of {path or 'the model'} is not finite, so its range cannot be taken.")
        curves = module.domain.shape[0]
        x_PS = x_NI.reshape(x_NI.shape[0], curves, -1).permute(1, 0, 2).reshape(curves, -1)
        range_P2 = _range(x_PS.to(torch.promote_types(x_PS.dtype, torch.float32)), quantile)
        owner = owners[path]
        if owner in ranges:
            lower, upper = ranges[owner].unbind(-1)
            range_P2 = torch.stack([lower.minimum(range_P2[:, 0]), upper.maximum(range_P2[:, 1])], dim=-1)
        ranges[owner] = range_P2

    with undone_afterwards() as hooks:
        for path, module in modules.items():
            called = module_called_at(model, path)
            hook = partial(record, path, module)
            hooks.callback(called.register_forward_pre_hook(hook, with_kwargs=True).remove)
        run_batches(model, inputs)
    return ranges


def _range(x_PS: Tensor, quantile: float) -> Tensor:
    """Lower and upper end (P, 2) of a range that covers the share `quantile` of S samples on each side."""
    samples = x_PS.shape[1]
    outermost = samples - round(quantile * (samples - 1))
    lower_P, upper_P = (x_PS.topk(outermost, largest=largest).values[:, -1] for largest in (False, True))
    return torch.stack([lower_P, upper_P], dim=-1)


def width_for(domain: Tensor) -> float:
    """The narrowest domain, relative to the numbers in it, that holds enough inputs in its own dtype."""
    return torch.finfo(domain.dtype).eps ** 0.75


def _widened(range_P2: Tensor, margin: float, old_domain_P2: Tensor, min_width: float) -> Tensor:
    """The range with its margin, wide enough to be a domain in any dtype and a place to learn in."""
    lower, upper = range_P2.double().unbind(-1)
    middle, half = (lower + upper) / 2, (upper - lower) / 2
    old_lower, old_upper = old_domain_P2.double().unbind(-1)
    old_half = (old_upper - old_lower) / 2
    is_constant = half <= CONSTANT * middle.abs()
    least = torch.where(is_constant, old_half, MIN_WIDTH_SHARE * old_half)
    narrowest = torch.maximum(min_width * middle.abs(), least).to(half)
    half = (half * (1 + 2 * margin)).maximum(narrowest)
    farthest = min(torch.finfo(old_domain_P2.dtype).max, MAX_END)
    nearly = farthest * (1 - MIN_WIDTH)  # inputs that all lie beyond the farthest end keep a domain as well
    new_P2 = torch.stack([(middle - half).clamp(-farthest, nearly), (middle + half).clamp(-nearly, farthest)], dim=-1)
    stays = is_constant & (old_lower <= middle) & (middle <= old_upper)
    return torch.where(stays.unsqueeze(-1), old_domain_P2.double(), new_P2)


@outside_inference_mode()
@torch.no_grad()
def _refit(path: str, sharing: list[CurvedModule], spec: CurveSpec, domain_P2: Tensor) -> Callable[[], None]:
    """Fit the curves of a module, and of others that share them, on another grid; a call of the result writes them,
    once all modules are fitted."""
    module = sharing[0]
    per_edge = module.coefficients.unsqueeze(-1) if spec.is_per_channel else module.coefficients
    name = f"The curves of {path or 'the model'}"
    denominator = module.denominator
    if not all(tensor.isfinite().all() for name, tensor in curve_tensors(module).items() if name != "mix"):
        raise ConfigError(f"{name} are not finite, so they cannot be kept on another grid. The model is as it was.")
    fitted = refit_curves(
        per_edge, module.curves.basis, module.domain, spec.basis, domain_P2, denominator_ID=denominator
    )
    if not fitted.isfinite().all():
        raise ConfigError(
            f"{name} would not be finite in {fitted.dtype} on a grid of {spec.basis.grid_size} from "
            f"{float(domain_P2[:, 0].min()):g} to {float(domain_P2[:, 1].max()):g}. The model is as it was."
        )
    return partial(_write, sharing, spec, domain_P2, fitted.squeeze(-1) if spec.is_per_channel else fitted)


def _write_all(model: nn.Module, refitted: Iterable[Callable[[], None]]) -> None:
    for write in refitted:
        write()
    for module in model.modules():
        if isinstance(module, Constrained):
            module.hold_constraints()


@torch.no_grad()
def _write(sharing: list[CurvedModule], spec: CurveSpec, domain_P2: Tensor, coefficients: Tensor) -> None:
    parameter = sharing[0].coefficients
    if coefficients.shape == parameter.shape:
        parameter.copy_(coefficients)
    else:
        parameter = nn.Parameter(coefficients, requires_grad=parameter.requires_grad)
    for module in sharing:
        module.coefficients = parameter
        module.domain.copy_(domain_P2)
        module.curves = spec
