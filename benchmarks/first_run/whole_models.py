"""The second call: a model of the shape of Llama-3.2-1B with random weights, beside Liger and FlashKAT."""

import copy
import time
from collections.abc import Callable

import torch
from speed.blocks import bend_curves
from speed.models import PROMPT, measure_models
from speed.suites import Options
from torch import nn

from first_run.kernels import LIMIT
from first_run.sections import Run, UnavailableError, WrongNumbersError
from kansformer import KANConfig, convert

ORIGINAL, CURVES, RATIONAL = "original", "kansformer", "kansformer, rational"
SHAPE = dict(
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=16,
    num_attention_heads=32,
    num_key_value_heads=8,
    vocab_size=128_256,
    max_position_embeddings=8192,
    tie_word_embeddings=True,
)
TOY = dict(
    SHAPE, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
    vocab_size=64, max_position_embeddings=96,
)  # fmt: skip

# Of a model's logits in bfloat16, whose every layer rounds.
LOGITS_LIMIT = 5 * LIMIT


def models(run: Run) -> None:
    """Training step, reading and writing of every model that can be built here."""
    built, notes = _build(run)
    read, sequences = (24, 1) if run.toy else (2048, 4)
    options = Options(device=run.device, rounds=1 if run.toy else 4, least_seconds=0)
    size = "toy" if run.toy else "1B"
    run.keep(
        measure_models("gpu", size, built, notes, options, read=read, write=4 if run.toy else 32, sequences=sequences)
    )


def decode_in_graphs(run: Run) -> None:
    """`generate` with a static cache, which transformers compiles into CUDA graphs, one sequence."""
    for name in (ORIGINAL, CURVES):
        if run.left < 100:
            run.add(name, "left out", note=f"{run.left:.0f} s are left, compiling takes about 90")
            continue
        model = _original(run) if name == ORIGINAL else bend_curves(convert(_original(run)), noise=0.01)
        prompt = _tokens(run, model, 1, PROMPT)
        count = 64
        settings = dict(
            max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0, cache_implementation="static"
        )

        def generate(model=model, prompt=prompt, settings=settings):
            return model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)

        begin = time.perf_counter()
        generate()
        run.add(name, "first call", time.perf_counter() - begin, "s")
        run.add(name, "decode in CUDA graphs", 1000 * count / run.milliseconds(generate, seconds=1.0), "tokens/s")


def _build(run: Run) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Models by name, each checked against the original's logits, and what a reader has to know of each."""
    original = _original(run)
    tokens = _tokens(run, original, 1, 16)
    with torch.no_grad():
        expected = original(input_ids=tokens).logits
    built: dict[str, nn.Module] = {ORIGINAL: original}
    notes = {ORIGINAL: "random weights; the baseline"}
    kinds: dict[str, tuple[Callable[[nn.Module], nn.Module], float, str]] = {
        CURVES: (convert, 0.0, "KANConfig() with curves bent at random after the check"),
        RATIONAL: (
            lambda model: convert(model, KANConfig(basis="rational", order=5)),
            0.0,
            "rational curves of order 5, bent at random after the check",
        ),
        "Liger": (_with_liger, LOGITS_LIMIT, "its SiLU and multiplication in every layer"),
        "FlashKAT": (
            _with_flashkat,
            float("inf"),
            "its rational activations in every layer, which are another function",
        ),
    }
    for name, (change, limit, note) in kinds.items():
        try:
            model = change(copy.deepcopy(original)).eval()
        except ImportError as error:
            run.add(name, "left out", note=f"{error.name} is not installed")
            continue
        with torch.no_grad():
            logits = model(input_ids=tokens).logits
        try:
            error = run.check(logits, expected, limit)
        except WrongNumbersError as wrong:
            run.add(name, "left out", note=str(wrong))
            continue
        run.add(name, "logits checked", error=error, note="bit for bit" if limit == 0 else "")
        built[name] = bend_curves(model, noise=0.01) if name.startswith("kansformer") else model
        notes[name] = note
    return built, notes


def _original(run: Run) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(), torch.device(run.device):
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**(TOY if run.toy else SHAPE))).to(torch.bfloat16).eval()


def _tokens(run: Run, model: nn.Module, sequences: int, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    vocabulary: int = model.config.vocab_size  # type: ignore[union-attr, assignment]
    return torch.randint(0, vocabulary, (sequences, length), generator=generator).to(run.device)


def _with_liger(model: nn.Module) -> nn.Module:
    from liger_kernel.ops.swiglu import LigerSiLUMulFunction

    for layer in model.model.layers:  # type: ignore[union-attr]
        block = layer.mlp
        block.forward = lambda x, block=block: block.down_proj(
            LigerSiLUMulFunction.apply(block.gate_proj(x), block.up_proj(x))
        )
    return model


def _with_flashkat(model: nn.Module) -> nn.Module:
    from rational_kat import FlashKAT_Group

    width = model.config.intermediate_size  # type: ignore[union-attr]
    for layer in model.model.layers:  # type: ignore[union-attr]
        layer.mlp.act_fn = FlashKAT_Group(width, num_groups=1, den_groups=8, m=6, n=4, mode="swish").to(model.device)
    return model


def require_transformers(run: Run) -> None:
    """What both sections need.

    Raises:
        UnavailableError: transformers is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise UnavailableError("transformers is not installed") from None
    run.add("transformers", "version", note=transformers.__version__)
