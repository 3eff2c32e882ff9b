"""Which axis of a curve tensor is split where a layer's outputs or inputs are split among processes.

| layer | `channel`, `group` | `full` | `low_rank` |
|---|---|---|---|
| by outputs | whole | coefficients by outputs | coefficients whole, mix by outputs |
| by inputs, and the activation before it | by channels | by inputs | coefficients by inputs, mix whole |

A layer split by inputs adds its own edges to its part of the sum, before the parts are added up.
"""

from typing import Literal

from torch import Tensor

from kansformer.nn.curves import CurveSpec

SplitBy = Literal["outputs", "inputs"]

BY_INPUTS = {"coefficients": 0, "denominator": 0, "domain": 0}
BY_OUTPUTS = {"full": {"coefficients": 2}, "low_rank": {"mix": 1}}


def split_axes(spec: CurveSpec, by: SplitBy | None) -> dict[str, int]:
    """The axis along which each curve tensor is split, by name; those without an entry are whole everywhere.

    Args:
        spec: of the layer's or activation's curves.
        by: how the layer is split, None if it is not; an activation is split as the inputs of the layer after it.
    """
    if by is None:
        return {}
    return dict(BY_INPUTS) if by == "inputs" else dict(BY_OUTPUTS.get(spec.edges, {}))


def local_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor that may be split (a DTensor)."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
