"""The modules' formulas written a second time, with dense bases in float64, and the inputs the tests share.

Shape letters: N tokens, I inputs, O outputs, C coefficients, R rank.
"""

from copy import deepcopy

import torch
from torch import Tensor, nn

from kansformer.basis import BASES
from kansformer.nn import GatedKANFeedForward, KANFeedForward, KANLinear, LearnedActivation
from kansformer.nn.base import BASE_FUNCTIONS
from kansformer.nn.curves import EDGES

BASIS_AND_EDGES = [(basis, edges) for basis in BASES for edges in EDGES]
CURVES = dict(grid_size=4, order=3, domain=(-1.5, 2.0), groups=2)


def make(kind: str, basis: str, edges: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """A module of 6 inputs whose curves, weights and domains are all random."""
    curves = dict(basis=basis, edges=edges, dtype=dtype, **CURVES)
    if kind == "linear":
        module = KANLinear(6, 4, rank=3, **curves)
    elif kind == "activation":
        module = LearnedActivation(6, **curves)
    elif kind == "feedforward":
        module = KANFeedForward(6, 8, rank=3, **curves)
    else:
        module = GatedKANFeedForward(6, 8, **curves)
    return randomised(module, seed)


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with new numbers everywhere, so that no curve is straight and no two domains are equal."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            fresh = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            if name.endswith("domain"):
                fresh = torch.stack([-1 - fresh[:, 0].abs(), 1 + fresh[:, 1].abs()], dim=-1)
            elif name.endswith(("weight", "coefficients")):
                fresh /= tensor.shape[1] ** 0.5
            tensor.copy_(fresh)
    return module


def inputs(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    """Normal numbers, some of them outside every domain."""
    return (1.5 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))).to(dtype)


def float64_twin(module: nn.Module) -> nn.Module:
    """The same stored numbers in float64."""
    return deepcopy(module).double()


def expected_output(module: nn.Module, x_NI: Tensor) -> Tensor:
    """What the module shall compute, from its formula."""
    if isinstance(module, LearnedActivation):
        return module.activation(x_NI) + channel_curves(module, x_NI)
    if isinstance(module, KANLinear):
        return kan_linear(module, x_NI)
    if isinstance(module, KANFeedForward):
        return kan_linear(module.down_proj, kan_linear(module.up_proj, x_NI))
    bent = expected_output(module.input_curve, x_NI)
    gate = expected_output(module.act_fn, bent @ module.gate_proj.weight.T)
    return (gate * (bent @ module.up_proj.weight.T)) @ module.down_proj.weight.T


def kan_linear(module: KANLinear, x_NI: Tensor) -> Tensor:
    base = BASE_FUNCTIONS[module.base](x_NI)
    if module.curves.edges in ("channel", "group"):
        return (base + channel_curves(module, x_NI)) @ module.weight.T + module.bias
    values_NIC = basis_values(module, x_NI)
    if module.curves.edges == "full":
        curves = torch.einsum("nic,ico->no", values_NIC, module.coefficients)
    else:
        curves = torch.einsum("nic,icr,ro->no", values_NIC, module.coefficients, module.mix)
    return base @ module.weight.T + module.bias + curves


def channel_curves(module: nn.Module, x_NI: Tensor) -> Tensor:
    coefficients_IC = per_channel(module, module.coefficients)
    return (basis_values(module, x_NI) * coefficients_IC).sum(-1)


def basis_values(module: nn.Module, x_NI: Tensor) -> Tensor:
    denominator = getattr(module, "denominator", None)
    denominator = None if denominator is None else per_channel(module, denominator)
    return module.curves.basis.values(x_NI, per_channel(module, module.domain), denominator)


def per_channel(module: nn.Module, tensor: Tensor) -> Tensor:
    return tensor.repeat_interleave(module.in_features // tensor.shape[0], dim=0)
