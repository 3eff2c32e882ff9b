"""Curves that several modules share: one parameter, so one gradient and one state of an optimizer.

Domains are buffers, which torch moves module by module, so each module has a domain of its own with equal values.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from kansformer.errors import ConfigError
from kansformer.nn.curves import CURVE_PARAMETERS, CurvedModule, curve_tensors
from kansformer.nn.parallel import local_part


def check_alike(modules: Mapping[str, CurvedModule]) -> None:
    """Check that modules, by path, can share one set of curves.

    Raises:
        ConfigError: their curves differ in shape, dtype or device, or only some are split among processes.
    """
    (first, owner), *others = modules.items()
    for path, module in others:
        for name, tensor in curve_tensors(owner).items():
            one, other = _layout(tensor), _layout(curve_tensors(module)[name])
            if one != other:
                raise ConfigError(
                    f"share='model' needs curves of one shape and dtype in one place. The {name} at {first} are {one}, "
                    f"at {path} {other}. Load the whole model onto one device, or convert it with share='slot'."
                )


def tie_curves(modules: Mapping[str, CurvedModule]) -> None:
    """Have modules that `check_alike` has seen use the curve parameters of the first one."""
    owner, *others = modules.values()
    for module in others:
        for name in CURVE_PARAMETERS:
            if name in owner._parameters:
                module._parameters[name] = owner._parameters[name]


def find_difference(modules: Mapping[str, CurvedModule]) -> str | None:
    """Path of the first module whose curves have other values than those of the first one; None if all are equal.

    Copies may be in other dtypes and on other devices.
    """
    owner = curve_tensors(next(iter(modules.values())))
    for path, module in modules.items():
        for name, tensor in curve_tensors(module).items():
            first = local_part(owner[name])
            if not (tensor.is_meta or first.is_meta) and not torch.equal(local_part(tensor).to(first), first):
                return path
    return None


def sharing_modules(modules: Mapping[str, CurvedModule]) -> list[dict[str, CurvedModule]]:
    """The modules with the same coefficients together, by path, in their order."""
    groups: dict[int, dict[str, CurvedModule]] = {}
    for path, module in modules.items():
        groups.setdefault(id(module.coefficients), {})[path] = module
    return list(groups.values())


def _layout(tensor: Tensor) -> str:
    split = " split among processes" if local_part(tensor) is not tensor else ""
    return f"{tuple(tensor.shape)} in {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}{split}"
