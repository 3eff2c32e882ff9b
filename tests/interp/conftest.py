"""Small converted models with bent curves."""

import pytest
import torch
import transformers
from interp_models import FAMILIES
from tiny_models import randomize_curves

from kansformer import KANConfig, convert


@pytest.fixture
def make_bent():
    def make(family="llama", config=None):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(FAMILIES[family]()).eval()
        return randomize_curves(convert(model, config or KANConfig()), 0.3)

    return make


@pytest.fixture
def batch():
    tokens = torch.randint(50, (3, 20), generator=torch.Generator().manual_seed(0))
    return {"input_ids": tokens, "labels": tokens}


@pytest.fixture
def batches():
    tokens = torch.randint(50, (5, 12), generator=torch.Generator().manual_seed(3))
    return [{"input_ids": part, "labels": part} for part in (tokens[:3], tokens[3:])]
