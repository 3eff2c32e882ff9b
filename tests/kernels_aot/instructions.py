"""Instructions of a compiled kernel, counted in its machine code: in its hot loop, and outside of it.

What an elementwise kernel costs when memory does not bound it: an H100 issues about 3e13 of them a second, by lane.
"""

import re
from dataclasses import dataclass

from aot import innermost_loops, machine_code
from triton.compiler import CompiledKernel

_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", re.M)


@dataclass(frozen=True)
class Instructions:
    """Instructions of one warp, each counted once.

    Args:
        loop: in the innermost loop that has most.
        outside: in the rest, up to the last EXIT and without the padding after it.
        elements: that one thread works on, in a pass through the loop or in all, as the caller counts them.
    """

    loop: int
    outside: int
    elements: float

    @property
    def loop_per_element(self) -> float:
        """Of a kernel that streams through its loop."""
        return self.loop / self.elements

    @property
    def outside_per_element(self) -> float:
        """Of an epilogue, which runs once."""
        return self.outside / self.elements


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
    loop = max((len(_INSTRUCTION.findall(body)) for body in innermost_loops(code)), default=0)
    return Instructions(loop, len(_INSTRUCTION.findall(code)) - loop, elements)
