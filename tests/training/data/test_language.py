"""Blocks for causal and masked language models."""

import pytest
import torch
from tokenizers import processors
from transformers import AutoTokenizer

from kansformer.embedded import embedded_model_path
from kansformer.errors import DataError
from kansformer.training.corpus import standard_library_text
from kansformer.training.data import DataRecipe, prepare_data
from kansformer.training.data.packing import Packing, choose_packing, pack, tokenize_blocks
from kansformer.training.data.texts import texts_of
from kansformer.training.data.tokenizer import character_tokenizer, train_tokenizer

EMBEDDED = str(embedded_model_path())


def stacked(dataset):
    return dataset[:]["input_ids"]


def packed(documents, tokenizer, packing):
    return torch.tensor(list(map(list, pack(texts_of(documents), tokenizer, packing))))


@pytest.fixture
def wrapping_tokenizer(tmp_path):
    """Characters, and [CLS] … [SEP] around a text, as BERT has it."""
    tokenizer = character_tokenizer(["abcdef"], special=("pad_token", "mask_token"))
    tokenizer.add_special_tokens({"cls_token": "[CLS]", "sep_token": "[SEP]"})
    wrapped = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 8), ("[SEP]", 9)])
    tokenizer.backend_tokenizer.post_processor = wrapped
    tokenizer.save_pretrained(tmp_path / "wrapping")
    return str(tmp_path / "wrapping")


