"""From a model type to a small model that ran once, with the inputs it ran on."""

from __future__ import annotations

import dataclasses
import warnings

import torch
from torch import nn
from transformers import PreTrainedConfig

from zoo.classes import config_class, model_class
from zoo.inputs import candidate_inputs
from zoo.outputs import run
from zoo.shrink import small_config

MAX_PARAMETERS = 400_000_000
SEED = 0
NOISE = 0.02
MAX_WEIGHT = 100.0  # beyond it is memory that no initialisation wrote to


class NothingRanError(RuntimeError):
    """The model was built, but no candidate input went through it."""


@dataclasses.dataclass(frozen=True)
class Specimen:
    """A model in eval mode, what it was fed, and what came out."""

    model: nn.Module
    inputs: dict[str, object]
    outputs: list[torch.Tensor]
    fed: str  # "text", "image+text", …
    size: str  # "small", or "default" where no small configuration ran


def small_model(model_type: str) -> Specimen:
    """A model of this type with random weights that ran on inputs of its modality.

    Raises the error of the small configuration when neither it nor the default one (below 400M parameters) runs.
    """
    try:
        return _build(model_type, small_config(model_type), "small")
    except ImportError:
        raise
    except Exception as small_error:
        try:
            return _build(model_type, config_class(model_type)(), "default")
        except Exception:
            raise small_error from None


def _build(model_type: str, config: PreTrainedConfig, size: str) -> Specimen:
    cls = model_class(model_type)
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in cls(config).parameters())
    if parameters > MAX_PARAMETERS:
        raise MemoryError(f"{parameters / 1e6:.0f}M parameters in the {size} configuration")
    torch.manual_seed(SEED)
    model = cls(config).float().eval()
    randomize(model)
    errors = []
    for fed, inputs in candidate_inputs(model, model_type):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                outputs = run(model, inputs)
        except Exception as error:
            errors.append(f"{fed}: {type(error).__name__}: {error}")
            continue
        if outputs:
            return Specimen(model, inputs, outputs, fed, size)
    raise NothingRanError(errors[0] if errors else "no input is known for this forward")


def randomize(model: nn.Module) -> None:
    """Noise on every parameter: initialisation leaves biases and gates at zero, where a fault would not show."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.masked_fill_(~(parameter.abs() < MAX_WEIGHT), 0.0)
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=NOISE)
