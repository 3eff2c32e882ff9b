"""What torch has done to a model: computed parameters, compiled parts, inference mode, another default device."""

import pytest
import torch
from accelerate import cpu_offload
from tiny_models import assert_same_state, randomize_curves, snapshot, tiny_llama
from torch.nn.utils import parametrizations, prune

from kansformer import KANConfig, convert, load_curves, refine_grid, revert, save_curves, update_grid
from kansformer.errors import CheckpointError, ConversionStateError, ProofError
from kansformer.nn.transaction import transaction

IDS = torch.arange(2, 14).view(2, 6)


def pruned(model):
    prune.l1_unstructured(model.model.layers[1].mlp.act_fn, "coefficients", 0.3)


def normed(model):
    parametrizations.weight_norm(model.model.layers[1].mlp.up_proj)


@pytest.mark.parametrize("compute", [pruned, normed])
@pytest.mark.parametrize(
    "change",
    [
        revert,
        lambda model: refine_grid(model, 9),
        lambda model: update_grid(model, IDS),
        lambda model: save_curves(model, "curves"),
        lambda model: model.save_pretrained("saved"),
    ],
    ids=["revert", "refine_grid", "update_grid", "save_curves", "save_pretrained"],
)
def test_computed_parameters_are_refused(compute, change, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = randomize_curves(convert(tiny_llama(), KANConfig(slots=("act", "up"))))
    compute(model)
    before = snapshot(model)
    with pytest.raises((ConversionStateError, CheckpointError), match=r"layers\.1\.mlp\.\w+\.\w+ is computed"):
        change(model)
    assert not list(tmp_path.iterdir())
    assert_same_state(model, before)


@pytest.mark.parametrize("change", [lambda model: refine_grid(model, 9), lambda model: update_grid(model, IDS)])
def test_grids_of_offloaded_curves_are_refused(change):
    model = randomize_curves(convert(tiny_llama()))
    expected = model(IDS).logits
    cpu_offload(model, execution_device="cpu")
    with pytest.raises(ConversionStateError, match=r"curves of model\.layers\.0\.mlp\.act_fn are not in memory"):
        change(model)
    assert torch.equal(model(IDS).logits, expected)


def test_quantised_weights_are_refused():
    class Int8Tensor(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            if func is torch.aminmax:
                raise NotImplementedError
            return super().__torch_function__(func, types, args, kwargs)

    model = tiny_llama()
    layer = model.model.layers[0].mlp.up_proj
    layer.weight = torch.nn.Parameter(layer.weight.detach().as_subclass(Int8Tensor), requires_grad=False)
    with pytest.raises(ProofError, match=r"up_proj.weight is a Int8Tensor, which cannot be compared"):
        convert(model, KANConfig(slots=("up",)))


def test_parts_that_are_compiled_by_wrapping_are_refused(tmp_path):
    model = convert(tiny_llama())
    model.model.layers[1] = torch.compile(model.model.layers[1], backend="eager")
    with pytest.raises(CheckpointError, match=r"^model\.layers\.1 is the result of torch\.compile\(module\)"):
        model.save_pretrained(tmp_path / "saved")
    with pytest.raises(ConversionStateError, match=r"^model\.layers\.1 is the result"):
        save_curves(model, tmp_path / "curves")
    assert not list(tmp_path.iterdir())
    plain = tiny_llama()
    plain.model.layers[0] = torch.compile(plain.model.layers[0], backend="eager")
    with pytest.raises(ConversionStateError, match=r"^model\.layers\.0 is the result"):
        convert(plain)


def test_curves_that_were_made_in_inference_mode_can_be_trained(tmp_path):
    folder = save_curves(randomize_curves(convert(tiny_llama())), tmp_path / "curves")
    models = [tiny_llama(), tiny_llama(), convert(tiny_llama())]
    with torch.inference_mode():
        convert(models[0]), load_curves(models[1], folder), refine_grid(models[2], 9)
    for model in models:
        model(input_ids=IDS, labels=IDS).loss.backward()
        assert model.model.layers[0].mlp.act_fn.coefficients.grad.any()
        model.load_state_dict(model.state_dict())


def test_gradients_stay_off_in_a_transaction():
    with torch.no_grad(), transaction(torch.nn.Linear(2, 2)):
        assert not torch.is_grad_enabled()
    with torch.inference_mode(), transaction(torch.nn.Linear(2, 2)):
        assert not torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_another_default_device(tmp_path):
    model, ids = tiny_llama(), IDS
    expected = model(ids).logits
    with torch.device("meta"):
        convert(model)
        straight = model(ids).logits
        refine_grid(update_grid(model, ids), 9).save_pretrained(tmp_path)
    assert torch.equal(straight, expected) and torch.equal(revert(model)(ids).logits, expected)
