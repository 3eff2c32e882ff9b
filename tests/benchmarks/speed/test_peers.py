"""Peers, each where it is installed: it runs, and its fault is still there. Where it is missing, the row says so."""

from importlib.util import find_spec

import pytest
import torch
from speed.actions import make_actions
from speed.blocks import WIDE, prepare
from speed.peers import PEERS
from speed.sizes import SIZES, Size

from kansformer.basis import Basis

TINY = SIZES["tiny"]
BY_NAME = {peer.name: peer for peer in PEERS}


def basis_error(values, x_NI, grid_size):
    domain_I2 = torch.tensor([WIDE], dtype=torch.float64).expand(x_NI.shape[1], 2)
    expected = Basis(grid_size=grid_size).values(x_NI.double(), domain_I2, None)
    return ((values.double() - expected).norm() / expected.norm()).item()


def grid_starts(grid_size):
    step = (WIDE[1] - WIDE[0]) / grid_size
    return torch.arange(grid_size + 3).float() * step + WIDE[0] - 3 * step, 1 / step


@pytest.mark.parametrize("peer", [p for p in PEERS if "cpu" in p.devices], ids=lambda p: p.name)
@pytest.mark.filterwarnings("default")
def test_a_peer_runs_or_says_what_to_install(peer):
    variant = peer.variant()
    assert peer.licence in variant.note and peer.fault in variant.note
    if find_spec(peer.module) is None:
        assert variant.refuses(TINY) == f"not installed; pip install {peer.distribution}, or 'kansformer[bench]'"
        pytest.skip(f"{peer.name} is not installed; it is in the extra `bench`")
    assert variant.refuses(TINY) is None
    parts = prepare(variant, TINY, "cpu")
    found = make_actions(variant, TINY, "cpu", *parts)["step"]()
    assert found[0].abs().max() > 0
    edges = 2 * TINY.features * TINY.hidden
    per_edge = 10 if peer.name == "pykan" else 9  # which also scales base and spline of each edge
    assert sum(g.numel() for g in found[1:] if g is not None) == per_edge * edges


def test_one_that_no_registry_has():
    reason = BY_NAME["FlashKAT"].variant().refuses(SIZES["gated-tiny"])
    assert reason is None or reason == "not installed, and no registry has it; put its repository on PYTHONPATH"


def test_sizes_that_a_peer_cannot_do(monkeypatch):
    monkeypatch.setattr("speed.peers.find_spec", lambda module: object())
    linear = Size(name="linear", tokens=4, features=8, hidden=3, order=1)
    for name in ("inkan", "flashkan"):
        assert BY_NAME[name].variant().refuses(linear) == "it has cubic splines only, and linear asks for order 1"
    assert BY_NAME["pykan"].variant().refuses(SIZES["S-64"]) is None
    assert "here 2.0 GiB each; see S-64" in BY_NAME["pykan"].variant().refuses(SIZES["S"])


def test_faults_of_inkan():
    basis = pytest.importorskip("inkan", reason="needs the extra `bench`").basis
    x_NI = torch.linspace(-3.99, 3.99, 4001).unsqueeze(0)
    starts, per_unit = grid_starts(5)
    assert basis_error(basis.bspline_basis_local_eager(x_NI, starts, per_unit, 8), x_NI, 5) < 1e-6
    low = basis.bspline_basis_local_eager(x_NI.bfloat16(), starts.bfloat16(), per_unit, 8)
    assert 0.01 < basis_error(low, x_NI.bfloat16(), 5) < 0.03
    assert basis.bspline_basis_local_eager(torch.tensor([[20.0]]), starts, per_unit, 8).abs().max() == 0


def test_faults_of_flashkan():
    basis = pytest.importorskip("flashkan", reason="needs the extra `bench`").basis
    x_NI = torch.linspace(-3.99, 3.99, 4001).unsqueeze(0)
    for grid_size, least in ((5, 5e-6), (16, 1e-4), (100, 0.05)):
        starts, per_unit = grid_starts(grid_size)
        assert basis_error(basis.bspline_basis_eager(x_NI, starts, per_unit), x_NI, grid_size) > least
    starts, per_unit = grid_starts(5)
    low = basis.bspline_basis_eager(x_NI.bfloat16(), starts.bfloat16(), per_unit)
    assert basis_error(low, x_NI.bfloat16(), 5) > 0.3
    assert basis.bspline_basis_eager(torch.tensor([[1000.0]]), starts, per_unit).abs().max() > 10


@pytest.mark.filterwarnings("default")
def test_faults_of_pykan():
    spline = pytest.importorskip("kan.spline", reason="needs the extra `bench`")
    starts, _ = grid_starts(5)
    knots = torch.cat([starts, starts[-1] + (starts[1] - starts[0]) * torch.arange(1, 5)])
    assert spline.B_batch(torch.tensor([[20.0]]), knots.unsqueeze(0), k=3).abs().max() == 0
    torch.manual_seed(7)
    BY_NAME["pykan"].build(TINY)
    state = torch.get_rng_state()
    torch.manual_seed(8)
    BY_NAME["pykan"].build(TINY)
    assert torch.equal(state, torch.get_rng_state())  # another seed, the same numbers afterwards
