"""Taking curves and channels out of a converted model: what it costs in loss, and what it saves in time and size.

    pip install '.[bench]'
    python benchmarks/pruning.py --model FOLDER --text wikitext2_valid.txt

FOLDER is a converted language model whose curves were tuned, as `kansformer train smollm2-curves` writes one. Scores
and channels are chosen on the first half of the text, losses are of the second. `curves` straightens single curves by
their attribution, which changes the loss only; `slots` takes whole slots out, `channels` hidden channels, neither with
any training afterwards. Their times are those of the forward pass beside the unpruned model's, medians of alternating
rounds, and their sizes those of the saved folder's weights.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from dataclass_csv import write_rows
from speed.harness import alternate
from torch import Tensor
from tqdm import tqdm

from kansformer.conversion.sources import read_language_model
from kansformer.interp import drop_straight_curves, edge_scores, prune, prune_channels
from kansformer.nn.eval_mode import eval_mode
from kansformer.training.data.packing import tokenize_blocks
from kansformer.training.data.texts import file_text

RESULTS = Path(__file__).parent / "results"
BATCH, BLOCK = 4, 256
CURVES = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
SLOTS = (0.25, 0.5, 0.75, 1.0)
CHANNELS = (0.05, 0.1, 0.25)


@dataclass(frozen=True)
class Row:
    """One pruned model.

    Args:
        way: `curves`, `slots` or `channels`.
        share: of them that was to be taken out.
        loss: on the second half of the text.
        parameters: left in the model.
        megabytes: of its saved weights; None where nothing was taken out for good.
        time: of the forward pass, as a multiple of the unpruned model's; None likewise.
    """

    way: str
    share: float
    loss: float
    parameters: int
    megabytes: float | None = None
    time: float | None = None


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    model, tokenizer = read_language_model(str(options.model))
    blocks_NT = tokenize_blocks(file_text(options.text), tokenizer, BLOCK)
    half, count = len(blocks_NT) // 2, max(1, options.tokens // BLOCK)
    calibration, test = (_batches(part[:count]) for part in (blocks_NT[:half], blocks_NT[half:]))
    scores = edge_scores(model, calibration)
    rows = []
    for level in tqdm(CURVES, desc="curves", disable=None):
        pruned = prune(model, scores, sparsity=level)
        rows.append(_told(Row("curves", level, _loss(model, test), _parameters(model))))
        pruned.undo()

    def without_slots(share: float) -> Any:
        smaller = copy.deepcopy(model)
        prune(smaller, scores, sparsity=share, whole_slots=True)
        drop_straight_curves(smaller)
        return smaller

    def without_channels(share: float) -> Any:
        smaller = copy.deepcopy(model)
        prune_channels(smaller, calibration, share=share)
        return smaller

    for way, shares, make in (("slots", SLOTS, without_slots), ("channels", CHANNELS, without_channels)):
        for share in tqdm(shares, desc=way, disable=None):
            smaller = make(share)
            loss, time = _loss(smaller, test), _time(smaller, model, test[0], options.rounds)
            rows.append(_told(Row(way, share, loss, _parameters(smaller), _megabytes(smaller), time)))
    _write(rows, options.out)


def _batches(blocks_NT: Tensor) -> list[dict[str, Tensor]]:
    return [{"input_ids": part, "labels": part} for part in blocks_NT.split(BATCH)]


@torch.no_grad()
def _loss(model: Any, batches: list[dict[str, Tensor]]) -> float:
    with eval_mode(model):
        losses = [float(model(**batch).loss) for batch in batches]
    return sum(losses) / len(losses)


def _time(smaller: Any, model: Any, batch: dict[str, Tensor], rounds: int) -> float:
    """Of the forward pass of one batch, in units of the whole model's in the same round."""

    def forward(one: Any) -> Callable[[], Any]:
        return lambda: one(input_ids=batch["input_ids"])

    with eval_mode(smaller), eval_mode(model), torch.no_grad():
        timed = alternate({"pruned": forward(smaller), "whole": forward(model)}, rounds=rounds)
    return timed.ratio("pruned", "whole").median


def _parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _megabytes(model: Any) -> float:
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors")) / 1e6


def _told(row: Row) -> Row:
    print(
        *(
            f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in asdict(row).items()
        )
    )
    return row


def _write(rows: list[Row], out: Path) -> None:
    write_rows(out / "pruning.csv", rows)
    _draw(rows, out / "pruning.png")
    print(f"Written: pruning.csv and pruning.png, in {out}")


def _draw(rows: list[Row], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    whole = next(row.loss for row in rows if row.way == "curves" and row.share == 0)
    for way, label in (("curves", "single curves"), ("slots", "whole slots"), ("channels", "hidden channels")):
        chosen = [(row.share, row.loss) for row in rows if row.way == way]
        shares, losses = zip(*sorted({(0.0, whole), *chosen}), strict=True)
        axes.plot(shares, losses, marker="o", label=label)
    axes.set_xlabel("share taken out")
    axes.set_ylabel("loss on held-out text")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of a converted model")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=4096, help="of each half of the text")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
