"""What only a fresh process shows: imports in any order, and loading where nothing was converted, by trust alone, or
without kansformer at all."""

import pytest
import torch
from fresh_processes import FreshInterpreter
from safetensors.torch import load_file, save_file
from tiny_models import randomize_curves, tiny_bert, tiny_llama

from kansformer import KANConfig, convert
from kansformer.cli import autoload
from kansformer.conversion import replace_feed_forwards
from kansformer.kan import KAN, Edge

SLOTS = KANConfig(slots=("act", "down"))
NARROW = KANConfig(edges="full", slots=("up", "down"), basis="chebyshev", order=2, layers=1)
IDS = torch.arange(12).reshape(2, 6)
TOKENS = "torch.arange(12).reshape(2, 6)"


@pytest.fixture
def checkpoints(tmp_path):
    """A folder with models, their logits beside them."""
    models = {
        "llama": convert(tiny_llama(), SLOTS),
        "bert": convert(tiny_bert(), SLOTS),
        "narrow": replace_feed_forwards(tiny_llama(), NARROW, hidden=10),
    }
    expected = {}
    for name, model in models.items():
        randomize_curves(model.eval(), domain=0.75)  # moved, as a grid update does
        model.save_pretrained(tmp_path / name)
        with torch.no_grad():
            expected[name] = model(IDS)[0]
    save_file(expected, tmp_path / "expected.safetensors")
    return tmp_path


def assert_expected(folder, file, *names):
    expected, result = load_file(folder / "expected.safetensors"), load_file(folder / file)
    assert sorted(result) == sorted(names)
    assert all(torch.equal(result[name], expected[name]) for name in names)


CHEAP = """
import sys, torch
state = torch.get_rng_state()
import kansformer
assert torch.equal(state, torch.get_rng_state())
heavy = {"datasets", "accelerate", "triton", "matplotlib", "sympy", "sklearn", "rich", "typer"} & set(sys.modules)
assert not heavy, heavy
assert "transformers.modeling_utils" not in sys.modules, "importing a model class takes seconds"
"""

NOTHING_BUILT = """
import os
from pathlib import Path
folder = Path("empty")
os.environ |= {"XDG_CACHE_HOME": str(folder), "HOME": str(folder)}
import kansformer
from kansformer.ops.native import library
assert not library._state.cache_info().currsize
assert not list(folder.rglob("*.so"))
"""

WITHOUT_SKLEARN = """
import sys
import kansformer, kansformer.kan
assert "sklearn" not in sys.modules
try:
    kansformer.kan.KANTransformer
except AttributeError as error:
    print(error)
sys.modules["sklearn"] = None
try:
    from kansformer.kan import KANRegressor
except ImportError as error:
    print(error)
"""

NETWORK = """
import sys, torch
from kansformer.kan import KAN
print(KAN.load(sys.argv[1] + "/network")(torch.ones(1, 2).double()).item())
"""

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
narrow = AutoModelForCausalLM.from_pretrained(sys.argv[1] + "/narrow")
assert type(llama).__module__ == "transformers.models.llama.modeling_llama", "no foreign code without trust"
assert not any(name.startswith("transformers_modules") for name in sys.modules)
assert not any(getattr(f, "module", None) in HOOK for f in sys.meta_path)
tokens = {TOKENS}
with torch.no_grad():
    logits = {{"llama": llama(tokens)[0], "bert": bert(tokens)[0], "narrow": narrow(tokens)[0]}}
    save_file(logits, "imported.safetensors")
from transformers import Trainer
assert Trainer.create_optimizer.__module__ == "transformers.trainer", "the Trainer is left as it is"
"""

EXPORTED = """
import torch
from kansformer import LearnedActivation
module, x = LearnedActivation(4), torch.randn(2, 4)
torch.nn.init.normal_(module.coefficients)
with torch.no_grad():
    program = torch.export.export(module, (x,), strict=False)  # the first call of all is with fake tensors
    torch.testing.assert_close(program.module()(x), module(x))
"""

QUANTIZER_FIRST = """
from kansformer.hub.quantizer import CurveLoader
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
assert AUTO_QUANTIZER_MAPPING["kansformer"] is CurveLoader
"""

SERVED = f"""
import sys
import torch
import kansformer.cli.serve
from safetensors.torch import save_file
from transformers.cli.serving.model_manager import ModelManager
model = ModelManager(device="cpu", dtype="auto")._load_model(sys.argv[1] + "/llama@main")
with torch.no_grad():
    save_file({{"llama": model({TOKENS})[0]}}, "served.safetensors")
