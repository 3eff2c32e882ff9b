"""What the package itself writes, tiny: the files that the mutator starts from, made anew and always the same."""

import json
from pathlib import Path
from typing import TypeVar

import torch
import transformers
from tiny_models import SMALL, tiny_llama
from transformers import LlamaForCausalLM, PreTrainedModel

from kansformer import KANConfig, convert, freeze_curves, save_curves
from kansformer.conversion import ConversionRecord, replace_feed_forwards
from kansformer.conversion.record import record_of
from kansformer.hub import write_card
from kansformer.kan import KAN
from kansformer.symbolic import ALL_SYMBOLS

Model = TypeVar("Model", bound=PreTrainedModel)
MODELS = {
    "rational": KANConfig(slots=("act", "down"), edges="group", basis="rational", groups=4),
    "low-rank": KANConfig(slots=("input", "up", "act"), edges="low_rank", rank=2, groups=4),
    "full": KANConfig(slots=("gate",), edges="full", basis="rbf", grid_size=3, extrapolation="clamp", layers=1),
}
FAMILIES = {
    "encoder": ("BertForMaskedLM", transformers.BertConfig(**SMALL), KANConfig(slots=("input", "act"))),
    "encoder-decoder": (
        "T5ForConditionalGeneration",
        transformers.T5Config(vocab_size=24, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2),
        KANConfig(slots=("up", "act"), edges="low_rank", rank=2, groups=4),
    ),
    "experts": ("MixtralForCausalLM", transformers.MixtralConfig(**SMALL, num_key_value_heads=2, num_local_experts=2),
                KANConfig()),
    "vision": ("ViTForImageClassification", transformers.ViTConfig(**SMALL, image_size=8, patch_size=4),
               KANConfig(basis="rational")),
    "fused": ("Phi3ForCausalLM", transformers.Phi3Config(**SMALL, pad_token_id=0, bos_token_id=0, eos_token_id=0),
              KANConfig(slots=("up", "act"), edges="group", groups=4)),
}  # fmt: skip
"""Models in several shards, by the name of their class."""

NARROWED = "narrowed"
"""A model whose record has widths, beside those of `MODELS`."""

TRAINING = {
    "evaluation": {"eval_loss": 2.34567},
    "steps": 1200,
    "seconds": 60.0,
    "tokens_per_second": 15432.1,
    "trainable": 288,
    "facts": {
        "data": {"source": "standard-library", "train_tokens": 1000000, "tokenizer": "characters"},
        "device": "1 x H100",
        "kansformer": "0.1.0",
        "torch": "2.13.0",
    },
}
AUDIT = {
    "tokens": 4096,
    "edges": 48,
    "loss": 2.5,
    "coverage_r2": 0.91,
    "control_coverage_r2": 0.42,
    "coverage_r2_tokens": 0.8,
    "control_coverage_r2_tokens": None,
    "replaced": [{"share": 0.5, "edges": 24, "loss": 2.51}],
}
FACTS = {
    "base_model": "someone/base",
    "license": "apache-2.0",
    "language": ["en"],
    "datasets": ["someone/data"],
    "results": [{"dataset": "text", "metric": "loss", "value": 2.5, "original": 2.4, "without_curves": 3}],
}
HEADER = """---
license: mit
base_model: someone/base
language: [en, de]
datasets:
- someone/data
---
# A card
"""
STATE = {"global_step": 20, "max_steps": 40, "log_history": [{"loss": 2.5, "step": 10}], "epoch": 0.5}
RECIPES = ("embedded-curves", "gpt2-small-fineweb", "minilm-classifier", "shakespeare-char", "tiny-cpu", "vit-digits")


def make_plain() -> LlamaForCausalLM:
    """The model that all of this is about."""
    with torch.random.fork_rng(devices=[]):
        return tiny_llama(max_position_embeddings=32).eval()


def make_corpus(folder: Path, recipes: Path) -> None:
    """Write every folder and file that is mutated.

    Args:
        folder: empty.
        recipes: where the recipes of the package are.
    """
    for name in (*MODELS, NARROWED):
        model = _bent(convert(make_plain(), MODELS.get(name, MODELS["rational"])))
        if name == NARROWED:
            model = replace_feed_forwards(make_plain(), KANConfig(edges="group", groups=4), hidden=20)
            model = _bent(model)
        model.save_pretrained(folder / "model" / name)
        if name != NARROWED:
            save_curves(model, folder / "curves" / name)
            _write(folder / "record" / name / "record.json", _record(model).to_dict())
        if name == "rational":
            (folder / "found" / name).mkdir(parents=True)
            freeze_curves(model, folder / "found" / name / "found.safetensors", source="a run", figures={"loss": 1.5})
            model = _bent(convert(make_plain(), MODELS[name]))
        card = folder / "card" / name
        model.save_pretrained(card)
        for file, values in {"training.json": TRAINING, "summary.json": AUDIT, "kansformer.json": FACTS}.items():
            _write(card / file, values)
        write_card(card)
        _write(card / "origin" / "kansformer.json", {"license": "mit"})
        (card / "origin" / "README.md").write_text(HEADER, encoding="utf-8")
    for name, (class_name, config, curves) in FAMILIES.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = _bent(convert(getattr(transformers, class_name)(config).eval(), curves))
        family = folder / "family" / name
        model.save_pretrained(family, max_shard_size="6KB")
        (family / f"class-{class_name}").touch()
    network = KAN([2, [2, 1], 1], grid_size=3)
    network.formulas[0].add(0, 1, ALL_SYMBOLS.named("sin"), (1.0, 0.5, 2.0, 0.0))
    network.formulas[1].add(0, 0, ALL_SYMBOLS.named("x^2"), (1.0, 0.0, 1.0, 0.0))
    for kind in ("kan", "kan-card"):
        network.save(folder / kind / "sums")
        KAN([1, 2], basis="rational", dtype=torch.float32).save(folder / kind / "rational")
    for name in RECIPES:
        text = (recipes / f"{name}.yaml").read_text(encoding="utf-8")
        for target in (folder / "recipe" / name / "recipe.yaml", folder / "resume" / name / "recipe.yaml"):
            target.parent.mkdir(parents=True)
            target.write_text(text, encoding="utf-8")
        (folder / "resume" / name / f"begun-{name}").touch()
        for step in (20, 40):
            _write(folder / "resume" / name / f"checkpoint-{step}" / "trainer_state.json", STATE)
    _write_tables(folder / "table" / "numbers")


def _write_tables(folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(24, 3, generator=generator).tolist()
    folder.mkdir(parents=True)
    lines = ["x,y,z", *(",".join(f"{value:.6f}" for value in row) for row in rows)]
    (folder / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    texts = [json.dumps({"text": f"row {n}", "label": n % 2}) for n in range(6)]
    (folder / "rows.jsonl").write_text("\n".join(texts) + "\n", encoding="utf-8")


def _record(model: LlamaForCausalLM) -> ConversionRecord:
    record = record_of(model)
    assert record is not None
    return record


def _write(path: Path, values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")


@torch.no_grad()
def _bent(model: Model) -> Model:
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith(("coefficients", "mix", "denominator")):
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model
