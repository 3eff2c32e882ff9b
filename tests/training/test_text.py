"""Texts from files, datasets and the language reference."""

import json
import sys

import pytest

from kansformer.errors import DataError
from kansformer.training.corpus import language_reference_text
from kansformer.training.data.load import dataset_text
from kansformer.training.data.texts import file_text


def test_a_file_is_read_as_it_is(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("Ein\n\nDöner\n", encoding="utf-8")
    assert file_text(path) == "Ein\n\nDöner\n"


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "dataset"
    folder.mkdir()
    rows = [{"text": f"row {i} " * 10, "blank": "", "number": i} for i in range(20)]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(folder)


def test_a_column_of_a_dataset_becomes_one_text(dataset):
    text = dataset_text(dataset)
    assert text.split("\n\n") == [f"row {i} " * 10 for i in range(20)]
    assert dataset_text(dataset, max_tokens=4) == "\n\n".join([f"row {i} " * 10 for i in range(2)])


def test_unusable_datasets_are_refused(dataset):
    with pytest.raises(DataError, match=r"The column 'number' of .* holds no text: row 0 is '0'"):
        dataset_text(dataset, column="number")
    with pytest.raises(DataError, match=r"has no text column 'body'. Choose text_column from: text, blank, number"):
        dataset_text(dataset, column="body")
    with pytest.raises(DataError, match="The column 'blank' of .* is empty"):
        dataset_text(dataset, column="blank")
    with pytest.raises(DataError, match=r"split='train'\) cannot be loaded"):
        dataset_text(dataset, split="train")
    with pytest.raises(DataError, match="cannot be loaded"):
        dataset_text(dataset + "-nowhere")


def test_the_language_reference_keeps_held_out_paragraphs_out_of_training():
    train, held_out = (language_reference_text(split) for split in ("train", "held_out"))
    assert len(train) > 3 * len(held_out) > 30_000
    paragraphs = [{" ".join(p.split()) for p in text.split("\n\n")} for text in (train, held_out)]
    assert len(paragraphs[1]) > 300 and not paragraphs[0] & paragraphs[1]
    assert language_reference_text("train") == train


def test_the_language_reference_refuses_unknown_splits_and_incomplete_pythons(monkeypatch):
    with pytest.raises(DataError, match="split='test' is not a split"):
        language_reference_text("test")
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(DataError, match="without its help topics"):
        language_reference_text("train")
