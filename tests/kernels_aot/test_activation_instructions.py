"""What an element of x costs in the learned activation's kernels does not creep up."""

from pathlib import Path

import activation_instructions
import pytest
import triton
from activation_cases import ACTIVATION_CASES, mnemonics_of_loop, pipe_of
from dataclass_csv import read_rows

ROWS = read_rows(Path(activation_instructions.FILE), activation_instructions.Row)
MAX_RISE = 1.05


@pytest.mark.parametrize("case", ACTIVATION_CASES, ids=str)
def test_instructions_per_element(case):
    rows = [row for row in ROWS if row.case == str(case)]
    rows = [row for row in rows if row.triton == triton.__version__] or rows
    counts = case.count()
    assert counts.spills == 0
    assert counts.instructions <= MAX_RISE * max(row.instructions for row in rows), counts


def test_branchless_has_no_branches():
    rows = {row.case: row for row in ROWS if row.triton == triton.__version__}
    for case, row in rows.items():
        if "branchless" in case:
            assert row.branches < 0.3 < 4 < rows[case.replace("silu_branchless", "silu")].branches


LOOP = """
        /*00f0*/ FFMA R1, R1, R1, R1 ;
.L_x_1:
        /*0100*/ LDG.E.64 R1, [R2] ;
        /*0110*/ @!P0 FFMA R24, R4, R4, R24 ;
        /*0120*/ FMNMX.NAN R3, R4, R5, PT ;
        /*0150*/ @P0 BRA `(.L_x_1) ;
        /*0160*/ EXIT ;
"""


def test_what_is_counted():
    assert mnemonics_of_loop(LOOP) == ["LDG", "FFMA", "FMNMX", "BRA"]
    assert [pipe_of(name) for name in mnemonics_of_loop(LOOP)] == ["memory", "FMA", "ALU", "branches"]
