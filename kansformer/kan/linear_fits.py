"""Linear least-squares fits by orthogonal factors, with a ridge relative to the columns.

Shape letters: N samples, C coefficients, R targets, S samples and further rows for the ridge.
"""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE, TINY = 1e-12, 1e-150


def products(first_NC: Tensor, second_NC: Tensor) -> Tensor:
    """All products of the columns of two tables, (N, C·C)."""
    return torch.einsum("na,nb->nab", first_NC, second_NC).flatten(1)


def coefficients(basis_NC: Tensor, target_NR: Tensor, ridge: float = RIDGE) -> Tensor:
    """Least-squares fits of all targets, (C, R)."""
    size_C = _sizes(basis_NC)
    return _solved(_with_ridge(basis_NC / size_C, ridge), target_NR) / size_C.unsqueeze(-1)


class FixedColumns:
    """Columns that are factored once, for fits in which they stay and others are added.

    The coefficients of the others are those of fits to what the fixed columns leave, of the others and of the targets.

    Args:
        basis_NC: the columns.
    """

    def __init__(self, basis_NC: Tensor) -> None:
        self._q_SC = torch.linalg.qr(_with_ridge(basis_NC / _sizes(basis_NC), RIDGE))[0]

    def rest(self, values_NR: Tensor) -> Tensor:
        """What the columns leave of values, below each other those of samples and of the ridge, (S, R)."""
        projected_CR = self._q_SC[: len(values_NR)].mT @ values_NR
        return _padded(values_NR, len(self._q_SC)) - self._q_SC @ projected_CR

    def coefficients(self, added_NC: Tensor, rest_SR: Tensor) -> Tensor:
        """The coefficients of added columns in fits to targets of which this is the rest, (C, R)."""
        size_C = _sizes(added_NC)
        return _solved(_with_ridge(self.rest(added_NC / size_C), RIDGE), rest_SR) / size_C.unsqueeze(-1)

    def unexplained(self, added_NC: Tensor, rest_SR: Tensor) -> Tensor:
        """What fits with added columns leave of the targets at the samples, (N, R)."""
        rows_SC = _with_ridge(self.rest(added_NC / _sizes(added_NC)), RIDGE)
        q_SC = torch.linalg.qr(rows_SC)[0]
        samples = len(added_NC)
        return rest_SR[:samples] - q_SC[:samples] @ (q_SC[: len(rest_SR)].mT @ rest_SR)


def _sizes(basis_NC: Tensor) -> Tensor:
    return torch.linalg.vector_norm(basis_NC, dim=0).clamp(min=TINY)


def _with_ridge(columns_NC: Tensor, ridge: float) -> Tensor:
    """Columns, with a row below for every one of them."""
    return torch.cat([columns_NC, torch.eye(columns_NC.shape[1]).to(columns_NC) * ridge**0.5])


def _padded(values_NR: Tensor, rows: int) -> Tensor:
    return torch.cat([values_NR, values_NR.new_zeros(rows - len(values_NR), values_NR.shape[1])])


def _solved(rows_SC: Tensor, target_NR: Tensor) -> Tensor:
    """Least-squares solutions of rows whose targets are zero beyond the given ones, (C, R)."""
    factors_SC, scales_C = torch.geqrf(rows_SC)
    target_SR = torch.ormqr(factors_SC, scales_C, _padded(target_NR, len(rows_SC)), transpose=True)
    columns = rows_SC.shape[1]
    return torch.linalg.solve_triangular(factors_SC[:columns], target_SR[:columns], upper=True)