"""

AUTOLOADED = f"""
import site, sys
import torch
site.addsitedir(sys.argv[1] + "/site-packages")
assert "kansformer" not in sys.modules and "transformers" not in sys.modules
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
AutoConfig.from_pretrained(sys.argv[1] + "/llama")
assert "kansformer" not in sys.modules, "a program that loads no model waits for nothing"
llama = AutoModelForCausalLM.from_pretrained(sys.argv[1] + "/llama")
assert "kansformer" in sys.modules
from transformers import Trainer, pipeline
with torch.no_grad():
    save_file({{"llama": llama({TOKENS})[0]}}, "autoloaded.safetensors")
"""


# Most of what transformers imports, without transformers.
OTHERS_IMPORTED = """
import accelerate, datasets, scipy.optimize, sympy, torch, torch._dynamo
import torch.distributed.fsdp, torch.distributed.tensor
"""


@torch.no_grad()
def test_kansformer_is_imported_first(checkpoints):
    network = KAN([2, 3, 1], seed=5)
    network.fix_symbol(Edge(1, 2, 0), "sin")
    network.save(checkpoints / "network")
    (checkpoints / "site-packages").mkdir()
    (checkpoints / "site-packages" / autoload.FILE).write_text(autoload.LINE)
    with FreshInterpreter(checkpoints) as fresh:
        fresh.check(CHEAP)
        fresh.check(NOTHING_BUILT)
        assert fresh.check(WITHOUT_SKLEARN).splitlines() == [
            "module 'kansformer.kan' has no attribute 'KANTransformer'",
            "KANRegressor needs scikit-learn 1.6 or newer. Install it: pip install 'kansformer[sklearn]'.",
        ]
        assert float(fresh.check(NETWORK, checkpoints)) == network(torch.ones(1, 2).double()).item()
        fresh.check(EXPORTED)
    with FreshInterpreter(checkpoints, OTHERS_IMPORTED) as fresh:
        fresh.check(IMPORTED, checkpoints)
        fresh.check(QUANTIZER_FIRST)
        fresh.check(SERVED, checkpoints)
        fresh.check(AUTOLOADED, checkpoints)
    assert_expected(checkpoints, "served.safetensors", "llama")
    assert_expected(checkpoints, "autoloaded.safetensors", "llama")
    assert_expected(checkpoints, "imported.safetensors", "llama", "bert", "narrow")


TRANSFORMERS_IMPORTED = """
import torch, transformers.trainer
import transformers.models.bert.modeling_bert, transformers.models.llama.modeling_llama
"""

WITHOUT_KANSFORMER = """
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

TRANSFORMERS_FIRST = """
import sys
assert "kansformer" not in sys.modules and "transformers.trainer" in sys.modules
from transformers import Trainer
before = dict(vars(Trainer))
import kansformer
assert vars(Trainer) == before, "the Trainer is left as it is"
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
    save_file({{"llama": llama(tokens)[0], "bert": bert(tokens)[0]}}, "trusted.safetensors")
"""


def test_transformers_is_imported_first(checkpoints):
    with FreshInterpreter(checkpoints, TRANSFORMERS_IMPORTED) as fresh:
        fresh.check(TRANSFORMERS_FIRST)
        printed = fresh.check(WITHOUT_KANSFORMER, checkpoints)
        fresh.check(TRUSTED, checkpoints)  # trust_remote_code needs no import

    lines = [line for line in printed.splitlines() if "|" in line]
    assert len(lines) == 3
    assert all("pip install kansformer" in line for line in lines)
    assert lines[0].startswith("ValueError | Unknown fusion type: kansformer (this checkpoint has KAN layers")
    assert lines[2].startswith("ImportError | This modeling file requires")

    assert_expected(checkpoints, "trusted.safetensors", "llama", "bert")
    again, before, plain = (checkpoints / name for name in ("again", "llama", "plain"))
    assert load_file(again / "model.safetensors").keys() == load_file(before / "model.safetensors").keys()
    for name in ("config.json", "modeling_kansformer.py"):
        assert (again / name).read_text() == (before / name).read_text()
    assert not (plain / "modeling_kansformer.py").exists()
    assert "kansformer" not in (plain / "config.json").read_text()
