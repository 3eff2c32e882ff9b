"""Curves that a run learned, kept in a small file, and what other runs make of them.

Shape letters: L layers, P curves of a slot (groups), C coefficients.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kansformer.nn.curves import curved_modules


@dataclass(frozen=True)
class CurveSet:
    """All curves of a model.

    Args:
        slots: from `act_fn` and `up_proj`, where a curve stands, to its coefficients (L, P, C).
    """

    slots: dict[str, Tensor]

    @classmethod
    def of(cls, model: nn.Module) -> CurveSet:
        """The curves that a model has now."""
        collected: dict[str, list[Tensor]] = {}
        for path, module in curved_modules(model):
            collected.setdefault(path.rpartition(".")[2], []).append(module.coefficients.detach().clone())
        return cls({slot: torch.stack(layers) for slot, layers in collected.items()})

    @classmethod
    def read(cls, path: Path) -> CurveSet:
        return cls(load_file(path))

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({slot: coefficients.contiguous() for slot, coefficients in self.slots.items()}, path)

    @torch.no_grad()
    def put_into(self, model: nn.Module, *, frozen: bool) -> None:
        """Give these curves to a model that has curves in the same slots."""
        layers = {slot: iter(coefficients) for slot, coefficients in self.slots.items()}
        for path, module in curved_modules(model):
            module.coefficients.copy_(next(layers[path.rpartition(".")[2]]))
            module.coefficients.requires_grad_(not frozen)

    def mean(self, *, over_layers: bool) -> CurveSet:
        """Every curve replaced by the mean of its layer, or of all layers."""
        axes = (0, 1) if over_layers else (1,)
        return CurveSet({s: c.mean(axes, keepdim=True).expand_as(c).clone() for s, c in self.slots.items()})

    def permuted(self, seed: int) -> CurveSet:
        """The curves of each slot in a random order over groups and layers."""
        generator = torch.Generator().manual_seed(seed)
        return CurveSet({s: _shuffled(c.flatten(0, 1), generator).view_as(c) for s, c in self.slots.items()})

    def random_like(self, seed: int) -> CurveSet:
        """Random curves of the same size and roughness: the spectrum of each one's coefficients with random phases."""
        generator = torch.Generator().manual_seed(seed)
        return CurveSet({slot: _random_phases(c, generator) for slot, c in self.slots.items()})


def _shuffled(curves_PC: Tensor, generator: torch.Generator) -> Tensor:
    return curves_PC[torch.randperm(len(curves_PC), generator=generator)]


def _random_phases(coefficients: Tensor, generator: torch.Generator) -> Tensor:
    spectrum = torch.fft.rfft(coefficients)
    phases = torch.exp(2j * torch.pi * torch.rand(spectrum.shape, generator=generator))
    phases[..., 0] = phases[..., 0].real.sign()  # the mean stays a real number
    return torch.fft.irfft(spectrum * phases, n=coefficients.shape[-1])
