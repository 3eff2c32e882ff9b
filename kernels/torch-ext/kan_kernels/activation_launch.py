"""How the kernels of the learned activation are launched: what they are compiled for, and in how many programs.

All of that is a `Plan`, made when a kind of call is first seen and found again by one look-up in a dict afterwards: of
Triton's Python, a launch on a known plan runs the launcher only.

Shape letters: N tokens, I channels, C coefficients per curve, D denominator parameters, P curves; `...` any.
"""

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import torch
import triton
from torch import Tensor
from triton.runtime import driver

from .activation_backward import activation_backward_kernel
from .activation_device import FORMS
from .activation_forward import activation_forward_kernel
from .base_functions import BASE_FUNCTIONS, GIVEN, INTERPRETED, VARIANTS
from .centred_form import is_centred
from .curve import Curve
from .curve_loads import compute_dtype
from .tiles import Tile, activation_tile, architecture_of

KERNELS = {"activation_forward": activation_forward_kernel, "activation_backward": activation_backward_kernel}

# A B-spline curve with more coefficients is not held in registers.
MAX_HELD = 16

# Coefficients whose gradients one program sums up: all of the longest curve that is held, Chebyshev's of degree 16.
MAX_WIDTH = 17

# Multiprocessors, and programs on each, where they cannot be asked for: on AMD GPUs and in the interpreter.
_USUAL_MULTIPROCESSORS = 128
_USUAL_RESIDENT = 4


