"""`kansformer demo`: the language model that comes with the package learns from a text with its curves alone, offline.

Shape letters: N blocks, T tokens of a block.
"""

from __future__ import annotations

import json
import math
import tempfile
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kansformer.cli.loading import quiet_transformers
from kansformer.errors import CheckpointError, ConfigError
from kansformer.files import (
    atomic_folder,
    check_free_space,
    check_unused,
    check_writable,
    folder_bytes,
    updated_folder,
)
from kansformer.progress import progress_bar
from kansformer.wording import counted

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import GenerationMixin, PreTrainedModel, PreTrainedTokenizerBase

# Measured on the embedded model, 160 steps. English alone lowers its loss by 0.26 and raises that of code by 0.18; with
# as much code among the English it is 0.19 and 0.06 at this learning rate, 0.17 and 0.03 at half of it. Three times the
# rate is too much. Grids that cover 99 % of their inputs gain 0.262, all of them 0.254, the plain domain (-4, 4) 0.245.
LEARNING_RATE = 1e-3
COVERED = 0.99
BATCH, TUNING_BLOCK, BLOCK = 4, 128, 256
# Every sixth block of held-out code says what all of them say, to 0.05, in seconds.
CODE_STRIDE = 6
# Every eighth file of the training split has more code than there is English.
CODE_FILE_STRIDE = 8

RESULTS = "demo.json"
HELD_OUT = "held_out.txt"
SEED = 0
PROMPTS = ("class Stack:\n    def push(self, item):", 'The "with" statement is used to', "An object's type")


def demo_command(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Argument(help="With --web, a Hub id or folder.", show_default="the embedded model")
    ] = None,
    output: Annotated[Path, typer.Option(help="The folder to write.")] = Path("kansformer-demo"),
    steps: Annotated[int, typer.Option(help="Tuning steps.", min=1)] = 400,
    web: Annotated[bool, typer.Option("--web", help="Bend curves by hand on a page in the browser instead.")] = False,
    port: Annotated[
        int | None, typer.Option(help="Of the page, on this machine only.", show_default="a free one", min=1, max=65535)
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open the page, only serve it.")] = False,
) -> None:
    """Convert a small language model, tune its curves, save, reload and use it: about a minute, offline."""
    _check_mode(context, web)
    if web:
        from kansformer.cli.demo_web import run_web

        run_web(model, port, browser=not no_browser)
        return
    import torch

    from kansformer.embedded import embedded_model_path

    quiet_transformers()
    threads = torch.get_num_threads()
    # One thread tunes this small model at 6,000 tokens/s. Two wait for each other on a machine that is busy with other
    # work: 150 to 2,000 tokens/s were seen there.
    torch.set_num_threads(1)
    try:
        run_demo(embedded_model_path(), output, steps)
    finally:
        torch.set_num_threads(threads)


def _check_mode(context: typer.Context, web: bool) -> None:
    """Raise a `ConfigError` if an argument was given that this kind of demo does not use."""
    unused = {"output": "--output", "steps": "--steps"}
    if not web:
        unused = {"model": "A model", "port": "--port", "no_browser": "--no-browser"}
    for name, words in unused.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP"):
            raise ConfigError(f"{words} is for the demo {'without' if web else 'with'} --web.")


def _check_output(output: Path) -> None:
    """Raise a `CheckpointError` if the demo would replace other files than those of an earlier one."""
    from kansformer.conversion.measured import WEIGHTS, digest_of_weights
    from kansformer.safe_io import read_json

    if not (output / RESULTS).is_file():
        check_unused(output)
        return
    results = read_json(output / RESULTS)
    if not isinstance(results, dict) or results.get(WEIGHTS) != digest_of_weights(output):
        raise CheckpointError(
            f"The files in {str(output)!r} are not replaced: by its {RESULTS} they are not those of an earlier demo. "
            "Choose another --output."
        )


