"""What an element of x costs in the learned activation's kernels does not creep up."""

import activation_instructions
import pytest
import triton
from cases import ACTIVATION_CASES
from dataclass_csv import read_rows

ROWS = read_rows(activation_instructions.FILE, activation_instructions.Row)
MAX_RISE = 1.05


@pytest.mark.parametrize("case", ACTIVATION_CASES, ids=str)
def test_instructions_per_element(case):
    rows = [row for row in ROWS if row.case == str(case)]
    rows = [row for row in rows if row.triton == triton.__version__] or rows
    counted = case.instructions()
    assert case.compile()[0].spills == 0
    assert counted.loop_per_element <= MAX_RISE * max(row.instructions for row in rows), counted.loop_by_pipe
    if case.base == "silu_branchless":
        assert counted.loop_by_pipe["branches"] < 0.3  # the jump back of the loop itself
    elif case.kernel == "activation_forward":
        assert counted.loop_by_pipe["branches"] > 4
