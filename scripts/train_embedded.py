"""Train the language model that lies in `kansformer/embedded/`, on the Python standard library's own source.

    python scripts/train_embedded.py

About 30 minutes on one core of an AVX-512 server; no GPU, no network. Needs torch, transformers, tokenizers, rich and
typer. A run that was interrupted goes on from its last checkpoint when the same command is given again; another
Python, torch or transformers version gives slightly other weights, because the corpus and the arithmetic differ.

It writes the weights (float16), the tokenizer and their configs to `--output`, and what was measured to `--facts`.

Shape letters: N blocks, T tokens of a block.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tokenizers
import torch
import transformers
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from kansformer.training.corpus import standard_library_documents
from kansformer.training.data.packing import tokenize_blocks
from kansformer.training.data.tokenizer import train_tokenizer

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what the weights become."""

    vocabulary: int = 2048
    width: int = 160
    layers: int = 4
    heads: int = 5
    intermediate: int = 432
    context: int = 512
    block: int = 256
    blocks_per_step: int = 8
    steps: int = 6000
    learning_rate: float = 3e-3
    warm_up: int = 150
    weight_decay: float = 0.1
    clip: float = 1.0
    seed: int = 0


def build_model(recipe: Recipe) -> LlamaForCausalLM:
    """A Llama with tied embeddings; token 0 starts and ends documents and pads."""
    config = LlamaConfig(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.width,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.context,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        use_cache=True,
    )
    return LlamaForCausalLM(config)


