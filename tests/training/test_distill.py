"""Feed-forward networks learn what their originals compute, nothing else changes; and the loss from logits."""

import copy
import math

import pytest
import torch
from tiny_models import randomize_curves, tiny_llama
from torch import nn

from kansformer import KANConfig, convert, freeze_curves
from kansformer.conversion import replace_feed_forwards
from kansformer.errors import ConfigError, DataError, ShapeError
from kansformer.nn.optim import curve_parameters
from kansformer.training.distill import distill_feed_forwards, distillation_loss

BLOCKS = (torch.arange(20 * 12).reshape(20, 12) ** 2) % 23
CONFIG = KANConfig(edges="full", slots=("down",), grid_size=2, order=2, layers="1:")
RUN = dict(steps=2, batch_size=3)


@pytest.fixture
def teacher():
    return tiny_llama(num_hidden_layers=3, initializer_range=0.3, attention_dropout=0.5)


@pytest.fixture
def student(teacher):
    return replace_feed_forwards(copy.deepcopy(teacher), CONFIG, hidden=12)


def test_the_error_falls_and_only_the_networks_change(student, teacher):
    before, original = copy.deepcopy(student.state_dict()), copy.deepcopy(teacher.state_dict())
    result = distill_feed_forwards(student, teacher, BLOCKS, steps=80, batch_size=6, lr=5e-3)
    assert [site.path for site in result.sites] == ["model.layers.1.mlp", "model.layers.2.mlp"]
    for site in result.sites:
        assert site.after < 0.7 * site.before
        assert site.held_out_after < 0.8 * site.held_out_before
        assert site.path in str(result) and f"{site.held_out_after:.3f}" in str(result)
    changed = {name for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    networks = [student.get_submodule(site.path) for site in result.sites]
    paths = {name for name, _ in student.named_parameters() if ".mlp." in name and "layers.0" not in name}
    assert changed == paths
    assert all(torch.equal(value, original[name]) for name, value in teacher.state_dict().items())
    assert result.parameters == sum(p.numel() for m in networks for p in m.parameters())
    assert result.tokens == 80 * 6 * 12 and len(result.losses) == 80 and result.seconds > 0


def test_the_errors_are_those_of_the_networks(student, teacher):
    """The held-out blocks are the last two of twenty."""
    calls = {}
    handle = teacher.model.layers[2].mlp.register_forward_hook(lambda m, args, y: calls.update(x=args[0], y=y))
    with torch.no_grad():
        teacher.eval()(BLOCKS[18:])
        handle.remove()
        wrong = ((student.model.layers[2].mlp(calls["x"]) - calls["y"]).norm() / calls["y"].norm()).item()
    (_, site) = distill_feed_forwards(student, teacher, BLOCKS, **RUN).sites
    assert site.held_out_before == pytest.approx(wrong, rel=1e-5)


@pytest.mark.parametrize("cache_bytes", [0, 5 * 12 * 16 * 4 * 4, 2**31])
def test_the_cache_changes_nothing_but_how_often_the_teacher_runs(cache_bytes, student, teacher):
    """12 tokens of width 16 in and out of two networks, in float32: the second cache holds five blocks."""
    other = copy.deepcopy(student)
    read = []
    teacher.model.register_forward_pre_hook(
        lambda m, args, kwargs: read.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    result = distill_feed_forwards(student, teacher, BLOCKS, steps=12, batch_size=3, cache_bytes=cache_bytes)
    rows = sum(read)
    assert rows == 20 if cache_bytes == 2**31 else rows > 20
    if cache_bytes == 0:
        assert rows == 2 * (8 + 2) + 12 * 3
    again = distill_feed_forwards(other, teacher, BLOCKS, steps=12, batch_size=3)
    assert result.losses == pytest.approx(again.losses, rel=1e-5)


def test_the_teacher_runs_no_further_than_its_last_network(student, teacher):
    def fail(*arguments):
        raise AssertionError("the head is not needed")

    teacher.lm_head.register_forward_pre_hook(fail)
    distill_feed_forwards(student, teacher, BLOCKS, **RUN)


def test_a_run_is_a_function_of_its_arguments(student, teacher):
    def run(seed):
        return distill_feed_forwards(copy.deepcopy(student), teacher, BLOCKS, steps=4, batch_size=2, seed=seed).losses

    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = run(0)
    assert torch.equal(state, torch.get_rng_state())
    assert run(0) == first and run(1) != first


def test_flags_modes_and_hooks_are_put_back(student, teacher):
    student.train(), teacher.train()
    frozen = student.model.layers[1].mlp.up_proj.weight.requires_grad_(False)
    distill_feed_forwards(student, teacher, BLOCKS, **RUN)
    assert student.training and teacher.training and not frozen.requires_grad
    assert all(p.requires_grad for p in student.parameters() if p is not frozen)
    assert all(p.grad is None for m in (student, teacher) for p in m.parameters())
    assert not any(module._forward_hooks for module in teacher.modules())


def test_named_networks_of_any_model(teacher):
    """A converted model, or one that was narrowed by hand: whatever stands at the same path."""
    student = convert(copy.deepcopy(teacher), KANConfig())
    with torch.no_grad():
        student.model.layers[0].mlp.down_proj.weight.mul_(0.5)
    result = distill_feed_forwards(student, teacher, BLOCKS, **RUN, paths=["model.layers.0.mlp"])
    assert result.sites[0].before == pytest.approx(0.5, rel=1e-4)


def test_progress_is_told_every_step(student, teacher):
    states = []
    result = distill_feed_forwards(
        student, teacher, BLOCKS, steps=3, batch_size=2, progress=lambda *state: states.append(state)
    )
    assert [state[1:3] for state in states] == [(1, 3), (2, 3), (3, 3)]
    assert [state[3].partition("  ")[0] for state in states] == [f"loss {loss:.3f}" for loss in result.losses]


def test_an_infinite_loss_stops_and_puts_the_networks_back(student, teacher):
    before = copy.deepcopy(student.state_dict())
    with pytest.raises(ConfigError, match=r"became infinite or NaN at step \d of 9.*choose a lr below 1e\+35"):
        distill_feed_forwards(student, teacher, BLOCKS, steps=9, batch_size=2, lr=1e35)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "error", "sentence"),
    [
        (dict(steps=0), ConfigError, "steps must be a whole number of at least 1, got 0"),
        (dict(lr=math.nan), ConfigError, "lr must be a finite number above 0, got nan"),
        (dict(held_out=1.0), ConfigError, "held_out must be above 0 and below 1, got 1.0"),
        (dict(warm_up=2.0), ConfigError, "warm_up must be a finite number from 0 to 1, got 2.0"),
        (dict(cache_bytes=-1), ConfigError, "cache_bytes must be a whole number of at least 0, got -1"),
        (dict(paths=["model.layers.9.mlp"]), ConfigError, "The model has no module 'model.layers.9.mlp'"),
        (dict(paths=[]), ConfigError, "has no replaced feed-forward networks. Call replace_feed_forwards first"),
        (dict(batch_size=0), DataError, "batch_size must be a whole number of at least 1, got 0"),
        (dict(batch_size=19), DataError, "20 blocks, 2 of them held out, leave fewer than one batch of 19"),
    ],
)
def test_impossible_settings_are_refused(settings, error, sentence, student, teacher):
    with pytest.raises(error, match=sentence):
        distill_feed_forwards(student, teacher, BLOCKS, **{**RUN, **settings})


