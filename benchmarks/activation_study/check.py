"""The fast engine beside transformers' Trainer: the same weights and batches, in float32 there."""

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
    """A line for each variant: both validation losses and their difference.

    Raises:
        AssertionError: they differ by more than `TOLERANCE`.
    """
    corpus, lines = read_corpus("tinyshakespeare", str(texts)), []
    for name in variants:
        run = Run("explore", name, "0.8M", "tinyshakespeare", LENGTH, "adamw", 2e-3, 1)
        fast, slow = train(run, corpus).val_loss, _train_by_trainer(run, corpus)
        lines.append(f"{name}: engine {fast:.4f}, Trainer {slow:.4f}, difference {fast - slow:+.4f}")
        assert abs(fast - slow) <= TOLERANCE, lines[-1]
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
