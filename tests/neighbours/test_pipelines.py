"""transformers' pipelines open a converted checkpoint by its folder, for text and for images."""

import numpy as np
import pytest
import torch
from tiny_models import randomize_curves
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    pipeline,
)

from kansformer import KANConfig, convert


@pytest.fixture
def small():
    return dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)


def test_text_generation(make_bent, tokenizer, tmp_path):
    model = make_bent(slots=("input", "act"))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    options = dict(max_new_tokens=4, do_sample=False, return_full_text=False)
    found = pipeline("text-generation", model=str(tmp_path), device="cpu")("w3 w4 w5", **options)
    ids = tokenizer("w3 w4 w5", return_tensors="pt")["input_ids"]
    expected = model.generate(ids, max_new_tokens=4, do_sample=False)[0, 3:]
    assert found[0]["generated_text"] == tokenizer.decode(expected, skip_special_tokens=True)


def test_text_classification(small, tokenizer, tmp_path):
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(vocab_size=24, num_labels=3, **small)).eval()
    randomize_curves(convert(model, KANConfig(slots=("input", "up", "act", "down"))))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = pipeline("text-classification", model=str(tmp_path), device="cpu", top_k=None)(["w3 w4 w5"])[0]
    with torch.no_grad():
        expected = model(torch.tensor([[3, 4, 5]])).logits.softmax(-1)[0]
    assert isinstance(AutoModelForSequenceClassification.from_pretrained(tmp_path), BertForSequenceClassification)
    assert {row["label"]: row["score"] for row in found} == pytest.approx(
        {f"LABEL_{i}": float(p) for i, p in enumerate(expected)}
    )


def test_image_classification(small, tmp_path):
    image_module = pytest.importorskip("PIL.Image", reason="pillow reads the image: pip install pillow")
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_labels=4, **small)).eval()
    randomize_curves(convert(model, KANConfig(slots=("act", "down"))))
    model.save_pretrained(tmp_path)
    processor = ViTImageProcessorPil(size={"height": 8, "width": 8})
    processor.save_pretrained(tmp_path)
    image = image_module.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8))
    found = pipeline("image-classification", model=str(tmp_path), device="cpu")(image)
    with torch.no_grad():
        expected = model(**processor(image, return_tensors="pt")).logits.softmax(-1)[0]
    assert isinstance(AutoModelForImageClassification.from_pretrained(tmp_path), ViTForImageClassification)
    assert {row["label"]: row["score"] for row in found} == pytest.approx(
        {f"LABEL_{i}": float(p) for i, p in enumerate(expected)}
    )
