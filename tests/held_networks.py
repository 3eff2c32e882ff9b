"""Samples and measures for networks that are held to shapes."""

import numpy as np
import torch

ROUNDING = 1e-12


def samples(rows, noise=0.2, seed=0):
    """A target that rises with the first input and falls with the second, with flat parts, and waves in the third."""
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.rand(rows, 3, generator=generator, dtype=torch.float64) - 1
    y = torch.tanh(4 * x[:, [0]]) - x[:, [1]].clamp(min=0) ** 2 + torch.sin(3 * x[:, [2]])
    return x, y + noise * torch.randn(rows, 1, generator=generator, dtype=torch.float64)


def random_points(rows):
    """Also far outside of all domains."""
    return 6 * torch.rand(rows, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64) - 3


def r2(model):
    x, y = samples(4000, noise=0.0, seed=1)
    return 1 - float((model.predict(x) - y).square().mean() / y.var())


def slopes(model, rows=1000):
    """Of the output by each input at random points; where a curve is flat, the rounding of its values is taken away."""
    slopes = model.derivatives(random_points(rows))[:, 0]
    return slopes.where(slopes.abs() > ROUNDING, 0.0).unbind(-1)


def basis_columns(model, x):
    """The outputs of a network of one curve for each of its coefficients alone."""
    layer, columns = model.layers[0], []
    with torch.no_grad():
        layer.bias.zero_()
        for number in range(layer.coefficients.shape[1]):
            layer.coefficients.zero_()[0, number] = 1
            columns.append(model(x)[:, 0].numpy())
    return np.stack(columns, axis=1)


def in_bounds(model, lower, upper):
    values = model.predict(random_points(4000))
    return bool(((values >= lower - ROUNDING) & (values <= upper + ROUNDING)).all())


OPTIMIZERS = {"lm": {"steps": 20}, "lbfgs": {"steps": 10}, "adam": {"steps": 60, "lr": 0.03}}


def table(rows=300, seed=0):
    import pandas

    x, y = samples(rows, seed=seed)
    return pandas.DataFrame(x.numpy(), columns=["dose", "age", "wave"]), y[:, 0].numpy()
