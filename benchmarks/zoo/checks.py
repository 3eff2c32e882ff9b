"""The claim under survey: converted, a model answers the same to the bit; bent, it does not; reverted, it does."""

from __future__ import annotations

import dataclasses
import warnings

import torch
from torch import nn

from kansformer import KANConfig, convert, plan_conversion, revert
from kansformer.errors import KansformerError, NoSiteError
from kansformer.sites import find_sites
from zoo.build import Specimen
from zoo.outputs import run, same
from zoo.rules import EXPERT_INNER, HIDDEN, INNER

PRESETS = {
    "act": KANConfig(),
    "low_rank": KANConfig(edges="low_rank", rank=4, slots=("up", "down")),
}
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d)
BENDS = (0.5, 50.0)  # the second for models whose random head saturates or rounds to a codebook
# Widths that only feed-forward networks have in the zoo's small models, alone or fused with a gate.
FFN_WIDTHS = {INNER, 2 * INNER, EXPERT_INNER, 2 * EXPERT_INNER}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What one preset did to one model.

    Args:
        status: `equal`, `different`, `refused`, `no_ffn`, `convolutional`, or `crashed` for an error that is not ours.
        sites: feed-forward networks that took curves.
        idle: modules with curves that this forward never called.
        missed: weights of a feed-forward width that belong to no site.
        alive: bending the curves changed the outputs; None where nothing was converted.
        reverted: state dict and outputs are the original's again; None where nothing was converted.
        reason: why not equal, or what was left out.
    """

    status: str
    sites: int = 0
    idle: int = 0
    missed: tuple[str, ...] = ()
    alive: bool | None = None
    reverted: bool | None = None
    reason: str = ""


def check(specimen: Specimen, config: KANConfig) -> Verdict:
    """Convert, compare, bend, revert, compare. The model is the original afterwards unless `reverted` is False."""
    model = specimen.model
    missed = missed_weights(model)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plan = plan_conversion(model, config)
            convert(model, config)
    except NoSiteError as error:
        return Verdict(_kind_without_ffn(model, missed), missed=missed, reason=str(error))
    except KansformerError as error:
        return Verdict("refused", reason=f"{type(error).__name__}: {error}")
    except Exception as error:  # an error of another kind is a bug to report, and must not end the survey
        return Verdict("crashed", reason=f"{type(error).__name__}: {error}")
    sites = len(plan.sites)
    try:
        called: set[nn.Module] = set()
        curved = [module for module in model.modules() if hasattr(module, "curves")]
        hooks = [module.register_forward_hook(lambda module, *_: called.add(module)) for module in curved]
        converted = run(model, specimen.inputs)
        for hook in hooks:
            hook.remove()
        equal = same(specimen.outputs, converted)
        alive = any(_changes(specimen, state, scale) for scale in BENDS)
        revert(model)
        reverted = _same_state(state, model.state_dict()) and same(specimen.outputs, run(model, specimen.inputs))
    except Exception as error:  # as above
        return Verdict("crashed", sites, reason=f"after conversion: {type(error).__name__}: {error}", reverted=False)
    reasons = (
        [f"{len(plan.skipped)} sites left out, such as {plan.skipped[0][0]}: {plan.skipped[0][1]}"]
        if plan.skipped
        else []
    )
    if not equal:
        reasons.insert(0, f"largest difference {_largest_difference(specimen.outputs, converted):.3g}")
    status = "equal" if equal else "different"
    return Verdict(status, sites, len(curved) - len(called), missed, alive, reverted, "; ".join(reasons))


def missed_weights(model: nn.Module) -> tuple[str, ...]:
    """Weights from the model's width to a feed-forward width, or back, outside every site."""
    sites = find_sites(model)
    covered = [slot.path for site in sites for slot in site.slots.values()]
    covered += [site.path for site in sites if site.kind == "experts"]
    missed = []
    for name, parameter in model.named_parameters():
        sides = set(parameter.shape[-2:])
        if parameter.ndim < 2 or not sides & FFN_WIDTHS or HIDDEN not in sides:
            continue
        if not any(name == path or name.startswith(f"{path}.") for path in covered):
            missed.append(name)
    return tuple(missed)


def _changes(specimen: Specimen, state: dict[str, torch.Tensor], scale: float) -> bool:
    """Whether random values in every parameter that the conversion added change the outputs."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in specimen.model.named_parameters():
            if name not in state:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return not same(specimen.outputs, run(specimen.model, specimen.inputs))


def _same_state(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> bool:
    return list(before) == list(after) and same(list(before.values()), list(after.values()))


def _kind_without_ffn(model: nn.Module, missed: tuple[str, ...]) -> str:
    convolutions = sum(isinstance(module, CONVOLUTIONS) for module in model.modules())
    linears = sum(isinstance(module, nn.Linear) for module in model.modules())
    return "convolutional" if convolutions > linears and not missed else "no_ffn"


def _largest_difference(first: list[torch.Tensor], second: list[torch.Tensor]) -> float:
    gaps = [
        (a.double() - b.double()).abs().max().item()
        for a, b in zip(first, second, strict=False)
        if a.shape == b.shape and a.numel()
    ]
    return max(gaps, default=float("inf"))
