"""Whether the numbers in a checkpoint's curve tensors can be used."""

from torch import Tensor

from kansformer.errors import CheckpointError
from kansformer.nn.curves import CURVE_TENSORS


def check_values(name: str, tensor: Tensor) -> None:
    """Check that a tensor of curves is finite, and a domain has a width; tensors offloaded to disk are not checked.

    Raises:
        CheckpointError: it is not.
    """
    last = name.rpartition(".")[2]
    if tensor.is_meta or not tensor.numel() or (last not in CURVE_TENSORS and not tensor.is_floating_point()):
        return
    if not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise CheckpointError(f"{name} has the dtype {kind}, so no model can use these curves.")
    if not all(end.isfinite() for end in tensor.aminmax()):  # without a mask as large as the tensor
        raise CheckpointError(f"{name} has non-finite values, so no model can use these curves.")
    if last == "domain" and not (tensor[..., 0] < tensor[..., 1]).all():
        raise CheckpointError(f"{name} has intervals without a width, so no model can use these curves.")
