"""Train one network fast on one core: compiled, bfloat16 products, float32 weights; the Trainer's recipe otherwise.

About 1.7 times as fast on a processor with AVX-512 BF16 as the Trainer in float32. `check.py` compares the losses of
both, from the same weights and batches. On a GPU it is the same code, with torch's fused attention and longer blocks.
"""

from __future__ import annotations

import math
import resource
import time
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaForCausalLM
from transformers.models.arcee import ArceeConfig
from transformers.models.llama import LlamaConfig

from activation_study.corpora import BLOCK, VOCABULARY, Corpus
from activation_study.variants import VARIANTS
from kansformer.nn import optimizer_groups

WEIGHT_DECAY, BETAS, CLIP = 0.1, (0.9, 0.99), 1.0
WARMUP_STEPS, FINAL_RATE = 100, 0.1
TRACE_ENTRIES = 100


@dataclass(frozen=True)
class Size:
    """Shape of the transformer.

    Args:
        width, layers, heads: of the model.
        batch: blocks a step.
        block: tokens of a block; the first one is only read.
        vocabulary: number of tokens.
    """

    width: int
    layers: int
    heads: int
    batch: int
    block: int = BLOCK
    vocabulary: int = len(VOCABULARY)

    @property
    def parameters(self) -> int:
        """Of the layers, without embeddings and norms, with a SwiGLU block."""
        return self.layers * (4 * self.width**2 + 3 * self.width * (344 * self.width // 128))

    def steps(self, tokens_per_parameter: float) -> int:
        return round(tokens_per_parameter * self.parameters / (self.batch * (self.block - 1)))


SIZES = {
    "toy": Size(128, 1, 4, 4),
    "0.8M": Size(128, 4, 4, 12),
    "3M": Size(256, 4, 8, 24),
    "10M": Size(384, 6, 12, 48),
    # subwords, for GPUs: 14M and 124M with their embeddings
    "14M": Size(384, 6, 6, 64, block=513, vocabulary=8_192),
    "124M": Size(768, 12, 12, 64, block=513, vocabulary=32_768),
    "toy-subwords": Size(128, 1, 4, 4, block=33, vocabulary=512),
}


@dataclass(frozen=True)
class Run:
    """One training; the key of a row.

    Args:
        phase: `explore` or `confirm`; their seeds differ.
        variant: of `VARIANTS`.
        size: of `SIZES`.
        corpus: of `read_corpus`.
        length: training tokens per parameter.
        optimizer: `adamw` or `muon`.
        lr: peak learning rate of the weights.
        seed: of weights and data.
        source: name of the file of given curves, or empty.
    """

    phase: str
    variant: str
    size: str
    corpus: str
    length: float
    optimizer: str
    lr: float
    seed: int
    source: str = ""

    @property
    def steps(self) -> int:
        return SIZES[self.size].steps(self.length)

    @property
    def name(self) -> str:
        """For a file; no two runs have the same."""
        return "-".join(f"{value:g}" if isinstance(value, float) else str(value) for value in astuple(self) if value)


@dataclass(frozen=True)
class Outcome:
    """What a run gave.

    Args:
        val_loss: nats per character on the corpus's validation blocks, in float32; NaN of a run that diverged.
        parameters: of the model, with frozen ones.
        learned: of the function or curves alone.
        step_ms: mean time of a step; machines are shared, so compare only roughly.
        peak_mb: of the process, or of the GPU.
        model: as it was trained.
        trace: tokens, seconds of training, and the mean training loss since the entry before.
    """

    val_loss: float
    parameters: int
    learned: int
    step_ms: float
    peak_mb: int
    model: LlamaForCausalLM
    trace: list[tuple[int, float, float]]


def fresh_model(run: Run, device: str = "cpu") -> LlamaForCausalLM:
    """The plain model of a run, from its seed, which gives the same weights on every device."""
    size, variant = SIZES[run.size], VARIANTS[run.variant]
    config = (LlamaConfig if variant.gated else ArceeConfig)(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        intermediate_size=variant.width * size.width // 128,
        hidden_act="silu",
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=size.block,
        tie_word_embeddings=True,
        initializer_range=0.06 * math.sqrt(128 / size.width),
        attn_implementation="eager"
        if device == "cpu"
        else "sdpa",  # fused, it is slow backwards on CPUs in short blocks
        use_cache=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(run.seed)
    model = AutoModelForCausalLM.from_config(config)
    model.model.rotary_emb = _KnownPositions(model.model.rotary_emb, size.block)
    return model.to(device)


class _KnownPositions(nn.Module):
    """Rotary embeddings of the first positions, computed once: a compiled step computes them for each element of
    queries and keys again, a fifth of its time.
    """

    def __init__(self, rotary: nn.Module, positions: int) -> None:
        super().__init__()
        cos, sin = rotary(torch.zeros(()), torch.arange(positions)[None])
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        return self.cos[:, : x.shape[1]], self.sin[:, : x.shape[1]]


class Training:
    """A network, its optimizers and schedules, and one step of training.

    Args:
        run: what is trained.
        given: file of another run's curves, where the variant takes some.
        fast: compiled and with bfloat16 products; else as the Trainer computes, eager and in float32.
        device: of the model.
    """

    def __init__(self, run: Run, given: Path | None = None, *, fast: bool = True, device: str = "cpu") -> None:
        self.model = fresh_model(run, device)
        own = VARIANTS[run.variant].equip(self.model, given, run.seed)
        self.optimizers = _optimizers(self.model, own, run)
        self.schedules = [
            torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, run.steps))
            for optimizer in self.optimizers
        ]
        self._fast, self._device = fast, device
        self._compute = torch.compile(_loss, dynamic=False) if fast else _loss

    def step(self, batch_NT: Tensor) -> Tensor:
        """Train on one batch; its loss."""
        loss = self._compute(self.model, batch_NT.to(self._device), self._fast)
        self.model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            optimizer.step()
            schedule.step()
        return loss.detach()

    @property
    def learned(self) -> int:
        """Numbers of the function or curves alone that are trained."""
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        mine = [group for group in groups if group["name"].startswith(("curves", "own"))]
        return sum(parameter.numel() for group in mine for parameter in group["params"])

    def write(self, path: Path, step: int, trace: list[tuple[int, float, float]]) -> None:
        """Keep everything in a file, so that a run that is stopped goes on."""
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".new")
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        torch.save({"step": step, "trace": trace, **parts}, aside)
        aside.replace(path)

    def read(self, path: Path) -> tuple[int, list[tuple[int, float, float]]]:
        """Go on from what `write` kept: the next step, and the trace."""
        state = torch.load(path, weights_only=True)
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        return state["step"], state["trace"]

    def _parts(self) -> dict[str, Any]:
        parts = {"model": self.model, **{f"optimizer{i}": part for i, part in enumerate(self.optimizers)}}
        return parts | {f"schedule{i}": part for i, part in enumerate(self.schedules)}