def run_demo(source: Path, output: Path, steps: int) -> None:
    """Convert the model in `source`, tune its curves, save to `output`, reload and use it, printing every step.

    Args:
        source: folder of a small causal language model with its tokenizer.
        output: folder to write. Where an earlier demo wrote its model, that is replaced, and all other files stay.
        steps: of tuning.

    Raises:
        CheckpointError: `output` has files in it, and its model is not the one that an earlier demo saved.
        DataError: this Python comes without the source of its library, or its help topics.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from kansformer.config import KANConfig
    from kansformer.conversion import convert, plan_conversion, revert
    from kansformer.conversion.measured import WEIGHTS, digest_of_weights
    from kansformer.nn import update_grid
    from kansformer.training.corpus import language_reference_text, standard_library_documents
    from kansformer.training.data.packing import tokenize_blocks

    config = KANConfig(slots=("input", "act"), grid_size=8)
    _check_output(output)
    check_writable(output)
    check_free_space(output, 2 * folder_bytes(source), "the model, beside what an earlier demo wrote,")
    begin = time.perf_counter()
    typer.echo("A language model of Python code gets better at English: all its weights stay, only curves are bent.")

    _title(1, "Load the language model that comes with kansformer")
    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(source, local_files_only=True).eval()
    plan = plan_conversion(model, config)
    _say(f"{type(model).__name__}, {plan.parameters_before:,} parameters, trained on the standard library's source")

    _title(2, "Measure its loss on texts that it never saw")
    held_out_text = language_reference_text("held_out")
    held_out = {
        "code": tokenize_blocks(standard_library_documents("held_out"), tokenizer, BLOCK)[::CODE_STRIDE],
        "english": tokenize_blocks(held_out_text, tokenizer, BLOCK),
    }
    before = _losses(model, held_out)
    code, english = (f"{blocks_NT.numel():,} tokens" for blocks_NT in held_out.values())
    _say(f"Python code  {before['code']:.4f}   held-out files of the standard library, {code}")
    _say(f"English      {before['english']:.4f}   held-out topics of Python's language reference, {english}")

    _title(3, "Plan the swap: curves on the input and the activation of every feed-forward network")
    _say(str(plan))

    _title(4, "Convert, in place")
    sample_NT = held_out["english"][:4]
    original = _logits(model, sample_NT)
    start = time.perf_counter()
    convert(model, config)
    seconds = time.perf_counter() - start
    _say(f"{counted(len(plan.sites), 'site')}, each proved equal to the bit, in {seconds:.1f} s")
    _say(f"max |Δ logits| to the original: {_difference(model, sample_NT, original)}")

    added = plan.parameters_after - plan.parameters_before
    _title(
        5,
        f"Tune the curves: {added:,} numbers, {counted(steps, 'step')} on English and code; all else is frozen",
    )
    english_NT = tokenize_blocks(language_reference_text("train"), tokenizer, TUNING_BLOCK)
    code_NT = tokenize_blocks(standard_library_documents("train")[::CODE_FILE_STRIDE], tokenizer, TUNING_BLOCK)
    # As many blocks of code, so that the curves do not forget it.
    code_NT = code_NT[:: max(1, len(code_NT) // len(english_NT))][: len(english_NT)]
    train_NT = torch.cat([english_NT, code_NT])
    update_grid(model, train_NT[:: max(1, len(train_NT) // 32)], quantile=COVERED)
    start = time.perf_counter()
    _tune_curves(model, train_NT, steps)
    tuning_seconds = time.perf_counter() - start
    tokens = steps * BATCH * TUNING_BLOCK
    _say(f"{tokens:,} tokens in {tuning_seconds:.0f} s ({tokens / tuning_seconds:,.0f} tokens/s)")

    _title(6, "Measure the losses again")
    after = _losses(model, held_out)
    for key, name in (("code", "Python code"), ("english", "English")):
        _say(f"{name:11}  {before[key]:.4f} -> {after[key]:.4f}   {after[key] - before[key]:+.4f}")
    gain = before["english"] - after["english"]
    if gain > 0:
        _say(f"The curves lowered the perplexity on unseen English by {100 * (1 - math.exp(-gain)):.0f} %.")
    else:
        _say(f"The loss on English did not fall; more steps may help: kansformer demo --steps {2 * steps}.")

    _title(7, "Save, and load again with AutoModelForCausalLM.from_pretrained")
    results: dict[str, object] = {
        "steps": steps, "loss_before": before, "loss_after": after, "tuning_seconds": round(tuning_seconds, 1),
    }  # fmt: skip
    is_older = (output / RESULTS).is_file()
    with updated_folder(output, lambda name: False) if is_older else atomic_folder(output) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        results[WEIGHTS] = digest_of_weights(folder)
        (folder / RESULTS).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        (folder / HELD_OUT).write_text(held_out_text, encoding="utf-8")
    tuned_logits = _logits(model, sample_NT)
    again = AutoModelForCausalLM.from_pretrained(output, local_files_only=True).eval()
    change = _difference(again, sample_NT, tuned_logits)
    _say(f"{folder_bytes(output):,} bytes; max |Δ logits| to the tuned model: {change}")

    _title(8, "Generate with the loaded model")
    _say("\n\n".join(_generate(again, tokenizer, prompt) for prompt in PROMPTS), bar="| ")

    _title(9, "Take the curves out again")
    revert(again)
    _say(f"max |Δ logits| to the original: {_difference(again, sample_NT, original)}")

    seconds = time.perf_counter() - begin
    typer.echo(f"\nDone in {seconds:.0f} s. Model, tokenizer and results are in {output}. Try next:\n")
    typer.echo(f"  kansformer evaluate {output} --text {output / HELD_OUT} --compare")
    typer.echo(f"  kansformer convert {source} my-kan --slots up,down --edges low_rank --layers last-third")
    typer.echo("  kansformer convert HuggingFaceTB/SmolLM2-135M smollm2-kan    (downloads 270 MB)")


def _title(number: int, text: str) -> None:
    typer.echo(f"\n{number:2}  {text}")


def _say(text: str, bar: str = "") -> None:
    typer.echo(textwrap.indent(text, f"    {bar}", lambda line: True))


def _tune_curves(model: PreTrainedModel, blocks_NT: Tensor, steps: int) -> None:
    """Train the curves, and nothing else, by a `KANTrainer`."""
    from transformers import TrainingArguments

    from kansformer.nn.optim import curve_parameters
    from kansformer.training.callbacks import Reporter
    from kansformer.training.trainer import KANTrainer

    model.requires_grad_(False)
    for _, parameter in curve_parameters(model):
        parameter.requires_grad_(True)
    rows = [{"input_ids": block_T, "labels": block_T} for block_T in blocks_NT]
    with tempfile.TemporaryDirectory() as folder, progress_bar("tuning") as progress:
        arguments = TrainingArguments(
            folder, max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=LEARNING_RATE, adam_beta2=0.99,
            lr_scheduler_type="cosine", warmup_steps=steps // 10, logging_steps=1, disable_tqdm=True, report_to="none",
            save_strategy="no", seed=SEED, use_cpu=True, dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = KANTrainer(model, arguments, train_dataset=rows)
        Reporter(None, BATCH * TUNING_BLOCK, progress).attach(trainer)
        trainer.train()
    model.requires_grad_(True).eval()


def _losses(model: PreTrainedModel, held_out: dict[str, Tensor]) -> dict[str, float]:
    from kansformer.training.evaluate import mean_loss

    losses = {}
    for name, blocks_NT in held_out.items():
        with progress_bar(f"reading {name}") as progress:
            losses[name] = mean_loss(model, blocks_NT, progress=progress).loss
    return losses


def _logits(model: PreTrainedModel, blocks_NT: Tensor) -> Tensor:
    import torch

    with torch.no_grad():
        return model(input_ids=blocks_NT, use_cache=False).logits


def _difference(model: PreTrainedModel, blocks_NT: Tensor, reference: Tensor) -> float:
    return (_logits(model, blocks_NT) - reference).abs().max().item()


def _generate(model: GenerationMixin, tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    import torch

    inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    with torch.random.fork_rng(devices=[]):  # a model of this size repeats itself unless it is sampled
        torch.manual_seed(SEED)
        tokens = model.generate(**inputs, max_new_tokens=40, do_sample=True, temperature=0.6, top_p=0.9)
    return str(tokenizer.decode(tokens[0], skip_special_tokens=True)).strip()
