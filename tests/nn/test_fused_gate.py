"""The short way through a gated block: taken where the forward is plain, with the same bits, and never noticed."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from tiny_models import SMALL, randomize_curves
from torch import nn
from torch._dynamo.testing import CompileCounter
from transformers import GemmaConfig, GemmaForCausalLM, LlamaConfig, LlamaForCausalLM

from kansformer import KANConfig, LearnedActivation, convert, revert
from kansformer.nn.fused_gate import fuse_gate, gated_names, unfuse_gates

IDS = torch.arange(12).reshape(1, 12)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up = nn.Linear(4, 6), nn.Linear(4, 6)
        self.act = LearnedActivation(6)
        self.down = nn.Linear(6, 4)

    def forward(self, x):
        return self.down(self.act(self.gate(x)) * self.up(x))


class UpFirst(Block):
    def forward(self, x, scale=None):
        return self.down(torch.mul(self.up(x), self.act(self.gate(x))))


class Residual(Block):
    def forward(self, x):
        return x + self.down(self.act(self.gate(x)) * self.up(x))


class Dropout(Block):
    def forward(self, x):
        h = self.act(self.gate(x)) * self.up(x)
        return self.down(F.dropout(h, 0.5) if self.training else h)


class Swapped(Block):
    def forward(self, x):
        return self.down(self.gate(x) * self.act(self.up(x)))


class Twice(Block):
    def forward(self, x):
        return self.down(self.act(self.gate(x)) * self.up(self.gate.weight[0]))


def made(cls=LlamaForCausalLM, config=LlamaConfig):
    torch.manual_seed(0)
    return cls(config(**SMALL, num_key_value_heads=2, head_dim=8)).eval()


def short_ways(model):
    return [m for m in model.modules() if gated_names(m) is not None]


@pytest.mark.parametrize("block", [Block, UpFirst])
@pytest.mark.parametrize("training", [True, False])
def test_a_plain_gated_forward_is_shortened(block, training):
    block = block().train(training)
    randomize_curves(block)
    x = torch.randn(3, 4)
    expected = block(x)
    assert fuse_gate(block, "act")
    assert block.training == training
    assert torch.equal(block(x), expected)


def test_the_names_are_read_from_the_graph():
    block = Swapped()
    expected = block(torch.ones(2, 4))
    assert fuse_gate(block, "act")
    names = gated_names(block)
    assert (names.gate, names.up) == ("up", "gate")
    assert torch.equal(block(torch.ones(2, 4)), expected)


@pytest.mark.parametrize("block", [Residual, Dropout, Twice, nn.Identity])
def test_any_other_forward_is_left_alone(block):
    block = block()
    assert not fuse_gate(block, "act")
    assert "forward" not in vars(block)


@pytest.mark.parametrize(("cls", "config"), [(LlamaForCausalLM, LlamaConfig), (GemmaForCausalLM, GemmaConfig)])
def test_convert_takes_it_with_the_same_bits_and_gradients(cls, config):
    model = made(cls, config)
    plain = model(IDS).logits
    convert(model)
    assert len(short_ways(model)) == 2
    assert torch.equal(model(IDS).logits, plain)
    randomize_curves(model)
    long = copy.deepcopy(model)
    unfuse_gates(long)
    assert not short_ways(long) and len(short_ways(model)) == 2
    for m in (model, long):
        m(IDS, labels=IDS).loss.backward()
    assert torch.equal(model(IDS).logits, long(IDS).logits)
    for (name, short), (_, other) in zip(model.named_parameters(), long.named_parameters(), strict=True):
        torch.testing.assert_close(short.grad, other.grad, rtol=1e-5, atol=1e-7, msg=name)


def test_one_argument_switches_it_off():
    model, fused = convert(made(), fuse=False), convert(made())
    assert not short_ways(model) and short_ways(fused)
    assert torch.equal(model(IDS).logits, fused(IDS).logits)


def test_a_deep_copy_runs_on_its_own_weights():
    model = convert(made())
    clone = copy.deepcopy(model)
    block = clone.model.layers[0].mlp
    assert block.__dict__["forward"].__self__ is block
    with torch.no_grad():
        block.down_proj.weight.zero_()
    assert not torch.equal(clone(IDS).logits, model(IDS).logits)


def test_revert_takes_it_out():
    model = made()
    plain = model(IDS).logits
    revert(convert(model))
    assert not short_ways(model) and torch.equal(model(IDS).logits, plain)


def test_hooks_on_the_activation_see_the_activation():
    model = convert(made())
    randomize_curves(model)
    expected, seen = model(IDS).logits, []
    act = model.model.layers[0].mlp.act_fn
    with act.register_forward_hook(lambda module, args, output: seen.append((args[0], output))):
        assert torch.equal(model(IDS).logits, expected)
    ((gate, activated),) = seen
    assert torch.equal(activated, act(gate))


def test_more_arguments_and_a_replaced_activation_take_the_long_way():
    block = UpFirst()
    fuse_gate(block, "act")
    x = torch.ones(2, 4)
    assert torch.equal(block(x, scale=3), block(x)) and torch.equal(block(x=x), block(x))
    block.act = nn.ReLU()
    assert torch.equal(block(x), UpFirst.forward(block, x))


def test_a_loaded_model_takes_it_too(tmp_path):
    model = convert(made(), KANConfig(basis="chebyshev"))
    randomize_curves(model)
    model.save_pretrained(tmp_path)
    loaded = LlamaForCausalLM.from_pretrained(tmp_path)
    assert len(short_ways(loaded)) == 2
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)


def test_it_compiles_to_one_graph():
    model = convert(made())
    randomize_curves(model)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(IDS).logits, model(IDS).logits, rtol=1e-4, atol=1e-5)


def test_a_replica_for_data_parallel_runs_on_itself():
    block = Block()
    fuse_gate(block, "act")
    replica = block._replicate_for_data_parallel()
    assert replica.__dict__["forward"].__self__ is replica
    assert replica._replicate_for_data_parallel().__dict__["forward"].__self__ is not replica


def test_a_forward_changed_on_the_class_is_taken(monkeypatch):
    block = Block()
    fuse_gate(block, "act")
    monkeypatch.setattr(Block, "forward", lambda self, x: x)
    assert torch.equal(block(torch.ones(2, 4)), torch.ones(2, 4))


def test_everyone_who_watches_an_activation_sees_it():
    model = made()
    watched, calls = model.model.layers[0].mlp.act_fn, []
    watched.register_full_backward_hook(lambda module, entering, leaving: calls.append("inner"))
    convert(model)
    act = model.model.layers[0].mlp.act_fn
    act.register_full_backward_hook(lambda module, entering, leaving: calls.append("outer"))
    model(IDS, labels=IDS).loss.backward()
    assert sorted(calls) == ["inner", "outer"]
    with nn.modules.module.register_module_forward_hook(
        lambda module, args, output: calls.append("global") if module is act else None
    ):
        model(IDS)
    assert calls[-1] == "global"


def test_a_forward_put_around_an_activation_sees_it():
    model = convert(made())
    randomize_curves(model)
    expected, act, seen = model(IDS).logits, model.model.layers[0].mlp.act_fn, []

    def watching(*args, **kwargs):  # as nnsight and accelerate do
        seen.append(LearnedActivation.forward(act, *args, **kwargs))
        return seen[-1]

    act.forward = watching
    torch.testing.assert_close(model(IDS).logits, expected)
    del act.forward
    by_hook = []
    act.register_forward_hook(lambda module, args, output: by_hook.append(output))
    model(IDS)
    assert torch.equal(seen[0], by_hook[0])


def test_a_learned_activation_with_a_forward_of_its_own_is_called():
    from kansformer.nn.fused_gate import gated_product

    class Doubled(LearnedActivation):
        def forward(self, x):
            return 2 * super().forward(x)

    gate, up = torch.randn(2, 3, 4)
    assert torch.equal(gated_product(Doubled(4), gate, up), 2 * torch.nn.functional.silu(gate) * up)


def test_blocks_of_one_class_are_one_compilation():
    """Regional compilation, layer by layer."""
    model = convert(made())
    counter = CompileCounter()
    torch.compiler.reset()
    for layer in model.model.layers:
        layer.compile(backend=counter, fullgraph=True)
    with torch.no_grad():
        model(torch.arange(8)[None], use_cache=False)
    assert counter.frame_count == 1 and len(short_ways(model)) == len(model.model.layers) > 1


def test_a_pickled_block_has_its_own_forward_and_the_same_bits():
    model = convert(made())
    copied = pickle.loads(pickle.dumps(model))  # noqa: S301 - our own
    tokens = torch.arange(8)[None]
    assert torch.equal(copied(tokens).logits, model(tokens).logits)
    block = copied.model.layers[0].mlp
    replica = block._replicate_for_data_parallel()
    replica._modules = {**block._modules, "down_proj": nn.Linear(24, 16, bias=False)}
    nn.init.zeros_(replica.down_proj.weight)
    assert not replica(torch.randn(3, 16)).any()  # of its own layers
    assert not any("forward" in vars(module) for module in revert(copied).modules())


def test_a_forward_that_others_have_put_there_stays():
    model = convert(made())
    first, second = (layer.mlp for layer in model.model.layers[:2])
    watched, calls = first.forward, []
    first.forward = lambda x: (calls.append(x), watched(x))[1]
    del second.forward
    revert(model)(IDS)
    assert len(calls) == 1
