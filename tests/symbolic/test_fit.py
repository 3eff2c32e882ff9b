"""Naming curves: known functions are found again, in any unit; what cannot be fitted says why."""

import functools
import math

import pytest
import torch

from kansformer.errors import ConfigError, DataError, ShapeError
from kansformer.symbolic import KAN_LIBRARY, LIBRARY, Symbol, SymbolLibrary, fit_symbolic
from kansformer.symbolic.dictionary import normalised
from kansformer.symbolic.refine import refine

POINTS = 64
# a and b that show what is special about a function on [-1, 1].
TYPICAL = {
    **dict.fromkeys(["x", "x^2", "x^3", "x^4"], (1.5, 0.4)),
    **dict.fromkeys(["1/x", "1/x^2", "sqrt", "1/sqrt(x)", "x^1.5", "log"], (1.5, 1.65)),
    **dict.fromkeys(["relu", "abs", "sign", "relu^2", "leaky_relu"], (1.5, 0.37)),
    **dict.fromkeys(["exp", "tan"], (1.2, 0.2)),
    **dict.fromkeys(["hardswish", "softplus", "mish", "elu", "silu", "gelu"], (6.0, 0.8)),
    "sin": (5.0, 0.7),
    "clip": (2.5, 0.5),
}


def curves(names, dtype=torch.float64, centre=0.4, half=1.7, amplitude=1.0):
    u = torch.linspace(-1, 1, POINTS, dtype=torch.float64)
    rows = []
    for name in names:
        a, b = TYPICAL.get(name, (3.0, 0.9))
        rows.append(amplitude * (0.7 - 1.3 * LIBRARY.named(name).function(a * u + b)))
    x_ES = (centre + half * u).expand(len(rows), -1)
    return x_ES.to(dtype), torch.stack(rows).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("refined", [4, None])
def test_every_function_is_found_again(refined, dtype):
    fits = fit_symbolic(*curves(LIBRARY.names, dtype), refined=refined)
    assert fits.names == list(LIBRARY.names)
    smooth = torch.tensor([name != "sign" for name in fits.names])  # a jump between two points can be anywhere there
    assert fits.r2[smooth].min() > (1 - 1e-12 if dtype == torch.float64 else 1 - 1e-10)


@pytest.mark.parametrize(
    "unit", [dict(amplitude=1e-3), dict(amplitude=1e6), dict(centre=1e3, half=1e-2), dict(half=1e5)]
)
def test_units_do_not_matter(unit):
    names = [name for name in KAN_LIBRARY.names if name != "sign"]
    x, y = curves(names, **unit)
    fits = fit_symbolic(x, y, library=KAN_LIBRARY)
    assert fits.names == names
    torch.testing.assert_close(fits.evaluate(x), y, rtol=1e-5, atol=1e-5 * float(y.abs().max()))


def test_noise_does_not_make_functions_complicated():
    names = ["x", "x^2", "sin", "tanh", "gaussian"]
    x, y = curves(names)
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=y.dtype)
    fits = fit_symbolic(x, y + 0.03 * y.std(dim=-1, keepdim=True) * noise)
    assert fits.names == names
    assert 0.99 < fits.r2.min() < 0.9999


@pytest.mark.parametrize("scale", [1.6, -1.6])
def test_a_search_begins_where_hardswish_is_more_than_a_parabola(scale):
    u = torch.linspace(-1, 1, POINTS, dtype=torch.float64)[None]
    fits = fit_symbolic(u, torch.nn.functional.hardswish(scale * u - 1.7))
    assert fits.names == ["hardswish"] and fits.r2.item() > 1 - 1e-12


def test_the_held_out_points_are_not_seen():
    x, y = curves(["x"])
    bent = y.clone()
    bent[:, 2::4] += 1.0
    fits = fit_symbolic(x, bent, library=KAN_LIBRARY.subset(["x"]))
    torch.testing.assert_close(fits.evaluate(x), y)
    assert fits.r2_fit.item() == pytest.approx(1.0) and fits.r2.item() < 0.5


