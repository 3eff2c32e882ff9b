"""A network is the sum and product of its edges, touches no global state, and keeps what it is told."""

import copy
import json

import pytest
import torch
from safetensors.torch import load, save

from kansformer.errors import CheckpointError, ConfigError, ShapeError, SlotError
from kansformer.kan import KAN, Edge
from kansformer.kan.edges import cut_edges
from kansformer.symbolic import LIBRARY, Symbol


def test_products_multiply_neighbouring_outputs():
    model = KAN([2, [1, 2], 1], seed=3)
    x = torch.randn(4, 3, 2, dtype=torch.float64)
    sums = model.sums(0, x)
    nodes = torch.stack([sums[..., 0], sums[..., 1] * sums[..., 2], sums[..., 3] * sums[..., 4]], dim=-1)
    assert model.layers[0].out_features == 5 and model.layers[1].in_features == 3
    assert model(x).shape == (4, 3, 1)
    torch.testing.assert_close(model(x), model.layers[1](nodes))


@torch.no_grad()
def test_nothing_global_is_touched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state, dtype = torch.get_rng_state(), torch.get_default_dtype()
    first, same, other = KAN([2, 3, 1]), KAN([2, 3, 1]), KAN([2, 3, 1], seed=1)
    assert torch.equal(torch.get_rng_state(), state) and torch.get_default_dtype() == dtype
    assert not list(tmp_path.iterdir())
    x = torch.randn(5, 2, dtype=torch.float64)
    assert torch.equal(first(x), same(x)) and not torch.equal(first(x), other(x))
    assert first.predict(x.tolist()).dtype == torch.float64


def test_inputs_of_another_dtype_are_converted():
    model, x = KAN([2, 3, 1]), torch.randn(5, 2)
    assert torch.equal(model(x), model.predict(x)) and model(x).dtype == torch.float64
    torch.testing.assert_close(model.derivatives(x), model.derivatives(x.double()), rtol=0, atol=0)


