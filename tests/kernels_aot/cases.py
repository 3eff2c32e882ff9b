"""What is compiled ahead of time: one row per kernel, GPU, dtype and basis, with the tile that a launch would take."""

from dataclasses import dataclass

import torch
import triton.language as tl
from aot import SHARED_MEMORY, Resources, compile_for, resources
from instructions import Instructions, count_instructions
from kan_kernels import (
    activation_launch,
    edges_backward,
    edges_expand,
    edges_forward,
    edges_sparse,
)
from kan_kernels.curve import Curve
from kan_kernels.tiles import activation_tile, choose, forward_step, input_gradient_columns
from kan_kernels.workspace import expands_in_planes
from triton.compiler import CompiledKernel

KERNELS = {
    "forward": edges_forward.sum_edges_fused_kernel,
    "expand": edges_expand.expand_kernel,
    "expand_sparse": edges_sparse.expand_sparse_kernel,
    "input_gradient": edges_backward.input_gradient_kernel,
    "weight_gradient": edges_backward.weight_gradient_kernel,
    **activation_launch.KERNELS,
}
PRODUCTS = ("forward", "input_gradient", "weight_gradient")
"""Those that use tensor cores for 16-bit inputs."""

DTYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}

# The up-projection of a small transformer: the sizes that `choose` sees.
TOKENS, INPUTS, OUTPUTS = 4096, 768, 768


@dataclass(frozen=True)
class Case:
    """One compilation.

    Args:
        kernel: a key of KERNELS.
        target: a key of SHARED_MEMORY.
        curve: the basis it is specialised for.
        dtype: of x, the coefficients and the outputs.
        outputs: O, where the tile depends on it.
        base: of an activation, a key of `BASE_FUNCTIONS` or one of their `VARIANTS`.
    """

    kernel: str
    target: str
    curve: Curve
    dtype: torch.dtype = torch.bfloat16
    outputs: int = OUTPUTS
    base: str = "silu"

    def __str__(self) -> str:
        width = "" if self.outputs == OUTPUTS else f"-O{self.outputs}"
        grid = "" if self.curve.grid_size in (1, 5) else f"-G{self.curve.grid_size}"
        basis = f"{self.curve.basis}{self.curve.order}{grid}"
        base = "" if self.base == "silu" else f"-{self.base}"
        return f"{self.kernel}-{self.target}-{basis}-{DTYPES[self.dtype]}{width}{base}"

    def compile(self) -> tuple[Resources, int, int]:
        """Resources, warps and stages of the compiled kernel."""
        _, warps, stages = self._launch()
        return resources(*self._compile()), warps, stages

    def instructions(self) -> Instructions:
        """Per basis value of the forward of edges, per input of the other kernels, where no branch is taken."""
        constants, warps, _ = self._launch()
        if "activation" in self.kernel:
            elements = constants["TOKENS"] * constants["CHANNELS"] * constants["TURNS"]
        elif self.kernel == "forward":
            elements = constants["ROWS"] * constants["INPUTS"] * self.curve.num_coefficients
        elif self.kernel == "expand":
            elements = constants["TOKENS"] * constants["INPUTS"]
        elif self.kernel == "expand_sparse":
            elements = constants["ROWS"] * constants["INPUTS"]
        else:
            elements = constants["ROWS"] * constants["COLUMNS"] // constants["WIDTH"]
        return count_instructions(self._compile()[0], elements, warps)

    def _compile(self) -> tuple[CompiledKernel, float]:
        constants, warps, stages = self._launch()
        fp32 = ("domain_ptr", "dq_ptr", "coefficient_sums_ptr", "denominator_sums_ptr")
        types = {**dict.fromkeys(fp32, "fp32"), "metadata_ptr": "i16"}
        kernel = KERNELS[self.kernel]
        pointers = {
            name: f"*{types.get(name, DTYPES[self.dtype])}" for name in kernel.arg_names if name.endswith("_ptr")
        }
        return compile_for(kernel, self.target, pointers, constants, warps, stages)

    def _launch(self) -> tuple[dict, int, int]:
        """The constants that the kernel has, warps and stages."""
        constants, warps, stages = self._activation() if "activation" in self.kernel else self._edges()
        names = KERNELS[self.kernel].arg_names
        return {name: value for name, value in constants.items() if name in names}, warps, stages

    def _edges(self) -> tuple[dict, int, int]:
        coefficients = self.curve.num_coefficients
        common = dict(**self.curve.constants(), COMPUTE=tl.float32, HAS_BASE=True)
        if self.kernel == "expand_sparse":
            return dict(common, ROWS=edges_sparse.ROWS, INPUTS=edges_sparse.INPUTS), 4, 3
        path = "fused" if self.kernel in PRODUCTS else None
        tile = choose(self.kernel, self.outputs, self.dtype, self.target, path)
        constants = dict(common, ROWS=tile.rows, COLUMNS=tile.columns, DEPTH=tile.depth)
        if self.kernel == "forward":
            constants["INPUTS"], constants["WIDTH"] = forward_step(self.curve, tile.depth)
        elif self.kernel == "expand":
            planes = expands_in_planes(TOKENS, self.outputs, coefficients)
            constants = dict(common, PLANES=planes, TOKENS=tile.rows, INPUTS=tile.columns)
        elif self.kernel == "input_gradient":
            constants["COLUMNS"], constants["WIDTH"] = input_gradient_columns(self.curve, tile.columns)
        return constants, tile.warps, tile.stages

    def _activation(self) -> tuple[dict, int, int]:
        tile = activation_tile(self.kernel, INPUTS, self.dtype, self.target)
        return activation_launch.constants_of(self.curve, self.dtype, self.base, True, True, tile), tile.warps, 3


