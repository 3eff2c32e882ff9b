"""Data of classifications: texts or images, and their labels."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, TypeVar

import torch
from datasets import Array3D, ClassLabel, Dataset, Features, Image, Value
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    BaseImageProcessor,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    default_data_collator,
)

from kansformer.conversion.sources import is_gguf, source_arguments
from kansformer.errors import ConfigError, DataError
from kansformer.training.corpus import digits, standard_library_snippets
from kansformer.training.data.load import check_column, column_texts, load_split, sentences, table_rows, text_in
from kansformer.training.data.prepare import PreparedData, split_rows
from kansformer.training.data.spec import DataRecipe
from kansformer.training.data.texts import texts_of
from kansformer.training.data.tokenizer import choose_tokenizer, describe_tokenizer

Source = TypeVar("Source")
ORDER_SEED = 0
DIGITS_HELD_OUT = 0.2


@dataclass(frozen=True)
class Examples:
    """Rows with labels.

    Args:
        rows: the inputs, in one column.
        labels: name of each row's label.
        names: all labels in the order of their numbers; None numbers those that occur.
    """

    rows: Dataset
    labels: list[str]
    names: Sequence[str] | None = None


def prepare_sequences(data: DataRecipe, model_source: str | None) -> PreparedData:
    """Read texts and their labels; `prepare_data` explains the arguments."""
    train, evaluation, names = number_and_split(*_read_texts(data), data.eval_fraction, data.source, model_source)
    tokenizer = choose_tokenizer(
        "sequence-classification", data, model_source, texts_of(train["text"]), texts_of(evaluation["text"])
    )
    facts: dict[str, Any] = {"source": data.source, "labels": list(names), "longest": data.block}
    for which, rows in (("train", train), ("eval", evaluation)):
        parts = texts_of([part for row in rows for part in (row["text"], names[row["labels"]])])
        facts[f"{which}_sha256"] = parts.digest()
    train = _tokenize(train, tokenizer, data.block, data.max_train_tokens)
    evaluation = _tokenize(evaluation, tokenizer, data.block, data.max_eval_tokens)
    facts |= {"train_rows": len(train), "eval_rows": len(evaluation), "tokenizer": describe_tokenizer(data, tokenizer)}
    return PreparedData(
        train=train,
        evaluation=evaluation,
        collator=DataCollatorWithPadding(tokenizer),
        processor=tokenizer,
        label_names=names,
        vocabulary=len(tokenizer),
        facts=facts,
    )


def prepare_images(data: DataRecipe, model_source: str | None) -> PreparedData:
    """Read images and their labels; `prepare_data` explains the arguments."""
    processor: BaseImageProcessor | None = None
    if data.corpus == "digits":
        examples, facts = _digits()
        train, evaluation, names = number_and_split(examples, None, DIGITS_HELD_OUT, "digits", model_source)
    else:
        processor = _image_processor(model_source)
        examples, held_out = _both(_read_images, data.train_split, data.eval_split, data)
        train, evaluation, names = number_and_split(examples, held_out, data.eval_fraction, data.source, model_source)
        for row in evaluation:
            _decode(row[data.image_column])  # a broken one would end a run only after all its training
        pixels = partial(_pixels, processor=processor, column=data.image_column)
        train, evaluation = (rows.with_transform(pixels) for rows in (train, evaluation))
        # The fingerprint is that of the table with the images, as the datasets library names its state.
        facts = {"source": data.source, "labels": list(names), "fingerprint": examples.rows._fingerprint}
    return PreparedData(
        train=train,
        evaluation=evaluation,
        collator=default_data_collator,
        processor=processor,
        label_names=names,
        facts={**facts, "train_rows": len(train), "eval_rows": len(evaluation)},
    )


def number_and_split(
    train: Examples, evaluation: Examples | None, fraction: float, source: str, model_source: str | None = None
) -> tuple[Dataset, Dataset, tuple[str, ...]]:
    """Number the labels and put the rows into an order that is random, and the same every time: files often are sorted.

    Args:
        train: rows to train on.
        evaluation: rows to evaluate on; None splits `fraction` of `train` off, but for the first row of a label that
            would occur there only.
        fraction: above 0 and below 1.
        source: for messages.
        model_source: a classifier that has numbered the same names is followed; None, or any other model, is not.

    Returns:
        Both with a column "labels", and the names in the order of their numbers: those of the classifier, or those that
        occur in training, integers sorted by value.
    """
    order: Sequence[int] = fixed_order(len(train.rows))
    if evaluation is None:
        evaluation = train
        order, held_out = split_rows(order, fraction, source)
        missing = {train.labels[i]: i for i in reversed(held_out)}  # the first row of every label
        for label in {train.labels[i] for i in order}:
            missing.pop(label, None)
        order = [*order, *missing.values()]
        held_out = [i for i in held_out if missing.get(train.labels[i]) != i]
        if not held_out:
            raise DataError(f"{source} has no row to cut off for evaluation of which training has the label, too.")
    else:
        held_out = fixed_order(len(evaluation.rows))
    occurring = {train.labels[i] for i in order}
    if len(occurring) < 2:
        raise DataError(f"All rows of {source} have the label {occurring.pop()!r}; there is nothing to learn.")
    names = _order_of_model(tuple(train.names or _sorted(occurring)), source, model_source)
    number_of = {name: number for number, name in enumerate(names)}
    for label in (evaluation.labels[i] for i in held_out):
        if label not in number_of:
            raise DataError(
                f"The evaluation rows of {source} have the label {label!r}, which training does not have. "
                f"It has: {', '.join(names)}."
            )

    def select(examples: Examples, chosen: Sequence[int]) -> Dataset:
        # Numbers before the selection, or all images would be written again.
        return examples.rows.add_column("labels", [number_of.get(name, -1) for name in examples.labels]).select(chosen)

    return select(train, order), select(evaluation, held_out), names


def _order_of_model(names: tuple[str, ...], source: str, model_source: str | None) -> tuple[str, ...]:
    """All names of a classifier in the order of its own numbers, if it has the given ones; else these as they are.

    Raises:
        ConfigError: it has as many other names, so that its head would be kept with other meanings.
    """
    of_model = _names_of_model(model_source)
    if of_model is None or set(names) <= set(of_model):
        return of_model or names
    if len(names) == len(of_model):
        raise ConfigError(
            f"model.path {model_source!r} tells {_some(of_model)} apart, and the labels of {source} are "
            f"{_some(names)}: as many, but others, so its head would get other meanings. Rename the labels of the data "
            "to those of the model, take a model without a classifier, or, to train this head for other labels, remove "
            "id2label and label2id from the model's config.json."
        )
    return names


def _names_of_model(model_source: str | None) -> tuple[str, ...] | None:
    """The names of a pretrained classifier's labels by their numbers; None if it has no head or no names."""
    if model_source is None or is_gguf(model_source):
        return None
    try:
        config = AutoConfig.from_pretrained(**source_arguments(model_source))
    except Exception:  # reading the model says what is wrong
        return None
    of_number = config.id2label or {}
    architectures = config.architectures or ["Classification"]
    if not any(name.endswith("Classification") for name in architectures) or set(of_number) != {*range(len(of_number))}:
        return None
    names = tuple(str(of_number[number]) for number in range(len(of_number)))
    return None if names == tuple(f"LABEL_{number}" for number in range(len(names))) else names


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def fixed_order(count: int) -> list[int]:
    """The same random order of `count` rows at every time."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(ORDER_SEED), device="cpu").tolist()


def _sorted(names: set[str]) -> list[str]:
    try:
        return sorted(names, key=lambda name: (int(name), name))
    except ValueError:
        return sorted(names)


def _tokenize(rows: Dataset, tokenizer: PreTrainedTokenizerBase, longest: int, max_tokens: int | None) -> Dataset:
    limit = min(longest, tokenizer.model_max_length)  # of a tokenizer that knows none, near 1e30
    with sentences("The texts"):
        tokenized = rows.map(
            lambda batch: dict(tokenizer(batch["text"], truncation=True, max_length=limit)),
            batched=True,
            remove_columns="text",
        )
    lengths = list(map(len, tokenized["input_ids"]))
    if 0 in lengths:
        text = rows[lengths.index(0)]["text"]
        raise DataError(f"The text {text!r} gives no token, so nothing can be told from it. Leave its row out.")
    count = len(lengths) if max_tokens is None else sum(total <= max_tokens for total in accumulate(lengths))
    if not count:
        raise DataError(f"The first row alone has more than the {max_tokens} tokens that the recipe allows.")
    return tokenized.select(range(count))


def _read_texts(data: DataRecipe) -> tuple[Examples, Examples | None]:
    if data.corpus is not None:
        train, evaluation = standard_library_snippets()
        return _examples(train), _examples(evaluation)
    if data.files is not None:
        return _both(_read_table, data.files, data.eval_files, data)
    return _both(_read_text_split, data.train_split, data.eval_split, data)


def _both(
    read: Callable[[Source, DataRecipe], Examples], train: Source, evaluation: Source | None, data: DataRecipe
) -> tuple[Examples, Examples | None]:
    return read(train, data), None if evaluation is None else read(evaluation, data)


def _read_table(names: Sequence[str], data: DataRecipe) -> Examples:
    rows = []
    for place, row in table_rows(names):
        text = text_in(row, data.text_column, place)
        check_column(row, data.label_column, "label", place)
        rows.append((text, _label(row[data.label_column], None, place)))
    return _examples(rows)


def _read_text_split(split: str, data: DataRecipe) -> Examples:
    rows, labels, names = _read_labels(split, data)
    return _examples(zip(column_texts(rows, data.text_column, repr(data.dataset)), labels, strict=True), names)


def _read_images(split: str, data: DataRecipe) -> Examples:
    rows, labels, names = _read_labels(split, data)
    check_column(rows.column_names, data.image_column, "image", repr(data.dataset))
    if not isinstance(rows.features[data.image_column], Image):
        raise DataError(f"The column {data.image_column!r} of {data.dataset!r} holds no images.")
    images = rows.select_columns(data.image_column).cast_column(data.image_column, Image(decode=False))
    return Examples(images, labels, names)


def _read_labels(split: str, data: DataRecipe) -> tuple[Dataset, list[str], Sequence[str] | None]:
    """The rows of a split, their labels, and all names of labels in order where the dataset knows them."""
    rows, source = load_split(data, split), f"{data.dataset!r} (split={split!r})"
    check_column(rows.column_names, data.label_column, "label", repr(data.dataset))
    feature = rows.features[data.label_column]
    names = feature.names if isinstance(feature, ClassLabel) else None
    values = enumerate(rows[data.label_column])
    return rows, [_label(value, names, f"row {number} of {source}") for number, value in values], names


def _label(value: object, names: Sequence[str] | None, place: str) -> str:
    """The name of a label that is a string or an integer, and a number of `names` where a dataset has them."""
    if value is None or value == "" or (names is not None and value not in range(len(names))):
        raise DataError(f"There is no label in {place}, but {value!r}.")
    if not isinstance(value, str | int):
        raise DataError(f"A label is a string or an integer, but in {place} it is {value!r:.40}.")
    return str(value) if names is None else names[int(value)]


def _examples(rows: Iterable[tuple[str, str]], names: Sequence[str] | None = None) -> Examples:
    texts, labels = zip(*rows, strict=True)
    with sentences("The texts"):
        table = Dataset.from_dict({"text": texts}, Features({"text": Value("large_string")}))
    return Examples(table, list(labels), names)


def _digits() -> tuple[Examples, dict[str, Any]]:
    pixels, labels, names = digits()
    shape = tuple(pixels.shape[1:])
    features = Features({"pixel_values": Array3D(shape, "float32")})
    rows = Dataset.from_dict({"pixel_values": pixels.numpy()}, features).with_format("torch")
    digest = hashlib.sha256(pixels.numpy().tobytes() + torch.tensor(labels).numpy().tobytes()).hexdigest()
    facts = {"source": "digits (scikit-learn)", "image": list(shape), "sha256": digest}
    return Examples(rows, [names[label] for label in labels], names), facts


def _pixels(batch: dict[str, list[Any]], processor: BaseImageProcessor, column: str) -> dict[str, Any]:
    images = [_rgb(_decode(value), value["path"]) for value in batch[column]]
    return {"pixel_values": processor(images, return_tensors="pt")["pixel_values"], "labels": batch["labels"]}


def _rgb(image: Any, name: str | None) -> Any:
    """Three channels of 8 bits: transparency on white, and 16 bits scaled, which `convert` would cut off."""
    import numpy as np
    from PIL import Image as Pictures

    if image.mode == "F":
        raise DataError(f"The image {name!r} has floating-point pixels, whose range is not known. Save it with 8 bits.")
    if image.mode.startswith("I"):
        image = Pictures.fromarray((np.asarray(image).astype(np.int64) // 257).clip(0, 255).astype(np.uint8))
    elif image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Pictures.alpha_composite(Pictures.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _decode(value: dict[str, Any]) -> Any:
    try:
        return Image().decode_example(value)
    except (OSError, ValueError) as error:
        raise DataError(f"The image {value['path']!r} cannot be read: {error}") from error


def _image_processor(model_source: str | None) -> BaseImageProcessor:
    if model_source is None:
        raise ConfigError(
            "Images of a dataset need the image processor of a pretrained model. Training from scratch, choose "
            "corpus='digits', or a folder with a config and an image processor as the model."
        )
    try:
        return AutoImageProcessor.from_pretrained(model_source)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise ConfigError(f"{model_source!r} has no image processor: {error}") from error
