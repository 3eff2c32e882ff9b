"""Load a converted model with transformers' tensor parallelism (`tp_plan`): curves are split with their channels.

A rule of the plan splits a linear layer's weight among processes, by outputs (`colwise`) or inputs (`rowwise`), and
its curves as `nn/parallel.py` says. Only domains are whole in every process, which takes its channels' part of them. A
feed-forward network to which this cannot be applied is kept whole in every process, with a warning, and everything else
is split.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kansformer.conversion.record import get_setting
from kansformer.errors import ConversionStateError
from kansformer.nn import KANLinear, LearnedActivation
from kansformer.nn.curves import CurvedModule, curved_modules
from kansformer.nn.parallel import SplitBy, local_part, split_axes
from kansformer.sites import Site

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

SELF_CONTAINED = ("colwise", "rowwise", "packed_colwise", "packed_rowwise", "local_params")
"""Rules of one linear layer. A network keeps its function when all of its layers are without them."""

SPLIT_BY: dict[str, SplitBy] = {"up": "outputs", "gate": "outputs", "act": "inputs", "down": "inputs"}
WEIGHT_AXES = {"outputs": {"weight": 0, "bias": 0}, "inputs": {"weight": 1}}
"""The axis along which the parameters of a linear layer are split; others are whole."""


def is_one_of_several() -> bool:
    """Whether this process shares its work with others."""
    group = torch.distributed
    return group.is_available() and group.is_initialized() and group.get_world_size() > 1


def check_not_split(model: nn.Module, *, has_curves: bool) -> None:
    """Check that a model is not split by tensor parallelism, unless its rules were made for its curves.

    Raises:
        ConversionStateError: it is.
    """
    size = get_setting(model, "_tp_size")
    if size is not None and size > 1 and not has_curves:
        raise ConversionStateError(
            f"The model is split among {size} processes by tensor parallelism, so it cannot be converted or get its "
            "curves. Convert it in one process and save it; tp_plan needs transformers 5.24 then."
        )


def split_networks(
    model: nn.Module, sites: list[Site], plan: Mapping[str, str], mesh: "DeviceMesh | None"
) -> dict[str, str]:
    """Split what can be split of the modules with curves; a parallel plan without rules for these.

    Args:
        model: rebuilt, its weights not yet loaded.
        sites: its feed-forward networks, as they were found before.
        plan: rule by path of a module or parameter.
        mesh: of the processes; None for a plan of expert parallelism.

    Raises:
        ConversionStateError: a network has a rule that is not about one linear layer, such as that of experts.
    """
    left, curved = dict(plan), dict(curved_modules(model))
    whole: list[str] = []
    for site in sites:
        slots = {name: slot.path for name, slot in site.slots.items()}
        inside = [path for slot in site.slots.values() for path in (slot.path, slot.curve_path) if path in curved]
        curved_slots = {name: path for name, path in slots.items() if name != "input" and path in curved}
        if mesh is not None and all(
            _can_split(site, name, curved[path], plan, mesh.size()) for name, path in curved_slots.items()
        ):
            for name, path in curved_slots.items():
                _split(curved[path], name, mesh)
                left = {entry: rule for entry, rule in left.items() if not f"{entry}.".startswith(f"{path}.")}
        elif inside:
            owners = {*slots.values(), *([site.path] if site.kind in ("fused", "experts") else [])}
            dropped = [name for name in left if any(f"{name}.".startswith(f"{owner}.") for owner in owners)]
            for name in dropped:
                if left.pop(name) not in SELF_CONTAINED:
                    raise ConversionStateError(
                        f"The checkpoint has curves in {name}, which parallelism would split by the rule "
                        f"{plan[name]!r}, and its curves could not follow. Load it without tp_plan, tp_size and "
                        "ep_size."
                    )
            whole += dropped
    if whole:
        warnings.warn(
            f"Feed-forward networks with curves are not split by tensor parallelism, for instance {whole[0]}: every "
            "process keeps them whole. The other weights are split.",
            stacklevel=2,
        )
    return left


def _can_split(site: Site, name: str, module: CurvedModule, plan: Mapping[str, str], size: int) -> bool:
    if site.kind not in ("plain", "gated") or type(module) not in (KANLinear, LearnedActivation):
        return False
    if isinstance(module, KANLinear) and module.linear_class is not nn.Linear:
        return False
    rules = {slot: plan.get(site.slots[slot].path) for slot in ("up", "gate", "down") if slot in site.slots}
    by_outputs = [rule == "colwise" for slot, rule in rules.items() if slot != "down"]
    splits = all(by_outputs) and rules.get("down") == "rowwise" and site.hidden % size == 0
    return splits and (name in ("up", "gate") or len(module.domain) % size == 0)


def _split(module: CurvedModule, name: str, mesh: "DeviceMesh") -> None:
    """Split the parameters of a module with curves, and have its forward compute this process's part."""
    from torch.distributed.tensor import Shard, distribute_tensor

    axes = WEIGHT_AXES[SPLIT_BY[name]] | split_axes(module.curves, SPLIT_BY[name])
    for key, parameter in module.named_parameters(recurse=False):
        if key in axes:
            split = distribute_tensor(parameter, mesh, [Shard(axes[key])], src_data_rank=None)
            module._parameters[key] = nn.Parameter(split, requires_grad=parameter.requires_grad)
    module.forward = _split_forward(module, name, mesh)  # type: ignore[method-assign]


def _split_forward(module: CurvedModule, name: str, mesh: "DeviceMesh") -> Callable[[Tensor], Tensor]:
    from transformers.distributed.parallel_utils import _AllReduceBackward, _AllReduceForward

    group, forward = mesh.get_group(), module.forward

    def split_forward(x: Tensor) -> Tensor:
        if name in ("up", "gate"):
            x = _AllReduceBackward.apply(x, group)
        bias = module._parameters.get("bias") if name == "down" else None
        with _local_tensors(module, name, mesh):
            y = forward(x)
        if name == "down":
            y = _AllReduceForward.apply(y.contiguous(), group)
        return y if bias is None else y + bias

    return split_forward


@contextmanager
def _local_tensors(module: CurvedModule, name: str, mesh: "DeviceMesh") -> Iterator[None]:
    """Context in which a module has this process's part of everything; gradients of whole tensors are added up."""
    from transformers.distributed.parallel_utils import _AllReduceBackward

    parameters, domain, channels = dict(module._parameters), module.domain, module.in_features
    for key, parameter in parameters.items():
        if parameter is not None:
            part = local_part(parameter)
            part = part if part is not parameter else _AllReduceBackward.apply(part, mesh.get_group())
            module._parameters[key] = part  # type: ignore[assignment]
    if name == "down" and "bias" in module._parameters:
        module._parameters["bias"] = None  # added once, to the sum
    if name in ("down", "act"):
        module._buffers["domain"] = domain.chunk(mesh.size())[mesh.get_local_rank()]
        module.in_features = channels // mesh.size()
    try:
        yield
    finally:
        module._parameters.update(parameters)
        module._buffers["domain"] = domain
        module.in_features = channels