def test_derivatives():
    model = KAN([2, 3, 2], seed=1)
    x = torch.randn(6, 2, dtype=torch.float64)
    found = model.derivatives(x)
    assert found.shape == (6, 2, 2)
    for i in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[i] = 1e-6
        slope = (model(x + step) - model(x - step)) / 2e-6
        torch.testing.assert_close(found[:, :, i], slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("basis", ["bspline", "chebyshev", "rbf", "fourier", "rational"])
@torch.no_grad()
def test_a_network_is_saved_and_loaded_as_it_was(basis, tmp_path):
    library = LIBRARY.with_symbol(Symbol(name="own", function=torch.sin, sympy=lambda z: z, complexity=2))
    model = KAN([2, [2, 1], 1], basis=basis, order=4, seed=2)
    model.fix_symbol(Edge(0, 1, 0), "own", library=library)
    cut_edges(model, 0, Edge_mask(model, 0, 1))
    model.save(tmp_path)
    x = torch.randn(5, 2, dtype=torch.float64)
    again = KAN.load(tmp_path, library=library)
    assert torch.equal(again(x), model(x)) and [*again.edges()] == [*model.edges()]
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    with pytest.raises(ConfigError, match="No function is named 'own'"):
        KAN.load(tmp_path)
    KAN([2, 1]).save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2 and KAN.load(tmp_path).width == [(2, 0), (1, 0)]


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    KAN([2, 1], seed=1).save(tmp_path)
    broken = KAN([2, 1])
    with torch.no_grad():
        broken.layers[0].bias.fill_(torch.nan)
    for model, message in ((broken, "layers.0.bias of the network is not finite"), (KAN([2, 1]).half(), "dtype")):
        with pytest.raises(ConfigError, match=message):
            model.save(tmp_path)
    assert torch.equal(KAN.load(tmp_path).layers[0].coefficients, KAN([2, 1], seed=1).layers[0].coefficients)


def test_a_loaded_network_draws_the_same_starts(tmp_path):
    model = KAN([1, 3, 1], seed=5, init_scale=0.3)
    again = KAN.load(model.save(tmp_path))
    x = torch.linspace(-1, 1, 40, dtype=torch.float64).unsqueeze(-1)
    for network in (model, again):
        network.fit((x, torch.sin(5 * x)), steps=5, starts=3, progress=False)
    assert torch.equal(model.predict(x), again.predict(x))


def test_damaged_folders_are_refused(tmp_path):
    model = KAN([2, 2, 1])
    model.fix_symbol(Edge(0, 1, 0), "sin")
    model.save(tmp_path)
    config, (tensors,) = tmp_path / "kan.json", tmp_path.glob("*.safetensors")
    good, numbers = json.loads(config.read_text()), tensors.read_bytes()

    def refused(match):
        with pytest.raises(CheckpointError, match=match):
            KAN.load(tmp_path)

    for changes, match in [
        ({"width": [10**9, 2, 1]}, "whose layer 0 would have coefficients"),
        ({"width": "2"}, "must be of type list"),
        ({"width": [2, [1, "a"], 1]}, "layer 0"),
        ({"grid_size": True}, "must be of type int"),
        ({"basis": "sine"}, "Unknown basis 'sine'"),
        ({"base": "os.system"}, "Choose one of: identity"),
        ({"dtype": "load"}, "float32, float64"),
        ({"symbols": [["sin"]]}, "a list of function names for each layer"),
        ({"symbols": [[], []]}, "differ in the formulas of layer 0"),
        ({"symbols": [[], []], "frozen": [[True], []]}, "whether it is frozen, or for none"),
        ({"frozen": 3}, "whether it is frozen, or for none"),
        ({"frozen": [[0], []]}, "whether it is frozen, or for none"),
        ({"bias": "yes"}, "bias='yes', which must be of type bool"),
        ({"tensors": "../kan.safetensors"}, "not beside it"),
        ({"format_version": 2}, "this package reads 1"),
    ]:
        config.write_text(json.dumps(good | changes))
        refused(match)
    config.write_text("[]")
    refused("must hold an object")
    config.write_text("{")
    refused("cannot be read")
    config.write_text(json.dumps(good))
    tensors.write_bytes(numbers[:200])
    refused("cannot be read")
    state = load(numbers)
    for name, value in (
        ("formulas.0.inputs", torch.tensor([-1])),
        ("layers.1.bias", torch.tensor([torch.nan]).double()),
        ("layers.1.bias", torch.zeros([1] * 65).double()),  # more dimensions than torch computes with
    ):
        tensors.write_bytes(save(state | {name: value}))
        refused(r"differ in the formulas|is not finite|has 65 dimensions, where kan.json says 1")
    tensors.unlink()
    refused("not beside it")
    config.unlink()
    refused("holds no network")


def Edge_mask(model, input, output):  # noqa: N802 - reads like the class
    mask_IO = torch.zeros_like(model.alive[0])
    mask_IO[input, output] = True
    return mask_IO


def test_bad_input():
    for width in ([2], [2, 0, 1], [[1, 1], 1], [2, "3", 1], [2, [1, 2, 3], 1]):
        with pytest.raises((ConfigError, TypeError), match="width|nodes"):
            KAN(width)
    for dtype in (torch.bfloat16, "float32"):
        with pytest.raises(ConfigError, match=r"dtype must be torch.float32 or torch.float64, got"):
            KAN([2, 1], dtype=dtype)
    model = KAN([2, 3, 1])
    with pytest.raises(ShapeError, match=r"The network has 2 inputs, got \(4, 3\)"):
        model(torch.zeros(4, 3, dtype=torch.float64))
    with pytest.raises(SlotError, match=r"The edge \(0, 5 -> 0\) is not there, or was pruned. Layer 0 has: 0 -> 0"):
        model.fix_symbol(Edge(0, 5, 0), "sin")
    with pytest.raises(SlotError, match="There is no layer 7: choose from 0 to 1"):
        model.fix_symbol(Edge(7, 0, 0), "sin")
    with pytest.raises(ConfigError, match="No function is named 'sinn'"):
        model.fix_symbol(Edge(0, 0, 0), "sinn")
