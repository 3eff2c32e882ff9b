"""Train the language model that lies in `kansformer/embedded/`, on the Python standard library's own source.

    python scripts/train_embedded.py
    python scripts/train_embedded.py training.max_steps=200 --output somewhere --facts somewhere/facts.json

About 30 minutes on one core of an AVX-512 server; no GPU, no network. Needs `pip install kansformer`. It runs the
recipe `embedded`; the same command goes on with an interrupted run. Another Python, torch or transformers version gives
slightly other weights, because the corpus and the arithmetic differ.

It writes the weights (float16), the tokenizer and their configs to `--output`, and the measurements to `--facts`.
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
from pathlib import Path
from typing import Annotated

import torch
import transformers
import typer
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from kansformer.files import atomic_file, atomic_write_text
from kansformer.progress import progress_bar
from kansformer.training import mean_loss, read_recipe, train
from kansformer.training.corpus import standard_library_documents
from kansformer.training.data.packing import tokenize_blocks

ROOT = Path(__file__).resolve().parent.parent


def store(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the model folder: float16 weights that load as float32, tokenizer, and configs."""
    largest = max(p.abs().max().item() for p in model.parameters())
    if not largest < torch.finfo(torch.float16).max:
        raise ValueError(f"A weight of {largest} does not fit float16; train with a lower learning rate.")
    model.half().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    # transformers 5 loads in the config's dtype; half precision is only how the weights are stored.
    config["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save_pretrained(folder)
    GenerationConfig(bos_token_id=0, eos_token_id=0, pad_token_id=0, max_new_tokens=64).save_pretrained(folder)
    # A vocabulary of 2,048 is half the size without the indentation.
    values = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    compact = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(compact + "\n", encoding="utf-8")


def main(
    changes: Annotated[list[str] | None, typer.Argument(help="Changes of the recipe: field=value.")] = None,
    output: Annotated[Path, typer.Option(help="Folder of the finished model.")] = ROOT / "kansformer" / "embedded",
    facts: Annotated[Path, typer.Option(help="File of the measurements.")] = ROOT / "model_cards" / "embedded.json",
    work: Annotated[
        Path | None, typer.Option(help="Folder of the run, removed at the end.", show_default="a temporary one")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Train the embedded model and its tokenizer, measure them, and write both."""
    torch.set_num_threads(threads)
    recipe = read_recipe("embedded", changes or [])
    work = work or Path(tempfile.gettempdir()) / "kansformer-embedded"
    with progress_bar("training") as progress:
        result = train(recipe, work, resume=(work / "recipe.yaml").exists(), progress=progress)
    trained, tokenizer = AutoModelForCausalLM.from_pretrained(work), AutoTokenizer.from_pretrained(work)
    train_documents, held_out = standard_library_documents("train"), standard_library_documents("held_out")
    context = trained.config.max_position_embeddings
    train_NT = tokenize_blocks(train_documents, tokenizer, context // 2)
    held_out_NT = tokenize_blocks(held_out, tokenizer, context // 2)
    before_rounding = mean_loss(trained, held_out_NT).loss
    staged = work / "finished"
    shutil.rmtree(staged, ignore_errors=True)
    store(trained, tokenizer, staged)

    model, tokenizer = AutoModelForCausalLM.from_pretrained(staged), AutoTokenizer.from_pretrained(staged)
    loss = mean_loss(model, held_out_NT).loss
    held_out_bytes = sum(len(text.encode()) for text in held_out)
    held_out_tokens = sum(len(row) for row in tokenizer(held_out, verbose=False)["input_ids"])
    changed = [text[:60] for text in held_out if tokenizer.decode(tokenizer(text, verbose=False)["input_ids"]) != text]
    if model.dtype != torch.float32 or abs(loss - before_rounding) > 1e-3 or changed:
        raise ValueError(
            f"The stored model is not the trained one: dtype {model.dtype}, held-out loss {loss} after "
            f"{before_rounding}, texts changed by the tokenizer: {changed}."
        )
    measured = {
        "held_out_loss": round(loss, 4),
        "held_out_loss_before_rounding_to_float16": round(before_rounding, 4),
        "held_out_loss_in_windows_of_512": round(
            mean_loss(model, tokenize_blocks(held_out, tokenizer, context)).loss, 4
        ),
        "held_out_perplexity": round(math.exp(loss), 3),
        "held_out_bits_per_byte": round(loss / math.log(2) * held_out_tokens / held_out_bytes, 4),
        "train_loss_on_every_16th_block": round(mean_loss(model, train_NT[::16]).loss, 4),
        "parameters": result.parameters,
        "bytes_of_model_files": sum(path.stat().st_size for path in staged.iterdir()),
        "train_files": len(train_documents),
        "train_tokens": train_NT.numel(),
        "held_out_files": len(held_out),
        "held_out_tokens": held_out_tokens,
        "held_out_bytes_per_token": round(held_out_bytes / held_out_tokens, 3),
        "training_seconds": round(result.seconds),
        "tokens_per_second": round(result.tokens_per_second),
        "threads": threads,
        "recipe": recipe.to_dict(),
        "corpus_sha256": hashlib.sha256("\0".join(train_documents).encode()).hexdigest(),
        "command": " ".join(["python", Path(__file__).relative_to(ROOT).as_posix(), *sys.argv[1:]]),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    output.mkdir(parents=True, exist_ok=True)
    for path in sorted(staged.iterdir()):  # the folder has files of the package too
        with atomic_file(output / path.name) as partial:
            shutil.copyfile(path, partial)
    facts.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(facts, json.dumps(measured, indent=2) + "\n")
    print(json.dumps(measured, indent=2))
    shutil.rmtree(work)
    print(f"The model is in {output}, the measurements in {facts}.")


if __name__ == "__main__":
    typer.run(main)
