"""The kernels' folder loads as a Hub kernel does, and computes: in the interpreter, so in a process of its own."""

from pathlib import Path

import pytest
from fresh_processes import FreshInterpreter

FOLDER = Path(__file__).resolve().parents[1] / "kernels" / "torch-ext"

SCRIPT = """
import sys
from pathlib import Path

import torch
from kernels import get_local_kernel

kernel = get_local_kernel(Path(sys.argv[1]))
assert "kansformer" not in sys.modules
assert {"sum_edges", "learned_activation", "is_exact"} <= set(kernel.__all__)
x, coefficients = torch.randn(5, 3), torch.randn(3, 8, 2)
domain = torch.tensor([[-1.0, 1.0]]).repeat(3, 1)
settings = dict(basis="bspline", grid_size=5, order=3)
actual = kernel.sum_edges(x, coefficients, domain, **settings)
torch.testing.assert_close(actual, kernel.definition.sum_edges(x, coefficients, domain, **settings))
print("loaded from", kernel.__file__)
"""


KERNELIZED = """
import sys
from pathlib import Path

import torch
from kernels import LocalLayerRepository, Mode, kernelize, use_kernel_mapping

from kansformer import KANLinear, LearnedActivation

model = torch.nn.ModuleList([
    LearnedActivation(6, base="gelu"),
    KANLinear(6, 5, base="identity"),
    KANLinear(6, 5, edges="low_rank", rank=2),
    KANLinear(6, 5, basis="rbf"),
])
for module in model:
    torch.nn.init.normal_(module.coefficients, std=0.3)
x = torch.randn(7, 6)
before = [module(x).detach() for module in model]
names = ("LearnedActivation", "KANLinear")
with use_kernel_mapping({
    name: {"xpu": LocalLayerRepository(Path(sys.argv[1]), layer_name=name)} for name in names
}):
    kernelize(model, mode=Mode.TRAINING, device="xpu")  # asks no driver, as "cuda" does
print(["kansformer" not in module.forward.__func__.__module__ for module in model])
for module, expected in zip(model, before):
    y = module(x)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    y.sum().backward()
    assert module.coefficients.grad.abs().sum() > 0
linear = model[1]
with torch.autocast("cpu", torch.bfloat16):
    assert linear(x).dtype == torch.bfloat16  # as without the kernels
"""


def test_the_folder_is_a_local_kernel_and_layers_are_kernelized_by_name(tmp_path):
    # The kernels run in Triton's interpreter, on the CPU.
    pytest.importorskip("kernels.load", reason="the package `kernels` is not installed")
    with FreshInterpreter(tmp_path, "import torch, triton, kernels", {"TRITON_INTERPRET": "1"}) as fresh:
        assert str(FOLDER) in fresh.check(SCRIPT, FOLDER)
        assert "[True, True, False, False]" in fresh.check(KERNELIZED, FOLDER)
