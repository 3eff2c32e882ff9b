"""Adapters on layers whose input is bent: merged or not, the model computes the same function."""

import copy
import dataclasses
import io

import accelerate
import peft
import pytest
import torch
from tiny_models import make, randomize_curves, run, snapshot

from kansformer import KANConfig, KANLinear, convert, update_grid
from kansformer.conversion import find_curve_slots
from kansformer.errors import ConversionStateError
from kansformer.interp import ablate, edge_curves, record_edges

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing:FutureWarning", "ignore:fan_in_fan_out is set to False"
)

CHANNEL, GROUP, FULL, LOW_RANK = (
    KANConfig(slots=("up", "down"), edges=edges, grid_size=3, groups=4, rank=2)
    for edges in ("channel", "group", "full", "low_rank")
)
LAYERS = {"llama": ["up_proj", "down_proj"], "gpt2": ["c_fc", "mlp.c_proj"], "opt": ["fc1", "fc2"], "bert": ["dense"]}

CASES = {
    "channel": ("llama", CHANNEL),
    "group": ("llama", GROUP),
    "full": ("llama", FULL),
    "low_rank": ("llama", LOW_RANK),
    "transposed layers": ("gpt2", CHANNEL),
    "transposed layers, full": ("gpt2", FULL),
    "a plain layer as the host of an input curve": ("opt", KANConfig(slots=("input",))),
    "the same in BERT": ("bert", KANConfig(slots=("input",))),
    "a host with curves of its own": ("opt", KANConfig(slots=("input", "up", "down"))),
}

METHODS = {
    "lora": lambda layers: peft.LoraConfig(target_modules=layers, r=2),
    "dora": lambda layers: peft.LoraConfig(target_modules=layers, r=2, use_dora=True),
    "lora with a bias": lambda layers: peft.LoraConfig(target_modules=layers, r=2, lora_bias=True, use_rslora=True),
    "ia3": lambda layers: peft.IA3Config(target_modules=layers, feedforward_modules=layers),
    "loha": lambda layers: peft.LoHaConfig(target_modules=layers, r=2),
    "lokr": lambda layers: peft.LoKrConfig(target_modules=layers, r=2),
    "vera": lambda layers: peft.VeraConfig(target_modules=layers, r=2),
    "oft": lambda layers: peft.OFTConfig(target_modules=layers, r=0, oft_block_size=4),
    "hra": lambda layers: peft.HRAConfig(target_modules=layers, r=2),
}


def bent(name, config):
    return randomize_curves(convert(make(name), config))


def adapted(name, config, method="lora"):
    """A bent model with random adapters."""
    return randomize_adapters(peft.get_peft_model(bent(name, config), METHODS[method](LAYERS[name]))).eval()


