"""From a recipe to what `transformers.Trainer` takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from torch.utils.data import IterableDataset

from kansformer.errors import DataError
from kansformer.training.data.spec import LANGUAGE_TASKS, DataRecipe, check_task
from kansformer.training.data.texts import check_apart

if TYPE_CHECKING:
    import datasets
    from transformers import BaseImageProcessor, PreTrainedTokenizerBase

Row = TypeVar("Row")


@dataclass(frozen=True)
class PreparedData:
    """Training and evaluation data in the form that `transformers.Trainer` takes.

    Args:
        train: rows of inputs of the model, and labels of a classification; an IterableDataset where it is streamed.
        evaluation: rows of the same form.
        collator: makes a batch of rows, with labels; for `Trainer(data_collator=...)`.
        processor: tokenizer or image processor, to be saved beside the model; None where there is none.
        label_names: of a classification, in the order of their numbers.
        vocabulary: number of tokens that the tokenizer knows.
        facts: JSON-ready, for the model card: source, sizes, SHA-256 of the content, tokenizer.
    """

    train: datasets.Dataset | IterableDataset
    evaluation: datasets.Dataset
    collator: Callable[[list[Any]], dict[str, Any]]
    processor: PreTrainedTokenizerBase | BaseImageProcessor | None = None
    label_names: tuple[str, ...] | None = None
    vocabulary: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def split_rows(rows: Sequence[Row], fraction: float, source: str) -> tuple[Sequence[Row], Sequence[Row]]:
    """Split off the last `fraction` of the rows, at least one.

    Raises:
        DataError: there is one row only.
    """
    if len(rows) < 2:
        raise DataError(f"{source} has {len(rows)} row, too few to cut evaluation rows off. Give evaluation data.")
    count = min(max(1, round(len(rows) * fraction)), len(rows) - 1)
    return rows[: len(rows) - count], rows[len(rows) - count :]


def prepare_data(task: str, data: DataRecipe, model_source: str | None, *, seed: int = 0) -> PreparedData:
    """Read, tokenise and arrange the data of a recipe.

    Blocks of language models are kept by their content in the cache of the `datasets` library, HF_DATASETS_CACHE.
    The blocks of a masked language model are masked anew in every epoch of the training, and always in the same way in
    the evaluation.

    Args:
        task: one of `TASKS`.
        data: where the data come from.
        model_source: folder, Hub id or GGUF file of the pretrained model, for its tokenizer or image processor; None
            when training from scratch.
        seed: decides the order of a streamed dataset, and the masks. What is held out is the same for every seed.

    Returns:
        Rows, collator, processor, names of the labels, and facts for the model card.

    Raises:
        ConfigError: a field does not go with the task, or there is no such tokenizer or image processor.
        DataError: the data are not there, or cannot be used.
    """
    from kansformer.training.data.classification import prepare_images, prepare_sequences
    from kansformer.training.data.language import prepare_language

    check_task(task, data)
    if data.files is not None and data.eval_files is not None:
        check_apart(data.files, data.eval_files)
    if task in LANGUAGE_TASKS:
        return prepare_language(task, data, model_source, seed)
    if task == "sequence-classification":
        return prepare_sequences(data, model_source)
    return prepare_images(data, model_source)
