"""TeX as names of variables: drawn in pictures, symbols in formulas."""

import matplotlib as mpl
import pytest
import sympy
import torch

from kansformer.errors import ConfigError
from kansformer.kan import KAN
from kansformer.kan.names import is_tex, label, symbol_name

mpl.use("Agg")


@pytest.mark.parametrize(
    ("name", "symbol", "drawn"),
    [
        ("x_1", "x_1", "x_1"),
        (r"$x_1$", "x_1", r"$x_1$"),
        (r"$x_{12}$", "x_12", r"$x_{12}$"),
        (r"\alpha", "alpha", r"$\alpha$"),
        (r"$\theta_{max}$", "theta_max", r"$\theta_{max}$"),
        (r"$\dot{q}_1$", "qdot_1", r"$\dot{q}_1$"),
        (r"$\mathrm{Re}$", "Re", r"$\mathrm{Re}$"),
        ("body mass (kg)", "body mass (kg)", "body mass (kg)"),
        ("price in $", "price in $", "price in $"),
    ],
)
def test_names(name, symbol, drawn):
    assert symbol_name(name) == symbol and label(name) == drawn
    assert is_tex(drawn) == drawn.startswith("$")
    model = KAN([1, 1])
    model.fix_symbol((0, 0, 0), "sin", affine=(2, 0, 1, 0))
    (formula,) = model.formula(variables=[name])
    assert formula.free_symbols == {sympy.Symbol(symbol)}
    texts = [text.get_text() for text in model.plot(variables=[name]).axes[0].texts]
    assert drawn in texts


def test_pictures_with_tex_are_drawn(tmp_path):
    model = KAN([3, 1])
    figure = model.plot(variables=[r"$\alpha$", r"\beta", "$5 or $6 or $"], outputs=[r"$\dot{x}$"])
    figure.savefig(tmp_path / "kan.png")


def test_bad_names():
    model = KAN([2, 1])
    for i in range(2):
        model.fix_symbol((0, i, 0), "x", affine=(1, 0, 1, 0))
    for names, match in (
        ([r"\frac{a}{b}", "y"], r"cannot be the name of a variable in a formula. Letters, Greek commands"),
        ([r"$\sin(x)$", "y"], "cannot be the name of a variable"),
        ([r"$x_1$", "x_1"], "Two inputs would have one name"),
        ([3, "y"], "The names of inputs must be texts, .* got 3"),
        (["", "y"], "The names of inputs must be texts"),
        (["x"], "2 inputs, and 1 names were given"),
    ):
        with pytest.raises(ConfigError, match=match):
            model.formula(variables=names)
    with pytest.raises(ConfigError, match="The names of outputs must be texts"):
        model.plot(torch.rand(4, 2), outputs=[None])