SPLINE = Curve(basis="bspline", grid_size=5, order=3)
CASES = [
    *(Case(kernel, target, SPLINE) for target in SHARED_MEMORY for kernel in KERNELS),
    *(
        Case(kernel, "sm_90", SPLINE, dtype)
        for dtype in (torch.float16, torch.float32)
        for kernel in KERNELS
        if (kernel, dtype) != ("expand_sparse", torch.float32)
    ),
    *(
        Case(kernel, "sm_90", Curve(basis=basis, grid_size=1, order=order))
        for basis, order in (("chebyshev", 3), ("rational", 5))
        for kernel in KERNELS
        if kernel != "expand_sparse"
    ),
    *(
        Case(kernel, target, Curve(basis="bspline", grid_size=grid, order=3))
        for grid in (8, 11, 20)  # the widest that is centred, and one whose coefficients are fetched
        for target in ("sm_90", "gfx942")
        for kernel in ("activation_forward", "activation_backward")
    ),
    *(Case("forward", target, SPLINE, outputs=32) for target in ("sm_80", "sm_90", "gfx942")),
    # Nineteen coefficients: planes, several turns, and a forward whose step is 32 wide.
    *(
        Case(kernel, target, Curve(basis="bspline", grid_size=16, order=3))
        for kernel in ("forward", "expand", "input_gradient")
        for target in ("sm_90", "sm_120", "gfx942")
    ),
    # Five coefficients do not fill a power of two: the input gradient takes three rounds.
    Case("input_gradient", "sm_90", Curve(basis="bspline", grid_size=2, order=3)),
]

_RATIONAL = Curve(basis="rational", grid_size=1, order=5)
_CHEBYSHEV = Curve(basis="chebyshev", grid_size=1, order=3)
ACTIVATION_CASES = [
    Case(f"activation_{direction}", "sm_90", curve, base=base)
    for direction, bases in (("forward", ("silu_branchless", "silu")), ("backward", ("silu",)))
    for curve in (SPLINE, Curve(basis="bspline", grid_size=8, order=3), _RATIONAL, _CHEBYSHEV)
    for base in bases
]
"""What `benchmarks/activation_instructions.py` counts."""
