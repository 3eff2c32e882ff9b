"""Compile a Triton kernel for a GPU that is not here, and read from its machine code what it needs.

The wheel of triton brings the compilers, assemblers and disassemblers of NVIDIA and AMD GPUs.
"""

import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import triton
from stand_in_driver import gpu_target, stand_in_driver
from triton.compiler import ASTSource

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"

SHARED_MEMORY = {
    "sm_80": 166_912,
    "sm_86": 101_376,
    "sm_89": 101_376,
    "sm_90": 232_448,
    "sm_100": 232_448,
    "sm_120": 101_376,
    "gfx942": 65_536,
    "gfx950": 163_840,
}
"""Most bytes of shared memory per program, by target."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a compiled kernel needs.

    Args:
        registers: per thread (NVIDIA), vector registers per lane (AMD).
        spills: stores and loads of registers to memory (NVIDIA), spilled registers (AMD).
        shared_memory: bytes per program.
        tensor_core: HGMMA, tcgen05 or HMMA (NVIDIA), MFMA (AMD) instructions in the code.
        asynchronous: the main loop loads while it computes, see `loads_asynchronously`.
        overlapped: waits for a warpgroup product that leave one in flight, see `overlapped_waits`.
        compile_seconds: time of triton.compile.
    """

    registers: int
    spills: int
    shared_memory: int
    tensor_core: int
    asynchronous: bool
    overlapped: int
    compile_seconds: float


def compile_for(
    kernel, target: str, pointers: dict[str, str], constants: dict, warps: int, stages: int
) -> tuple[triton.compiler.CompiledKernel, float]:
    """Compile as a launch would with sizes and addresses that are multiples of 16, but those that are not specialised.

    Args:
        kernel: a function under `triton.jit`.
        target: a key of `SHARED_MEMORY`.
        pointers: type such as `*bf16` of every argument that is an address.
        constants: value of every constexpr; what remains is a 32-bit integer.
        warps: per program.
        stages: of the software pipeline.

    Returns:
        The compiled kernel and the seconds it took.
    """
    names = list(kernel.arg_names)
    signature = {name: "constexpr" if name in constants else pointers.get(name, "i32") for name in names}
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={
            (p.num,): [["tt.divisibility", 16]]
            for p in kernel.params
            if p.name not in constants and not p.do_not_specialize and not p.do_not_specialize_on_alignment
        },
    )
    options = dict(num_warps=warps, num_stages=stages, enable_fp_fusion=True)
    start = time.perf_counter()
    with stand_in_driver(target):  # kernels may ask for it
        compiled = triton.compile(source, target=gpu_target(target), options=options)
    return compiled, time.perf_counter() - start


def resources(compiled: triton.compiler.CompiledKernel, seconds: float) -> Resources:
    """Read the machine code."""
    if "amdgcn" in compiled.asm:
        return _resources_of_amd(compiled, seconds)
    cubin = compiled.asm["cubin"]
    usage = dict(re.findall(r"(\w+):(\d+)", _run(cubin, "cuobjdump", "--dump-resource-usage")))
    # Without products, and without memory to spill to, there is nothing to be counted.
    local_memory = int(usage["STACK"]) + int(usage["LOCAL"])
    code = machine_code(compiled) if local_memory or "mma" in compiled.asm["ptx"] else ""
    return Resources(
        registers=int(usage["REG"]),
        spills=len(re.findall(r"\b(?:STL|LDL)\b", code)),
        shared_memory=compiled.metadata.shared,
        tensor_core=len(re.findall(r"\b(?:HGMMA|UTC\w*MMA|HMMA|IMMA|DMMA)\b", code)),
        asynchronous=loads_asynchronously(code),
        overlapped=overlapped_waits(code),
        compile_seconds=seconds,
    )


def machine_code(compiled: triton.compiler.CompiledKernel) -> str:
    """An NVIDIA kernel's instructions as text."""
    return _run(compiled.asm["cubin"], "nvdisasm", "-c", "--no-dataflow")


def loads_asynchronously(code: str) -> bool:
    """Whether a loop both issues copies to shared memory (LDGSTS, UTMALDG) and computes on tensor cores.

    A pipelined loop fetches the tiles of a later step while it multiplies those of this one: copies and products stand
    between a label and the jump back to it. Without the pipeline, copies are plain loads (LDG) that the product awaits.
    """
    return any(
        re.search(r"\b(?:LDGSTS|UTMALDG)\b", body) and re.search(r"\b(?:HGMMA|UTC\w*MMA|HMMA)\b", body)
        for body in innermost_loops(code)
    )


def overlapped_waits(code: str) -> int:
    """Waits of sm_90 for its asynchronous products that do not wait for all of them.

    `WARPGROUP.DEPBAR.LE gsb0, 0x0` blocks until no product is in flight. If every wait in the loop is one of those, the
    tensor cores idle while the next basis values are computed. A wait with 0x1 or more lets one run meanwhile.
    """
    loops = "\n".join(body for body in innermost_loops(code) if "HGMMA" in body)
    return len(re.findall(r"WARPGROUP\.DEPBAR\.LE gsb0, 0x[1-9a-f]", loops))


def innermost_loops(code: str) -> list[str]:
    """The innermost loops: the code from a label to a jump back to it, without another such loop inside."""
    position = {match.group(1): match.start() for match in re.finditer(r"^(\.L_x_\d+):", code, re.M)}
    spans = []
    for jump in re.finditer(r"\bBRA\b[^;]*?`\((\.L_x_\d+)\)", code):
        start = position.get(jump.group(1), len(code))
        if start < jump.start() - 200:  # the endless jump to itself after EXIT is no loop
            spans.append((start, jump.end()))
    inner = [s for s in spans if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
    return [code[start:end] for start, end in inner]


def _resources_of_amd(compiled: triton.compiler.CompiledKernel, seconds: float) -> Resources:
    text = compiled.asm["amdgcn"]

    def number(name: str) -> int:
        return int(re.search(rf"\.{name}:\s+(\d+)", text).group(1))

    return Resources(
        registers=number("vgpr_count"),
        spills=number("vgpr_spill_count") + number("sgpr_spill_count"),
        shared_memory=compiled.metadata.shared,
        tensor_core=len(re.findall(r"\bv_mfma", text)),
        asynchronous=False,
        overlapped=0,
        compile_seconds=seconds,
    )


@lru_cache(maxsize=4)  # resources and instructions of one kernel are read from the same text
def _run(cubin: bytes, tool: str, *options: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([TOOLS / tool, *options, file.name], capture_output=True, text=True, check=True).stdout
