"""One process that converts, trains, audits and saves in a loop: memory, open files, threads and temporary files.

    python benchmarks/soak.py                  # an hour
    python benchmarks/soak.py --minutes 5
    python benchmarks/soak.py --summary        # what the rows say so far

A round takes the next model and kind of curves, converts the model and puts it back, trains it by `KANTrainer`, audits
it and writes the report, saves, loads and reverts it, fits and draws a small network, runs a recipe, and fails on
purpose in the middle of an audit, of a conversion and of a save. What is left after each round is a row of
`results/soak.csv`. Ctrl-C stops; the same command goes on with the next round, in a new process with rows of its own
(`--fresh` starts anew). Growth is judged within a process, between the middle and the last third of its rounds: all
kinds have been there before. Files in the cache of `datasets`, which stay by design, do not count. Linux only.
"""

import argparse
import csv
import ctypes
import gc
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from statistics import median

FOLDER = tempfile.TemporaryDirectory(prefix="kansformer-soak-")
tempfile.tempdir = f"{FOLDER.name}/temporary"
Path(tempfile.tempdir).mkdir()
os.environ |= {"HF_HOME": f"{FOLDER.name}/hf", "HF_HUB_OFFLINE": "1", "TMPDIR": tempfile.tempdir}

import torch  # noqa: E402
import transformers  # noqa: E402
from speed.peak_process import resident  # noqa: E402
from transformers.utils import logging  # noqa: E402

from kansformer import KANConfig, KANTrainer, convert, revert, summarize  # noqa: E402
from kansformer.interp import edge_curves  # noqa: E402
from kansformer.kan import KAN, create_dataset  # noqa: E402
from kansformer.symbolic import KAN_LIBRARY  # noqa: E402
from kansformer.training.recipe import Recipe  # noqa: E402
from kansformer.training.run import train  # noqa: E402
from kansformer.views import plot_curves, write_report  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "soak.csv"
MEASURES = ("resident_mb", "open_files", "threads", "temporary_files", "tensors", "objects")
COLUMNS = ("process", "round", "kind", "seconds", *MEASURES)
# A median that rises by more than this share of itself is growth.
MAX_GROWTH = 0.01
MIN_ROUNDS = 9

SMALL = dict(vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
MODELS = {
    "llama": lambda: transformers.LlamaConfig(**SMALL),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=50, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    ),
    "mixtral": lambda: transformers.MixtralConfig(**SMALL, num_key_value_heads=2, num_local_experts=2),
}
CURVES = {
    "llama": KANConfig(slots=("input", "act"), edges="group", groups=4),
    "gpt2": KANConfig(slots=("up", "down"), edges="low_rank", rank=2, grid_size=3),
    "mixtral": KANConfig(basis="rational", order=5),
}
RECIPE = {
    "task": "causal-lm",
    "model": {"path": "embedded"},
    "kan": {},
    "training": {"max_steps": 2, "per_device_train_batch_size": 2, "use_cpu": True, "report_to": "none"},
}


class StopHereError(Exception):
    """Raised on purpose."""


def one_round(kind: str, number: int, folder: Path) -> None:
    """Everything once."""
    torch.manual_seed(number)
    model = transformers.AutoModelForCausalLM.from_config(MODELS[kind]()).eval()
    ids_NT = torch.randint(50, (4, 16), generator=torch.Generator().manual_seed(number))
    batch = {"input_ids": ids_NT, "labels": ids_NT}
    with torch.no_grad():
        original = model(**batch).logits
    fail_to_convert(model, batch, original)
    convert(model, CURVES[kind])
    train_curves(model, ids_NT, folder)
    fail_to_audit(model, batch)
    summary = summarize(model, [batch, batch], library=KAN_LIBRARY, kept=folder / "fits")
    summary.write_parquet(folder / "edges.parquet")
    write_report(summary, folder / "report.html")
    slot = summary.slots[0].slot
    plot_curves(edge_curves(model, slot.site, slot.name, inputs=[0, 1], outputs=[0])).savefig(folder / "curves.png")
    fail_to_save(model, folder / "model")
    model.save_pretrained(folder / "model")
    with torch.no_grad():
        tuned = model(**batch).logits
        again = transformers.AutoModelForCausalLM.from_pretrained(folder / "model").eval()
        check_equal("loaded model", again(**batch).logits, tuned)
        check_equal("reverted model", revert(again)(**batch).logits, transformers_logits(model, batch))
    data = create_dataset(lambda x: torch.sin(x[:, :1]) * x[:, 1:], 2, num_train=200, num_test=50)
    network = KAN([2, 2, 1], seed=number)
    network.fit(data, steps=3, progress=False)
    network.plot(data).savefig(folder / "network.png")
    text = folder / "text.txt"
    text.write_text("".join(f"{i} green bottles hanging on the wall.\n" for i in range(60)))
    train(Recipe.from_dict(RECIPE | {"data": {"files": [str(text)], "block": 16}}), folder / "trained")


def transformers_logits(model: torch.nn.Module, batch: dict) -> torch.Tensor:
    """Of the model without its curves, which it loses."""
    return revert(model)(**batch).logits


def check_equal(what: str, result: torch.Tensor, expected: torch.Tensor) -> None:
    if not torch.equal(result, expected):
        raise SystemExit(f"The {what} computes something else: {(result - expected).abs().max()}")


