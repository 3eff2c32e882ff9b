"""What to train on: one frozen dataclass that checks itself, and which tasks can use which data."""

import os
from dataclasses import dataclass

from kansformer.checks import check_choice, check_integer, check_number
from kansformer.errors import ConfigError

TASKS = ("causal-lm", "masked-lm", "sequence-classification", "image-classification")
LANGUAGE_TASKS = ("causal-lm", "masked-lm")
# What each corpus that is on every machine can be used for.
CORPORA = {
    "standard-library": ("causal-lm", "masked-lm", "sequence-classification"),
    "language-reference": ("causal-lm", "masked-lm"),
    "digits": ("image-classification",),
}
NEW_TOKENIZERS = '"characters", a number (byte-level BPE of that size), or a Hub id or folder with a tokenizer'
TOKENIZERS = f'"model" (that of the pretrained model), {NEW_TOKENIZERS}'
# The 256 bytes and the token between documents.
MIN_BPE = 257


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """Where training and evaluation data come from. Exactly one of `corpus`, `files` and `dataset` is given.

    Args:
        corpus: data that is on every machine: "standard-library" (Python source; for sequence classification, snippets
            of it and the packages they are from), "language-reference" (English), or "digits" (scikit-learn's 8x8
            images). A corpus has a held-out split of its own.
        files: text files, folders (all UTF-8 text files below, sorted) or globs; for sequence classification, CSV or
            JSONL files.
        eval_files: the same for evaluation; None cuts `eval_fraction` off `files`.
        dataset: a Hub id, or a folder that the `datasets` library can load.
        dataset_config: name of a configuration, where the dataset has several.
        train_split: split of the dataset to train on.
        eval_split: split to evaluate on; None cuts `eval_fraction` off the training split.
        eval_fraction: part of the training data to evaluate on, above 0 and below 1: the last characters of files, the
            last rows of a dataset. Rows with labels are shuffled first, always in the same way.
        streaming: read the dataset while training, for language models. Evaluation then needs `max_eval_tokens`;
            without `eval_split` it takes the first rows, which training leaves out.
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

    corpus: str | None = None
    files: tuple[str, ...] | str | None = None
    eval_files: tuple[str, ...] | str | None = None
    dataset: str | None = None
    dataset_config: str | None = None
    train_split: str = "train"
    eval_split: str | None = None
    eval_fraction: float = 0.1
    streaming: bool = False
    text_column: str = "text"
    label_column: str = "label"
    image_column: str = "image"
    tokenizer: str | int = "model"
    block: int = 256
    max_train_tokens: int | None = None
    max_eval_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in ("files", "eval_files"):
            object.__setattr__(self, name, _paths(name, getattr(self, name)))
        self._check_sources()
        if self.corpus is not None:
            check_choice("corpus", self.corpus, CORPORA)
        if not check_number("eval_fraction", self.eval_fraction, above=0) < 1:
            raise ConfigError(f"eval_fraction must be a number above 0 and below 1, got {self.eval_fraction!r}.")
        check_integer("block", self.block, 2)
        for name in ("max_train_tokens", "max_eval_tokens"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), 1)
        self._check_tokenizer()
        if self.streaming and self.max_eval_tokens is None:
            raise ConfigError("streaming=True needs max_eval_tokens: evaluation is read once, before training.")

    @property
    def source(self) -> str:
        """Where the data come from, for messages and model cards."""
        if self.files is not None:
            return ", ".join(self.files)
        return f"{self.corpus or self.dataset}" + (f" ({self.dataset_config})" if self.dataset_config else "")

    def _check_sources(self) -> None:
        given = [name for name in ("corpus", "files", "dataset") if getattr(self, name) is not None]
        if len(given) != 1:
            found = "none was" if not given else f"{' and '.join(f'{n}={getattr(self, n)!r}' for n in given)} were"
            raise ConfigError(f"Give exactly one of corpus, files and dataset; {found} given.")
        for name, needs in SOURCE_OF.items():
            if getattr(self, name) != getattr(type(self), name) and needs != given[0]:
                raise ConfigError(f"{name}={getattr(self, name)!r} goes with {needs}, not with {given[0]}.")

    def _check_tokenizer(self) -> None:
        value = self.tokenizer
        if isinstance(value, str) and value.isdecimal():  # as it comes from a command line
            value = int(value)
            object.__setattr__(self, "tokenizer", value)
        if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
            raise ConfigError(f"tokenizer={value!r} is not a tokenizer. Choose {TOKENIZERS}.")
        if isinstance(value, int) and value < MIN_BPE:
            raise ConfigError(f"tokenizer={value} is too small: byte-level BPE needs {MIN_BPE} tokens or more.")
        if self.streaming and (isinstance(value, int) or value == "characters"):
            raise ConfigError(
                f"tokenizer={value!r} is made from the whole training text, which streaming=True does not have. "
                'Choose "model", or a Hub id or folder with a tokenizer.'
            )


# Fields that mean something with one kind of source only.
SOURCE_OF = {
    "eval_files": "files",
    "dataset_config": "dataset",
    "train_split": "dataset",
    "eval_split": "dataset",
    "streaming": "dataset",
}


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
        fitting = [name for name, tasks in CORPORA.items() if task in tasks]
        raise ConfigError(
            f"corpus={data.corpus!r} is not for task={task!r}, but for {', '.join(CORPORA[data.corpus])}. "
            f"Choose from: {', '.join(fitting)}."
        )
    if data.streaming and task not in LANGUAGE_TASKS:
        raise ConfigError(f"streaming=True is for {' and '.join(LANGUAGE_TASKS)}, not for task={task!r}.")
    for name in ("max_train_tokens", "max_eval_tokens"):
        limit = getattr(data, name)
        if limit is not None and task == "image-classification":
            raise ConfigError(f"{name}={limit} does not go with task={task!r}: images have no tokens.")
        if limit is not None and task in LANGUAGE_TASKS and limit < data.block:
            raise ConfigError(f"{name}={limit} is less than one block={data.block}.")
    if task == "image-classification":
        if data.files is not None:
            raise ConfigError(
                f"files={data.files!r} are for text. For task={task!r} choose dataset or corpus='digits'."
            )
        if data.tokenizer != "model":
            raise ConfigError(f"tokenizer={data.tokenizer!r} does not go with task={task!r}: images have no tokens.")


def _paths(name: str, value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not values or not all(isinstance(v, str | os.PathLike) and os.fspath(v) for v in values):
        raise ConfigError(f"{name}={value!r} names no file. Give paths of text files, folders or globs.")
    return tuple(os.fspath(v) for v in values)
