"""Data of classifications: texts or images, and their labels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch

from kansformer.errors import ConfigError, DataError
from kansformer.training.corpus import digits, standard_library_snippets
from kansformer.training.data.load import check_column, column_texts, load_split, load_tables, sentences
from kansformer.training.data.prepare import PreparedData, split_rows
from kansformer.training.data.spec import DataRecipe
from kansformer.training.data.texts import texts_of
from kansformer.training.data.tokenizer import choose_tokenizer, describe_tokenizer

if TYPE_CHECKING:
    from datasets import ClassLabel, Dataset
    from transformers import BaseImageProcessor, PreTrainedTokenizerBase

ORDER_SEED = 0
DIGITS_HELD_OUT = 0.2

TextRow = tuple[str, Any]
"""A text and its label."""


def prepare_sequences(data: DataRecipe, model_source: str | None) -> PreparedData:
    """Read rows of text and label; `prepare_data` explains the arguments."""
    from transformers import DataCollatorWithPadding

    train, evaluation, names = _text_rows(data)
    (texts, labels), (held_out, held_out_labels) = (zip(*rows, strict=True) for rows in (train, evaluation))
    numbers, held_out_numbers, feature = encode_labels(labels, held_out_labels, names, data)
    tokenizer = choose_tokenizer("sequence-classification", data, model_source, texts_of(texts), texts_of(held_out))
    training = _encode(texts, numbers, feature, tokenizer, data.block, data.max_train_tokens)
    evaluated = _encode(held_out, held_out_numbers, feature, tokenizer, data.block, data.max_eval_tokens)
    digests = [texts_of([str(part) for row in rows for part in row]).digest() for rows in (train, evaluation)]
    return PreparedData(
        train=training,
        evaluation=evaluated,
        collator=DataCollatorWithPadding(tokenizer),
        processor=tokenizer,
        label_names=tuple(feature.names),
        vocabulary=len(tokenizer),
        facts={
            "source": data.source,
            "labels": feature.names,
            "longest": data.block,
            "train_rows": len(training),
            "eval_rows": len(evaluated),
            "train_sha256": digests[0],
            "eval_sha256": digests[1],
            "tokenizer": describe_tokenizer(data, tokenizer),
        },
    )


def prepare_images(data: DataRecipe, model_source: str | None) -> PreparedData:
    """Read images and their labels; `prepare_data` explains the arguments."""
    from transformers import default_data_collator

    processor = None if data.corpus == "digits" else _image_processor(model_source)
    train, evaluation, names, facts = _digits() if processor is None else _image_rows(data, processor)
    return PreparedData(
        train=train,
        evaluation=evaluation,
        collator=default_data_collator,
        processor=processor,
        label_names=names,
        facts={**facts, "train_rows": len(train), "eval_rows": len(evaluation)},
    )


def encode_labels(
    train: Sequence[Any], evaluation: Sequence[Any], names: Sequence[str] | None, data: DataRecipe
) -> tuple[list[int], list[int], ClassLabel]:
    """Number the labels, which are strings or integers, and numbers of `names` where the dataset gives these.

    Returns:
        The numbers of both, and the feature with the names: those that occur in training, integers sorted by value.
    """
    from datasets import ClassLabel

    source, column = data.source, data.label_column

    def name_of(value: Any, row: str) -> str:
        if value is None or value == "" or (names is not None and value not in range(len(names))):
            raise DataError(f"{source} has no label in {row}: {column}={value!r}.")
        if not isinstance(value, str | int):
            raise DataError(f"A label is a string or an integer, but {row} of {source} has {column}={value!r}.")
        return str(value) if names is None else names[int(value)]

    labels = [name_of(value, f"row {row}") for row, value in enumerate(train)]
    held_out = [name_of(value, f"evaluation row {row}") for row, value in enumerate(evaluation)]
    if len(set(labels)) < 2:
        raise DataError(f"All rows of {source} have the label {labels[0]!r}; there is nothing to learn.")
    feature = ClassLabel(names=_sorted(set(labels)) if names is None else list(names))
    for label in held_out:
        if label not in feature.names:
            raise DataError(
                f"The evaluation rows of {source} have the label {label!r}, which training does not have. "
                f"It has: {', '.join(feature.names)}."
            )
    return feature.str2int(labels), feature.str2int(held_out), feature


def fixed_order(count: int) -> list[int]:
    """The same random order of `count` rows at every time: files often are sorted by label."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(ORDER_SEED)).tolist()


def _sorted(names: set[str]) -> list[str]:
    try:
        return sorted(names, key=lambda name: (int(name), name))
    except ValueError:
        return sorted(names)


def _encode(
    texts: Sequence[str],
    labels: list[int],
    feature: ClassLabel,
    tokenizer: PreTrainedTokenizerBase,
    longest: int,
    max_tokens: int | None,
) -> Dataset:
    from datasets import Dataset, Features, Value

    # A tokenizer that knows no limit says so with a number near 1e30.
    limit = min(longest, tokenizer.model_max_length)
    rows = Dataset.from_dict(
        {"text": list(texts), "labels": labels}, Features({"text": Value("large_string"), "labels": feature})
    )
    with sentences("The texts"):
        rows = rows.map(
            lambda batch: dict(tokenizer(batch["text"], truncation=True, max_length=limit)),
            batched=True,
            remove_columns="text",
        )
    lengths = [len(tokens) for tokens in rows["input_ids"]]
    if 0 in lengths:
        text = texts[lengths.index(0)]
        raise DataError(f"The text {text!r} gives no token, so nothing can be told from it. Leave its row out.")
    count = len(lengths) if max_tokens is None else sum(total <= max_tokens for total in accumulate(lengths))
    if not count:
        raise DataError(f"The first row alone has more than the {max_tokens} tokens that the recipe allows.")
    return rows.select(range(count))


