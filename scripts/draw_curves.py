"""Draw the curves of the model card `embedded-curves` that vary most on this repository's README: the README's picture.

    python scripts/draw_curves.py

Needs matplotlib. Writes `benchmarks/results/curves.png`, in a few seconds.
"""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from kansformer import load_curves
from kansformer.embedded import embedded_model_path
from kansformer.interp import edge_curves, record_edges
from kansformer.training.data.packing import tokenize_blocks
from kansformer.views import plot_curves

ROOT = Path(__file__).resolve().parent.parent
SITE, SLOT, SHOWN = "model.layers.2.mlp", "act", 8


def main() -> None:
    model = AutoModelForCausalLM.from_pretrained(embedded_model_path(), dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(embedded_model_path())
    load_curves(model, ROOT / "model_cards" / "embedded-curves", check_weights=False)  # float32 here
    blocks_NT = tokenize_blocks((ROOT / "README.md").read_text(encoding="utf-8"), tokenizer, 256)
    with torch.no_grad(), record_edges(model) as records:
        model(input_ids=blocks_NT)
    learned = records[SITE, SLOT].variances(learned_only=True)[:, 0]
    channels = learned.topk(SHOWN).indices.sort().values.tolist()
    curves = edge_curves(model, SITE, SLOT, records=records, inputs=channels)
    picture = ROOT / "benchmarks" / "results" / "curves.png"
    plot_curves(curves, records=records).savefig(picture, dpi=130)
    print(f"Written to {picture.relative_to(ROOT)}: channels {channels} of {SITE}.")


if __name__ == "__main__":
    main()
