"""What to train on: one recipe section that checks itself, and which tasks can use which data."""

import os
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from kansformer.checks import check_choice
from kansformer.errors import ConfigError
from kansformer.training.field_errors import PositiveInteger, section

TASKS = ("causal-lm", "masked-lm", "sequence-classification", "image-classification")
LANGUAGE_TASKS = ("causal-lm", "masked-lm")
# What each corpus that is on every machine can be used for.
CORPORA = {
    "standard-library": ("causal-lm", "masked-lm", "sequence-classification"),
    "language-reference": ("causal-lm", "masked-lm"),
    "digits": ("image-classification",),
}
SOURCES = ("corpus", "files", "dataset")
# Fields that mean something with one kind of source only.
SOURCE_OF = {
    "eval_files": "files",
    "dataset_config": "dataset",
    "train_split": "dataset",
    "eval_split": "dataset",
    "streaming": "dataset",
}
NEW_TOKENIZERS = '"characters", a number (byte-level BPE of that size), or a Hub id or folder with a tokenizer'
TOKENIZERS = f'"model" (that of the pretrained model), {NEW_TOKENIZERS}'
# The 256 bytes and the token between documents.
MIN_BPE = 257


def _as_paths(value: object) -> object:
    values = [value] if isinstance(value, str | os.PathLike) else value
    if not isinstance(values, list | tuple):
        return values
    return tuple(os.fspath(path) if isinstance(path, os.PathLike) else path for path in values)


def _as_tokenizer(value: object) -> object:
    if isinstance(value, str) and value.isdecimal():  # as it comes from a command line
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise ConfigError(f"{value!r} is not a tokenizer. Choose {TOKENIZERS}.")
    if isinstance(value, int) and value < MIN_BPE:
        raise ConfigError(f"{value} is too small: byte-level BPE needs {MIN_BPE} tokens or more.")
    return value


Paths = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1), BeforeValidator(_as_paths)]


@section
class DataRecipe:
    """Where training and evaluation data come from. Exactly one of `corpus`, `files` and `dataset` is given.

    Args:
        corpus: data that is on every machine: "standard-library" (Python source; for sequence classification, snippets
            of it and the packages they are from), "language-reference" (English), or "digits" (scikit-learn's 8x8
            images). A corpus has a held-out split of its own.
        files: text files, folders (all UTF-8 text files below, sorted) or globs. Every row of a CSV or JSON lines file
            (.csv, .jsonl, .json) is a document, or for sequence classification a text with its label. For language
            models the files of a folder are text as they are.
        eval_files: the same for evaluation; None cuts `eval_fraction` off `files`.
        dataset: a Hub id, or a folder that the `datasets` library can load.
        dataset_config: name of a configuration, where the dataset has several.
        train_split: split of the dataset to train on.
        eval_split: split to evaluate on; None cuts `eval_fraction` off the training split.
        eval_fraction: part of the training data to evaluate on, above 0 and below 1: the last characters of files, the
            last rows of a dataset. Rows with labels are shuffled first, always in the same way.
        streaming: read the dataset while training, for language models. Evaluation then needs `max_eval_tokens`;
            without `eval_split` it takes the first rows, which training leaves out. Training repeats the stream until
            its last step, unless several workers read it.
        text_column: column of the text.
        label_column: column of the labels, strings or integers.
        image_column: column of the images.
        tokenizer: "model", that of the pretrained model; "characters", one token per character of the text; a number,
            byte-level BPE of that size trained on the training text; or a Hub id or folder.
        block: tokens in a block; the longest text in a sequence classification.
        max_train_tokens: use no more of the training data; None for all.
        max_eval_tokens: the same for evaluation.

    Raises:
        ConfigError: a field has an impossible value, or does not go with the others.
    """

    corpus: Literal["standard-library", "language-reference", "digits"] | None = None
    files: Paths | None = None
    eval_files: Paths | None = None
    dataset: str | None = None
    dataset_config: str | None = None
    train_split: str = "train"
    eval_split: str | None = None
    eval_fraction: Annotated[float, Field(strict=True, gt=0, lt=1)] = 0.1
    streaming: Annotated[bool, Field(strict=True)] = False
    text_column: str = "text"
    label_column: str = "label"
    image_column: str = "image"
    tokenizer: Annotated[str | int, BeforeValidator(_as_tokenizer)] = "model"
    block: Annotated[int, Field(strict=True, ge=2)] = 256
    max_train_tokens: PositiveInteger | None = None
    max_eval_tokens: PositiveInteger | None = None

    def __post_init__(self) -> None:
        given = [name for name in SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            values = " and ".join(f"{name}={getattr(self, name)!r}" for name in given)
            raise ConfigError(
                f"Give exactly one of corpus, files and dataset; {values + ' were' if given else 'none was'} given."
            )
        for name, source in SOURCE_OF.items():
            if getattr(self, name) != getattr(type(self), name) and source != given[0]:
                raise ConfigError(f"{name}={getattr(self, name)!r} goes with {source}, not with {given[0]}.")
        if self.eval_split == self.train_split:
            raise ConfigError(
                f"eval_split={self.eval_split!r} is trained on. Leave it out: then a part of it is held out."
            )
        if self.streaming and self.max_eval_tokens is None:
            raise ConfigError("streaming=True needs max_eval_tokens: evaluation is read once, before training.")
        if self.streaming and (isinstance(self.tokenizer, int) or self.tokenizer == "characters"):
            raise ConfigError(
                f"tokenizer={self.tokenizer!r} is made from the whole training text, which streaming=True does not "
                'have. Choose "model", or a Hub id or folder with a tokenizer.'
            )

    @property
    def source(self) -> str:
        """Where the data come from, for messages and model cards."""
        if self.files is not None:
            return ", ".join(self.files)
        return f"{self.corpus or self.dataset}" + (f" ({self.dataset_config})" if self.dataset_config else "")


def check_task(task: str, data: DataRecipe) -> None:
    """Refuse data that a task cannot use, before anything is read.

    Args:
        task: one of `TASKS`.
        data: where the data come from.

    Raises:
        ConfigError: the task is unknown, or a field of `data` does not go with it.
    """
    check_choice("task", task, TASKS)
    if data.corpus is not None and task not in CORPORA[data.corpus]:
        usable = [name for name, tasks in CORPORA.items() if task in tasks]
        raise ConfigError(
            f"corpus={data.corpus!r} is not for task={task!r}, but for {', '.join(CORPORA[data.corpus])}. "
            f"Choose from: {', '.join(usable)}."
        )
    if data.streaming and task not in LANGUAGE_TASKS:
        raise ConfigError(f"streaming=True is for {' and '.join(LANGUAGE_TASKS)}, not for task={task!r}.")
    limits = {name: getattr(data, name) for name in ("max_train_tokens", "max_eval_tokens")}
    if task == "image-classification":
        if data.files is not None:
            raise ConfigError(
                f"files={data.files!r} are for text. For task={task!r} choose dataset or corpus='digits'."
            )
        for name, value in {**limits, "tokenizer": None if data.tokenizer == "model" else data.tokenizer}.items():
            if value is not None:
                raise ConfigError(f"{name}={value!r} does not go with task={task!r}: images have no tokens.")
    for name, limit in limits.items():
        if limit is not None and task in LANGUAGE_TASKS and limit < data.block:
            raise ConfigError(f"{name}={limit} is less than one block={data.block}.")