def _text_rows(data: DataRecipe) -> tuple[Sequence[TextRow], Sequence[TextRow], Sequence[str] | None]:
    """Rows to train on and to evaluate on, in a fixed random order, and the label names that a dataset gives."""
    names: Sequence[str] | None = None
    evaluation: list[TextRow] | None = None
    if data.corpus is not None:
        train, evaluation = standard_library_snippets()
    elif data.files is not None:
        train = _table_rows(data.files, data)
        if data.eval_files is not None:
            evaluation = _table_rows(data.eval_files, data)
    else:
        rows = load_split(data, data.train_split)
        train, names = _columns(rows, data, repr(data.dataset)), _label_names(rows, data)
        if data.eval_split is not None:
            evaluation = _columns(load_split(data, data.eval_split), data, repr(data.dataset))
    train = [train[i] for i in fixed_order(len(train))]
    if evaluation is None:
        return *split_rows(train, data.eval_fraction, data.source), names
    return train, [evaluation[i] for i in fixed_order(len(evaluation))], names


def _table_rows(names: Sequence[str], data: DataRecipe) -> list[TextRow]:
    return [row for path, table in load_tables(names) for row in _columns(table, data, repr(str(path)))]


def _columns(rows: Dataset, data: DataRecipe, source: str) -> list[TextRow]:
    texts = list(column_texts(rows, data.text_column, source))
    check_column(rows.column_names, data.label_column, "label", source)
    return list(zip(texts, rows[data.label_column], strict=True))


def _label_names(rows: Dataset, data: DataRecipe) -> Sequence[str] | None:
    from datasets import ClassLabel

    feature = rows.features[data.label_column]
    return feature.names if isinstance(feature, ClassLabel) else None


def _digits() -> tuple[Dataset, Dataset, tuple[str, ...], dict[str, Any]]:
    from datasets import Array3D, ClassLabel, Dataset, Features

    pixels, labels, names = digits()
    shape = tuple(pixels.shape[1:])
    features = Features({"pixel_values": Array3D(shape, "float32"), "labels": ClassLabel(names=list(names))})
    rows = Dataset.from_dict({"pixel_values": pixels.numpy(), "labels": labels}, features).with_format("torch")
    train, held_out = split_rows(fixed_order(len(rows)), DIGITS_HELD_OUT, "digits")
    digest = hashlib.sha256(pixels.numpy().tobytes() + torch.tensor(labels).numpy().tobytes()).hexdigest()
    facts = {"source": "digits (scikit-learn)", "image": list(shape), "sha256": digest}
    return rows.select(train), rows.select(held_out), names, facts


def _image_rows(
    data: DataRecipe, processor: BaseImageProcessor
) -> tuple[Dataset, Dataset, tuple[str, ...], dict[str, Any]]:
    from datasets import Image

    def load(split: str) -> Dataset:
        rows, source = load_split(data, split), repr(data.dataset)
        check_column(rows.column_names, data.image_column, "image", source)
        check_column(rows.column_names, data.label_column, "label", source)
        if not isinstance(rows.features[data.image_column], Image):
            raise DataError(f"The column {data.image_column!r} of {source} holds no images.")
        return rows

    def pixels(batch: dict[str, list[Any]]) -> dict[str, Any]:
        images = [_decoded(value).convert("RGB") for value in batch[data.image_column]]
        return {"pixel_values": processor(images, return_tensors="pt")["pixel_values"], "labels": batch["labels"]}

    def dataset(rows: Dataset, numbers: list[int], chosen: Sequence[int]) -> Dataset:
        number_of = dict(zip(chosen, numbers, strict=True))
        images = rows.select_columns(data.image_column).cast_column(data.image_column, Image(decode=False))
        # Before rows are selected, or all images would be written again.
        images = images.add_column("labels", [number_of.get(i, -1) for i in range(len(rows))])
        return images.select(chosen).with_transform(pixels)

    rows = load(data.train_split)
    eval_rows = rows if data.eval_split is None else load(data.eval_split)
    order: Sequence[int] = fixed_order(len(rows))
    held_out: Sequence[int] = range(len(eval_rows))
    if data.eval_split is None:
        order, held_out = split_rows(order, data.eval_fraction, data.source)
    labels, eval_labels = (part.select_columns(data.label_column)[:][data.label_column] for part in (rows, eval_rows))
    numbers, eval_numbers, feature = encode_labels(
        [labels[i] for i in order], [eval_labels[i] for i in held_out], _label_names(rows, data), data
    )
    # The fingerprint is that of the tables with the images, as the datasets library names their state.
    facts = {"source": data.source, "labels": feature.names, "fingerprint": rows._fingerprint}
    return dataset(rows, numbers, order), dataset(eval_rows, eval_numbers, held_out), tuple(feature.names), facts


def _decoded(value: dict[str, Any]) -> Any:
    from datasets import Image

    try:
        return Image().decode_example(value)
    except (OSError, ValueError) as error:
        raise DataError(f"The image {value['path']!r} cannot be read: {error}") from error


def _image_processor(model_source: str | None) -> BaseImageProcessor:
    from transformers import AutoImageProcessor

    if model_source is None:
        raise ConfigError(
            "Images of a dataset need the image processor of a pretrained model. Training from scratch, choose "
            "corpus='digits', or a folder with a config and an image processor as the model."
        )
    try:
        return AutoImageProcessor.from_pretrained(model_source)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise ConfigError(f"{model_source!r} has no image processor: {error}") from error
