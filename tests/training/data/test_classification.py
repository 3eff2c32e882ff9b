"""Rows with labels: texts, snippets of the standard library, digits and images."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kansformer.embedded import embedded_model_path
from kansformer.errors import ConfigError, DataError
from kansformer.training.corpus import SNIPPET_LINES, standard_library_snippets
from kansformer.training.data import DataRecipe, prepare_data
from kansformer.training.data.classification import _rgb

EMBEDDED = str(embedded_model_path())


@pytest.fixture
def prepare(tmp_path):
    """Write rows of text and label to a file, and prepare it."""

    def prepared(rows, model=EMBEDDED, **fields):
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in rows))
        return prepare_data("sequence-classification", DataRecipe(files=str(path), **fields), model)

    return prepared


ROWS = [(f"text {i} " * (i % 5 + 1), "yes" if i < 30 else "no") for i in range(60)]


def test_rows_sorted_by_label_are_shuffled_before_the_cut(prepare):
    data = prepare(ROWS)
    assert (len(data.train), len(data.evaluation), data.label_names) == (54, 6, ("no", "yes"))
    assert {data.evaluation[i]["labels"] for i in range(6)} == {0, 1}
    texts = dict(ROWS)
    for dataset in (data.train, data.evaluation):
        for i in range(len(dataset)):
            text = data.processor.decode(dataset[i]["input_ids"])
            assert texts[text] == data.label_names[dataset[i]["labels"]]
    batch = data.collator([data.train[i] for i in range(8)])
    assert batch["labels"].shape == (8,) and batch["input_ids"].shape == batch["attention_mask"].shape
    assert data.facts["train_rows"] == 54 and data.facts["labels"] == ["no", "yes"]
    again = prepare(ROWS)
    assert again.facts == data.facts and again.train[:] == data.train[:]


def test_the_only_row_of_a_label_is_trained_on(prepare):
    rows = [(f"text {i}", ("yes", "no")[i % 2] if i < 54 else f"label {i}") for i in range(60)]
    data = prepare(rows, eval_fraction=0.5)
    assert len(data.label_names) == 8 == len({row["labels"] for row in data.train})
    texts = [data.processor.decode(row["input_ids"]) for part in (data.train, data.evaluation) for row in part]
    assert sorted(texts) == sorted(text for text, _ in rows) and len(data.evaluation) > 20


def test_labels_are_numbered_as_in_a_classifier_that_has_their_names(prepare, tmp_path):
    from transformers import BertConfig, ViTConfig

    def save(config_class, *names, **fields):
        config_class(id2label=dict(enumerate(names)), **fields).save_pretrained(tmp_path / "model")
        return str(tmp_path / "model")

    for known in (("yes", "no"), ("yes", "maybe", "no")):
        data = prepare(ROWS, save(BertConfig, *known), tokenizer=EMBEDDED)
        assert data.label_names == known == tuple(data.facts["labels"])
        for row in data.train:
            assert known[row["labels"]] == dict(ROWS)[data.processor.decode(row["input_ids"])]
    for other in (("LABEL_0", "LABEL_1"), ("good", "fair", "bad")):  # a head without names, and one to be drawn anew
        assert prepare(ROWS, save(BertConfig, *other), tokenizer=EMBEDDED).label_names == ("no", "yes")
    with pytest.raises(
        ConfigError, match=r"model' tells good, bad apart, and the labels of .* are no, yes: as many, but"
    ):
        prepare(ROWS, save(BertConfig, "good", "bad"), tokenizer=EMBEDDED)
    encoder = save(BertConfig, "good", "bad", architectures=["BertModel"])
    assert prepare(ROWS, encoder, tokenizer=EMBEDDED).label_names == ("no", "yes")
    turned = save(ViTConfig, *"9876543210")
    data = prepare_data("image-classification", DataRecipe(corpus="digits"), turned)
    assert data.label_names == tuple("9876543210")


def test_integers_are_sorted_by_value_and_long_texts_cut(prepare):
    data = prepare([("word " * 50, i % 12) for i in range(60)], block=7, max_train_tokens=70, max_eval_tokens=15)
    assert data.label_names == tuple(map(str, range(12)))
    assert (len(data.train), len(data.evaluation)) == (10, 2) and len(data.train[0]["input_ids"]) == 7


def test_characters_and_bpe_are_made_from_training_texts(prepare):
    assert prepare(ROWS, None, tokenizer="characters").vocabulary == 2 + len(set("text 0123456789"))
    assert prepare(ROWS, None, tokenizer=260).vocabulary == 260


@pytest.mark.parametrize(
    ("rows", "fields", "message"),
    [
        ([("a", "x")] * 9, {}, r"All rows of .*rows.jsonl have the label 'x'; there is nothing to learn"),
        ([("a", 1.5)] * 9, {}, r"A label is a string or an integer, but in line 1 of '.*rows.jsonl' it is 1.5"),
        ([("a", None)] * 9, {}, r"There is no label in line 1 of '.*rows.jsonl', but None"),
        ([(3, "x")] * 9, {}, r"The column 'text' holds no text in line 1 of '.*rows.jsonl', but 3"),
        (
            [("a", "x")] * 9,
            {"label_column": "class"},
            r"no label column 'class'. Choose label_column from: text, label",
        ),
        ([("a", "x")] * 9, {"text_column": "body"}, r"no text column 'body'. Choose text_column from: text, label"),
        ([("a", "x")], {}, "has 1 row, too few"),
        ([("a", "x"), ("", "y")] * 9, {"tokenizer": 300}, "The text '' gives no token"),
        (
            [(f"{i}", f"label {i}") for i in range(9)],
            {},
            "no row to cut off for evaluation of which training has the label",
        ),
        (
            [("long " * 9, "x"), ("long " * 9, "y")] * 9,
            {"max_train_tokens": 2},
            "The first row alone has more than the 2",
        ),
    ],
)
def test_unusable_rows_are_refused(prepare, rows, fields, message):
    with pytest.raises(DataError, match=message):
        prepare(rows, **fields)


def test_names_of_a_dataset_keep_their_order(write_dataset, monkeypatch):
    from datasets import ClassLabel, Dataset

    rows = Dataset.from_dict({"text": [f"row {i}" for i in range(20)], "label": [i % 2 for i in range(20)]})
    named = rows.cast_column("label", ClassLabel(names=["positive", "negative"]))
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: named)
    data = prepare_data("sequence-classification", DataRecipe(dataset="reviews", eval_split="test"), EMBEDDED)
    assert data.label_names == ("positive", "negative") and len(data.evaluation) == 20
    hidden = rows.map(lambda _: {"label": -1}).cast_column("label", ClassLabel(names=["positive", "negative"]))
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **kw: hidden if kw["split"] == "test" else named)
    with pytest.raises(DataError, match="There is no label in row 0 of 'reviews' .split='test'., but -1"):
        prepare_data("sequence-classification", DataRecipe(dataset="reviews", eval_split="test"), EMBEDDED)


def test_strings_of_a_dataset_that_look_like_dates_stay_strings(write_dataset):
    days = ["2020-01-01", "2020-02-03"]
    folder = write_dataset(train=[{"text": f"{1990 + i}-01-01", "label": days[i % 2]} for i in range(20)])
    data = prepare_data("sequence-classification", DataRecipe(dataset=folder), EMBEDDED)
    assert data.label_names == ("2020-01-01", "2020-02-03")
    assert {data.processor.decode(row["input_ids"])[4:] for row in data.train} == {"-01-01"}


@pytest.fixture(scope="module")
def snippets():
    return standard_library_snippets()


def test_snippets_of_the_standard_library(snippets):
    train, held_out = snippets
    assert not {text for text, _ in train} & {text for text, _ in held_out}
    assert {"asyncio", "email", "xml"} <= {label for _, label in train} == {label for _, label in held_out}
    assert all(text.count("\n") == SNIPPET_LINES - 1 for text, _ in train)
    counts = [sum(label == other for _, other in train) for label in {label for _, label in train}]
    assert 10 < min(counts) <= max(counts) <= 500 and len(held_out) > 200


def test_snippets_are_a_task(monkeypatch, snippets):
    train, held_out = snippets
    monkeypatch.setattr(
        "kansformer.training.data.classification.standard_library_snippets", lambda: (train[::20], held_out[::20])
    )
    data = prepare_data("sequence-classification", DataRecipe(corpus="standard-library"), EMBEDDED)
    assert len(data.train) == len(train[::20]) and "asyncio" in data.label_names


def test_digits():
    data, other_seed = (prepare_data("image-classification", DataRecipe(corpus="digits"), None, seed=s) for s in (0, 1))
    assert (len(data.train), len(data.evaluation)) == (1438, 359) and data.label_names == tuple("0123456789")
    pixels = data.train[0]["pixel_values"]
    assert pixels.shape == (1, 8, 8) and pixels.dtype == torch.float32
    everything = torch.stack([data.train[i]["pixel_values"] for i in range(len(data.train))])
    assert everything.min() == -1 and everything.max() == 1
    assert torch.equal(pixels, other_seed.train[0]["pixel_values"])
    assert data.collator([data.train[0], data.train[1]])["labels"].shape == (2,)


def test_digits_need_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ConfigError, match="Install it: pip install scikit-learn"):
        prepare_data("image-classification", DataRecipe(corpus="digits"), None)


@pytest.fixture
def images(tmp_path):
    for label in ("cat", "dog"):
        for i in range(6):
            path = tmp_path / "images" / "train" / label / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L" if i % 2 else "RGB", (10, 12), 40 * i).save(path)
    return str(tmp_path / "images")


def test_images_of_a_dataset_go_through_the_models_processor(images, tmp_path):
    from transformers import ViTImageProcessor

    ViTImageProcessor(size={"height": 6, "width": 4}).save_pretrained(tmp_path / "model")
    data = prepare_data("image-classification", DataRecipe(dataset=images), str(tmp_path / "model"))
    assert (len(data.train), len(data.evaluation), data.label_names) == (11, 1, ("cat", "dog"))
    batch = data.collator([data.train[i] for i in range(11)])
    assert batch["pixel_values"].shape == (11, 3, 6, 4) and batch["labels"].dtype == torch.int64
    with pytest.raises(DataError, match=r"has no image column 'photo'. Choose image_column from: image, label"):
        prepare_data("image-classification", DataRecipe(dataset=images, image_column="photo"), str(tmp_path / "model"))
    with pytest.raises(DataError, match=r"The column 'label' of .* holds no images"):
        prepare_data("image-classification", DataRecipe(dataset=images, image_column="label"), str(tmp_path / "model"))
    for path in Path(images).rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"The image '.*\.png' cannot be read: cannot identify"):
        data.train[0]
    with pytest.raises(DataError, match=r"The image '.*\.png' cannot be read: cannot identify"):  # of the evaluation
        prepare_data("image-classification", DataRecipe(dataset=images), str(tmp_path / "model"))


def test_images_with_transparency_and_16_bits_are_seen():
    circle = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    circle.putpixel((1, 1), (0, 0, 0, 255))
    assert _rgb(circle, "a").getpixel((0, 0)) == (255, 255, 255) and _rgb(circle, "a").getpixel((1, 1)) == (0, 0, 0)
    deep = Image.fromarray(np.array([[0, 257 * 100], [257 * 200, 65535]], dtype=np.uint16))
    assert np.asarray(_rgb(deep, "a"))[..., 0].tolist() == [[0, 100], [200, 255]]
    with pytest.raises(DataError, match="'a' has floating-point pixels"):
        _rgb(Image.new("F", (2, 2)), "a")
    assert _rgb(Image.new("L", (2, 2), 7), "a").getpixel((0, 0)) == (7, 7, 7)


def test_images_need_a_processor(images, tmp_path):
    with pytest.raises(ConfigError, match="need the image processor of a pretrained model"):
        prepare_data("image-classification", DataRecipe(dataset=images), None)
    with pytest.raises(ConfigError, match="has no image processor"):
        prepare_data("image-classification", DataRecipe(dataset=images), str(tmp_path))
