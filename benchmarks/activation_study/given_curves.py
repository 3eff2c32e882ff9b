"""Curves of another run, and what a study makes of them: means, permutations, random ones of the same spectrum.

Shape letters: L layers, P curves of a slot (groups), C coefficients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from kansformer.conversion.found_curves import FoundCurves

Change = Callable[[Tensor, torch.Generator], Tensor]
"""Of the coefficients of a slot, (L, P, C)."""


def write_changed(source: Path, target: Path, change: Change, seed: int) -> None:
    """Write a file of curves with other coefficients.

    Args:
        source: a file of `freeze_curves`.
        target: the new file.
        change: made with every slot's coefficients.
        seed: of what it draws.
    """
    curves = FoundCurves.read(source)
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: change(tensor, generator) if name.endswith(".coefficients") else tensor
        for name, tensor in curves.tensors.items()
    }
    replace(curves, tensors=tensors, source=f"{curves.source}; {change.__name__}").write(target)


def write_mean(source: Path, target: Path, figures: Mapping[str, object]) -> None:
    """Write one curve for each slot, the mean of all layers and groups, as models of every depth and width take it.

    Args:
        source: a file of `freeze_curves`.
        target: the new file.
        figures: what was measured with it.
    """
    curves = FoundCurves.read(source).mean()
    tensors = {name: tensor.mean(1, keepdim=True) for name, tensor in curves.tensors.items()}
    config = replace(curves.config, groups=1)
    origin = f"{curves.source}; the mean of all layers and groups"
    replace(curves, config=config, tensors=tensors, source=origin, figures=figures).write(target)


def same(coefficients_LPC: Tensor, generator: torch.Generator) -> Tensor:
    """As they are."""
    return coefficients_LPC


def mean_of_layer(coefficients_LPC: Tensor, generator: torch.Generator) -> Tensor:
    """Every curve replaced by the mean of its layer."""
    return coefficients_LPC.mean(1, keepdim=True).expand_as(coefficients_LPC).clone()


def mean_of_all(coefficients_LPC: Tensor, generator: torch.Generator) -> Tensor:
    """Every curve replaced by the mean of all."""
    return coefficients_LPC.mean((0, 1), keepdim=True).expand_as(coefficients_LPC).clone()


def permuted(coefficients_LPC: Tensor, generator: torch.Generator) -> Tensor:
    """The curves in a random order over groups and layers."""
    curves = coefficients_LPC.flatten(0, 1)
    return curves[torch.randperm(len(curves), generator=generator)].view_as(coefficients_LPC)


def random_phases(coefficients_LPC: Tensor, generator: torch.Generator) -> Tensor:
    """Random curves of the same size and roughness: the spectrum of each one's coefficients with random phases."""
    spectrum = torch.fft.rfft(coefficients_LPC)
    phases = torch.exp(2j * torch.pi * torch.rand(spectrum.shape, generator=generator))
    phases[..., 0] = phases[..., 0].real.sign()  # the mean stays a real number
    return torch.fft.irfft(spectrum * phases, n=coefficients_LPC.shape[-1])
