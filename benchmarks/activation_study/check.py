"""The fast engine beside transformers' Trainer: the same weights and batches, in float32 and in bfloat16.

Training amplifies rounding: runs in bfloat16 end up to 0.01 nats from those in float32, in either direction (seeds 1
and 4: +0.010 and -0.008), which is the noise of a run and not a bias. So the tolerance is for float32, and bfloat16 is
reported.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import TrainingArguments

from activation_study.corpora import Corpus, read_corpus
from activation_study.engine import (
    BETAS,
    FINAL_RATE,
    SIZES,
    WARMUP_STEPS,
    WEIGHT_DECAY,
    Run,
    evaluate,
    fresh_model,
    train,
)
from activation_study.variants import VARIANTS
from kansformer import KANTrainer

TOLERANCE = 0.003
LENGTH = 1.0


class Blocks(Dataset):
    """The blocks of a run in their order."""

    def __init__(self, corpus: Corpus, run: Run) -> None:
        self.blocks_NT = torch.cat(list(corpus.batches(run.steps, SIZES[run.size].batch, run.seed)))

    def __len__(self) -> int:
        return len(self.blocks_NT)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.blocks_NT[index], "labels": self.blocks_NT[index]}


def compare_with_trainer(texts: Path, variants: tuple[str, ...] = ("swiglu", "curves")) -> str:
    """A line for each variant: its validation losses.

    Raises:
        AssertionError: those in float32 differ by more than `TOLERANCE`.
    """
    corpus, lines = read_corpus("tinyshakespeare", str(texts)), []
    for name in variants:
        run = Run("explore", name, "0.8M", "tinyshakespeare", LENGTH, "adamw", 2e-3, 1)
        exact, trainer = train(run, corpus, fast=False).val_loss, _train_by_trainer(run, corpus)
        low = train(run, corpus).val_loss
        lines.append(f"{name}: Trainer {trainer:.4f}, engine in float32 {exact:.4f}, in bfloat16 {low:.4f}")
        assert abs(exact - trainer) <= TOLERANCE, lines[-1]
    return "\n".join(lines)


def _train_by_trainer(run: Run, corpus: Corpus) -> float:
    model = fresh_model(run)
    VARIANTS[run.variant].equip(model, None, run.seed)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=run.steps,
            per_device_train_batch_size=SIZES[run.size].batch,
            train_sampling_strategy="sequential",
            learning_rate=run.lr,
            weight_decay=WEIGHT_DECAY,
            adam_beta1=BETAS[0],
            adam_beta2=BETAS[1],
            warmup_steps=WARMUP_STEPS,
            lr_scheduler_type="cosine_with_min_lr",
            lr_scheduler_kwargs={"min_lr_rate": FINAL_RATE},
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            seed=run.seed,
            use_cpu=True,
        )
        KANTrainer(model=model, args=arguments, train_dataset=Blocks(corpus, run)).train()
    return evaluate(model, corpus.validation_blocks)
