"""What only a new process shows: loading where nothing was converted, by trust alone, and without kansformer at all."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from kansformer import KANConfig

SLOTS = KANConfig(slots=("act", "down"))


@pytest.fixture
def checkpoint(make_converted, outputs, tmp_path):
    """A folder with one model per family, and their logits beside them."""
    expected = {}
    for family in ("llama", "bert"):
        model = make_converted(family, SLOTS)
        model.save_pretrained(tmp_path / family)
        expected[family] = outputs(model)
    save_file(expected, tmp_path / "expected.safetensors")
    return tmp_path


TOKENS = "torch.arange(12).reshape(2, 6) % 24"

IMPORTED = f"""
import sys
import kansformer
assert "transformers.quantizers.auto" not in sys.modules, "importing kansformer must stay cheap"
HOOK = ["transformers.quantizers.auto"]
assert [f.module for f in sys.meta_path if getattr(f, "module", None) in HOOK] == HOOK

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM
llama = AutoModelForCausalLM.from_pretrained(sys.argv[1] + "/llama")
bert = AutoModelForMaskedLM.from_pretrained(sys.argv[1] + "/bert")
assert type(llama).__module__ == "transformers.models.llama.modeling_llama", "no foreign code without trust"
assert not any(name.startswith("transformers_modules") for name in sys.modules)
assert not any(getattr(f, "module", None) in HOOK for f in sys.meta_path)
tokens = {TOKENS}
with torch.no_grad():
    save_file({{"llama": llama(tokens)[0], "bert": bert(tokens)[0]}}, sys.argv[2])
"""

TRUSTED = f"""
import sys
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification
assert "kansformer" not in sys.modules
llama = AutoModelForCausalLM.from_pretrained(sys.argv[1] + "/llama", trust_remote_code=True)
assert "kansformer" in sys.modules
assert type(llama).__module__ == "transformers.models.llama.modeling_llama"
llama.save_pretrained(sys.argv[1] + "/again")
again = AutoModelForCausalLM.from_pretrained(sys.argv[1] + "/again", trust_remote_code=True)
bert = AutoModelForMaskedLM.from_pretrained(sys.argv[1] + "/bert", trust_remote_code=True)
head = AutoModelForSequenceClassification.from_pretrained(sys.argv[1] + "/bert", trust_remote_code=True)
kansformer = sys.modules["kansformer"]
assert kansformer.is_converted(again) and kansformer.is_converted(head)
kansformer.revert(again).save_pretrained(sys.argv[1] + "/plain")
tokens = {TOKENS}
with torch.no_grad():
    save_file({{"llama": llama(tokens)[0], "bert": bert(tokens)[0]}}, sys.argv[2])
"""

WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "kansformer":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from transformers import AutoModelForCausalLM, LlamaModel
for load, options in [
    (AutoModelForCausalLM, {}), (LlamaModel, {}), (AutoModelForCausalLM, {"trust_remote_code": True})
]:
    try:
        load.from_pretrained(sys.argv[1] + "/llama", **options)
    except (ValueError, ImportError) as error:
        print(type(error).__name__, "|", error)
"""


def assert_expected(path, found):
    expected = load_file(path / "expected.safetensors")
    found = load_file(found)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[family], expected[family]) for family in expected)


def test_a_new_process_gives_the_same_logits(checkpoint, run_python, tmp_path):
    run_python(IMPORTED, checkpoint, tmp_path / "found.safetensors")
    assert_expected(checkpoint, tmp_path / "found.safetensors")


def test_trust_remote_code_needs_no_import(checkpoint, run_python, tmp_path):
    run_python(TRUSTED, checkpoint, tmp_path / "found.safetensors")
    assert_expected(checkpoint, tmp_path / "found.safetensors")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == (
        load_file(tmp_path / "llama" / "model.safetensors").keys()
    )
    for name in ("config.json", "modeling_kansformer.py"):
        assert (tmp_path / "again" / name).read_text() == (tmp_path / "llama" / name).read_text()
    assert not (tmp_path / "plain" / "modeling_kansformer.py").exists()
    assert "kansformer" not in (tmp_path / "plain" / "config.json").read_text()


def test_without_kansformer_transformers_says_what_to_install(checkpoint, run_python):
    lines = [line for line in run_python(WITHOUT, checkpoint).splitlines() if "|" in line]
    assert len(lines) == 3
    assert all("pip install kansformer" in line for line in lines)
    assert lines[0].startswith("ValueError | Unknown fusion type: kansformer (this checkpoint has KAN layers")
    assert lines[2].startswith("ImportError | This modeling file requires")
