"""The blocks of docs/reading_tools.md run after the first one alone, and its names are those of the models."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import transformers
from fresh_processes import FreshInterpreter
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
RUN = """
import runpy, sys
first = runpy.run_path(sys.argv[1])
for file in sys.argv[2:]:
    runpy.run_path(file, first)
"""
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


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    with FreshInterpreter(tmp_path_factory.mktemp("fresh"), "import kansformer, transformers.trainer") as running:
        yield running


@pytest.mark.parametrize("package", dict.fromkeys(RECIPES.values()))
def test_recipes_run(package, tmp_path, fresh):
    """Those of one package share a process, since packages replace parts of torch, and the names of the first block."""
    if package is not None and find_spec(package) is None:
        pytest.skip(INSTALL[package])
    recipes = [block for block in BLOCKS if any(RECIPES[mark] == package for mark in RECIPES if mark in block)]
    for number, block in enumerate([FIRST, *recipes]):
        (tmp_path / f"{number}.py").write_text(block, encoding="utf-8")
    fresh.check(RUN, *(tmp_path / f"{number}.py" for number in range(len(recipes) + 1)))


@pytest.mark.parametrize(("column", "family"), [(1, "llama"), (2, "gpt2"), (3, "bert")])
def test_the_names_are_those_of_the_table(column, family):
    rows = [line.split("|")[1:] for line in PAGE.splitlines() if line.startswith("| `")]
    expected = {row[0].strip(" `"): row[column].strip(" `") for row in rows if len(row) == 6 and row[column].strip()}
    build = transformers.AutoModelForMaskedLM if family == "bert" else transformers.AutoModelForCausalLM
    model = convert(build.from_config(MODELS[family]()), KANConfig(slots=tuple(expected), edges="channel"))
    slots = find_curve_slots(model)
    assert {slot.name: slot.path for slot in slots if ".0." in slot.path} == expected
    assert len(slots) == len(expected) * (TINY["num_hidden_layers"] if family != "gpt2" else 2)