def test_models_that_cannot_be_distilled_are_refused(student, teacher):
    with pytest.raises(ConfigError, match="one object, so there is nothing to learn"):
        distill_feed_forwards(student, student, BLOCKS, **RUN)
    with pytest.raises(ConfigError, match="LlamaForCausalLM has no replaced feed-forward networks"):
        distill_feed_forwards(copy.deepcopy(teacher), teacher, BLOCKS, **RUN)
    teacher.model.layers = teacher.model.layers[:2]
    with pytest.raises(ConfigError, match="The teacher has no module 'model.layers.2.mlp' to distil"):
        distill_feed_forwards(student, teacher, BLOCKS, **RUN)


def test_a_network_that_the_teacher_does_not_call(teacher):
    for model in (teacher, student := copy.deepcopy(teacher)):
        model.spare = nn.Linear(16, 16)
    with pytest.raises(ConfigError, match="The teacher's forward does not call spare"):
        distill_feed_forwards(student, teacher, BLOCKS, **RUN, paths=["spare"])


def logits(seed, dtype=torch.float64):
    return torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(seed), dtype=dtype)


LABELS = torch.tensor([[1, 2, -100, 3, 4], [6, -100, -100, 0, 5]])


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_divergence_against_its_definition(temperature):
    student, teacher = logits(0), logits(1)
    expected, counted = 0.0, 0
    for b in range(2):
        for t in range(4):
            if LABELS[b, t + 1] >= 0:
                p = (teacher[b, t] / temperature).softmax(0)
                q = (student[b, t] / temperature).softmax(0)
                expected, counted = expected + sum(p[v] * math.log(p[v] / q[v]) for v in range(7)), counted + 1
    found = distillation_loss(student, teacher, LABELS, temperature=temperature, alpha=1.0)
    assert counted == 5 and found.item() == pytest.approx(temperature**2 * (expected / counted).item(), rel=1e-12)