@torch.no_grad()
def randomize_adapters(model):
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def assert_same_function(actual, expected):
    assert (actual - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("case", CASES)
def test_merged_and_unmerged_are_the_same_function(case, tmp_path):
    model = adapted(*CASES[case])
    plain, expected = run(bent(*CASES[case])), run(model)
    assert (expected - plain).norm() > 1e-2 * plain.norm()
    with model.disable_adapter():
        assert torch.equal(run(model), plain)
    before = snapshot(model)
    model.merge_adapter()
    assert_same_function(run(model), expected)
    model.unmerge_adapter()
    assert_same_function(run(model), expected)
    assert all(torch.allclose(tensor, before[name], atol=1e-6) for name, tensor in model.state_dict().items())
    model.save_pretrained(tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(bent(*CASES[case]), tmp_path / "adapter")
    assert torch.equal(run(loaded), expected)
    merged = loaded.merge_and_unload()
    assert_same_function(run(merged), expected)
    merged.save_pretrained(tmp_path / "whole")
    assert torch.equal(run(type(merged).from_pretrained(tmp_path / "whole")), run(merged))


@pytest.mark.parametrize("config", [CHANNEL, FULL], ids=["channel", "full"])
@pytest.mark.parametrize("method", METHODS)
def test_every_kind_of_adapter_acts_on_the_weights_alone(method, config):
    model = adapted("gpt2" if "bias" in method else "llama", config, method)
    expected = run(model)
    assert_same_function(run(model.merge_and_unload()), expected)


@pytest.mark.parametrize("case", ["channel", "full", "transposed layers"])
def test_several_adapters_one_batch_and_a_copy(case):
    model = adapted(*CASES[case])
    first = run(model)
    model.add_adapter("second", METHODS["lora"](LAYERS[CASES[case][0]]))
    model.set_adapter("second")
    second = run(randomize_adapters(model))
    with torch.no_grad():
        mixed = model(input_ids=torch.arange(3, 17).view(2, 7), adapter_names=["default", "second"]).last_hidden_state
    assert_same_function(mixed, torch.stack([first[0], second[1]]))
    clone = copy.deepcopy(model)
    randomize_curves(clone, std=0.4)
    assert torch.equal(run(model), second) and not torch.equal(run(clone), second)
    randomize_curves(clone)
    assert torch.equal(run(clone), second)
    assert torch.equal(run(model.unload()), run(bent(*CASES[case])))


@pytest.mark.parametrize("case", ["channel", "full", "a host with curves of its own"])
def test_adapters_around_adapters(case):
    layers = LAYERS[CASES[case][0]]
    model = peft.PeftMixedModel(bent(*CASES[case]), METHODS["lora"](layers), adapter_name="default")
    model.add_adapter("second", METHODS["loha"](layers))
    model.set_adapter(["default", "second"])
    randomize_adapters(model).eval()
    expected = run(model)
    assert_same_function(run(model.merge_and_unload()), expected)


def test_adapters_of_single_parameters():
    config = peft.LoraConfig(target_parameters=["up_proj.weight", "up_proj.coefficients"], r=2)
    model = randomize_adapters(peft.get_peft_model(bent("llama", CHANNEL), config)).eval()
    expected = run(model)
    assert not torch.equal(expected, run(bent("llama", CHANNEL)))
    assert_same_function(run(model.merge_and_unload()), expected)


@pytest.mark.parametrize("base", ["silu", "identity"])
@pytest.mark.parametrize("edges", ["full", "channel"])
def test_layers_of_ones_own_network(edges, base):
    block = torch.nn.Sequential(KANLinear(6, 8, edges=edges, base=base), KANLinear(8, 4, edges=edges, base=base))
    model = peft.get_peft_model(randomize_curves(block), peft.LoraConfig(target_modules=["0", "1"], r=2))
    x = torch.randn(5, 6)
    with torch.no_grad():
        expected = randomize_adapters(model).eval()(x)
        assert_same_function(model.merge_and_unload()(x), expected)


@pytest.mark.parametrize("case", ["channel", "full", "a host with curves of its own"])
def test_curves_beneath_adapters_are_read_and_moved_like_others(case):
    config = CASES[case][1]
    plain, model = bent(*CASES[case]), peft.get_peft_model(bent(*CASES[case]), METHODS["lora"](LAYERS[CASES[case][0]]))
    records = []
    for each in (plain, model):
        with record_edges(each) as recorded:
            run(each)
        records.append(list(recorded.values()))
        update_grid(each, {"input_ids": torch.arange(3, 17).view(2, 7)})
    assert len(records[0]) == len(records[1]) >= 2 * len(config.slots)
    for expected, actual in zip(*records, strict=True):
        assert torch.equal(actual.lower, expected.lower) and torch.equal(actual.upper, expected.upper)
    assert torch.equal(run(model), run(plain))


@pytest.mark.parametrize("config", [CHANNEL, FULL, LOW_RANK], ids=["channel", "full", "low_rank"])
@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_an_edge_is_that_of_the_layer_with_its_adapter(method, config):
    model = adapted("gpt2" if "bias" in method else "llama", config, method)
    slot = find_curve_slots(model)[0]
    x_NI = torch.zeros(2, slot.module.in_features)
    x_NI[1, 3] = 1.5
    before = slot.called(x_NI)
    curve = edge_curves(model, slot.site, slot.name, inputs=[3], outputs=[7], at=x_NI[:, 3].unsqueeze(0))
    torch.testing.assert_close(curve.y[0].diff()[0], before[1, 7] - before[0, 7])
    with ablate(model, curve.refs):
        torch.testing.assert_close(*slot.called(x_NI)[:, 7])
    assert torch.equal(slot.called(x_NI), before)


@torch.no_grad()
def test_a_new_adapter_changes_no_edge_in_16_bits():
    """Its weights are small beside the bias of such a layer, which is left out where they are read."""
    layer = KANLinear(16, 8, base="identity").bfloat16()
    layer.bias.normal_(std=4)
    model, at = torch.nn.Sequential(layer), torch.ones(1, 1)
    expected = edge_curves(model, "", "0", inputs=[3], at=at).y
    model = peft.get_peft_model(model, peft.LoraConfig(target_modules=["0"], r=2)).eval()
    slot = find_curve_slots(model)[0]
    assert torch.equal(edge_curves(model, slot.site, slot.name, inputs=[3], at=at).y, expected)


@torch.no_grad()
def test_records_know_the_adapter_after_a_copy():
    model = adapted("llama", FULL)
    with record_edges(model) as records:
        run(model)
    copied = copy.deepcopy(records)
    for key, recorded in records.items():
        find_curve_slots(recorded.slot.module)  # the layer alone
        assert torch.equal(copied[key].variances(), recorded.variances())
        copied[key].slot = dataclasses.replace(recorded.slot, called=recorded.slot.module)
        assert not torch.allclose(copied[key].variances(), recorded.variances())


def test_an_adapter_that_is_not_linear_has_no_edges():
    model = adapted("llama", FULL)
    slot = find_curve_slots(model)[0]
    slot.called.lora_A["default"].forward = lambda x: x[..., :2] ** 2
    with pytest.raises(ConversionStateError, match="The adapter peft.tuners.lora.* is not linear, so the layer has no"):
        edge_curves(model, slot.site, slot.name, inputs=[0, 1])


def test_adapters_on_plain_layers_are_left_alone():
    model = peft.get_peft_model(make("llama"), METHODS["lora"](LAYERS["llama"]))
    layers = [module for module in model.modules() if isinstance(module, peft.tuners.lora.LoraLayer)]
    assert len(layers) == 6
    assert not any("forward" in vars(layer) or layer._forward_pre_hooks for layer in layers)


@pytest.mark.parametrize("case", ["channel", "full", "a host with curves of its own"])
def test_offloaded_pickled_and_compiled(case):
    model = adapted(*CASES[case])
    expected = run(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert torch.equal(run(torch.load(file, weights_only=False)), expected)
    torch._dynamo.reset()
    assert_same_function(run(torch.compile(model, backend="eager")), expected)
    accelerate.cpu_offload(model.get_base_model(), execution_device=torch.device("cpu"))
    assert torch.equal(run(model), expected)


def test_replicas_run_on_themselves():
    model = adapted(*CASES["channel"]).get_base_model()
    layer = model.layers[0].mlp.up_proj
    replica = layer._replicate_for_data_parallel()
    assert replica.forward.adapter is replica and layer.forward.adapter is layer
