"""Every kernel, compiled for every GPU: it fits, nothing spills, tensor cores work and do not wait for memory."""

import pytest
import torch
from aot import SHARED_MEMORY, loads_asynchronously, overlapped_waits
from cases import CASES, KERNELS, PRODUCTS


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_compiled_kernel_is_sound(case):
    found, _, _ = case.compile()
    assert found.spills == 0, found
    assert found.shared_memory <= SHARED_MEMORY[case.target], found
    if case.kernel not in PRODUCTS or case.dtype == torch.float32:
        return  # no tensor cores: float32 products are exact ("ieee")
    assert found.tensor_core > 0, found
    if case.target.startswith("sm_"):
        assert found.asynchronous, found
    # The weight gradient's left factor is transposed in registers, and ptxas then waits for every product; its loads
    # are asynchronous all the same. The other two must leave one in flight.
    if case.target == "sm_90" and case.kernel != "weight_gradient":
        assert found.overlapped > 0, found


@pytest.mark.parametrize("kernel", [name for name in KERNELS if "activation" not in name])
def test_ragged_batches_of_edges_are_one_compilation(kernel):
    parameters = {p.name: p for p in KERNELS[kernel].params}
    tokens = [p for name, p in parameters.items() if name in ("N", "tokens_per_program", "tokens_per_split")]
    assert tokens and all(p.do_not_specialize and not p.is_constexpr for p in tokens)
    assert not any(parameters[name].is_constexpr for name in ("I", "O") if name in parameters)


LOOP = """
.L_x_1:
        /*0100*/ LDGSTS.E.128 [R1], [R2] ;
        /*0110*/ HGMMA.64x128x16.F32.BF16 R24, R4, gdesc[UR4], R24 ;
        /*0120*/ WARPGROUP.DEPBAR.LE gsb0, {left} ;
        /*0130*/ IADD3 R1, R1, 0x1, RZ ;
        /*0140*/ IADD3 R1, R1, 0x1, RZ ;
        /*0150*/ @P0 BRA `(.L_x_1) ;
        /*0160*/ EXIT ;
"""


def test_what_counts_as_asynchronous():
    assert overlapped_waits(LOOP.format(left="0x1")) == 1
    assert overlapped_waits(LOOP.format(left="0x0")) == 0
    assert loads_asynchronously(LOOP.format(left="0x0"))
    assert not loads_asynchronously(LOOP.replace("LDGSTS", "LDG").format(left="0x0"))
    # A copy before the loop does not count.
    assert not loads_asynchronously(" LDGSTS.E [R1], [R2] ;\n" + LOOP.replace("LDGSTS", "LDG").format(left="0x0"))
