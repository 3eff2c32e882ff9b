"""The definition of both operations against loops over single numbers."""

import pytest
import torch
from numerics import assert_close_to_float64

from kansformer.basis import BASES, EXTRAPOLATIONS, Basis
from kansformer.ops import reference


def basis_values(case, n, i):
    denominator = None if case.denominator is None else case.denominator[i]
    return case.basis.values(case.x[n, i], case.domain[i], denominator)


@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
@pytest.mark.parametrize("name", BASES)
def test_apply_curves_is_a_sum_over_coefficients(make_case, name, extrapolation):
    case = make_case(Basis(name=name, grid_size=4, extrapolation=extrapolation), "apply_curves")
    expected = torch.empty_like(case.x)
    for n in range(case.x.shape[0]):
        for i in range(case.x.shape[1]):
            values = basis_values(case, n, i)
            expected[n, i] = sum(case.coefficients[i, c] * values[c] for c in range(len(values)))
    actual = reference.apply_curves(case.x, case.curves)
    assert_close_to_float64(actual, expected, torch.float64)


def test_sum_edges_is_a_sum_over_inputs_and_coefficients(make_case, basis):
    case = make_case(basis, "sum_edges", tokens=4, inputs=3, outputs=2)
    expected = torch.zeros(4, 2, dtype=torch.float64)
    for n in range(4):
        for i in range(3):
            values = basis_values(case, n, i)
            for o in range(2):
                expected[n, o] += sum(case.coefficients[i, c, o] * values[c] for c in range(len(values)))
    actual = reference.sum_edges(case.x, case.curves)
    assert_close_to_float64(actual, expected, torch.float64)


def test_an_edge_sum_with_one_output_is_the_sum_of_the_curves(make_case, basis):
    case = make_case(basis, "apply_curves")
    curves = reference.apply_curves(case.x, case.curves)
    per_edge = case.curves._replace(coefficients=case.coefficients.unsqueeze(-1))
    sums = reference.sum_edges(case.x, per_edge)
    assert_close_to_float64(sums, curves.sum(dim=1, keepdim=True), torch.float64)
