"""Data of an image classification."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from kansformer.errors import ConfigError, DataError
from kansformer.training.data.cut import cut_rows
from kansformer.training.data.documents import source_of
from kansformer.training.data.labels import encode_labels, fixed_order
from kansformer.training.data.prepared import PreparedData
from kansformer.training.data.spec import DataRecipe
from kansformer.training.data.tables import check_column, label_names, load_rows

# The largest value of a pixel in scikit-learn's digits, and the part of them that is held out.
DIGITS_WHITE = 16.0
DIGITS_HELD_OUT = 0.2


class PixelDataset(Dataset):
    """Images that lie in memory as tensors, with "labels"."""

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        self.pixels = pixels
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": self.pixels[index], "labels": self.labels[index]}


class ImageDataset(Dataset):
    """Images of a dataset, decoded and processed when they are asked for.

    Args:
        rows: a `datasets.Dataset`.
        order: which of its rows, in which order.
        labels: numbers of these rows' labels.
        column: where the images are.
        processor: an image processor of transformers.
    """

    def __init__(self, rows: Any, order: Sequence[int], labels: Sequence[int], column: str, processor: Any) -> None:
        self.rows = rows
        self.order = order
        self.labels = labels
        self.column = column
        self.processor = processor

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        image = self.rows[self.order[index]][self.column]
        if not hasattr(image, "convert"):
            raise DataError(
                f"The column {self.column!r} holds no images: row {self.order[index]} is {type(image).__name__}."
            )
        pixels = self.processor(image.convert("RGB"), return_tensors="pt")["pixel_values"][0]
        return {"pixel_values": pixels, "labels": torch.tensor(self.labels[index])}


def prepare_images(data: DataRecipe, model_source: str | None) -> PreparedData:
    """Read images and their labels; `prepare_data` explains the arguments."""
    return _digits() if data.corpus == "digits" else _dataset(data, model_source)


def _digits() -> PreparedData:
    from transformers import default_data_collator

    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ConfigError('corpus="digits" comes with scikit-learn. Install it: pip install scikit-learn') from None
    found = load_digits()
    pixels = torch.tensor(found.images, dtype=torch.float32)[:, None] / DIGITS_WHITE
    pixels, labels = (pixels - 0.5) / 0.5, torch.tensor(found.target, dtype=torch.long)
    train, held_out = (torch.tensor(o) for o in cut_rows(fixed_order(len(labels)), DIGITS_HELD_OUT, "digits"))
    return PreparedData(
        train=PixelDataset(pixels[train], labels[train]),
        evaluation=PixelDataset(pixels[held_out], labels[held_out]),
        collator=default_data_collator,
        label_names=tuple(str(name) for name in found.target_names),
        facts={
            "source": "digits (scikit-learn)",
            "image": [1, 8, 8],
            "train_rows": len(train),
            "eval_rows": len(held_out),
            "sha256": hashlib.sha256(pixels.numpy().tobytes() + labels.numpy().tobytes()).hexdigest(),
        },
    )


def _dataset(data: DataRecipe, model_source: str | None) -> PreparedData:
    from transformers import default_data_collator

    rows = _rows(data, data.train_split)
    names, order = label_names(rows, data.label_column), fixed_order(len(rows))
    if data.eval_split is None:
        order, held_out = map(list, cut_rows(order, data.eval_fraction, source_of(data)))
        eval_rows = rows
    else:
        eval_rows = _rows(data, data.eval_split)
        held_out = list(range(len(eval_rows)))
    labels, eval_labels = list(rows[data.label_column]), list(eval_rows[data.label_column])
    train_numbers, eval_numbers, names_found = encode_labels(
        [labels[i] for i in order], [eval_labels[i] for i in held_out], names, data.label_column, source_of(data)
    )
    processor = _processor(model_source)
    return PreparedData(
        train=ImageDataset(rows, order, train_numbers, data.image_column, processor),
        evaluation=ImageDataset(eval_rows, held_out, eval_numbers, data.image_column, processor),
        collator=default_data_collator,
        processor=processor,
        label_names=names_found,
        facts={
            "source": source_of(data),
            "labels": list(names_found),
            "train_rows": len(order),
            "eval_rows": len(held_out),
            # Of the tables that hold the images, as the datasets library names their state.
            "fingerprint": getattr(rows, "_fingerprint", None),
        },
    )


def _rows(data: DataRecipe, split: str) -> Any:
    rows = load_rows(data, split)
    check_column(rows.column_names, data.image_column, "image", repr(data.dataset))
    check_column(rows.column_names, data.label_column, "label", repr(data.dataset))
    return rows


def _processor(model_source: str | None) -> Any:
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
