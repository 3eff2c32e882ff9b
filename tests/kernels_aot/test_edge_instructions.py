"""What an input or a basis value costs in the kernels of edges on sm_90 does not creep up."""

import pytest
from cases import SPLINE, Case
from instructions import count_in_code, pipe_of
from kan_kernels.curve import Curve

FINE = Curve(basis="bspline", grid_size=16, order=3)

# Counted with triton 3.9.0 and 3.6.0, the larger of the two; bfloat16. Before planes and the functions alive once:
# 324, 1568, 255, 42 in the order of the first column's first four.
COUNTS = {
    ("expand", SPLINE): ("loop", 85.5),
    ("expand", FINE): ("loop", 187.0),
    ("input_gradient", SPLINE): ("outside", 142.5),
    ("forward", SPLINE): ("loop", 15.6),
    ("forward", FINE): ("loop", 17.3),
    ("expand_sparse", SPLINE): ("outside", 99.4),
}
MAX_RISE = 1.05


@pytest.mark.parametrize(("kernel", "curve"), COUNTS, ids=str)
def test_instructions_per_element(kernel, curve):
    where, expected = COUNTS[kernel, curve]
    counted = Case(kernel, "sm_90", curve).instructions()
    assert getattr(counted, f"{where}_per_element") <= MAX_RISE * expected


CODE = """
        /*00f0*/ FFMA R1, R1, R1, R1 ;
.L_x_1:
        /*0100*/ LDG.E.64 R1, [R2] ;
        /*0110*/ @!P0 FFMA R24, R4, R4, R24 ;
        /*0120*/ FMNMX.NAN R3, R4, R5, PT ;
        /*0130*/ IADD3 R1, R1, 0x1, RZ ; padding, for a loop of more than 200 characters, which a jump to itself is not
        /*0150*/ @P0 BRA `(.L_x_1) ;
        /*0160*/ STG.E.64 [R2], R1 ;
        /*0170*/ EXIT ;
        /*0180*/ NOP ;
"""


def test_what_is_counted():
    counted = count_in_code(CODE, elements=2)
    assert counted.loop == ("LDG", "FFMA", "FMNMX", "IADD3", "BRA")
    assert [pipe_of(name) for name in counted.loop] == ["memory", "FMA", "ALU", "ALU", "branches"]
    assert counted.loop_by_pipe == {"FMA": 0.5, "MUFU": 0, "memory": 0.5, "branches": 0.5, "ALU": 1.0}
    assert (counted.loop_per_element, counted.outside_per_element) == (2.5, 1.0)