def test_the_loss_is_a_mixture_with_that_of_transformers(teacher):
    output = teacher.eval()(BLOCKS[:2], labels=BLOCKS[:2])
    plain = distillation_loss(output.logits, output.logits.flip(-1), BLOCKS[:2], alpha=0.0)
    assert plain.item() == pytest.approx(output.loss.item(), rel=1e-6)
    pure = distillation_loss(output.logits, output.logits.flip(-1), BLOCKS[:2], alpha=1.0)
    mixed = distillation_loss(output.logits, output.logits.flip(-1), BLOCKS[:2], alpha=0.3)
    assert mixed.item() == pytest.approx(0.3 * pure.item() + 0.7 * plain.item(), rel=1e-6)


def test_equal_logits_give_no_divergence_and_gradients_go_into_the_student_only():
    student, teacher = logits(0).requires_grad_(), logits(0).requires_grad_()
    loss = distillation_loss(student, teacher, LABELS, alpha=1.0, temperature=3.0)
    assert loss.item() == pytest.approx(0.0, abs=1e-15)
    distillation_loss(student, teacher, LABELS).backward()
    assert student.grad is not None and teacher.grad is None
    assert student.grad[0, 0].any() and not student.grad[0, 1].any() and not student.grad[:, -1].any()
    assert torch.autograd.gradcheck(lambda s: distillation_loss(s, logits(1), LABELS, temperature=2.0), student)


def test_half_precision_is_computed_in_float32():
    student, teacher = logits(0, torch.bfloat16) * 30, logits(1, torch.bfloat16) * 30
    loss = distillation_loss(student, teacher, LABELS)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, distillation_loss(student.float(), teacher.float(), LABELS))


def test_without_labels_the_loss_is_zero():
    student = logits(0).requires_grad_()
    loss = distillation_loss(student, logits(1), torch.full((2, 5), -100))
    loss.backward()
    assert loss.item() == 0 and not student.grad.any()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (dict(temperature=0.0), "temperature must be a finite number above 0, got 0.0"),
        (dict(temperature=math.inf), "temperature must be a finite number above 0, got inf"),
        (dict(alpha=1.5), "alpha must be a finite number from 0 to 1, got 1.5"),
    ],
)
def test_impossible_settings_of_the_loss_are_refused(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        distillation_loss(logits(0), logits(1), LABELS, **settings)


@pytest.mark.parametrize(
    ("teacher", "labels"), [(logits(1)[..., :6], LABELS), (logits(1), LABELS[:, :4]), (logits(1), LABELS[0])]
)
def test_shapes_that_do_not_belong_together_are_refused(teacher, labels):
    with pytest.raises(ShapeError, match=r"Logits must be \(B, T, V\) for student and teacher and labels \(B, T\)"):
        distillation_loss(logits(0), teacher, labels)


def test_fixed_curves_stay(teacher, tmp_path):
    source = convert(copy.deepcopy(teacher), KANConfig(edges="group", groups=4))
    file = tmp_path / "curves.safetensors"
    freeze_curves(randomize_curves(source), file, share="model")
    student = replace_feed_forwards(copy.deepcopy(teacher), KANConfig(curves=str(file), trainable=False), hidden=12)
    before = {name: parameter.clone() for name, parameter in curve_parameters(student)}
    distill_feed_forwards(student, teacher, BLOCKS, **RUN)
    assert before and all(torch.equal(parameter, before[name]) for name, parameter in curve_parameters(student))


def test_inputs_are_those_before_a_curve_on_the_input():
    config = KANConfig(slots=("input",), layers="1:")
    teacher = randomize_curves(convert(tiny_llama(num_hidden_layers=2), config), 0.3)
    run = dict(steps=1, batch_size=6, lr=1e-9, paths=["model.layers.1.mlp"])
    result = distill_feed_forwards(copy.deepcopy(teacher), teacher, BLOCKS, **run)
    assert all(site.before < 1e-5 for site in result.sites)
