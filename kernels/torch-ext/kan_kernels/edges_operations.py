"""The operators of edges, `torch.ops.kan_kernels.sum_edges…`: which path runs, chunk by chunk, and their empty cases.

Two paths for y and dA, chosen by `tiles.choose`: `fused` kernels recompute the basis values E in registers; `expand`
writes E of a chunk of tokens and multiplies by it with torch. dx is always fused. `sparse`, only when asked for,
multiplies y by E in its compressed 2:4 form, see `edges_sparse.py`.

They are defined with `Library.define` and have no derivatives: `torch.library.custom_op` takes about 40 µs more of the
CPU in each call. `edges.py` differentiates.

Shape letters: N tokens, I inputs, O outputs, C coefficients, D denominator parameters.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from .curve import Curve
from .edges_backward import fused_weight_gradient, input_gradient
from .edges_expand import expand
from .edges_forward import fused_forward
from .edges_sparse import check_sparse, sparse_forward
from .products import add_product, multiply
from .tiles import Tile, architecture_of, choose, processors_of
from .workspace import expands_in_planes, tokens_per_chunk

_LIBRARY = torch.library.Library("kan_kernels", "FRAGMENT")
_CURVE = "str basis, int grid_size, int order, str extrapolation"
_SCHEMAS = (
    f"sum_edges(Tensor x, Tensor coefficients, Tensor domain, Tensor? denominator, Tensor? base, {_CURVE}, str? path)"
    " -> Tensor",
    "sum_edges_input_gradient(Tensor dy, Tensor x, Tensor coefficients, Tensor domain, Tensor? denominator, "
    f"{_CURVE}) -> (Tensor, Tensor)",
    f"sum_edges_weight_gradient(Tensor dy, Tensor x, Tensor domain, Tensor? denominator, {_CURVE}, str? path)"
    " -> Tensor",
)
for _schema in _SCHEMAS:
    _LIBRARY.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


def _forward(
    x_NI: Tensor,
    coefficients_ICO: Tensor,
    domain_I2: Tensor,
    denominator_ID: Tensor | None,
    base_NO: Tensor | None,
    basis: str,
    grid_size: int,
    order: int,
    extrapolation: str,
    path: str | None,
) -> Tensor:
    """y (N, O)."""
    curve = Curve(basis=basis, grid_size=grid_size, order=order, extrapolation=extrapolation)
    x_NI, coefficients_ICO, domain_I2, denominator_ID, base_NO = _contiguous(
        x_NI, coefficients_ICO, domain_I2, denominator_ID, base_NO
    )
    outputs = coefficients_ICO.shape[2]
    if path == "sparse":
        check_sparse(x_NI, outputs, curve)
    if _is_empty(x_NI, coefficients_ICO):
        return x_NI.new_zeros(len(x_NI), outputs) if base_NO is None else base_NO.clone()
    tile = _tile("forward", x_NI, outputs, path)
    with _device_of(x_NI):
        if tile.path == "fused":
            return fused_forward(x_NI, coefficients_ICO, domain_I2, denominator_ID, base_NO, curve, tile)
        if tile.path == "sparse":
            return sparse_forward(x_NI, coefficients_ICO, domain_I2, base_NO, curve)
        y_NO = x_NI.new_empty(len(x_NI), outputs)
        if expands_in_planes(len(x_NI), outputs, curve.num_coefficients):
            weight_EO = coefficients_ICO.transpose(0, 1).reshape(-1, outputs)
        else:
            weight_EO = coefficients_ICO.view(-1, outputs)
        for rows, expanded_NE in _expanded_chunks(x_NI, domain_I2, denominator_ID, curve, outputs):
            multiply(expanded_NE, weight_EO, None if base_NO is None else base_NO[rows], y_NO[rows])
        return y_NO


def _input_gradient(
    dy_NO: Tensor,
    x_NI: Tensor,
    coefficients_ICO: Tensor,
    domain_I2: Tensor,
    denominator_ID: Tensor | None,
    basis: str,
    grid_size: int,
    order: int,
    extrapolation: str,
) -> tuple[Tensor, Tensor]:
    """dx (N, I), and the denominator's gradient (I, D)."""
    curve = Curve(basis=basis, grid_size=grid_size, order=order, extrapolation=extrapolation)
    dy_NO, x_NI, coefficients_ICO, domain_I2, denominator_ID = _contiguous(
        dy_NO, x_NI, coefficients_ICO, domain_I2, denominator_ID
    )
    if _is_empty(x_NI, coefficients_ICO):
        return torch.zeros_like(x_NI), x_NI.new_zeros(x_NI.shape[1], curve.num_denominator, dtype=_sums(x_NI))
    tile = _tile("input_gradient", x_NI, dy_NO.shape[1])
    with _device_of(x_NI):
        return input_gradient(dy_NO, x_NI, coefficients_ICO, domain_I2, denominator_ID, curve, tile)


