"""Mixtures of experts in vLLM whose activation, which all experts of a layer share, has curves.

vLLM's kernels for experts have fixed activations inside. Here the experts that are in use run one after the other, in
plain PyTorch; that is right everywhere, and slower than those kernels.

Shape letters: N tokens, d model width, m hidden width, E experts, K experts per token.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from vllm.model_executor.layers.fused_moe import RoutedExperts
from vllm.model_executor.layers.fused_moe.config import FusedMoEConfig, FusedMoEParallelConfig
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod

from kansformer.errors import CheckpointError
from kansformer.nn import LearnedActivation
from kansformer.nn.fused_gate import gated_product
from kansformer.serving.checkpoint import Rank, ServedCurves
from kansformer.serving.modules import serve_module
from kansformer.sites.site import Slot, parent_of

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}
"""By vLLM's name."""


class CurvedExpertsMethod(UnquantizedFusedMoEMethod):
    """The experts of a layer with curves in their activation.

    Args:
        moe: vLLM's description of the layer.
        curves: of the model.
        slot: of the activation.
    """

    is_monolithic = False
    supports_pre_processed_weights = False

    def __init__(self, moe: FusedMoEConfig, curves: ServedCurves, slot: Slot) -> None:
        super().__init__(moe)
        self.curves, self.slot, self.name = curves, slot, parent_of(slot.path)[1]

    def maybe_roundup_sizes(
        self,
        hidden_size: int,
        intermediate_size_per_partition: int,
        act_dtype: torch.dtype,
        moe_parallel_config: FusedMoEParallelConfig,
    ) -> tuple[int, int]:
        """The sizes as they are; only vLLM's kernels want others."""
        return hidden_size, intermediate_size_per_partition

    def create_weights(
        self,
        layer: RoutedExperts,
        num_experts: int,
        hidden_size: int,
        intermediate_size_per_partition: int,
        params_dtype: torch.dtype,
        **extra_weight_attrs: Any,
    ) -> None:
        """The weights as vLLM makes them, and the curves of this rank's hidden channels.

        Raises:
            CheckpointError: the experts have biases, or an activation that curves cannot be added to.
        """
        activation = layer.activation.value
        if activation not in ACTIVATIONS or self.moe.has_bias:
            raise CheckpointError(
                f"The experts at {self.slot.path} have the activation {activation!r} and "
                f"{'biases' if self.moe.has_bias else 'no biases'}; curves are served in experts without biases and "
                f"with one of {', '.join(ACTIVATIONS)}."
            )
        super().create_weights(
            layer, num_experts, hidden_size, intermediate_size_per_partition, params_dtype, **extra_weight_attrs
        )
        rank = Rank(layer.moe_config.moe_parallel_config.tp_rank, layer.moe_config.moe_parallel_config.tp_size)
        features = intermediate_size_per_partition * rank.count
        act = LearnedActivation.from_activation(
            ACTIVATIONS[activation], features, self.curves.spec_of(self.slot), device="meta", dtype=params_dtype
        )
        serve_module(act, self.slot, self.curves, by="inputs", rank=rank, dtype=params_dtype)
        setattr(layer, self.name, act)

    def process_weights_after_loading(self, layer: RoutedExperts) -> None:
        """Keep the weights as they were loaded, since no kernel wants them packed."""

    def apply(
        self,
        layer: RoutedExperts,
        x: Tensor,
        topk_weights: Tensor,
        topk_ids: Tensor,
        shared_experts: Any,
        shared_experts_input: Tensor | None,
    ) -> Tensor:
        """x (N, d), weights and numbers of each token's experts (N, K), to (N, d)."""
        act = layer._modules[self.name]
        chosen = topk_ids if layer.expert_map is None else layer.expert_map[topk_ids.long()]
        y = torch.zeros_like(x)
        for expert in range(layer.local_num_experts):
            rows, ranks = torch.where(chosen == expert)
            if not len(rows):
                continue
            gate, up = F.linear(x[rows], layer.w13_weight[expert]).chunk(2, dim=-1)
            output = F.linear(gated_product(act, gate, up), layer.w2_weight[expert])
            y.index_add_(0, rows, output * topk_weights[rows, ranks, None].to(output.dtype))
        return y