def train(
    run: Run,
    corpus: Corpus,
    given: Path | None = None,
    *,
    fast: bool = True,
    device: str = "cpu",
    state_file: Path | None = None,
    deadline: float = math.inf,
) -> Outcome | None:
    """Train and evaluate one network.

    Args:
        run, given, fast, device: as in `Training`.
        corpus: its text.
        state_file: where a run that the deadline stops is kept, and goes on from.
        deadline: `time.monotonic()` after which the run stops, at the next entry of its trace.

    Returns:
        None if the deadline came first.

    Raises:
        ValueError: the corpus is too short.
    """
    size = SIZES[run.size]
    torch.compiler.reset()  # a graph for each run: functions are constants in it
    training = Training(run, given, fast=fast, device=device)
    first, trace = training.read(state_file) if state_file is not None and state_file.exists() else (0, [])
    trained, since = trace[-1][1] if trace else 0.0, time.perf_counter()
    summed = torch.zeros((), device=device)
    every = max(1, run.steps // TRACE_ENTRIES)
    for step, batch_NT in enumerate(corpus.batches(run.steps, size.batch, run.seed)):
        if step < first:
            continue
        if step % every == 0 and time.monotonic() > deadline:
            if state_file is not None:
                training.write(state_file, step, trace)
            return None
        summed += training.step(batch_NT)
        if (step + 1) % every == 0:
            mean = summed.item() / every  # waits for the device
            summed.zero_()
            trained += time.perf_counter() - since
            since = time.perf_counter()
            trace.append(((step + 1) * size.batch * (size.block - 1), trained, mean))
    trained += time.perf_counter() - since
    val_loss = evaluate(training.model, corpus.validation_blocks)
    if state_file is not None:
        state_file.unlink(missing_ok=True)
    return Outcome(
        val_loss=val_loss,
        parameters=sum(parameter.numel() for parameter in training.model.parameters()),
        learned=training.learned,
        step_ms=1e3 * trained / run.steps,
        peak_mb=_peak_mb(device),
        model=training.model,
        trace=trace,
    )


def _peak_mb(device: str) -> int:
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return torch.cuda.max_memory_allocated() // 2**20


def rate_at(step: int, steps: int) -> float:
    """Share of the peak rate: a linear start, then a cosine to a tenth, as transformers' `cosine_with_min_lr`."""
    warmup = min(WARMUP_STEPS, steps // 10)
    if step < warmup:
        return step / max(1, warmup)
    done = (step - warmup) / max(1, steps - warmup)
    return FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * done))


@torch.no_grad()
def evaluate(model: nn.Module, blocks_NT: Tensor) -> float:
    """Mean loss over all predictions of some blocks, in float32."""
    device = next(model.parameters()).device
    losses = [_loss(model, blocks.to(device).long(), False).item() * len(blocks) for blocks in blocks_NT.split(128)]
    return sum(losses) / len(blocks_NT)


def _loss(model: nn.Module, tokens_NT: Tensor, low_precision: bool) -> Tensor:
    with torch.autocast(tokens_NT.device.type, torch.bfloat16, enabled=low_precision):
        logits = model(input_ids=tokens_NT[:, :-1]).logits
    return nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens_NT[:, 1:].flatten())


def _optimizers(model: nn.Module, own: list[nn.Parameter], run: Run) -> list[torch.optim.Optimizer]:
    """AdamW of everything; or Muon of the layers' matrices, with steps as large as AdamW's, and AdamW of the rest."""
    groups = optimizer_groups(model, run.lr, weight_decay=WEIGHT_DECAY)
    taken = {id(parameter) for parameter in own}
    for group in groups:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in taken]
    if own:
        rate = run.lr * VARIANTS[run.variant].lr_multiplier
        groups.append({"name": "own", "params": own, "lr": rate, "weight_decay": 0.0})
    if run.optimizer == "adamw":
        return [torch.optim.AdamW(groups, betas=BETAS, fused=True)]
    embedding = model.get_input_embeddings().weight
    matrices = [p for group in groups if group["name"] == "base" for p in group["params"] if p is not embedding]
    for group in groups:
        if group["name"] == "base":
            group["params"] = [embedding]
    muon = torch.optim.Muon(
        [{"name": "matrices", "params": matrices}],
        lr=run.lr,
        weight_decay=WEIGHT_DECAY,
        adjust_lr_fn="match_rms_adamw",
    )
    return [muon, torch.optim.AdamW(groups, betas=BETAS, fused=True)]
