"""Which of vLLM's model classes serves a converted checkpoint. Knows names only, nothing of vLLM is imported."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from kansformer.config import WEIGHTLESS_SLOTS
from kansformer.conversion.record import ConversionRecord
from kansformer.errors import CheckpointError, ConfigError
from kansformer.sites.site import parent_of

GENERAL_MODULE = "kansformer.serving.vllm.general"
GENERAL_CLASSES = (
    "TransformersForCausalLM",
    "TransformersMoEForCausalLM",
    "TransformersMultiModalForCausalLM",
    "TransformersMultiModalMoEForCausalLM",
    "TransformersEmbeddingModel",
    "TransformersMoEEmbeddingModel",
    "TransformersMultiModalEmbeddingModel",
    "TransformersForSequenceClassification",
    "TransformersMoEForSequenceClassification",
    "TransformersMultiModalForSequenceClassification",
)
"""Of vLLM's Transformers modelling backend, which chooses among them."""

OWN_MODULE = "kansformer.serving.vllm.own_classes"


@dataclass(frozen=True)
class OwnClass:
    """A model class of vLLM's own whose feed-forward modules have transformers' names.

    Args:
        module: in `vllm.model_executor.models`.
        base: name of the base model in it.
        activation: of a feed-forward block there, if transformers has another name for it.
    """

    module: str
    base: str = "model"
    activation: str | None = None


OWN_CLASSES = {
    "LlamaForCausalLM": OwnClass("llama"),
    "MistralForCausalLM": OwnClass("mistral"),
    "Qwen2ForCausalLM": OwnClass("qwen2"),
    "Qwen3ForCausalLM": OwnClass("qwen3"),
    "GemmaForCausalLM": OwnClass("gemma"),
    "Gemma2ForCausalLM": OwnClass("gemma2"),
    "Gemma3ForCausalLM": OwnClass("gemma3"),
    "GraniteForCausalLM": OwnClass("granite"),
    "Phi3ForCausalLM": OwnClass("phi3", activation="act_fn"),
    "OPTForCausalLM": OwnClass("opt"),
    "GPT2LMHeadModel": OwnClass("gpt2", base="transformer"),
}
"""By architecture. A row is added when `benchmarks/serving.py` shows equal tokens for it."""


def has_curved_experts(record: ConversionRecord) -> bool:
    """Whether an activation inside a mixture of experts has curves. These experts run one after the other, by how many
    tokens each has, which no CUDA graph can hold."""
    owners = {parent_of(slot.path)[0] for slot in record.slots if slot.name == "act"}
    return any(owner.rpartition(".")[2] == "experts" for owner in owners)


@dataclass(frozen=True)
class Selection:
    """What the engine's settings become: `model_impl`, and vLLM's `model_class_overrides`, class by architecture."""

    model_impl: str
    classes: dict[str, str] = field(default_factory=dict)


def select_classes(record: ConversionRecord, architectures: Sequence[str], model_impl: str = "auto") -> Selection:
    """The model classes for a checkpoint, which `model_impl` restricts: "vllm" to vLLM's own, "transformers" to the
    general ones; "auto" takes vLLM's own if it can.

    Raises:
        ConfigError: "vllm", and none of vLLM's own classes can serve the checkpoint.
    """
    own = [name for name in architectures if name in OWN_CLASSES]
    possible = bool(own) and len(own) == len(architectures) and not record.widths
    if possible and model_impl in ("auto", "vllm"):
        return Selection(model_impl, {name: f"{OWN_MODULE}:{name}" for name in own})
    if model_impl == "vllm":
        reason = "its feed-forward networks are narrower than its config says" if record.widths else "of its class"
        raise ConfigError(
            f"vLLM's own classes cannot serve this checkpoint of {', '.join(architectures)} with its curves, because "
            f"{reason}. Leave --model-impl out; classes that can: {', '.join(OWN_CLASSES)}."
        )
    return Selection("transformers", {name: f"{GENERAL_MODULE}:{name}" for name in GENERAL_CLASSES})


def check_adapters(record: ConversionRecord) -> None:
    """Check that LoRA adapters can be served beside the curves of a checkpoint.

    vLLM gives an adapter the input of its layer, and PEFT trained it on what the weights see: where curves per channel
    stand in a linear layer these differ.

    Raises:
        CheckpointError: there are such curves.
    """
    for slot in record.slots:
        if slot.name not in WEIGHTLESS_SLOTS and record.config.curve_spec(slot.name).is_per_channel:
            raise CheckpointError(
                f"The checkpoint bends the inputs of {slot.path} channel by channel, and vLLM would give LoRA adapters "
                "the straight ones. Serve it without --enable-lora; adapters go with curves in the slots act and "
                "input, and with edges full and low_rank."
            )
