"""The checkpoints that are served: one converted model in seven ways, and small random models of several families.

    cd benchmarks; python -m served.models FOLDER NAME …

Writes each checkpoint, MODEL.CURVES, to FOLDER/NAME, and in it `expected.json`: the prompts, and what transformers
makes of them. MODEL.CURVES.lora has a LoRA adapter in its folder `adapter`, and what PEFT makes of both.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from pretrained_files import require_smollm2
from torch import nn

from kansformer import KANConfig, convert
from kansformer.conversion.sources import read_model, source_arguments
from kansformer.embedded import embedded_model_path
from kansformer.nn.curves import curved_modules

CURVES = {
    "plain": None,
    "act": KANConfig(),
    "input-act-groups": KANConfig(slots=("input", "act"), edges="group", groups=8),
    "input-act-last-third": KANConfig(slots=("input", "act"), layers="last-third"),
    "low-rank-up-down": KANConfig(edges="low_rank", rank=4, slots=("up", "down")),
    "full-gate-down": KANConfig(edges="full", slots=("gate", "down"), layers=(0,)),
    "channel-up-gate-down": KANConfig(slots=("up", "gate", "down")),
    "rational-act": KANConfig(basis="rational", slots=("act",)),
    "act-one-group": KANConfig(edges="group", groups=1),
}
PROMPTS = ("def read_file(path):\n    ", "class Queue:\n", "import os\n\nfor name in")
NEW_TOKENS = 48
ADAPTED = ["q_proj", "v_proj", "gate_proj", "up_proj", "down_proj"]

SIZES = dict(vocab_size=2048, num_hidden_layers=2, max_position_embeddings=512, initializer_range=0.15)
SPECIAL = dict(bos_token_id=0, eos_token_id=0, pad_token_id=0)
NARROW = SIZES | SPECIAL | dict(hidden_size=128, intermediate_size=256, num_attention_heads=4)
WIDE = NARROW | dict(num_key_value_heads=4, head_dim=32)
GEMMA = WIDE | dict(query_pre_attn_scalar=32, sliding_window=64, initializer_range=0.02)
FAMILIES: dict[str, Callable[[], transformers.PreTrainedConfig]] = {
    "llama": lambda: transformers.LlamaConfig(**WIDE, tie_word_embeddings=False),
    "mistral": lambda: transformers.MistralConfig(**WIDE, sliding_window=None),
    "qwen2": lambda: transformers.Qwen2Config(**NARROW, num_key_value_heads=2),
    "qwen3": lambda: transformers.Qwen3Config(**WIDE),
    "gemma": lambda: transformers.GemmaConfig(**WIDE),
    "gemma2": lambda: transformers.Gemma2Config(**GEMMA),
    "gemma3": lambda: transformers.Gemma3TextConfig(**GEMMA),
    "granite": lambda: transformers.GraniteConfig(**NARROW, num_key_value_heads=2),
    "mixtral": lambda: transformers.MixtralConfig(**WIDE, num_local_experts=4, sliding_window=None),
    "phi3": lambda: transformers.Phi3Config(**NARROW, num_key_value_heads=2),
    "gpt2": lambda: transformers.GPT2Config(
        **SPECIAL, vocab_size=2048, n_embd=128, n_layer=2, n_head=4, n_positions=512, initializer_range=0.15
    ),
    "opt": lambda: transformers.OPTConfig(
        **SPECIAL, vocab_size=2048, hidden_size=128, word_embed_proj_dim=128, ffn_dim=256, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=512, init_std=0.15,
    ),
    "bert": lambda: transformers.BertConfig(**NARROW),
}  # fmt: skip
FAMILY_NAMES = tuple(FAMILIES)


def source_of(name: str) -> str:
    """Where SmolLM2-135M is read from, or the embedded model, whose tokenizer random models take."""
    return require_smollm2() if name == "smollm2" else str(embedded_model_path())


def make_model(name: str) -> transformers.PreTrainedModel:
    """The plain model: SmolLM2-135M, the embedded one, or a random one of a family."""
    if name in ("smollm2", "embedded"):
        return read_model(source_of(name), dtype=torch.float32).eval()
    torch.manual_seed(0)
    kind = transformers.AutoModel if name == "bert" else transformers.AutoModelForCausalLM
    return kind.from_config(FAMILIES[name]()).eval()


@torch.no_grad()
def bend(model: nn.Module) -> nn.Module:
    """Give every curve strong random coefficients, the same ones each time."""
    generator = torch.Generator().manual_seed(1)
    for _, module in curved_modules(model):
        size = 0.3 if module.curves.is_per_channel else 0.05
        module.coefficients.add_(size * torch.randn(module.coefficients.shape, generator=generator))
    return model


@torch.no_grad()
def expected_of(model: transformers.PreTrainedModel, tokenizer: transformers.PreTrainedTokenizerBase) -> dict:
    """The prompts' tokens; greedy tokens after them, or of an encoder the normalised vectors of the first token."""
    prompts = [tokenizer(prompt).input_ids for prompt in PROMPTS]
    results = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        if model.can_generate():
            tokens = model.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0)
            results.append(tokens[0, len(prompt) :].tolist())
        else:
            results.append(nn.functional.normalize(model(ids).last_hidden_state[0, 0], dim=0).tolist())
    return {"kind": "tokens" if model.can_generate() else "vectors", "prompts": prompts, "results": results}


def make_checkpoint(folder: Path, name: str) -> None:
    """Write the checkpoint of that name."""
    model_name, curves, *adapter = name.split(".")
    model = make_model(model_name)
    if CURVES[curves] is not None:
        bend(convert(model, CURVES[curves]))
    tokenizer = transformers.AutoTokenizer.from_pretrained(**source_arguments(source_of(model_name)))
    model.save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / name)
    if adapter:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(2)
        model = get_peft_model(model, LoraConfig(r=8, target_modules=ADAPTED, init_lora_weights=False))
        model.save_pretrained(folder / name / "adapter")
    (folder / name / "expected.json").write_text(json.dumps(expected_of(model, tokenizer)))


if __name__ == "__main__":
    for argument in sys.argv[2:]:
        make_checkpoint(Path(sys.argv[1]), argument)
