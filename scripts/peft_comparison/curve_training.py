"""Train the curves of a model and generate with it, step for step as PEFT's comparison does with its adapters.

Shape letters: B rows of a batch, T tokens, V words.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from comparison_settings import Curves, Training
from torch import Tensor
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    get_cosine_schedule_with_warmup,
)

from kansformer import optimizer_groups
from kansformer.progress import Progress

WARM_UP_SHARE = 0.1
EMPTY_CACHE_EVERY = 10
"""Steps after which the GPU's cache is emptied, as PEFT does; its memory figures depend on it."""

IGNORED = -100
UNRELATED_LENGTH = 768


@dataclass
class MemoryLog:
    """Bytes of GPU memory, above those at the start; 0 where there is no GPU.

    Args:
        reserved, allocated: after each training step.
    """

    reserved: list[int] = field(default_factory=list)
    allocated: list[int] = field(default_factory=list)
    _start: int = 0

    def __post_init__(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            self._start = torch.cuda.max_memory_reserved()

    def record(self) -> None:
        """Add the figures of now."""
        on_gpu = torch.cuda.is_available()
        self.reserved.append(torch.cuda.memory_reserved() - self._start if on_gpu else 0)
        self.allocated.append(torch.cuda.memory_allocated() - self._start if on_gpu else 0)

    @property
    def peak(self) -> int:
        """The most that was ever reserved."""
        return torch.cuda.max_memory_reserved() - self._start if torch.cuda.is_available() else 0


@dataclass
class TrainingLog:
    """What happened in training.

    Args:
        losses: of each step.
        metrics: a row for each validation, named as in PEFT's results.
        tokens: of each step, with an end token for every row.
        samples: rows that were trained on.
        validation_seconds: spent on validation.
    """

    losses: list[float] = field(default_factory=list)
    metrics: list[dict[str, float]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    samples: int = 0
    validation_seconds: float = 0.0


def padded(rows: list[list[int]], tokenizer: PreTrainedTokenizerBase, device: torch.device, side: str) -> dict:
    """Token rows as `input_ids` and `attention_mask`, both (B, T)."""
    return dict(tokenizer.pad({"input_ids": rows}, padding_side=side, return_tensors="pt").to(device))


def train_curves(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batches: Iterator[list[list[int]]],
    training: Training,
    curves: Curves,
    validate: Callable[[], float],
    memory: MemoryLog,
    progress: Progress,
) -> TrainingLog:
    """Train what requires a gradient, by AdamW with `optimizer_groups`.

    Args:
        batches: the token rows of each step.
        validate: the accuracy of now, on the validation rows.
        memory: gets the figures of each step.
    """
    optimizer = torch.optim.AdamW(optimizer_groups(model, training.lr, curve_lr_multiplier=curves.lr_multiplier))
    steps, every = training.max_steps, training.eval_steps
    schedule = get_cosine_schedule_with_warmup(optimizer, int(WARM_UP_SHARE * steps), steps)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    log, seconds, start = TrainingLog(), [], time.perf_counter()
    model.train()
    for step, rows in enumerate(batches, start=1):
        begin = time.perf_counter()
        batch = padded(rows, tokenizer, model.device, "right")
        optimizer.zero_grad()
        loss = model(
            **batch, labels=labels_of(batch["input_ids"], rows), num_items_in_batch=batch["attention_mask"].sum().item()
        ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, training.grad_norm_clip)
        optimizer.step()
        schedule.step()
        log.losses.append(loss.item())
        log.tokens.append(sum(len(row) + 1 for row in rows))
        log.samples += len(rows)
        memory.record()
        seconds.append(time.perf_counter() - begin)
        progress("training", step, steps, f"loss {log.losses[-1]:.3f}")
        if step % every == 0:
            begin, train_seconds = time.perf_counter(), sum(seconds[-every:])
            right = validate()
            log.validation_seconds += time.perf_counter() - begin
            log.metrics.append(
                {
                    "step": step,
                    "valid accuracy": right,
                    "train loss": sum(log.losses[-every:]) / every,
                    "train samples": log.samples,
                    "train time": train_seconds,
                    "eval time": time.perf_counter() - begin,
                    "tokens / sec": sum(log.tokens[-every:]) / train_seconds,
                    "mem allocated avg": sum(memory.allocated[-every:]) / every,
                    "mem reserved avg": sum(memory.reserved[-every:]) / every,
                    "elapsed time": time.perf_counter() - start,
                }
            )
        if step % EMPTY_CACHE_EVERY == 0 and torch.cuda.is_available():
            torch.cuda.empty_cache()
    return log


def labels_of(tokens_BT: Tensor, rows: list[list[int]]) -> Tensor:
    """The tokens, with all padding ignored but its first token, from which the model learns to end."""
    labels_BT = tokens_BT.clone()
    for label_T, row in zip(labels_BT, rows, strict=True):
        label_T[len(row) + 1 :] = IGNORED
    return labels_BT


@torch.inference_mode()
def generate_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: list[str],
    training: Training,
    progress: Progress,
) -> list[str]:
    """Prompt and continuation for each question, in evaluation mode; the model is in training mode afterwards."""
    model.eval()
    prompts = [training.query_template.format(query=question) for question in questions]
    token_rows = [row[: training.max_seq_length] for row in tokenizer(prompts)["input_ids"]]
    texts: list[str] = []
    for first in range(0, len(token_rows), training.batch_size_eval):
        batch = padded(token_rows[first : first + training.batch_size_eval], tokenizer, model.device, "left")
        longest = min(batch["input_ids"].shape[1] + training.max_new_tokens, training.max_length)
        settings = GenerationConfig(max_length=longest, pad_token_id=tokenizer.pad_token_id)
        texts += tokenizer.batch_decode(model.generate(**batch, generation_config=settings), skip_special_tokens=True)
        progress("generating", len(texts), len(token_rows))
    model.train()
    return texts


@torch.inference_mode()
def loss_per_token(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str], batch_size: int
) -> float:
    """Mean next-token loss in nats over the first 768 tokens of texts, in evaluation mode."""
    model.eval()
    losses: list[Tensor] = []
    token_rows = tokenizer(texts, truncation=True, max_length=UNRELATED_LENGTH)["input_ids"]
    for first in range(0, len(token_rows), batch_size):
        rows = token_rows[first : first + batch_size]
        batch = padded(rows, tokenizer, model.device, "left")
        for logits_TV, row in zip(model(**batch).logits, rows, strict=True):
            target_T = torch.tensor(row[1:], device=logits_TV.device)
            losses.append(F.cross_entropy(logits_TV[-len(row) : -1], target_T, reduction="none").float().cpu())
    model.train()
    return torch.cat(losses).mean().item()
