"""Where the plain layer is finite, so is the bent one: of every class of inputs a fixed part of the cross product."""

import random

import pytest
from extremes.cases import FINITE, INPUTS, LOST, cases_of, judge

CASES = 40


@pytest.mark.parametrize("name", INPUTS)
def test_bent_layers_are_finite_and_right(name):
    cases = random.Random(name).sample(list(cases_of(name)), CASES)
    verdicts = [(case, judge(case)) for case in cases]
    lost = [f"{case}: {verdict.why}" for case, verdict in verdicts if verdict.kind == LOST]
    assert not lost, "\n".join(lost)
    if "NaN" not in name:
        assert any(verdict.kind == FINITE for _, verdict in verdicts)
