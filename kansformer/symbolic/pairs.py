"""Pairs of a function and a curve, refined and judged: by C++ kernels where they know the function, else in PyTorch.

Shape letters: E curves, S sample points, P pairs.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from kansformer.ops.backend import runs_kernels
from kansformer.ops.native import symbols as kernels
from kansformer.symbolic.library import ALL_SYMBOLS
from kansformer.symbolic.refine import refine
from kansformer.symbolic.symbol import Symbol, SymbolLibrary, symbol_values

_KNOWN = {id(ALL_SYMBOLS.named(name).function): number for number, name in enumerate(kernels.SYMBOLS)}
"""Numbers of the functions that the kernels know. A user's symbol may have the name of one and compute another."""


def refine_pairs(
    library: SymbolLibrary,
    u_S: Tensor,
    y_ES: Tensor,
    pairs_2P: Tensor,
    start_2P: Tensor,
    steps: int,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """`refine` for pairs.

    Args:
        library: the functions.
        u_S: points in [-1, 1], float64.
        y_ES: centred curves of length 1, float64.
        pairs_2P: numbers of the functions, in ascending order, and of the curves.
        start_2P: a and b where the steps begin, float64.
        steps: Levenberg-Marquardt steps.
        dtype: of PyTorch's numbers; the kernels compute in float64.

    Returns:
        a, b and R² of every pair, (3, P), float64; an R² of -1 where f is not finite even at the beginning.
    """

    def define(symbol: Symbol, rows: Tensor, start: Tensor) -> Tensor:
        a, b = start.to(dtype)
        return refine(symbol, u_S.to(dtype), y_ES[rows].to(dtype), a, b, steps).double()

    return _fit(library, pairs_2P, start_2P, lambda pairs: kernels.refine_pairs(pairs, u_S, y_ES, steps), define)


def judge_pairs(
    library: SymbolLibrary, u_S: Tensor, y_ES: Tensor, pairs_2P: Tensor, params_2P: Tensor, held_out_S: Tensor
) -> Tensor:
    """c and d by least squares on the points of the fit, and R² on the others.

    Args:
        library: the functions.
        u_S: points in [-1, 1], float64.
        y_ES: curves, float64.
        pairs_2P: numbers of the functions, in ascending order, and of the curves.
        params_2P: a and b, float64.
        held_out_S: whether the fit does not see a point.

    Returns:
        (3, P), float64; NaN where a·u + b leaves the domain of f.
    """

    def define(symbol: Symbol, rows: Tensor, params: Tensor) -> Tensor:
        a, b = params.unsqueeze(-1)
        z_PS = a * u_S + b
        inside = (z_PS > symbol.domain[0]) & (z_PS < symbol.domain[1])
        return judge(symbol_values(symbol, z_PS).where(inside, torch.nan), y_ES[rows], held_out_S)

    return _fit(library, pairs_2P, params_2P, lambda pairs: kernels.judge_pairs(pairs, u_S, y_ES, held_out_S), define)


def judge(f_ES: Tensor, y_ES: Tensor, held_out_S: Tensor) -> Tensor:
    """c, d and R² as of `judge_pairs` where the functions are f, (3, E); c is 0 where f does not vary."""
    f, y = f_ES[:, ~held_out_S], y_ES[:, ~held_out_S]
    f_mean, y_mean = f.mean(-1), y.mean(-1)
    f, y = f - f_mean[:, None], y - y_mean[:, None]
    square = f.square().sum(-1)
    c = ((f * y).sum(-1) / square).masked_fill(square == 0, 0.0)
    d = y_mean - c * f_mean
    residual = (y_ES - (c[:, None] * f_ES + d[:, None]))[:, held_out_S].square().sum(-1)
    unseen = y_ES[:, held_out_S]
    spread = (unseen - unseen.mean(-1, keepdim=True)).square().sum(-1)
    # Where the curve hardly varies on the few unseen points, what it does on all of them is the measure.
    usual = y_ES.var(-1, correction=0) * unseen.shape[1]
    return torch.stack([c, d, 1 - residual / torch.maximum(spread, usual).clamp(min=torch.finfo(torch.float64).tiny)])


def _fit(
    library: SymbolLibrary,
    pairs_2P: Tensor,
    params_2P: Tensor,
    run_kernel: Callable[[kernels.Pairs], Tensor],
    define: Callable[[Symbol, Tensor, Tensor], Tensor],
) -> Tensor:
    """The results (3, P) of a kernel for the functions that it knows, and of the definition for the others."""
    known = [_known_function(symbol) for symbol in library] if runs_kernels() else [None] * len(library)
    function_P, row_P = pairs_2P
    functions = [function for function in known if function is not None]
    if len(functions) == len(library):
        return run_kernel(kernels.Pairs(functions, function_P, row_P, params_2P))
    counts = function_P.bincount(minlength=len(library)).tolist()
    results = [torch.empty(3, 0, dtype=torch.float64)]
    groups = zip(library, known, row_P.split(counts), params_2P.split(counts, dim=1), strict=True)
    for symbol, function, rows, params in groups:
        if not len(rows):
            continue
        if function is None:
            results.append(define(symbol, rows, params))
        else:
            results.append(run_kernel(kernels.Pairs([function], torch.zeros_like(rows), rows, params)))
    return torch.cat(results, dim=1)


def _known_function(symbol: Symbol) -> kernels.KnownFunction | None:
    """The symbol as the kernels fit it; None if they do not know its function."""
    number = _KNOWN.get(id(symbol.function))
    if number is None or symbol.partner != ALL_SYMBOLS.named(kernels.SYMBOLS[number]).partner:
        return None
    return kernels.KnownFunction(number, *symbol.domain, symbol.fit_scale, symbol.fit_shift)
