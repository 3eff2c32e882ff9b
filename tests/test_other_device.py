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
