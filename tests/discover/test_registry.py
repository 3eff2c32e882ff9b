"""Activations under their names in transformers, with and without this package."""

import runpy

import pytest
import torch
import transformers
from fresh_processes import FreshInterpreter
from tiny_models import randomize_curves, tiny_config
from transformers.activations import ACT2FN

from kansformer import KANConfig, convert, revert
from kansformer.discover import KNOWN_ACTIVATIONS, NamedActivation, register_activation
from kansformer.discover.module import ClosedFormActivation
from kansformer.errors import ConfigError

ALONE = """
import sys
sys.modules["kansformer"] = None  # an import of it is an ImportError
sys.path.insert(0, sys.argv[1])
import torch, transformers, silu_cosine
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1] + "/model")
assert type(model.model.layers[0].mlp.act_fn).__module__ == "silu_cosine"
logits = model(input_ids=torch.arange(12).reshape(2, 6)).logits
torch.testing.assert_close(logits, torch.load(sys.argv[1] + "/logits.pt", weights_only=True), rtol=1e-5, atol=1e-6)
assert not any(name.startswith("kansformer.") for name in sys.modules)
"""
IMPORTED = """
import kansformer.discover as d, transformers.activations as a
assert not {*d.KNOWN_ACTIVATIONS} & {*a.ACT2FN}
"""


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    with FreshInterpreter(tmp_path_factory.mktemp("fresh"), "import torch, transformers.activations") as interpreter:
        yield interpreter


@pytest.fixture(autouse=True)
def _own_names():
    before = set(ACT2FN) - set(KNOWN_ACTIVATIONS)  # which the program registers, and so do tests of it
    for name in KNOWN_ACTIVATIONS:
        ACT2FN.pop(name, None)
    yield
    for name in set(ACT2FN) - before:
        del ACT2FN[name]


def test_a_saved_model_runs_where_this_package_is_missing(fresh, tmp_path):
    activation = register_activation("silu-cosine")
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(tiny_config(vocab_size=50, hidden_act="silu-cosine")).eval()
    assert isinstance(model.model.layers[0].mlp.act_fn, ClosedFormActivation)
    model.save_pretrained(tmp_path / "model")
    with torch.no_grad():
        torch.save(model(input_ids=torch.arange(12).reshape(2, 6)).logits, tmp_path / "logits.pt")
    (tmp_path / "silu_cosine.py").write_text(activation.python(), encoding="utf-8")
    fresh.check(ALONE, tmp_path)


def test_registering_twice_is_fine_and_another_function_is_refused():
    first = register_activation("silu-cosine")
    assert register_activation(first) is first is KNOWN_ACTIVATIONS["silu-cosine"]
    assert register_activation(NamedActivation.from_dict(first.to_dict())) == first
    with pytest.raises(ConfigError, match="transformers has an activation named 'silu-cosine' already"):
        register_activation(NamedActivation(name="silu-cosine", slope=1.0))
    with pytest.raises(ConfigError, match="transformers has an activation named 'silu' already"):
        register_activation(NamedActivation(name="silu"))
    assert ACT2FN["silu-cosine"].activation == first and "silu-cosine" in list(ACT2FN)


@pytest.mark.parametrize("way", ["register", "file"])
def test_a_model_with_it_is_converted_saved_loaded_exported_and_reverted(way, tmp_path):
    if way == "register":
        register_activation("silu-cosine")
    else:  # as one's own file defines it
        (tmp_path / "silu_cosine.py").write_text(KNOWN_ACTIVATIONS["silu-cosine"].python(), encoding="utf-8")
        runpy.run_path(str(tmp_path / "silu_cosine.py"))
    torch.manual_seed(0)
    config = tiny_config(vocab_size=50, hidden_act="silu-cosine", use_cache=False)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    tokens = torch.arange(12).reshape(2, 6)
    plain = model(tokens).logits
    convert(model, KANConfig())
    assert torch.equal(model(tokens).logits, plain)
    randomize_curves(model).save_pretrained(tmp_path / "model")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    expected = model(tokens).logits
    assert torch.equal(loaded(tokens).logits, expected)
    program = torch.export.export(loaded, (tokens,), strict=False)
    torch.testing.assert_close(program.module()(tokens).logits, expected)
    assert torch.equal(revert(loaded)(tokens).logits, plain)


def test_an_unknown_name_shows_the_choices():
    with pytest.raises(ConfigError, match="Unknown activation 'silu-sine'. Choose one of: silu-cosine, silu-gaussian"):
        register_activation("silu-sine")
    assert "silu-sine" not in ACT2FN


def test_importing_registers_nothing(fresh):
    fresh.check(IMPORTED)
