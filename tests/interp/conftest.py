"""Small converted models with bent curves."""

import pytest
import torch
import transformers
from interp_models import FAMILIES

from kansformer import KANConfig, convert


@pytest.fixture
def make_bent():
    def make(family="llama", config=None):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(FAMILIES[family]()).eval()
        convert(model, config or KANConfig())
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("coefficients"):
                    parameter.normal_(0, 0.3)
                if name.endswith("denominator"):
                    parameter.normal_(0, 0.1)
        return model

    return make


@pytest.fixture
def batch():
    tokens = torch.randint(50, (3, 20), generator=torch.Generator().manual_seed(0))
    return {"input_ids": tokens, "labels": tokens}
