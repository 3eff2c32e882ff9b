"""The models in `model_cards/` load as their cards say; the recipes beside them are the package's own."""

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from kansformer import is_converted, load_curves
from kansformer.embedded import embedded_model_path
from kansformer.nn.optim import curve_parameters
from kansformer.training.recipe_file import read_recipe

CARDS = Path(__file__).resolve().parent.parent / "model_cards"
TOKENS = torch.arange(1, 40).reshape(1, -1)
MOST_BYTES = 8_000_000


@torch.no_grad()
def test_the_model_from_scratch_loads():
    model = AutoModelForCausalLM.from_pretrained(CARDS / "tiny-kan")
    tokenizer = AutoTokenizer.from_pretrained(CARDS / "tiny-kan")
    assert is_converted(model) and any(parameter.abs().max() > 0.01 for _, parameter in curve_parameters(model))
    prompt = tokenizer("import os\n\n\ndef main():\n    return", return_tensors="pt")["input_ids"]
    assert model(prompt, labels=prompt).loss < 5  # 6.9 for one that knows nothing


@torch.no_grad()
def test_the_curves_load_onto_the_embedded_model():
    model = AutoModelForCausalLM.from_pretrained(embedded_model_path())
    before = model(TOKENS).logits
    load_curves(model, CARDS / "embedded-curves")
    assert is_converted(model) and (model(TOKENS).logits - before).abs().max() > 0.1


@pytest.mark.parametrize(("name", "recipe"), [("tiny-kan", "tiny-cpu"), ("embedded-curves", "embedded-curves")])
def test_the_recipe_beside_a_model_is_the_packages_own(name, recipe):
    assert read_recipe(str(CARDS / name / "recipe.yaml"), []) == read_recipe(recipe, [])
    card = (CARDS / name / "README.md").read_text(encoding="utf-8")
    assert f"kansformer train {recipe}" in card and re.search(r"^## Limits$", card, re.M)


def test_they_are_small():
    assert sum(path.stat().st_size for path in CARDS.rglob("*") if path.is_file()) < MOST_BYTES
