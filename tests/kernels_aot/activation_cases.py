"""Instructions per element of the learned activation's kernels on an H100, counted in compiled machine code."""

import re
from collections import Counter
from dataclasses import dataclass

import torch
from aot import compile_for, machine_code, resources
from kan_kernels.activation_launch import KERNELS, constants_of
from kan_kernels.curve import Curve
from kan_kernels.tiles import activation_tile

TARGET = "sm_90"
CHANNELS = 768
PIPES = {
    "FMA": {"FFMA", "FMUL", "FADD"},
    "MUFU": {"MUFU"},
    "memory": {"LDG", "STG", "LDS", "STS", "LDC"},
    "branches": {"BRA", "BSSY", "BSYNC", "CALL", "RET", "WARPSYNC"},
}
"""Mnemonics by what executes them; everything else is integer and logic."""


@dataclass(frozen=True)
class Counts:
    """What one pass through the loop over tokens executes, per element, where no branch is taken.

    Args:
        instructions: all.
        by_pipe: of each key of `PIPES`, and `ALU` for the rest.
        registers: per thread.
        spills: stores and loads of registers.
    """

    instructions: float
    by_pipe: dict[str, float]
    registers: int
    spills: int


@dataclass(frozen=True)
class ActivationCase:
    """One compilation for `TARGET`, gated, with the gradients of the curves.

    Args:
        operation: a key of `KERNELS`.
        curve: the family of curves.
        base: of `BASE_FUNCTIONS` or its `VARIANTS`.
        dtype: of x.
    """

    operation: str
    curve: Curve
    base: str = "silu"
    dtype: torch.dtype = torch.bfloat16

    def __str__(self) -> str:
        curve = self.curve
        return f"{self.operation}-{curve.basis}{curve.order}-G{curve.grid_size}-{self.base}-{self.dtype}".replace(
            "torch.", ""
        )

    def count(self) -> Counts:
        """Compile, and count the innermost loop that has most instructions."""
        kernel = KERNELS[self.operation]
        tile = activation_tile(self.operation, CHANNELS, self.dtype, TARGET)
        constants = constants_of(self.curve, self.dtype, self.base, True, True, tile)
        constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
        compiled, seconds = compile_for(kernel, TARGET, pointers_of(kernel, self.dtype), constants, tile.warps, 3)
        needs = resources(compiled, seconds)
        per_thread = tile.rows * tile.columns * tile.turns / (32 * tile.warps)
        loop = mnemonics_of_loop(machine_code(compiled))
        by_pipe = Counter(pipe_of(name) for name in loop)
        return Counts(
            instructions=len(loop) / per_thread,
            by_pipe={pipe: by_pipe[pipe] / per_thread for pipe in (*PIPES, "ALU")},
            registers=needs.registers,
            spills=needs.spills,
        )


def pointers_of(kernel, dtype: torch.dtype) -> dict[str, str]:
    """Types of a kernel's addresses: the curves and the sums of their gradients in float32."""
    names = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
    curves = ("coefficients_ptr", "domain_ptr", "denominator_ptr", "coefficient_sums_ptr", "denominator_sums_ptr")
    addresses = [name for name in kernel.arg_names if name.endswith("_ptr")]
    return {name: f"*{'fp32' if name in curves else names[dtype]}" for name in addresses}


def mnemonics_of_loop(code: str) -> list[str]:
    """Mnemonics, without their suffixes, of the longest innermost loop: from a label to a jump back to it."""
    labels = {match.group(1): match.start() for match in re.finditer(r"^(\.L_x_\d+):", code, re.M)}
    jumps = [(m.end(), labels.get(m.group(1), len(code))) for m in re.finditer(r"\bBRA\b[^;]*?`\((\.L_x_\d+)\)", code)]
    spans = [(start, end) for end, start in jumps if start < end]
    inner = [s for s in spans if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
    line = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)", re.M)
    return max((line.findall(code[start:end]) for start, end in inner), key=len)


def pipe_of(mnemonic: str) -> str:
    """Key of `PIPES`, or `ALU`."""
    return next((pipe for pipe, names in PIPES.items() if mnemonic in names), "ALU")


CURVES = (
    Curve(basis="bspline", grid_size=5, order=3),
    Curve(basis="bspline", grid_size=8, order=3),
    Curve(basis="rational", grid_size=1, order=5),
    Curve(basis="chebyshev", grid_size=1, order=3),
)
ACTIVATION_CASES = [
    *(ActivationCase("activation_forward", curve, base) for curve in CURVES for base in ("silu_branchless", "silu")),
    *(ActivationCase("activation_backward", curve) for curve in CURVES),
]