def build_optimizer(model: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW; only matrices decay."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.95), fused=True)


def learning_rate_at(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then half a cosine down to zero at the last step."""
    if step < recipe.warm_up:
        return recipe.learning_rate * (step + 1) / recipe.warm_up
    progress = (step - recipe.warm_up) / max(1, recipe.steps - recipe.warm_up)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def draw_batch(stream: Tensor, step: int, recipe: Recipe) -> Tensor:
    """Random windows (N, T) of the token stream, a function of seed and step only, so a resumed run draws the same.

    Every fourth step takes half as many windows of twice the length: positions up to the context get trained, at
    little cost in attention.
    """
    length, count = recipe.block, recipe.blocks_per_step
    if step % 4 == 3:
        length, count = recipe.context, recipe.blocks_per_step * recipe.block // recipe.context
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    starts = torch.randint(len(stream) - length + 1, (count,), generator=generator)
    return torch.stack([stream[start : start + length] for start in starts])


def train(model: LlamaForCausalLM, stream: Tensor, recipe: Recipe, work: Path) -> float:
    """Train in place, with a checkpoint in `work` every 200 steps; returns the seconds that all its parts took."""
    optimizer = build_optimizer(model, recipe)
    checkpoint, first, before = work / "checkpoint.pt", 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        if saved["recipe"] != asdict(recipe):
            raise typer.BadParameter(f"{checkpoint} is of another recipe, {saved['recipe']}; choose another --work.")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first, before = saved["step"], saved["seconds"]
    model.train()
    start, smooth = time.perf_counter(), None
    columns = (BarColumn(), TextColumn("{task.completed}/{task.total} {task.description}"), TimeRemainingColumn())
    console = Console()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=recipe.steps, completed=first)
        for step in range(first, recipe.steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(step, recipe)
            tokens_NT = draw_batch(stream, step, recipe)
            loss = model(input_ids=tokens_NT, labels=tokens_NT, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()
            optimizer.zero_grad()
            smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
            done, seconds = step + 1, before + time.perf_counter() - start
            speed = (done - first) * tokens_NT.numel() / (seconds - before)
            progress.update(task, advance=1, description=f"loss {smooth:.3f}, {speed:,.0f} tokens/s")
            if done % 200 == 0 or done == recipe.steps:
                console.print(f"step {done}: loss {smooth:.4f}, {speed:,.0f} tokens/s, {seconds:,.0f} s")
                state = {"recipe": asdict(recipe), "model": model.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save({**state, "step": done, "seconds": seconds}, work / "checkpoint.tmp")
                os.replace(work / "checkpoint.tmp", checkpoint)
    return before + time.perf_counter() - start


@torch.no_grad()
def mean_loss(model: LlamaForCausalLM, blocks_NT: Tensor) -> float:
    """Mean next-token loss in nats over all blocks; the first token of a block is context only."""
    model.eval()
    total = 0.0
    for part_NT in blocks_NT.split(8):
        total += model(input_ids=part_NT, labels=part_NT, use_cache=False).loss.item() * len(part_NT)
    return total / len(blocks_NT)


def store(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the model folder: float16 weights that load as float32, tokenizer, and configs."""
    largest = max(p.abs().max().item() for p in model.parameters())
    if not largest < torch.finfo(torch.float16).max:
        raise ValueError(f"A weight of {largest} does not fit float16; train with a lower learning rate.")
    half = LlamaForCausalLM(model.config)
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    # transformers 5 loads in the config's dtype; half precision is only how the weights are stored.
    config["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    tokenizer.save_pretrained(folder)
    GenerationConfig(bos_token_id=0, eos_token_id=0, pad_token_id=0, max_new_tokens=64).save_pretrained(folder)
    # A vocabulary of 2,048 is half the size without the indentation.
    described = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    compact = json.dumps(described, ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(compact + "\n", encoding="utf-8")


def replace_files(source: Path, target: Path) -> None:
    """Move a finished folder's files into `target`, each in one step, so no reader ever sees half a file."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        beside = target / f".{path.name}.tmp"
        shutil.copyfile(path, beside)
        os.replace(beside, target / path.name)


def main(
    output: Annotated[Path, typer.Option(help="Folder of the finished model.")] = ROOT / "kansformer" / "embedded",
    facts: Annotated[Path, typer.Option(help="File for what was measured.")] = ROOT / "model_cards" / "embedded.json",
    work: Annotated[Path | None, typer.Option(help="Folder of the checkpoint; default: a temporary one.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of 2,048 tokens.")] = Recipe.steps,
    learning_rate: Annotated[float, typer.Option(help="The highest learning rate.")] = Recipe.learning_rate,
    layers: Annotated[int, typer.Option(min=1)] = Recipe.layers,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Train the embedded model and its tokenizer, measure them, and write both."""
    torch.set_num_threads(threads)
    recipe = Recipe(steps=steps, learning_rate=learning_rate, layers=layers)
    work = work or Path(tempfile.gettempdir()) / "kansformer-embedded"
    work.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    documents, held_out = standard_library_documents("train"), standard_library_documents("held_out")
    tokenizer = train_tokenizer(documents, recipe.vocabulary, context=recipe.context)
    stream = tokenize_blocks(documents, tokenizer, recipe.block).flatten()
    held_out_NT = tokenize_blocks(held_out, tokenizer, recipe.block)
    torch.manual_seed(recipe.seed)
    model = build_model(recipe)
    parameters = sum(p.numel() for p in model.parameters())
    prepared = time.perf_counter() - began
    print(f"{parameters:,} parameters, {len(stream):,} tokens to train on, {held_out_NT.numel():,} held out")
    seconds = train(model, stream, recipe, work)

    before_rounding = mean_loss(model, held_out_NT)
    staged = work / "finished"
    shutil.rmtree(staged, ignore_errors=True)
    store(model, tokenizer, staged)
    reloaded = AutoModelForCausalLM.from_pretrained(staged)
    tokenizer = AutoTokenizer.from_pretrained(staged)
    loss = mean_loss(reloaded, held_out_NT)
    long_NT = tokenize_blocks(held_out, tokenizer, recipe.context)
    held_out_bytes = sum(len(text.encode()) for text in held_out)
    held_out_tokens = sum(len(row) for row in tokenizer(held_out, verbose=False)["input_ids"])
    changed = [text[:60] for text in held_out if tokenizer.decode(tokenizer(text, verbose=False)["input_ids"]) != text]
    if reloaded.dtype != torch.float32 or abs(loss - before_rounding) > 1e-3 or changed:
        raise ValueError(
            f"The stored model is not the trained one: dtype {reloaded.dtype}, held-out loss {loss} after "
            f"{before_rounding}, texts changed by the tokenizer: {changed}."
        )
    measured = {
        "held_out_loss": round(loss, 4),
        "held_out_loss_before_rounding_to_float16": round(before_rounding, 4),
        "held_out_loss_in_windows_of_512": round(mean_loss(reloaded, long_NT), 4),
        "held_out_perplexity": round(math.exp(loss), 3),
        "held_out_bits_per_byte": round(loss / math.log(2) * held_out_tokens / held_out_bytes, 4),
        "train_loss_on_every_16th_block": round(mean_loss(reloaded, stream.view(-1, recipe.block)[::16]), 4),
        "parameters": parameters,
        "bytes_of_model_files": sum(path.stat().st_size for path in staged.iterdir()),
        "train_files": len(documents),
        "train_tokens": len(stream),
        "held_out_files": len(held_out),
        "held_out_tokens": held_out_tokens,
        "held_out_bytes_per_token": round(held_out_bytes / held_out_tokens, 3),
        "tokens_seen": recipe.steps * recipe.blocks_per_step * recipe.block,
        "training_seconds": round(seconds),
        "preparation_seconds": round(prepared),
        "tokens_per_second": round(recipe.steps * recipe.blocks_per_step * recipe.block / seconds),
        "threads": threads,
        "recipe": asdict(recipe),
        "corpus_sha256": hashlib.sha256("\0".join(documents).encode()).hexdigest(),
        "command": " ".join(["python", Path(__file__).relative_to(ROOT).as_posix(), *sys.argv[1:]]),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    facts_staged = work / "facts"
    shutil.rmtree(facts_staged, ignore_errors=True)
    facts_staged.mkdir()
    (facts_staged / facts.name).write_text(json.dumps(measured, indent=2) + "\n")
    replace_files(staged, output)
    replace_files(facts_staged, facts.parent)
    # Or the next run would take this one's weights, though its corpus may be that of another Python.
    (work / "checkpoint.pt").unlink()
    print(json.dumps(measured, indent=2))
    print(f"The model is in {output}, what was measured in {facts}.")


if __name__ == "__main__":
    typer.run(main)
