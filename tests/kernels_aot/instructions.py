"""Instructions of a compiled kernel, counted in its machine code: in its hot loop, and outside of it.

What an elementwise kernel costs when memory does not bound it: an H100 issues about 3e13 of them a second, by lane.
"""

import re
from collections import Counter
from dataclasses import dataclass

from aot import innermost_loops, machine_code
from triton.compiler import CompiledKernel

_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)", re.M)

PIPES = {
    "FMA": {"FFMA", "FMUL", "FADD"},
    "MUFU": {"MUFU"},
    "memory": {"LDG", "STG", "LDS", "STS", "LDC"},
    "branches": {"BRA", "BSSY", "BSYNC", "CALL", "RET", "WARPSYNC"},
}
"""Mnemonics by what executes them; everything else is integer and logic, `ALU`."""


@dataclass(frozen=True)
class Instructions:
    """Instructions of one warp, each counted once.

    Args:
        loop: mnemonics, without their suffixes, of the innermost loop that has most.
        outside: number of the rest, up to the last EXIT and without the padding after it.
        elements: that one thread works on, in a pass through the loop or in all, as the caller counts them.
    """

    loop: tuple[str, ...]
    outside: int
    elements: float

    @property
    def loop_per_element(self) -> float:
        """Of a kernel that streams through its loop."""
        return len(self.loop) / self.elements

    @property
    def outside_per_element(self) -> float:
        """Of an epilogue, which runs once."""
        return self.outside / self.elements

    @property
    def loop_by_pipe(self) -> dict[str, float]:
        """`loop_per_element` of each key of `PIPES`, and of `ALU`."""
        numbers = Counter(pipe_of(name) for name in self.loop)
        return {pipe: numbers[pipe] / self.elements for pipe in (*PIPES, "ALU")}


def pipe_of(mnemonic: str) -> str:
    """Key of `PIPES`, or `ALU`."""
    return next((pipe for pipe, names in PIPES.items() if mnemonic in names), "ALU")


def count_instructions(compiled: CompiledKernel, elements: int, warps: int) -> Instructions:
    """Count an NVIDIA kernel's instructions.

    Args:
        compiled: see `aot.compile_for`.
        elements: of a program, for example inputs of a tile; a thread has its share of them.
        warps: per program.
    """
    return count_in_code(machine_code(compiled), elements / (32 * warps))


def count_in_code(code: str, elements: float) -> Instructions:
    """The same from the disassembly, with the elements of one thread."""
    code = code[: code.rfind("EXIT")]
    loop = max((_INSTRUCTION.findall(body) for body in innermost_loops(code)), key=len, default=[])
    return Instructions(tuple(loop), len(_INSTRUCTION.findall(code)) - len(loop), elements)
