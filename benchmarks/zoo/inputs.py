"""Inputs of a model's own modality, by the argument names of its forward: the richest set that may work comes first.

A vision-language model gets pictures *and* text with as many image tokens as its vision tower makes features, which is
asked of the model itself (`get_image_features`), so no family needs its own arithmetic of patches and merges.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import torch
from torch import nn

from zoo import audio, images
from zoo.fields import find, special_tokens
from zoo.special_inputs import SPECIAL_INPUTS

BATCH = 2
TOKENS = 7
DECODER_TOKENS = 5
SEED = 0

Inputs = dict[str, object]


def candidate_inputs(model: nn.Module, model_type: str) -> Iterator[tuple[str, Inputs]]:
    """Yields (label, keyword arguments) in the order in which they should be tried."""
    torch.manual_seed(SEED)
    if model_type in SPECIAL_INPUTS:
        yield "special", SPECIAL_INPUTS[model_type](model)
    accepted = inspect.signature(model.forward).parameters
    text = text_inputs(model, accepted)
    pictures = [("image", picture) for picture in images.candidates(model, accepted)]
    sounds = [("audio", sound) for sound in audio.candidates(model, accepted)]
    for kind, media in pictures + sounds:
        with_tokens = _with_placeholders(model, accepted, kind, media, text)
        if with_tokens is not None:
            yield f"{kind}+text", with_tokens
        if text:
            yield f"{kind}+text", {**text, **media}
    if text:
        yield "text", text
    for kind, media in pictures + sounds:
        yield kind, media
        if "decoder_input_ids" in accepted:
            yield f"{kind}+text", {**media, "decoder_input_ids": _tokens(model, DECODER_TOKENS)}
    for name in ("hidden_states", "inputs_embeds"):
        if name in accepted:
            for width in {
                find(model.config, "input_dim", "hidden_size", "d_model"),
                find(model.config, "hidden_size"),
            } - {None}:
                yield name, {name: torch.randn(BATCH, TOKENS, width)}


def text_inputs(model: nn.Module, accepted) -> Inputs:
    """Token ids (and boxes for layout models), empty for a model that takes no text."""
    text: Inputs = {}
    for name in ("input_ids", "qformer_input_ids"):
        if name in accepted:
            text[name] = _tokens(model, TOKENS)
    if "decoder_input_ids" in accepted:
        text["decoder_input_ids"] = _tokens(model, DECODER_TOKENS)
    if "bbox" in accepted:
        left_top = torch.randint(0, 40, (BATCH, TOKENS, 2))
        text["bbox"] = torch.cat([left_top, left_top + torch.randint(1, 40, (BATCH, TOKENS, 2))], dim=-1)
    return text if "input_ids" in text or "decoder_input_ids" in text else {}


def _tokens(model: nn.Module, length: int) -> torch.Tensor:
    vocabulary = min(find(model.config, "vocab_size", first="text") or 256, 256)
    plain = [token for token in range(min(5, vocabulary - 1), vocabulary) if token not in special_tokens(model.config)]
    return torch.tensor(plain)[torch.randint(0, len(plain), (BATCH, length))]


def _with_placeholders(model: nn.Module, accepted, kind: str, media: Inputs, text: Inputs) -> Inputs | None:
    """Text whose middle holds one placeholder per feature that the image or audio tower makes; None where unknown."""
    token = find(model.config, f"{kind}_token_id", f"{kind}_token_index", f"_{kind}_token_id")
    inner = [model, *(getattr(model, name, None) for name in ("model", "vlm"))]
    features_of = next((function for part in inner if (function := getattr(part, f"get_{kind}_features", None))), None)
    if token is None or features_of is None or "input_ids" not in text:
        return None
    takes = inspect.signature(features_of).parameters
    try:
        with torch.no_grad():
            made = features_of(**{name: value for name, value in media.items() if name in takes})
        per_sample = _count(made) // BATCH
    except Exception:  # this shape of picture or sound is not the tower's own: the next candidate may be
        return None
    ids = text["input_ids"]
    placeholders = torch.full((BATCH, per_sample), token)
    ids = torch.cat([ids[:, :4], placeholders, ids[:, 4:]], dim=1)
    inputs = {**text, **media, "input_ids": ids}
    if "mm_token_type_ids" in accepted:
        inputs["mm_token_type_ids"] = (ids == token).long() * (1 if kind == "image" else 3)
    return inputs


def _count(made: object) -> int:
    """Number of feature vectors in what `get_…_features` returned."""
    pooled = getattr(made, "pooler_output", None)
    made = pooled if pooled is not None else getattr(made, "last_hidden_state", made)
    if isinstance(made, torch.Tensor):
        return made.numel() // made.shape[-1]
    return sum(_count(part) for part in made)