def _weight_gradient(
    dy_NO: Tensor,
    x_NI: Tensor,
    domain_I2: Tensor,
    denominator_ID: Tensor | None,
    basis: str,
    grid_size: int,
    order: int,
    extrapolation: str,
    path: str | None,
) -> Tensor:
    """dA (I, C, O) in x's dtype, summed in float32."""
    curve = Curve(basis=basis, grid_size=grid_size, order=order, extrapolation=extrapolation)
    dy_NO, x_NI, domain_I2, denominator_ID = _contiguous(dy_NO, x_NI, domain_I2, denominator_ID)
    (tokens, inputs), outputs, coefficients = x_NI.shape, dy_NO.shape[1], curve.num_coefficients
    if 0 in (tokens, inputs, outputs):
        return x_NI.new_zeros(inputs, coefficients, outputs)
    tile = _tile("weight_gradient", x_NI, outputs, path)
    with _device_of(x_NI):
        if tile.path == "fused":
            return fused_weight_gradient(dy_NO, x_NI, domain_I2, denominator_ID, curve, tile)
        total_EO = x_NI.new_empty(inputs * coefficients, outputs, dtype=_sums(x_NI))
        for rows, expanded_NE in _expanded_chunks(x_NI, domain_I2, denominator_ID, curve, outputs):
            add_product(total_EO, expanded_NE.t(), dy_NO[rows], first=rows.start == 0)
        if expands_in_planes(tokens, outputs, coefficients):
            total_ICO = total_EO.view(coefficients, inputs, outputs).transpose(0, 1)
        else:
            total_ICO = total_EO.view(inputs, coefficients, outputs)
        return total_ICO.to(x_NI.dtype).contiguous()  # a transposed one counts as in contiguous format


def _forward_shape(
    x_NI, coefficients_ICO, domain_I2, denominator_ID, base_NO, basis, grid_size, order, extrapolation, path
):
    return x_NI.new_empty(x_NI.shape[0], coefficients_ICO.shape[2])


def _input_gradient_shape(
    dy_NO, x_NI, coefficients_ICO, domain_I2, denominator_ID, basis, grid_size, order, extrapolation
):
    curve = Curve(basis=basis, grid_size=grid_size, order=order, extrapolation=extrapolation)
    dq_ID = x_NI.new_empty(x_NI.shape[1], curve.num_denominator, dtype=_sums(x_NI))
    return torch.empty_like(x_NI, memory_format=torch.contiguous_format), dq_ID


def _weight_gradient_shape(dy_NO, x_NI, domain_I2, denominator_ID, basis, grid_size, order, extrapolation, path):
    curve = Curve(basis=basis, grid_size=grid_size, order=order, extrapolation=extrapolation)
    return x_NI.new_empty(x_NI.shape[1], curve.num_coefficients, dy_NO.shape[1])


for _name, _function, _shape in (
    ("sum_edges", _forward, _forward_shape),
    ("sum_edges_input_gradient", _input_gradient, _input_gradient_shape),
    ("sum_edges_weight_gradient", _weight_gradient, _weight_gradient_shape),
):
    for _key in ("CPU", "CUDA"):
        _LIBRARY.impl(_name, _function, _key)
    torch.library.register_fake(f"kan_kernels::{_name}", _shape, lib=_LIBRARY)


def _expanded_chunks(
    x_NI: Tensor, domain_I2: Tensor, denominator_ID: Tensor | None, curve: Curve, outputs: int
) -> Iterator[tuple[slice, Tensor]]:
    """Slices of the tokens, each with its E (tokens, I·C) in one workspace that the next slice overwrites."""
    tile = _tile("expand", x_NI, outputs)
    width = x_NI.shape[1] * curve.num_coefficients
    tokens = tokens_per_chunk(
        len(x_NI), outputs, width * x_NI.element_size(), processors_of(x_NI.device), tile.workspace_mib * 2**20
    )
    planes = expands_in_planes(len(x_NI), outputs, curve.num_coefficients)
    workspace = x_NI.new_empty(tokens * width)
    for start in range(0, len(x_NI), tokens):
        rows = slice(start, min(start + tokens, len(x_NI)))
        yield rows, expand(x_NI[rows], domain_I2, denominator_ID, curve, tile, workspace, planes)


def _tile(operation: str, x_NI: Tensor, outputs: int, path: str | None = None) -> Tile:
    return choose(operation, outputs, x_NI.dtype, architecture_of(x_NI.device), path)


@contextmanager
def _device_of(tensor: Tensor) -> Iterator[None]:
    """Triton launches on the current device; torch's products in here must keep the dtype they are given."""
    device = torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
    with device, torch.autocast(tensor.device.type, enabled=False):
        yield


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


def _is_empty(x_NI: Tensor, coefficients_ICO: Tensor) -> bool:
    return x_NI.numel() == 0 or coefficients_ICO.numel() == 0


def _sums(x_NI: Tensor) -> torch.dtype:
    return torch.promote_types(x_NI.dtype, torch.float32)