def test_characters_of_a_file_are_cut_as_one_text(text):
    data = prepare_data("causal-lm", DataRecipe(files=str(text), tokenizer="characters", block=8), None)
    whole = text.read_text(encoding="utf-8")
    cut = int(len(whole) * 0.9)
    for dataset, part in ((data.train, whole[:cut]), (data.evaluation, whole[cut:])):
        assert data.processor.decode(stacked(dataset).flatten()) == part[: len(part) // 8 * 8]
    assert data.train[3]["input_ids"].dtype == torch.int64
    batch = data.collator([data.train[0], data.train[1]])
    assert batch["input_ids"].shape == (2, 8) and torch.equal(batch["input_ids"], batch["labels"])
    assert data.vocabulary == len(data.processor) == len(set(whole)) and data.label_names is None
    assert data.facts["source"] == str(text) and data.facts["train_tokens"] == len(data.train) * 8
    assert data.facts["tokenizer"] == f"one token per character, {data.vocabulary} tokens"


def test_blocks_are_those_of_tokenize_blocks():
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    documents = ["def f():\n    return 1\n" * 3, "import os\n" * 5]
    packing = choose_packing("causal-lm", tokenizer, 4)
    assert torch.equal(packed(documents, tokenizer, packing), tokenize_blocks(documents, tokenizer, 4))
    tokenizer = character_tokenizer(documents)
    packing = choose_packing("causal-lm", tokenizer, 4)
    assert torch.equal(packed(documents, tokenizer, packing), tokenize_blocks("\n\n".join(documents), tokenizer, 4))


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_batches_give_the_same_blocks(monkeypatch, batch):
    documents = [f"Document {i}\n" * (i % 4 + 1) for i in range(9)]
    without_start = train_tokenizer(documents, 270)
    without_start.bos_token = None
    for tokenizer in (character_tokenizer(documents), train_tokenizer(documents, 270), without_start):
        packing = choose_packing("causal-lm", tokenizer, 5)
        expected = packed(documents, tokenizer, packing)
        with monkeypatch.context() as context:
            context.setattr("kansformer.training.data.packing.BATCH_CHARACTERS", batch)
            assert torch.equal(packed(documents, tokenizer, packing), expected)


def test_limits_cut_blocks(text):
    recipe = DataRecipe(files=str(text), tokenizer="characters", block=8, max_train_tokens=100, max_eval_tokens=17)
    data = prepare_data("causal-lm", recipe, None)
    assert (len(data.train), len(data.evaluation)) == (12, 2)


def test_eval_files_are_not_trained_on(text, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("Quite another text. " * 20)
    recipe = DataRecipe(files=str(text), eval_files=str(other), tokenizer="characters", block=8)
    data = prepare_data("causal-lm", recipe, None)
    assert data.processor.decode(data.evaluation[0]["input_ids"]) == "Quite an"
    assert len(data.train) == len(text.read_text(encoding="utf-8")) // 8
    recipe = DataRecipe(files=str(tmp_path), eval_files=str(tmp_path / "o*.txt"), tokenizer="characters", block=8)
    with pytest.raises(DataError, match=r"other.txt' is in data.files and in data.eval_files. Evaluate on a text that"):
        prepare_data("causal-lm", recipe, None)


def test_the_corpora_keep_their_held_out_split(monkeypatch):
    held_out = standard_library_text("held_out")
    recipe = DataRecipe(corpus="standard-library", block=64, max_train_tokens=640, max_eval_tokens=128)
    data = prepare_data("causal-lm", recipe, EMBEDDED)
    assert (len(data.train), len(data.evaluation)) == (10, 2)
    assert data.processor.decode(data.evaluation[0]["input_ids"], skip_special_tokens=True) in held_out
    recipe = DataRecipe(corpus="language-reference", block=64, max_train_tokens=640, max_eval_tokens=128)
    data = prepare_data("causal-lm", recipe, EMBEDDED)
    assert (len(data.train), len(data.evaluation), data.facts["source"]) == (10, 2, "language-reference")


def test_a_dataset_is_read_by_its_columns(write_dataset):
    rows = [{"body": f"Row {i} of the dataset.", "number": i} for i in range(20)] + [{"body": " ", "number": 0}]
    folder = write_dataset(train=rows, test=rows[:5])
    data = prepare_data("causal-lm", DataRecipe(dataset=folder, text_column="body", block=4), EMBEDDED)
    start = data.processor.bos_token
    assert data.processor.decode(stacked(data.evaluation).flatten()).startswith(f"{start}Row 18 of the dataset.{start}")
    data = prepare_data(
        "causal-lm", DataRecipe(dataset=folder, text_column="body", eval_split="test", block=4), EMBEDDED
    )
    assert data.processor.decode(stacked(data.evaluation).flatten()).startswith(f"{start}Row 0 of the dataset.")
    assert len(data.train) > len(data.evaluation)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv"])
def test_tables_among_the_files_are_read_by_their_text_column(tmp_path, name):
    table = tmp_path / "tables" / name
    table.parent.mkdir()
    bodies = [*(f"Row {i} of the table." for i in range(20)), " "]
    lines = [f'{{"body": "{body}", "other": 7}}' for body in bodies]
    table.write_text("\n".join(["body,other", *(f"{body},7" for body in bodies)] if name.endswith("csv") else lines))
    (tmp_path / "plain.txt").write_text("A plain text.")

    def prepare(*files, **fields):
        files = tuple(str(file) for file in files)
        recipe = DataRecipe(files=files, eval_files=str(tmp_path / "plain.txt"), block=4, **fields)
        data = prepare_data("causal-lm", recipe, EMBEDDED)
        return data.processor.decode(stacked(data.train).flatten()).split(data.processor.bos_token)

    for files in ([table], [tmp_path / "tables" / "*"]):
        documents = prepare(*files, text_column="body")
        assert documents[1:20] == bodies[:19] and len(documents) == 21
    with pytest.raises(DataError, match=r"has no text column 'text'. Choose text_column from: body, other"):
        prepare(table)
    assert table.read_text(encoding="utf-8")[:40] in prepare(table.parent)[1]  # as it is, in a folder
    blank = ['{"body": ""}'] if "json" in name else ["body,other", ",7"]
    table.write_text("\n".join(blank))
    with pytest.raises(DataError, match=r"The column 'body' of '.*rows.*' is empty"):
        prepare(table, text_column="body")


def test_unusable_datasets_are_refused(write_dataset):
    folder = write_dataset(train=[{"body": "", "number": i} for i in range(3)])
    for fields, message in (
        ({}, r"has no text column 'text'. Choose text_column from: body, number\."),
        ({"text_column": "number"}, r"The column 'number' holds no text in row 0 of .*, but 0"),
        ({"text_column": "body"}, r"The column 'body' of .* \(split='train'\) is empty"),
        ({"train_split": "trian"}, r"split='trian'\) cannot be loaded: Unknown split"),
        ({"dataset": f"{folder}-nowhere"}, r"-nowhere' \(config=None, split='train'\) cannot be loaded"),
    ):
        with pytest.raises(DataError, match=message):
            prepare_data("causal-lm", DataRecipe(**{"dataset": folder, **fields}), EMBEDDED)


def test_a_text_too_short_for_one_block_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("abcdefghij" * 10)
    recipe = DataRecipe(files=str(tmp_path / "a.txt"), tokenizer="characters", block=16)
    with pytest.raises(DataError, match=r"The evaluation data cannot be used: .* 10 tokens, too few for one block=16"):
        prepare_data("causal-lm", recipe, None)
    with pytest.raises(DataError, match="block=2 leaves no room for text"):
        Packing(2, prefix=(1,), suffix=(2,))


def test_blocks_of_a_masked_model_are_wrapped(wrapping_tokenizer):
    tokenizer = AutoTokenizer.from_pretrained(wrapping_tokenizer)
    packing = choose_packing("masked-lm", tokenizer, 6)
    assert packed(["abc", "def"], tokenizer, packing).tolist() == [[8, 2, 3, 4, 9, 9], [8, 5, 6, 7, 9, 9]]


def test_masks_change_in_training_and_stay_in_evaluation(wrapping_tokenizer, tmp_path):
    (tmp_path / "a.txt").write_text("abcdef" * 500)
    recipe = DataRecipe(files=str(tmp_path / "a.txt"), tokenizer=wrapping_tokenizer, block=50)
    data, again = (prepare_data("masked-lm", recipe, None) for _ in range(2))
    rows = [data.train[i] for i in range(20)]
    torch.manual_seed(0)
    first, same = data.collator(rows), data.collator(rows)
    data.collator.epoch = 1
    assert torch.equal(first["labels"], same["labels"])
    assert not torch.equal(first["labels"], data.collator(rows)["labels"])
    chosen = first["labels"] != -100
    assert 0.1 < chosen.float().mean() < 0.2 and not chosen[:, 0].any() and not chosen[:, -1].any()
    assert (first["input_ids"][chosen] == 1).float().mean() > 0.6  # most become the mask token
    fixed = [d.collator([d.evaluation[i] for i in range(5)]) for d in (data, again)]
    assert torch.equal(fixed[0]["input_ids"], fixed[1]["input_ids"])
    assert torch.equal(fixed[0]["labels"], fixed[1]["labels"]) and (fixed[0]["labels"] != -100).any()
    assert fixed[0]["labels"].dtype == torch.int64


def test_characters_can_be_masked(text):
    data = prepare_data("masked-lm", DataRecipe(files=str(text), tokenizer="characters", block=16), None)
    assert data.processor.mask_token_id in data.collator([data.train[i] for i in range(20)])["input_ids"]


def test_every_short_row_has_a_masked_token(text):
    data = prepare_data("masked-lm", DataRecipe(files=str(text), tokenizer="characters", block=4), None)
    for rows in (data.collator([data.train[i] for i in range(64)]), data.evaluation[:]):
        masked = rows["labels"] >= 0
        assert masked.any(dim=1).all() and masked.float().mean() < 0.5
        assert (rows["input_ids"][masked] == data.processor.mask_token_id).float().mean() > 0.6