class Plan(NamedTuple):
    """A compiled kernel and the shape of its launches.

    Args:
        compiled: the kernel, which takes a grid in brackets and then every argument in order; None in the interpreter.
        run: its launcher.
        kernel: the same, not yet compiled.
        constants: of the kernel, by name, in the order of its last arguments.
        values: the same without their names.
        options: of the compiler.
        rows: tokens of a tile.
        channel_blocks: programs along the channels.
        coefficient_blocks: programs along the coefficients.
        token_blocks: programs along the tokens, at most: whole waves of what the GPU holds at a time.
        device: where to launch; None where no device has to be made the current one.
    """

    compiled: triton.compiler.CompiledKernel | None
    run: Callable[..., None] | None
    kernel: triton.runtime.JITFunction
    constants: dict[str, object]
    values: tuple
    options: dict[str, object]
    rows: int
    channel_blocks: int
    coefficient_blocks: int
    token_blocks: int
    device: int | None

    def split(self, tokens: int) -> tuple[int, int]:
        """Tokens per program, a multiple of the tile's, and programs along the tokens."""
        each = -(-tokens // (self.token_blocks * self.rows)) * self.rows
        return each, -(-tokens // each)

    def launch(self, token_blocks: int, arguments: tuple) -> None:
        """Run the kernel; `arguments` are all but the constants."""
        compiled = self.compiled
        grid = (token_blocks, self.channel_blocks, self.coefficient_blocks)
        if compiled is None:
            self.kernel[grid](*arguments, **self.constants, **self.options)
            return
        if self.device is not None and torch.cuda.current_device() != self.device:
            with torch.cuda.device(self.device):
                self.launch(token_blocks, arguments)
            return
        hooks = triton.knobs.runtime
        if hooks.launch_enter_hook.calls or hooks.launch_exit_hook.calls:  # a profiler asks for more
            compiled[grid](*arguments, *self.values)
            return
        stream = driver.active.get_current_stream(self.device)
        code = (compiled.function, compiled.packed_metadata)
        self.run(*grid, stream, *code, None, None, None, *arguments, *self.values)


def make_plan(
    operation: str, x: Tensor, curve: Curve, base: str, has_factor: bool, sums: bool, arguments: tuple
) -> Plan:
    """Compile a kernel for calls like this one.

    Args:
        operation: `activation_forward` or `activation_backward`.
        x: (..., I), of which dtype, device and I count.
        curve: the family of curves.
        base: a key of `BASE_FUNCTIONS`, one of its `VARIANTS`, or `given`.
        has_factor: the output is multiplied.
        sums: the parameters' gradients are wanted.
        arguments: of the kernel's first launch, all but the constants: their dtypes, alignment and divisibility count.
    """
    channels = x.shape[-1]
    tile = activation_tile(operation, channels, x.dtype, architecture_of(x.device))
    kernel = KERNELS[operation]
    constants = constants_of(curve, x.dtype, base, has_factor, sums, tile)
    constants = {name: constants[name] for name in kernel.arg_names if name in constants}
    options = dict(num_warps=tile.warps, enable_fp_fusion=True)
    compiled = None
    with _current(x.device):
        if not INTERPRETED.value:
            compiled = kernel.warmup(*arguments, grid=(1,), **constants, **options)
            _ = compiled.run  # loads the code: its registers are known then
        multiprocessors, resident = _room(x.device, compiled, tile.warps)
    channel_blocks = triton.cdiv(channels, tile.columns)
    blocks = triton.cdiv(curve.num_coefficients, constants["WIDTH"]) if sums and "WIDTH" in constants else 1
    token_blocks = max(1, tile.waves * multiprocessors * resident // (channel_blocks * blocks))
    return Plan(
        compiled=compiled,
        run=compiled and compiled.run,
        kernel=kernel,
        constants=constants,
        values=tuple(constants.values()),
        options=options,
        rows=tile.rows,
        channel_blocks=channel_blocks,
        coefficient_blocks=blocks,
        token_blocks=token_blocks,
        device=x.device.index if x.device.type == "cuda" else None,
    )


def runs_on(device: torch.device) -> bool:
    """Whether kernels can be launched there."""
    return device.type != "cpu" or INTERPRETED.value


def form_of(curve: Curve, dtype: torch.dtype) -> str:
    """How a curve is evaluated for x of a dtype, a key of `FORMS`."""
    if curve.basis == "rational":
        return "horner"
    if curve.basis == "bspline":
        if curve.num_coefficients > MAX_HELD:
            return "fetched"
        if dtype.itemsize == 2 and is_centred(curve.grid_size, curve.order):
            return "centred"
    return "alive"


def constants_of(
    curve: Curve, dtype: torch.dtype, base: str, has_factor: bool, sums: bool, tile: Tile
) -> dict[str, object]:
    """The constants of both kernels, by name."""
    names = {**BASE_FUNCTIONS, **{name: value for variants in VARIANTS.values() for name, value in variants.items()}}
    return dict(
        **curve.constants(),
        FORM=FORMS[form_of(curve, dtype)],
        BASE=GIVEN.value if base == "given" else names[base],
        HAS_FACTOR=has_factor,
        COMPUTE=compute_dtype(dtype),
        SUMS=sums,
        WIDTH=min(curve.num_coefficients, MAX_WIDTH),
        TOKENS=tile.rows,
        CHANNELS=tile.columns,
        TURNS=tile.turns,
    )


def row_stride(tensor: Tensor) -> int | None:
    """Elements between neighbouring rows of (..., I) seen as (N, I); None where the kernels cannot step through it."""
    if tensor.is_contiguous():
        return tensor.shape[-1]
    sizes, strides = tensor.shape, tensor.stride()
    if sizes[-1] != 1 and strides[-1] != 1:
        return None
    stride, size = strides[-2], sizes[-2]
    for axis in range(len(sizes) - 3, -1, -1):
        if sizes[axis] != 1 and size == 1:
            stride, size = strides[axis], sizes[axis]
        elif sizes[axis] != 1 and strides[axis] != stride * size:
            return None
        else:
            size *= sizes[axis]
    return stride


def _room(device: torch.device, compiled: triton.compiler.CompiledKernel | None, warps: int) -> tuple[int, int]:
    """Multiprocessors, and programs that each of them runs at a time."""
    if device.type != "cuda":
        return _USUAL_MULTIPROCESSORS, _USUAL_RESIDENT
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip or compiled is None:
        return properties.multi_processor_count, _USUAL_RESIDENT
    # Registers come in units of 8 per thread.
    by_registers = properties.regs_per_multiprocessor // (32 * warps * triton.cdiv(compiled.n_regs, 8) * 8)
    by_threads = properties.max_threads_per_multi_processor // (32 * warps)
    return properties.multi_processor_count, max(1, min(by_registers, by_threads))


def _current(device: torch.device) -> contextlib.AbstractContextManager:
    """Makes a GPU the current one: Triton compiles for it and launches there."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
