"""From a run's curves to one closed form: formulas beside their curves and inputs, as text and as a picture.

    pip install '.[bench]'
    python benchmarks/found_activation.py --text tinyshakespeare.txt

Trains the contest's default (curves of groups on gate and up, nanoGPT's CPU setting) for 1,200 steps, records what goes
into the curves, and looks for one function for all of a slot, with 0 to 3 terms. Candidates are judged on curves and
points that their fit did not see. Then models of another seed are trained with the form as a fixed activation, with the
run's curves frozen, and with SiLU. Writes `results/found_activation.md`, `.json` and `.png`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from contest.variants import DEFAULT, VARIANTS, recipe_of
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from kansformer import freeze_curves
from kansformer.discover import ActivationCurves, activation_curves, discover_activation, register_activation
from kansformer.errors import DataError
from kansformer.interp import record_edges
from kansformer.training import train
from kansformer.training.recipe import Recipe

RESULTS = Path(__file__).parent / "results"
SOURCE_SEED, OTHER_SEED = 7000, 7100
RECORDED_BLOCKS, BLOCK = 200, 65
EXPLAINED = 0.6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="tinyshakespeare.txt of char-rnn and nanoGPT")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of forms, page and picture")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, tqdm(total=4, unit="run", disable=None) as bar:
        folder = Path(name)
        source = f"curves of the gate after {options.steps:,} steps on {options.text.stem}, seed {SOURCE_SEED}"
        learned_loss = _train(options, folder / "learned", SOURCE_SEED, kan=VARIANTS[DEFAULT].kan)
        bar.update()
        model = AutoModelForCausalLM.from_pretrained(folder / "learned")
        tables = _tables(model, folder / "learned", options.text)
        freeze_curves(model, folder / "curves.safetensors", source=source)
        lines = [f"Learned curves, seed {SOURCE_SEED}: loss {learned_loss:.4f}.", ""]
        searches = {}
        for slot, curves in tables.items():
            try:
                searches[slot] = discover_activation(
                    curves, name=f"found-{slot}", min_explained=EXPLAINED, source=source
                )
                lines += [f"Slot `{slot}`:", "", "```text", str(searches[slot]), "```", ""]
            except DataError as error:
                lines += [f"Slot `{slot}`: {error}", ""]
        lines += [f"Seed {OTHER_SEED}, {options.steps:,} steps:", "", "| network | loss |", "|---|---|"]
        lines.append(f"| SwiGLU | {_train(options, folder / 'plain', OTHER_SEED, kan=None):.4f} |")
        bar.update()
        given = {"curves": str(folder / "curves.safetensors"), "trainable": False}
        loss = _train(options, folder / "frozen", OTHER_SEED, kan=given)
        lines.append(f"| the curves of seed {SOURCE_SEED}, frozen | {loss:.4f} |")
        bar.update()
        if "act" in searches:
            register_activation(searches["act"].activation)
            loss = _train(options, folder / "form", OTHER_SEED, kan=None, activation="found-act")
            lines.append(f"| `{searches['act'].activation.formula}` | {loss:.4f} |")
        bar.update()
    forms = {slot: [form.to_dict() for form in search.candidates] for slot, search in searches.items()}
    (options.out / "found_activation.json").write_text(json.dumps(forms, indent=1) + "\n", encoding="utf-8")
    (options.out / "found_activation.md").write_text(
        "\n".join(["# Found activations", "", *lines]) + "\n", encoding="utf-8"
    )
    _plot(tables, searches, options.out / "found_activation.png")
    print("\n".join(lines))


def _train(
    options: argparse.Namespace,
    folder: Path,
    seed: int,
    *,
    kan: dict[str, object] | None,
    activation: str = "silu",
) -> float:
    """The evaluation's loss after a run of the contest's default with this section kan, None for no curves."""
    values = recipe_of(VARIANTS[DEFAULT], text=str(options.text), steps=options.steps, seed=seed).to_dict() | {
        "kan": kan
    }
    values["model"]["config"] |= {"intermediate_size": 344, "hidden_act": activation}
    recipe = Recipe.from_dict({name: value for name, value in values.items() if value is not None})
    return train(recipe, folder).evaluation["eval_loss"]


def _tables(model: PreTrainedModel, folder: Path, text: Path) -> dict[str, ActivationCurves]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = torch.tensor(tokenizer(text.read_text(encoding="utf-8")[: RECORDED_BLOCKS * BLOCK]).input_ids)
    blocks = tokens[: len(tokens) // BLOCK * BLOCK].view(-1, BLOCK)
    with record_edges(model) as records, torch.no_grad():
        for part in blocks.split(50):
            model(input_ids=part)
    return {slot: activation_curves(model, records, slot=slot) for slot in ("act", "up")}


def _plot(tables: dict[str, ActivationCurves], searches: dict, path: Path) -> None:
    """For each slot: all curves, their weighted mean, the closed form, and where the inputs lie."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, all_axes = pyplot.subplots(1, len(tables), figsize=(12, 4.5))
    for axes, (slot, curves) in zip(all_axes, tables.items(), strict=True):
        density = axes.twinx()
        density.fill_between(curves.x, curves.weights.sum(0), color="0.9", zorder=0)
        density.set_yticks([])
        axes.set_zorder(density.get_zorder() + 1)
        axes.patch.set_visible(False)
        axes.plot(curves.x, curves.y.mT, color="tab:blue", alpha=0.25, linewidth=0.8)
        mean = (curves.weights * curves.y).sum(0) / curves.weights.sum(0)
        axes.plot(curves.x, mean, color="tab:blue", linewidth=2.2, label="mean of the curves, weighted by inputs")
        if slot in searches:
            form = searches[slot].activation
            axes.plot(curves.x, form.module()(curves.x), color="tab:red", linestyle="--", label=form.formula)
        base = torch.nn.functional.silu(curves.x) if curves.base == "silu" else curves.x
        axes.plot(curves.x, base, color="black", linestyle=":", label=f"the base, {curves.base}")
        axes.set(xlabel=f"input of a curve in `{slot}` (grey: how often it occurs)", ylabel="output")
        inside = (curves.x > -4) & (curves.x < 4)
        low, high = float(curves.y[:, inside].min()), float(curves.y[:, inside].max())
        axes.set(xlim=(-4, 4), ylim=(low - 0.1, high + 0.1))
        axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
