"""Data of a sequence classification: texts and their labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset

from kansformer.errors import DataError
from kansformer.training.data.cache import content_digest
from kansformer.training.data.cut import cut_rows
from kansformer.training.data.documents import source_of
from kansformer.training.data.files import table_rows
from kansformer.training.data.labels import encode_labels, fixed_order
from kansformer.training.data.prepared import PreparedData
from kansformer.training.data.snippets import standard_library_snippets
from kansformer.training.data.spec import DataRecipe
from kansformer.training.data.tables import check_column, label_names, load_rows, text_of
from kansformer.training.data.tokenizer import choose_tokenizer, describe_tokenizer

Row = tuple[str, Any]


class SequenceDataset(Dataset):
    """Rows of a tokenizer's output (lists of various length), with "labels"."""

    def __init__(self, encoded: dict[str, list[list[int]]], labels: Sequence[int]) -> None:
        self.encoded = encoded
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**{name: values[index] for name, values in self.encoded.items()}, "labels": self.labels[index]}


def prepare_sequences(data: DataRecipe, model_source: str | None) -> PreparedData:
    """Read rows of text and label; `prepare_data` explains the arguments."""
    from transformers import DataCollatorWithPadding

    source = source_of(data)
    train, evaluation, names = _load(data)
    train_labels, eval_labels, names = encode_labels(
        [label for _, label in train], [label for _, label in evaluation], names, data.label_column, source
    )
    texts, held_out = [text for text, _ in train], [text for text, _ in evaluation]
    tokenizer = choose_tokenizer("sequence-classification", data, model_source, texts, held_out)
    training = _encode(tokenizer, texts, train_labels, data.block, data.max_train_tokens)
    evaluated = _encode(tokenizer, held_out, eval_labels, data.block, data.max_eval_tokens)
    return PreparedData(
        train=training,
        evaluation=evaluated,
        collator=DataCollatorWithPadding(tokenizer),
        processor=tokenizer,
        label_names=names,
        vocabulary=len(tokenizer),
        facts={
            "source": source,
            "labels": list(names),
            "longest": data.block,
            "train_rows": len(training),
            "eval_rows": len(evaluated),
            "train_sha256": content_digest([part for text, label in train for part in (text, str(label))]),
            "eval_sha256": content_digest([part for text, label in evaluation for part in (text, str(label))]),
            "tokenizer": describe_tokenizer(data, tokenizer),
        },
    )


def _encode(
    tokenizer: Any, texts: Sequence[str], labels: Sequence[int], longest: int, max_tokens: int | None
) -> SequenceDataset:
    # A tokenizer that knows no limit says so with a number near 1e30.
    limit = min(longest, tokenizer.model_max_length)
    encoded = dict(tokenizer(list(texts), truncation=True, max_length=limit))
    if [] in encoded["input_ids"]:
        text = texts[encoded["input_ids"].index([])]
        raise DataError(f"The text {text!r} gives no token, so nothing can be told from it. Leave its row out.")
    count = len(labels)
    if max_tokens is not None:
        left = max_tokens
        for row, tokens in enumerate(encoded["input_ids"]):
            left -= len(tokens)
            if left < 0:
                count = row
                break
    if not count:
        raise DataError(f"The first row alone has more than the {max_tokens} tokens that the recipe allows.")
    return SequenceDataset({name: values[:count] for name, values in encoded.items()}, labels[:count])


def _load(data: DataRecipe) -> tuple[Sequence[Row], Sequence[Row], Sequence[str] | None]:
    """Rows to train on and to evaluate on, in a fixed random order, and the label names that a dataset gives."""
    names: Sequence[str] | None = None
    evaluation: Sequence[Row] | None = None
    if data.corpus is not None:
        train, evaluation = standard_library_snippets()
    elif data.files is not None:
        train = _file_rows(data.files, data)
        if data.eval_files is not None:
            evaluation = _file_rows(data.eval_files, data)
    else:
        train, names = _dataset_rows(data, data.train_split)
        if data.eval_split is not None:
            evaluation, _ = _dataset_rows(data, data.eval_split)
    train = [train[i] for i in fixed_order(len(train))]
    if evaluation is None:
        return *cut_rows(train, data.eval_fraction, source_of(data)), names
    return train, [evaluation[i] for i in fixed_order(len(evaluation))], names


def _file_rows(paths: Sequence[str] | str, data: DataRecipe) -> list[Row]:
    rows, source = table_rows(paths), ", ".join(paths)
    if not rows:
        raise DataError(f"There is no row in {source}.")
    for row in rows:
        check_column(list(row), data.text_column, "text", source)
        check_column(list(row), data.label_column, "label", source)
    return [
        (text_of(row[data.text_column], i, data.text_column, source), row[data.label_column])
        for i, row in enumerate(rows)
    ]


def _dataset_rows(data: DataRecipe, split: str) -> tuple[list[Row], Sequence[str] | None]:
    rows, source = load_rows(data, split), repr(data.dataset)
    check_column(rows.column_names, data.text_column, "text", source)
    check_column(rows.column_names, data.label_column, "label", source)
    texts = [text_of(value, i, data.text_column, source) for i, value in enumerate(rows[data.text_column])]
    pairs = list(zip(texts, rows[data.label_column], strict=True))
    return pairs, label_names(rows, data.label_column)