def train_curves(model: transformers.PreTrainedModel, ids_NT: torch.Tensor, folder: Path) -> None:
    """Three steps."""
    arguments = transformers.TrainingArguments(
        str(folder / "steps"), max_steps=3, per_device_train_batch_size=2, disable_tqdm=True, report_to="none",
        save_steps=2, use_cpu=True, dataloader_pin_memory=False, learning_rate=1e-3, logging_strategy="no",
    )  # fmt: skip
    trainer = KANTrainer(model, arguments, train_dataset=[{"input_ids": ids_T, "labels": ids_T} for ids_T in ids_NT])
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    model.eval()


@torch.no_grad()
def fail_to_convert(model: torch.nn.Module, batch: dict, original: torch.Tensor) -> None:
    """Convert with a weight that is not a number, which no proof accepts."""
    weight = next(value for name, value in model.named_parameters() if re.search("mlp.*(up|c_fc|proj)", name))
    kept = weight.flatten()[0].clone()
    weight.flatten()[0] = torch.nan
    try:
        convert(model, KANConfig())
        raise SystemExit("A model with a weight that is not a number was converted.")
    except (ValueError, RuntimeError):
        weight.flatten()[0] = kept
    check_equal("model that was not converted", model(**batch).logits, original)


def fail_to_audit(model: torch.nn.Module, batch: dict) -> None:
    """Stop an audit where slots are fitted."""

    def stop(stage: str, done: int, total: int | None, detail: str = "") -> None:
        if detail.endswith("edges/s"):
            raise StopHereError

    try:
        summarize(model, iter([batch, batch]), library=KAN_LIBRARY, progress=stop)
        raise SystemExit("The audit went on.")
    except StopHereError:
        pass


def fail_to_save(model: transformers.PreTrainedModel, folder: Path) -> None:
    """Save where a file stands."""
    folder.with_suffix(".file").write_text("")
    try:
        model.save_pretrained(folder.with_suffix(".file") / "model")
        raise SystemExit("Saving below a file went on.")
    except OSError:
        pass


def measure(keep: Path) -> dict[str, int | float]:
    """What this process holds now, apart from the folder `keep`."""
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other libraries' objects that are looked at
        objects = gc.get_objects()
        tensors = sum(issubclass(type(value), torch.Tensor) for value in objects)
    return {
        "resident_mb": round(resident()[0] / 2**20, 1),
        "open_files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "temporary_files": sum(path.is_file() for path in Path(FOLDER.name).rglob("*") if keep not in path.parents),
        "tensors": tensors,
        "objects": len(objects),
    }


def judge(rows: Sequence[dict[str, str]]) -> list[list[str]]:
    """A row of text for each measure: at the first round, medians of the middle and last third, growth, verdict."""
    third = len(rows) // 3
    table = []
    for name in MEASURES:
        values = [float(row[name]) for row in rows]
        middle, last = median(values[third : 2 * third] or values), median(values[2 * third :])
        growth = (last - middle) / max(third, 1)
        grows = last > middle * (1 + MAX_GROWTH) and last > middle + 0.5
        verdict = "too few rounds" if len(rows) < MIN_ROUNDS else "grows" if grows else "does not grow"
        table.append([name, f"{values[0]:,g}", f"{middle:,g}", f"{last:,g}", f"{growth:+.3g}", verdict])
    return table


def print_summary(rows: Iterable[dict[str, str]]) -> None:
    for process, group in groupby(rows, key=lambda row: row["process"]):
        of_process = list(group)
        seconds = sum(float(row["seconds"]) for row in of_process)
        print(f"\nProcess {process}: {len(of_process)} rounds in {seconds / 60:.1f} min\n")
        print("| | first round | middle third | last third | a round | |\n|---|---|---|---|---|---|")
        for cells in judge(of_process):
            print(f"| {' | '.join(cells)} |")
        print(f"tried {len(of_process)}, lost {sum(cells[-1] == 'grows' for cells in judge(of_process))}")


def read_rows(file: Path) -> list[dict[str, str]]:
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=RESULTS, help="the rows")
    parser.add_argument("--fresh", action="store_true", help="forget the rows that are there")
    parser.add_argument("--summary", action="store_true", help="only print what the rows say")
    options = parser.parse_args()
    rows = [] if options.fresh else read_rows(options.out)
    if options.summary:
        return print_summary(rows)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    process = 1 + max((int(row["process"]) for row in rows), default=0)
    number = 1 + max((int(row["round"]) for row in rows), default=-1)
    options.out.parent.mkdir(exist_ok=True)
    begin = time.perf_counter()
    with options.out.open("w" if options.fresh else "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if not file.tell():
            writer.writeheader()
        try:
            while time.perf_counter() - begin < 60 * options.minutes:
                kind = list(MODELS)[number % len(MODELS)]
                of_round = time.perf_counter()
                with tempfile.TemporaryDirectory(dir=FOLDER.name) as folder:
                    one_round(kind, number, Path(folder))
                row = {"process": process, "round": number, "kind": kind}
                row |= {"seconds": round(time.perf_counter() - of_round, 1), **measure(Path(FOLDER.name, "hf"))}
                writer.writerow(row)
                file.flush()
                print(*(f"{name} {value}" for name, value in row.items()), sep="  ", flush=True)
                number += 1
        except KeyboardInterrupt:
            print(f"Stopped after {number} rounds; the same command goes on.", file=sys.stderr)
    print_summary(read_rows(options.out))


if __name__ == "__main__":
    main()
