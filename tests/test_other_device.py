"""What the reference shows works on another device than the CPU, as a GPU is one: see `other_device.py`."""

import pytest
import torch
from docs.test_docstring_examples import PARTS
from fresh_processes import ROOT, FreshInterpreter

pytestmark = pytest.mark.skipif(
    not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"),
    reason=f"torch {torch.__version__} has no devices that are made in Python",
)

IMPORTS = f"""
import sys
sys.path.append({str(ROOT / "tests")!r})
import datasets, matplotlib.pyplot, pandas, peft, sympy, transformers.trainer, kansformer.kan, kansformer.views
import docs.test_docstring_examples
"""

SELF_TEST = """
from other_device import *
import numpy

def error_of(call):
    try:
        call()
    except (RuntimeError, TypeError) as error:
        return str(error)
    raise AssertionError("no error")

here = torch.arange(6.0).view(2, 3)
with other_device() as device:
    there = here.to(device)
    assert there.device == device and there.cpu().device == CPU and there.tolist() == here.tolist()
    assert (there @ there.mT + 2 * there.sum()).cpu().equal(here @ here.mT + 2 * here.sum())
    assert there[torch.tensor([1])].tolist() == [[3.0, 4.0, 5.0]] and (there * torch.tensor(2.0)).device == device
    assert torch.tensor([1.0], device=device).device == torch.ones(2, device=device).device == device
    there[0, :] = torch.zeros(3)
    assert there.sum().item() == 12.0
    assert "same device" in error_of(lambda: there + here)
    assert "same device" in error_of(lambda: here[there[0].long()])
    assert "same device" in error_of(lambda: here.add_(there.sum()))
    assert "subclass" in error_of(lambda: there.numpy())
    assert "generator" in error_of(lambda: torch.rand(2, device=device, generator=torch.Generator()))
    assert torch.rand(2, device=device, generator=torch.Generator(device)).device == device
    layer = torch.nn.Linear(3, 2).to(device)
    layer(there).square().mean().backward()
    torch.optim.AdamW(layer.parameters()).step()
    assert layer.weight.grad.device == layer.weight.device == device
"""

RUN = """
import sys

from docs.test_docstring_examples import all_docstrings, run
from other_device import ELSEWHERE, MadeByTheCaller, other_device

part, excepted = sys.argv[1], sys.argv[2:]
names = [name for name in all_docstrings() if name.split(".")[1] == part and name not in excepted]
with other_device(), MadeByTheCaller(ELSEWHERE):
    reports = [run(name, all_docstrings()[name]) for name in names]
print("".join(reports))
"""

PROGRAM = """
import sys
from pathlib import Path

from other_device import ELSEWHERE, other_device
from tiny_models import randomize_curves
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

import kansformer.cli.loading
from kansformer import KANConfig, convert
from kansformer.cli.app import app
from kansformer.embedded import embedded_model_path

tokenizer = AutoTokenizer.from_pretrained(embedded_model_path())
shape = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape))
for part in (model, tokenizer):
    part.save_pretrained("plain")
randomize_curves(convert(model, KANConfig(slots=("act", "down"))), 0.5)
for part in (model, tokenizer):
    part.save_pretrained("model")
Path("text.txt").write_text("A text about nothing. " * 60)
kansformer.cli.loading.usable_device = lambda name=None: ELSEWHERE
with other_device():
    result = CliRunner().invoke(app, sys.argv[1:], catch_exceptions=False)
assert result.exit_code == 0, result.output
print(result.output)
"""

AS_DEFAULT = """
from other_device import other_device
from kansformer.kan import KAN, create_dataset

with other_device() as device, device:
    data = create_dataset(lambda x: x[:, 0] * x[:, 1], num_inputs=2, num_train=100)
    model = KAN([2, 2, 1])
    assert model.layers[0].weight.device == device
    assert model.fit(data, steps=5, starts=2, progress=False).train_error[-1] < 0.2
"""

EXCEPTIONS = {
    "kansformer.kan.estimators.KANClassifier": "its samples are arrays",
    "kansformer.kan.estimators.KANRegressor": "its samples are arrays",
    "kansformer.training.distill.distill_feed_forwards": "accelerate knows the devices that it trains on",
    "kansformer.training.run.train": "pinned memory needs an allocator in C++",
}


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory):
    one_thread = {"HF_DEACTIVATE_ASYNC_LOAD": "1"}  # others do not see the device
    with FreshInterpreter(tmp_path_factory.mktemp("elsewhere"), IMPORTS, one_thread) as fresh:
        yield fresh


def test_the_device_itself(interpreter):
    interpreter.check(SELF_TEST)


@pytest.mark.parametrize("part", PARTS)
def test_the_examples_run_on_it(interpreter, part):
    report = interpreter.check(RUN, part, *EXCEPTIONS)
    assert not report.strip(), report


def test_networks_are_made_and_fitted_on_it_as_the_default_device(interpreter):
    interpreter.check(AS_DEFAULT)


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        ("evaluate model --text text.txt --block 32 --compare", "without curves"),
        ("explain model --text text.txt --block 32 --max-tokens 128 --out report", "Written: report.html"),
        (
            "train transcoder model.path=plain data.corpus=null data.files=text.txt data.block=16 "
            "transcoder.layers=[0] transcoder.latents=24 transcoder.k=4 transcoder.steps=6 transcoder.batch_tokens=64",
            "named functions",
        ),
    ],
)
def test_programs_run_on_it(interpreter, arguments, printed):
    assert printed in interpreter.check(PROGRAM, *arguments.split())
