"""The C++ kernels that name curves, as functions of tensors: the coarse search, and the refinement of a and b.

`kansformer.symbolic` has their definitions in PyTorch.

Shape letters: E curves, S sample points, F functions, A candidates, P pairs of a curve and a function.
"""

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kansformer.ops.native.library import PairArguments, SearchArguments, check_status, library

SYMBOLS = (
    *("x", "x^2", "x^3", "x^4", "1/x", "1/x^2", "sqrt", "1/sqrt(x)", "x^1.5", "log", "exp", "sin", "tan", "tanh"),
    *("gaussian", "arctan", "silu", "gelu", "relu", "abs", "sign", "relu^2", "softplus", "mish", "erf", "elu"),
    *("leaky_relu", "hardswish", "clip", "arcsin", "arctanh", "cosh", "cos", "arccos", "sinh", "sigmoid", "x*cos"),
)
"""Functions that the kernels know, in the order of their numbers in `symbols.h`."""


class KnownFunction(NamedTuple):
    """One of `SYMBOLS` as it is fitted.

    Args:
        symbol: its number.
        lower, upper: ends of the open interval that a·u + b must stay in.
        fit_scale, fit_shift: whether a and b are fitted.
    """

    symbol: int
    lower: float
    upper: float
    fit_scale: bool
    fit_shift: bool


def search_candidates(
    y_ES: Tensor, candidates_AS: Tensor, sizes: Sequence[int], has_partner: Sequence[bool]
) -> tuple[Tensor, Tensor]:
    """The closest candidate of every function for every curve.

    Args:
        y_ES: curves of mean 0 and length 1, float32.
        candidates_AS: candidates of all functions, of mean 0 and length 1, float32.
        sizes: number of candidates of each function.
        has_partner: whether the second half of a function's candidates are partners of its first half; the R² of both
            then add up.

    Returns:
        R² and the number of the candidate, or of the pair, among those of its function, (F, E), float32 and int32.
    """
    y_ES, candidates_AS = y_ES.contiguous(), candidates_AS.contiguous()
    sizes_F = torch.tensor(sizes, dtype=torch.int64, device="cpu")
    has_partner_F = torch.tensor(has_partner, dtype=torch.int64, device="cpu")
    r2_FE = y_ES.new_empty(len(sizes), len(y_ES))
    best_FE = y_ES.new_empty(len(sizes), len(y_ES), dtype=torch.int32)
    arguments = SearchArguments(
        size=ctypes.sizeof(SearchArguments),
        r2=r2_FE.data_ptr(),
        best=best_FE.data_ptr(),
        curves=y_ES.data_ptr(),
        candidates=candidates_AS.data_ptr(),
        sizes=sizes_F.data_ptr(),
        has_partner=has_partner_F.data_ptr(),
        num_curves=len(y_ES),
        num_points=y_ES.shape[1],
        num_functions=len(sizes),
        threads=torch.get_num_threads(),
    )
    _run("symbols_search", arguments)
    return r2_FE, best_FE


class Pairs(NamedTuple):
    """Pairs of a function and a curve.

    Args:
        functions: to choose from.
        chosen: number of each pair's function in `functions`, (P,), int64; fastest if equal ones are neighbours.
        rows: number of its curve, (P,), int64.
        params: a and b, (2, P), float64.
    """

    functions: Sequence[KnownFunction]
    chosen: Tensor
    rows: Tensor
    params: Tensor


def refine_pairs(pairs: Pairs, u_S: Tensor, y_ES: Tensor, steps: int) -> Tensor:
    """a, b and R² of c·f(a·u + b) + d after Levenberg-Marquardt steps.

    Args:
        pairs: with a and b where the steps begin.
        u_S: points in [-1, 1], float64.
        y_ES: curves of mean 0 and length 1, float64.
        steps: how many.

    Returns:
        (3, P), float64; an R² of -1 where f is not finite even at the beginning.
    """
    return _fit_pairs("symbols_refine", pairs, u_S, y_ES, steps=steps)


def judge_pairs(pairs: Pairs, u_S: Tensor, y_ES: Tensor, held_out_S: Tensor) -> Tensor:
    """c and d of c·f(a·u + b) + d by least squares on the points of the fit, and R² on those held out.

    Args:
        pairs: with a and b.
        u_S: points in [-1, 1], float64.
        y_ES: curves, float64.
        held_out_S: whether the fit does not see a point.

    Returns:
        (3, P), float64; NaN where a·u + b leaves the domain of f.
    """
    return _fit_pairs("symbols_judge", pairs, u_S, y_ES, held_out_S.double())


def _fit_pairs(
    kernel: str, pairs: Pairs, u_S: Tensor, y_ES: Tensor, held_out_S: Tensor | None = None, steps: int = 0
) -> Tensor:
    table = torch.tensor(pairs.functions, dtype=torch.float64, device="cpu")
    columns = [t.contiguous() for t in (y_ES, u_S, pairs.params, pairs.rows, pairs.chosen, table)]
    results_3P = y_ES.new_empty(3, len(pairs.rows), dtype=torch.float64)
    names = ("curves", "points", "params", "rows", "functions", "table")
    arguments = PairArguments(
        size=ctypes.sizeof(PairArguments),
        results=results_3P.data_ptr(),
        held_out=None if held_out_S is None else held_out_S.data_ptr(),
        num_points=len(u_S),
        num_pairs=len(pairs.rows),
        steps=steps,
        threads=torch.get_num_threads(),
        **{name: column.data_ptr() for name, column in zip(names, columns, strict=True)},
    )
    _run(kernel, arguments)
    return results_3P


def _run(kernel: str, arguments: ctypes.Structure) -> None:
    check_status(getattr(library(), kernel)(ctypes.byref(arguments)))
