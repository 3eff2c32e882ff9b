"""What kansformer's plug-in uses of SGLang 0.5.23, in a few lines: names, signatures and order of calls are SGLang's.

SGLang itself needs a GPU's libraries. Ranks here are numbers; their sums are for the tests to take.
"""

import enum
import sys
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import torch
import torch.nn.functional as F
import transformers
from torch import nn


class QuantizationConfig:
    pass


class UnquantizedLinearMethod:
    def create_weights(self, layer, input_size_per_partition, output_partition_sizes, *sizes_and_dtype, **attributes):
        size = (sum(output_partition_sizes), input_size_per_partition)
        layer.register_parameter("weight", nn.Parameter(torch.empty(size, dtype=sizes_and_dtype[-1])))

    def process_weights_after_loading(self, layer):
        layer.is_packed = True

    def apply(self, layer, x, bias=None):
        return F.linear(x, layer.weight, bias)


class Group(SimpleNamespace):
    """One rank's view of its group."""


def get_group_rank_size(group):
    return (0, 1) if group is None else (group.rank_in_group, group.world_size)


class LinearBase(nn.Module):
    tp_group = None
    now = None  # the group of layers that are being made

    def __init__(self, linear, quant_config, prefix):
        super().__init__()
        _, count = get_group_rank_size(self.now)
        inputs, outputs = linear.in_features, linear.out_features
        self.axis = {ColumnParallelLinear: 0, RowParallelLinear: 1}.get(type(self))
        self.tp_group = None if self.axis is None else self.now
        self.bias = None
        self.quant_method = quant_config.get_quant_method(self, prefix=prefix)
        self.quant_method.create_weights(
            self, inputs // count if self.axis == 1 else inputs, [outputs // count if self.axis == 0 else outputs],
            inputs, outputs, torch.get_default_dtype(), weight_loader=None,
        )  # fmt: skip

    def load(self, weight):
        rank, count = get_group_rank_size(self.tp_group)
        self.weight.data.copy_(weight if self.axis is None else weight.chunk(count, self.axis)[rank])

    def forward(self, x):
        return self.quant_method.apply(self, x, self.bias)


class ReplicatedLinear(LinearBase):
    pass


class ColumnParallelLinear(LinearBase):
    pass


class RowParallelLinear(LinearBase):
    input_is_parallel = True


class FusedMoE(nn.Module):
    pass


class PPMissingLayer(nn.Identity):
    pass


class HookType(enum.Enum):
    AROUND = "around"


class HookRegistry:
    hooks: ClassVar[list] = []

    @classmethod
    def register(cls, target, hook, hook_type):
        cls.hooks.append((target, hook, hook_type))


class WeightsMapper:
    def apply_list(self, names):
        return ["model." + name.removeprefix("model.") for name in names]


class TransformersBase(nn.Module):
    def __init__(self, config, quant_config=None, prefix=""):
        super().__init__()
        self.config, self.quant_config, self.weight_mapper = config, quant_config, WeightsMapper()
        self.model = transformers.AutoModel.from_config(config)
        self.recursive_replace()

    def recursive_replace(self):
        kinds = {"gate_proj": ColumnParallelLinear, "up_proj": ColumnParallelLinear, "down_proj": RowParallelLinear}
        for path, module in list(self.model.named_modules()):
            if isinstance(module, nn.Linear):
                owner, _, name = path.rpartition(".")
                made = kinds.get(name, ReplicatedLinear)(module, self.quant_config, f"model.{path}")
                setattr(self.model.get_submodule(owner), name, made)

    def load_weights(self, weights):
        loaded = set()
        for key, tensor in weights:
            (name,) = self.weight_mapper.apply_list([key])
            owner, _, last = name.rpartition(".")
            if name != "model.lm_head.weight":
                module = self.get_submodule(owner)
                module.load(tensor) if isinstance(module, LinearBase) else getattr(module, last).data.copy_(tensor)
                loaded.add(name)
        return loaded


class TransformersForCausalLM(TransformersBase):
    pass


class ModelImpl(str, enum.Enum):
    AUTO = "auto"
    SGLANG = "sglang"
    TRANSFORMERS = "transformers"


MODULES = {
    "sglang.srt.layers.quantization": dict(QUANTIZATION_METHODS={}, CPU_QUANTIZATION_METHODS={}),
    "sglang.srt.layers.quantization.base_config": dict(
        QuantizationConfig=QuantizationConfig, QuantizeMethodBase=object, LinearMethodBase=object
    ),
    "sglang.srt.layers.quantization.unquant": dict(UnquantizedLinearMethod=UnquantizedLinearMethod),
    "sglang.srt.layers.linear": dict(LinearBase=LinearBase, RowParallelLinear=RowParallelLinear),
    "sglang.srt.layers.moe.fused_moe_triton.layer": dict(FusedMoE=FusedMoE),
    "sglang.srt.layers.utils": dict(PPMissingLayer=PPMissingLayer),
    "sglang.srt.distributed.utils": dict(get_group_rank_size=get_group_rank_size),
    "sglang.srt.models.transformers": dict(TransformersBase=TransformersBase),
    "sglang.srt.plugins.hook_registry": dict(HookRegistry=HookRegistry, HookType=HookType),
}


def install(monkeypatch):
    """Have imports find these stand-ins until the test is over, and the plug-in imported with them only."""
    for name in [name for name in sys.modules if name.startswith("kansformer.serving.sglang")]:
        monkeypatch.delitem(sys.modules, name)
    for name, contents in MODULES.items():
        module = ModuleType(name)
        vars(module).update({key: dict(value) if value == {} else value for key, value in contents.items()})
        parts = name.split(".")
        for depth in range(1, len(parts)):
            parent = ".".join(parts[:depth])
            if parent not in MODULES:
                package = ModuleType(parent)
                package.__path__ = []
                monkeypatch.setitem(sys.modules, parent, package)
        module.__path__ = []
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(HookRegistry, "hooks", [])
