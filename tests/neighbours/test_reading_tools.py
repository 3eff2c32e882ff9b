"""The blocks of docs/reading_tools.md run, each in a process of its own, and its names are those of the models."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import transformers
from tiny_models import MODELS, TINY

from kansformer import KANConfig, convert
from kansformer.conversion import find_curve_slots

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reading_tools.md").read_text(encoding="utf-8")
FIRST, *BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)
INSTALL = {
    "transformer_lens": "pip install transformer-lens",
    "sae_lens": "pip install sae-lens",
    "nnsight": "pip install nnsight",
    "circuit_tracer": "pip install circuit-tracer",
}
# A word of the block, and the package that it needs.
RECIPES = {
    "def trace": None,
    "run_with_cache(tokens)\nassert torch.equal(again, logits)\ngate": "transformer_lens",
    "enable_compatibility_mode": "transformer_lens",
    "HookedProxyLM": "sae_lens",
    "NNsight": "nnsight",
    "TranscoderSet": "circuit_tracer",
    "record_network": None,
}


def test_every_block_is_tested():
    assert [[mark for mark in RECIPES if mark in block] for block in BLOCKS] == [[mark] for mark in RECIPES]


@pytest.mark.parametrize("mark", RECIPES)
def test_a_recipe_runs(mark, tmp_path):
    package = RECIPES[mark]
    if package is not None and find_spec(package) is None:
        pytest.skip(INSTALL[package])
    file = tmp_path / "recipe.py"
    file.write_text(FIRST + next(block for block in BLOCKS if mark in block), encoding="utf-8")
    job = subprocess.run([sys.executable, str(file)], cwd=tmp_path, capture_output=True, text=True)
    assert job.returncode == 0, job.stderr[-4000:]


@pytest.mark.parametrize(("column", "family"), [(1, "llama"), (2, "gpt2"), (3, "bert")])
def test_the_names_are_those_of_the_table(column, family):
    rows = [line.split("|")[1:] for line in PAGE.splitlines() if line.startswith("| `")]
    expected = {row[0].strip(" `"): row[column].strip(" `") for row in rows if len(row) == 6 and row[column].strip()}
    build = transformers.AutoModelForMaskedLM if family == "bert" else transformers.AutoModelForCausalLM
    model = convert(build.from_config(MODELS[family]()), KANConfig(slots=tuple(expected), edges="channel"))
    slots = find_curve_slots(model)
    assert {slot.name: slot.path for slot in slots if ".0." in slot.path} == expected
    assert len(slots) == len(expected) * (TINY["num_hidden_layers"] if family != "gpt2" else 2)
