"""The embedded model with the curves of `model_cards/embedded-curves`, and what goes into them on a text."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from kansformer import load_curves
from kansformer.embedded import embedded_model_path
from kansformer.interp import EdgeCurves, EdgeRecords, edge_curves, record_edges
from kansformer.training.data.packing import tokenize_blocks

ROOT = Path(__file__).resolve().parents[2]
TEXT = ROOT / "LICENSE"  # English prose that does not change
SITE = "model.layers.2.mlp"


@cache
def model_and_records() -> tuple[PreTrainedModel, EdgeRecords]:
    """The model, in float32, and its inputs of curves on `TEXT`."""
    path = embedded_model_path()
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    load_curves(model, ROOT / "model_cards" / "embedded-curves", check_weights=False)  # float32 here
    blocks_NT = tokenize_blocks(TEXT.read_text(encoding="utf-8"), AutoTokenizer.from_pretrained(path), 256)
    with torch.no_grad(), record_edges(model) as records:
        model(input_ids=blocks_NT)
    return model, records


@cache
def most_bent(count: int) -> EdgeCurves:
    """The activations of `SITE` whose learned part varies most over the tokens, in the order of channels."""
    model, records = model_and_records()
    variances_I = records[SITE, "act"].variances(learned_only=True)[:, 0]
    channels = variances_I.topk(count).indices.sort().values.tolist()
    return edge_curves(model, SITE, "act", records=records, inputs=channels)


@cache
def learned_activations(channels: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Points (S,), the curves of channels of `SITE` there (E, S), and SiLU there (S,)."""
    x_S = torch.linspace(-3.6, 3.6, 73)
    at_ES = x_S.expand(len(channels), -1)
    curves = edge_curves(model_and_records()[0], SITE, "act", inputs=channels, at=at_ES)
    return x_S, curves.y, curves.y[0] - curves.learned[0]
