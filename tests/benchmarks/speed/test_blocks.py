"""The blocks: equal where they should be, as large as they say, and remembering what is counted."""

import pytest
import torch
from speed.actions import make_actions
from speed.blocks import EDGE_VARIANTS, GATED_VARIANTS, MLP, Variant, edge_kan, gated_kan, prepare
from speed.memory import peak_of_fresh_process, saved_bytes
from speed.sizes import DEFAULT_SIZES, SIZES, Size, choose_sizes
from speed.variants import automatic_backend, backends_on, find_variant, variants_for

from kansformer.errors import BackendError, ConfigError
from kansformer.ops import available_backends, select_backend

TINY, GATED_TINY = SIZES["tiny"], SIZES["gated-tiny"]


def count(block):
    return sum(parameter.numel() for parameter in block.parameters())


@pytest.mark.parametrize("size", [TINY, Size(name="x", tokens=4, features=6, hidden=5, grid_size=16, order=2)])
def test_the_baseline_has_as_many_parameters_as_our_block(size):
    assert count(EDGE_VARIANTS[0].build(size)) == count(edge_kan(size))


def test_the_sizes_of_the_issue():
    assert SIZES["S"].equal_hidden == 9216
    assert SIZES["L"].equal_hidden == 27648
    assert SIZES["narrow"].equal_hidden == 1152
    assert SIZES["S16"].equal_hidden == 20480
    for names in DEFAULT_SIZES.values():
        assert choose_sizes(names)


def test_unknown_sizes_are_named():
    with pytest.raises(ConfigError, match="Unknown shape 'M' in --shapes. Choose any of: S, L, narrow"):
        choose_sizes(("S", "M"))
    with pytest.raises(ConfigError, match="--shapes names no shape"):
        choose_sizes(())


def test_chunks_compute_the_same_and_remember_the_input_only():
    torch.manual_seed(0)
    plain, chunked = MLP(8, 40), MLP(8, 40, chunk=5)
    chunked.load_state_dict(plain.state_dict())
    x, gradient = torch.randn(24, 8, requires_grad=True), torch.randn(24, 8)
    with torch.no_grad():
        assert torch.allclose(plain(x), chunked(x))
    for own, other in zip(
        *(torch.autograd.grad(block(x), [x, *block.parameters()], gradient) for block in (plain, chunked)), strict=True
    ):
        assert torch.allclose(own, other, atol=1e-6)
    variant = Variant(name="any", build=lambda size: plain)
    assert saved_bytes(variant, TINY, "cpu", plain, x) == 2 * 24 * 40 * 4  # before and after the activation
    assert saved_bytes(variant, TINY, "cpu", chunked, x) == 0


def test_no_curve_is_straight():
    for build, size in ((edge_kan, TINY), (gated_kan, GATED_TINY)):
        curves = [p for name, p in build(size).named_parameters() if name.endswith("coefficients")]
        assert len(curves) == 2 and all((p != 0).all() for p in curves)


def test_a_step_gives_every_gradient_and_forward_keeps_nothing():
    for variant in (*EDGE_VARIANTS, *GATED_VARIANTS):
        size = GATED_TINY if variant in GATED_VARIANTS else TINY
        if not variant.compiled:
            block, x, gradient = prepare(variant, size, "cpu")
            actions = make_actions(variant, size, "cpu", block, x, gradient)
            assert actions["forward"]().grad_fn is None
            found = actions["step"]()
            assert len(found) == 1 + len(list(block.parameters())) and all(g.abs().max() > 0 for g in found)


def test_the_input_does_not_touch_the_random_state_and_is_the_same_for_all():
    state = torch.get_rng_state()
    inputs = [prepare(variant, TINY, "cpu")[1] for variant in EDGE_VARIANTS[:1] * 2]
    assert torch.equal(state, torch.get_rng_state()) and torch.equal(*inputs)


def test_dtypes_and_autocast():
    low = Size(name="low", tokens=4, features=8, hidden=3, dtype="bfloat16")
    block, x, _ = prepare(EDGE_VARIANTS[0], low, "cpu")
    assert x.dtype == block(x).dtype == torch.bfloat16
    mixed = Size(name="mixed", tokens=4, features=8, hidden=3, autocast=True)
    parts = prepare(EDGE_VARIANTS[0], mixed, "cpu")
    assert parts[1].dtype == torch.float32
    assert make_actions(EDGE_VARIANTS[0], mixed, "cpu", *parts)["forward"]().dtype == torch.bfloat16
    with pytest.raises(ConfigError, match="Shape 'odd' has an unknown dtype 'float23'"):
        prepare(EDGE_VARIANTS[0], Size(name="odd", tokens=4, features=8, hidden=3, dtype="float23"), "cpu")


def test_a_variant_uses_its_backend_and_leaves_the_choice_as_it_was(monkeypatch):
    used = []
    monkeypatch.setattr("speed.actions.set_backend", used.append)
    variant = Variant(name="any", build=edge_kan, backend="reference")
    make_actions(variant, TINY, "cpu", *prepare(variant, TINY, "cpu"))["forward"]()
    assert used == ["reference", None]


def test_backends():
    assert backends_on("cpu")[0] == "reference" and set(backends_on("cpu")) <= set(available_backends())
    assert select_backend(automatic_backend("cpu"), "cpu") is select_backend("auto", "cpu")


def test_the_definition_is_a_row_of_its_own_on_a_gpu():
    names = [variant.name for variant in variants_for(TINY, "cuda", peers=False, compiled=False)]
    assert names == ["MLP", "MLP, chunked", "MLP, same shape", "kansformer", "kansformer (-2, 2)", "reference"]
    assert "FlashKAT" in [variant.name for variant in variants_for(GATED_TINY, "cuda")]
    assert "pykan" not in [variant.name for variant in variants_for(TINY, "cuda")]


def test_the_peak_of_a_fresh_process():
    size, variant = SIZES["narrow"], EDGE_VARIANTS[0]
    peak = peak_of_fresh_process(variant, size)
    if peak is not None:  # only Linux tells
        least = 2 * size.tokens * size.equal_hidden * 4
        assert least < peak < 4 * least
    with pytest.raises(BackendError, match="memory of 'none such' at 'tiny' failed: .*Unknown variant 'none such'"):
        peak_of_fresh_process(Variant(name="none such", build=edge_kan), TINY)
    with pytest.raises(ConfigError, match="Unknown variant 'none such' at 'tiny'. Choose one of: reference"):
        find_variant(TINY, "none such")