@pytest.mark.parametrize("symbol", LIBRARY, ids=lambda s: s.name)
def test_refining_never_makes_a_fit_worse(symbol):
    u = torch.linspace(-1, 1, POINTS, dtype=torch.float64)
    noise = torch.randn(16, POINTS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y, _ = normalised(noise.cumsum(-1))
    a, b = symbol.candidates()[0].expand(16, 2).unbind(-1)
    r2 = [refine(symbol, u, y, a, b, steps)[2] for steps in (0, 1, 5)]
    assert (r2[1] >= r2[0]).all() and (r2[2] >= r2[1]).all()


def test_refining_all_functions_is_hardly_better_than_the_best_four():
    generator = torch.Generator().manual_seed(0)
    u = torch.linspace(-1, 1, POINTS)
    y = torch.randn(512, 5, generator=generator) @ torch.stack([u**k for k in range(1, 6)])
    few, every = (fit_symbolic(u.expand(512, -1), y, refined=count) for count in (4, None))
    assert (every.best_r2 >= few.best_r2 - 1e-6).all()
    assert (every.best_r2 - few.best_r2).mean() < 2e-3


def test_activations_of_which_a_part_is_seen_are_named_as_by_refining_all():
    generator = torch.Generator().manual_seed(0)
    names = ["silu", "gelu", "softplus", "tanh", "erf", "gaussian"]
    u = torch.linspace(-1, 1, POINTS, dtype=torch.float64)
    centre, half = torch.rand(2, 100, 1, generator=generator, dtype=torch.float64)
    z = 4 * (centre - 0.5) + (1 + 3 * half) * u
    y = torch.cat([LIBRARY.named(name).function(z) for name in names]).float()
    x = u.float().expand(len(y), -1)
    few, default, every = fit_symbolic(x, y, refined=4), fit_symbolic(x, y), fit_symbolic(x, y, refined=None)
    named = [sum(map(str.__eq__, fits.names, every.names)) for fits in (few, default)]
    assert named[1] >= 0.98 * len(y) > named[0], named


def test_constant_curves_are_labelled():
    x, y = curves(["x", "x", "sin"])
    y[0], y[1] = 0.0, 3.25
    fits = fit_symbolic(x, y)
    assert fits.names == ["constant", "constant", "sin"]
    assert fits.params[:2].tolist() == [[0, 0, 0, 0], [0, 0, 0, 3.25]]
    assert fits.r2.isfinite().all()
    torch.testing.assert_close(fits.evaluate(x), y)


def test_a_curve_that_only_varies_between_the_points_of_the_fit_is_no_success():
    x, y = curves(["x"])
    y = torch.zeros_like(y)
    y[:, 2::4] = 1.0
    fits = fit_symbolic(x, y)
    assert fits.r2.item() < 0 and fits.coverage() == 0.0


def test_a_curve_that_is_flat_on_the_unseen_points_is_judged_by_all():
    x = torch.linspace(-10, 0.1, POINTS, dtype=torch.float64)[None]
    fits = fit_symbolic(x, torch.relu(x))
    assert -10 < fits.r2.item() <= 1  # bad, but a number


def test_no_curves_are_no_fits():
    assert len(fit_symbolic(torch.zeros(0, 16), torch.zeros(0, 16))) == 0


def test_progress_counts_the_curves(monkeypatch):
    monkeypatch.setattr("kansformer.symbolic.fit.CHUNK", 2)
    seen = []
    fit_symbolic(*curves(["x"] * 5), progress=lambda *state: seen.append(state))
    assert seen == [("fitting", done, 5, "curves") for done in (2, 4, 5)]


def one_bad_value(x, y, value, row=1):
    y = y.clone()
    y[row, 3] = value
    return x, y


BAD = {
    "nan": (functools.partial(one_bad_value, value=math.nan), DataError, "y has a value that is not finite in row 1"),
    "one table": (lambda x, y: (x[0], y[0]), ShapeError, r"two tables .* got \(64,\) and \(64,\)"),
    "other shape": (lambda x, y: (x[:, 1:], y), ShapeError, "two tables"),
    "few points": (lambda x, y: (x[:, :7], y[:, :7]), ShapeError, "with 8 points or more"),
    "descending": (lambda x, y: (-x, y), DataError, "The points of row 0 of x do not ascend"),
    "spacings": (lambda x, y: (torch.stack([x[0], x[1].exp()]), y), DataError, "the same points up to a shift"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_an_error(case):
    spoil, error, message = BAD[case]
    with pytest.raises(error, match=message):
        fit_symbolic(*spoil(*curves(["x", "sin"])))


def test_a_function_that_is_never_finite_is_an_error():
    broken = Symbol(name="broken", function=lambda z: z * math.nan, sympy=lambda z: z, complexity=1)
    with pytest.raises(ConfigError, match="'broken' is not finite, or does not vary"):
        fit_symbolic(*curves(["x"]), library=SymbolLibrary([broken]))
    with pytest.raises(ConfigError, match="refined must be 1 or more"):
        fit_symbolic(*curves(["x"]), refined=0)
    with pytest.raises(ConfigError, match="simplicity must be a finite number of at least 0"):
        fit_symbolic(*curves(["x"]), simplicity=math.nan)


def test_an_own_function_without_derivative_is_fitted():
    bent = Symbol(name="cosh", function=torch.cosh, sympy=lambda z: z, complexity=3)
    u = torch.linspace(-1, 1, POINTS, dtype=torch.float64)[None]
    fits = fit_symbolic(u, 2 * torch.cosh(3 * u - 0.5), library=KAN_LIBRARY.with_symbol(bent))
    assert fits.names == ["cosh"]
    assert fits.params.abs()[0].tolist() == pytest.approx([3, 0.5, 2, 0], abs=1e-5)


@pytest.mark.parametrize("name", ["tanh", "arctan"])
def test_hardly_bent_curves_are_fitted_to_the_last_digit(name):
    """Where float32 leaves little of the differences that a step is made of."""
    generator = torch.Generator().manual_seed(9)
    a = torch.rand(300, 1, generator=generator, dtype=torch.float64) * 0.4 + 0.1
    b = torch.rand(300, 1, generator=generator, dtype=torch.float64) * 2.4 - 1.2
    x = torch.linspace(-1, 1, 64, dtype=torch.float64).expand(300, -1)
    library = LIBRARY.subset([name])
    fits = fit_symbolic(x, library[0].function(a * x + b), library=library, refined=None)
    assert (1 - fits.r2_fit).max() < 1e-9


@pytest.mark.parametrize("name", ["silu", "gelu", "softplus"])
def test_sharp_bends_are_found_wherever_they_are(name):
    generator = torch.Generator().manual_seed(9)
    a = torch.rand(300, 1, generator=generator, dtype=torch.float64) * 10 + 4
    b = a * (torch.rand(300, 1, generator=generator, dtype=torch.float64) * 1.6 - 0.8)
    x = torch.linspace(-1, 1, 64, dtype=torch.float64).expand(300, -1)
    library = LIBRARY.subset([name])
    fits = fit_symbolic(x, library[0].function(a * x + b), library=library, refined=None)
    assert (fits.r2_fit > 0.99).all()


@pytest.mark.parametrize("points", [16, 63, 64, 257])
def test_a_jump_anywhere_is_placed_between_the_right_points(points):
    u = torch.linspace(-1, 1, points, dtype=torch.float64)
    places = 2 * torch.rand(100, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64) - 1
    y = 2 * torch.sign(u - places) + 1
    fits = fit_symbolic(u.expand(100, -1), y)
    placed = torch.tensor([name == "sign" for name in fits.names])
    assert placed.sum() >= 96  # a jump next to the last point can be seen by the points that judge only
    torch.testing.assert_close(fits.evaluate(u.expand(100, -1))[placed], y[placed])
    assert fits.r2[placed].min() == pytest.approx(1.0) and fits.r2_fit[placed].min() == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["abs", "relu", "leaky_relu", "relu^2"])
def test_a_kink_anywhere_is_found(name):
    u = torch.linspace(-1, 1, POINTS, dtype=torch.float64)
    places = 1.8 * torch.rand(100, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64) - 0.9
    fits = fit_symbolic(u.expand(100, -1), LIBRARY.named(name).function(u - places))
    assert fits.r2.min() > 0.999


def test_the_r2_of_a_jump_in_noise_is_of_its_place():
    u = torch.linspace(-1, 1, POINTS, dtype=torch.float64)
    noise = torch.randn(50, POINTS, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    y = torch.sign(u - 0.2) + 0.5 * noise
    fits = fit_symbolic(u.expand(50, -1), y, library=KAN_LIBRARY.subset(["sign"]))
    fitted = torch.arange(POINTS) % 4 != 2
    f, y = (normalised(v[:, fitted])[0] for v in (fits.evaluate(u.expand(50, -1)), y))
    torch.testing.assert_close(fits.r2_fit, (f * y).sum(-1).square())
