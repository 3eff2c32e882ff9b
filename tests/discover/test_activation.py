"""Named activations: what they say, what they compute, and that others can run them."""

import importlib.util
import json

import pytest
import torch
import transformers.activations
from torch.nn import functional as F

from kansformer.discover import KNOWN_ACTIVATIONS, ActivationErrors, ActivationTerm, NamedActivation
from kansformer.discover.functions import BASES, ELEMENTARY
from kansformer.errors import ConfigError

ONNX = "pip install onnx onnxscript onnxruntime"
FULL = NamedActivation(
    name="all.of-them",
    base="gelu_tanh",
    terms=tuple(
        ActivationTerm(function=f, factor=0.3 - 0.1 * k, scale=1.0 if row.is_monomial else -1.3, shift=0.25 * (k % 3))
        for k, (f, row) in enumerate(ELEMENTARY.items())
    ),
    slope=0.1,
    constant=-1 / 3,
    errors=ActivationErrors(rmse=0.01, explained=0.99, explained_of_each=0.9, spread=0.08),
    source='found "here"\n""" and there',
)


def classes_of_file(activation, folder, monkeypatch):
    """The table of classes after the activation's file was imported."""
    table = {}
    monkeypatch.setattr(transformers.activations, "ACT2FN", table)
    file = folder / "named.py"
    file.write_text(activation.python(), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("named", file)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return table


def test_the_formula_is_read_as_it_is_meant():
    assert KNOWN_ACTIVATIONS["silu-cosine"].formula == "silu(x) - 0.643*cos(1.249*x + 0.75) - 0.167*x"
    assert KNOWN_ACTIVATIONS["silu-gaussian"].formula == "silu(x) - 0.635*exp(-(1.2997*x + 0.56147)**2)"
    assert NamedActivation(name="none", base="zero").formula == "0"
    assert KNOWN_ACTIVATIONS["gcu"].formula == "x*cos(x)"
    shifted = ActivationTerm(function="x*cos", factor=-1, shift=0.5)
    assert NamedActivation(name="a", base="zero", terms=(shifted,)).formula == "-(x + 0.5)*cos(x + 0.5)"
    square = ActivationTerm(function="x^2", factor=-1)
    assert NamedActivation(name="a", base="zero", terms=(square,), constant=0.5).formula == "-x**2 + 0.5"


def test_the_gaussian_is_the_one_that_was_published():
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    expected = F.silu(x) - 0.635 * torch.exp(-((x + 0.432) ** 2) / 0.592)
    torch.testing.assert_close(KNOWN_ACTIVATIONS["silu-gaussian"].module()(x), expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("activation", [*KNOWN_ACTIVATIONS.values(), FULL], ids=lambda a: a.name)
def test_the_file_defines_the_same_function(activation, tmp_path, monkeypatch):
    table = classes_of_file(activation, tmp_path, monkeypatch)
    assert list(table) == [activation.name]
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x = torch.randn(4, 7, generator=torch.Generator().manual_seed(1)).to(dtype)
        torch.testing.assert_close(table[activation.name]()(x), activation.module()(x), rtol=1e-6, atol=1e-6)
    assert "kansformer" not in activation.python() and max(map(len, activation.python().splitlines()[3:])) < 120


def test_the_file_of_a_known_activation_is_short():
    assert len([line for line in KNOWN_ACTIVATIONS["silu-cosine"].python().splitlines() if line.strip()]) <= 15


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("function", ELEMENTARY)
def test_gradients_are_those_of_the_function(base, function):
    term = ActivationTerm(function=function, factor=0.7, scale=-1.3, shift=0.4)
    module = NamedActivation(name="a", base=base, terms=(term,), slope=0.3, constant=0.1).module()
    x = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    assert torch.autograd.gradcheck(module, x) and torch.autograd.gradgradcheck(module, x)


def test_training_keeps_the_input_only():
    kept = []
    x = torch.randn(64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        FULL.module()(x).sum().backward()
    assert [tensor.data_ptr() for tensor in kept] == [x.data_ptr()]


def test_bfloat16_is_rounded_once():
    x = torch.randn(4096, generator=torch.Generator().manual_seed(3)).bfloat16().requires_grad_()
    exact_x = x.detach().double().requires_grad_()
    y, exact = KNOWN_ACTIVATIONS["silu-cosine"].module()(x), KNOWN_ACTIVATIONS["silu-cosine"].module()(exact_x)
    y.backward(torch.ones_like(y))
    exact.backward(torch.ones_like(exact))
    for value, reference in ((y, exact), (x.grad, exact_x.grad)):
        assert value.dtype == torch.bfloat16
        assert (value.double() - reference).norm() <= 2e-3 * reference.norm()


def test_functional_gradients_per_sample():
    x = torch.randn(6, generator=torch.Generator().manual_seed(4))
    module = FULL.module()
    slopes = torch.vmap(torch.func.grad(module))(x)
    leaf = x.clone().requires_grad_()
    module(leaf).sum().backward()
    torch.testing.assert_close(slopes, leaf.grad)


def test_it_exports_as_plain_operators():
    x = torch.randn(3, 8)
    block = torch.nn.Sequential(torch.nn.Linear(8, 8), FULL.module())  # whose input requires gradients
    program = torch.export.export(block, (x,), dynamic_shapes={"input": {0: torch.export.Dim("n", min=2)}})
    operators = {node.target for node in program.graph.nodes if isinstance(node.target, torch._ops.OpOverload)}
    assert {operator.namespace for operator in operators} == {"aten"}
    torch.testing.assert_close(program.module()(x[:2]), block(x[:2]))


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning")
def test_onnxruntime_computes_the_same(tmp_path):
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name, reason=ONNX)
    onnxruntime = pytest.importorskip("onnxruntime", reason=ONNX)
    x = torch.randn(3, 8)
    torch.onnx.export(FULL.module().eval(), (x,), tmp_path / "a.onnx", dynamo=True, verbose=False, input_names=["x"])
    (result,) = onnxruntime.InferenceSession(tmp_path / "a.onnx").run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(result), FULL.module()(x), rtol=1e-5, atol=1e-5)


def test_it_compiles_as_one_graph_also_in_training():
    compiled = torch.compile(FULL.module(), fullgraph=True, backend="aot_eager")
    x = torch.randn(5, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(compiled(x).sum(), x)
    (expected,) = torch.autograd.grad(FULL.module()(x).sum(), x)
    torch.testing.assert_close(slope, expected)


def test_a_compiler_sees_plain_operators():
    targets = []

    def backend(graph, inputs):
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    torch.compile(FULL.module(), fullgraph=True, backend=backend)(torch.randn(5, requires_grad=True)).sum().backward()
    assert targets and not any("autograd_function" in target for target in targets)


def test_json_round_trip():
    for activation in (FULL, *KNOWN_ACTIVATIONS.values()):
        assert NamedActivation.from_dict(json.loads(json.dumps(activation.to_dict()))) == activation


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(name="Two words"), "lower-case words .* such as silu-cosine.*'Two words'"),
        (dict(name='x"]\nimport os'), "lower-case words"),
        (dict(base="swish"), "Unknown base 'swish'. Choose one of: silu, gelu"),
        (dict(slope=float("nan")), "slope of a must be a finite number"),
        (
            dict(terms=[{"function": "log", "factor": 1}]),
            "Unknown function 'log'. Choose one of: cos, x\\*cos, gaussian",
        ),
        (dict(terms=[{"function": "cos", "factor": "x); import os #"}]), "factor of cos must be a finite number"),
        (dict(terms=[{"function": "cos", "factor": 1, "scale": 0}]), "scale of cos must not be 0"),
        (dict(terms=[{"function": "cos"}]), "ActivationTerm has the fields factor, function, scale, shift"),
        (dict(terms="cos"), "terms must be a list"),
        (dict(terms=[{"function": "cos", "factor": 1}] * 13), "at most 12 ActivationTerms"),
        (dict(source=3), "source must be text"),
        (dict(errors={"rmse": 1}), "ActivationErrors has the fields"),
        (dict(more=1), "NamedActivation has the fields"),
    ],
)
def test_what_a_file_may_not_say(change, message):
    with pytest.raises(ConfigError, match=message):
        NamedActivation.from_dict({"name": "a"} | change)
