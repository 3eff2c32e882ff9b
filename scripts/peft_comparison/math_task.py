"""The task of PEFT's comparison: train on MetaMathQA, judge by GSM8K's answers.

The rows, their order, the prompt and what counts as the right answer are those of `method_comparison/MetaMathQA` in
huggingface/peft, so that figures can stand in one table.
"""

from collections.abc import Iterator
from decimal import Decimal
from itertools import islice
from pathlib import Path

import numpy
from comparison_settings import Data, Training
from datasets import Dataset, IterableDataset, load_dataset

from kansformer.errors import DataError

MAX_CHARACTERS = 1300
"""Of question and answer together; longer rows (6 % of MetaMathQA) are left out."""

TRAINING_COLUMNS = ("query", "response")
JUDGE_COLUMNS = ("question", "answer")
VALIDATION_ROWS = 50
UNRELATED_ROWS = 100
BATCHES_PER_BUCKET = 20
ANSWER_MARKS = ("The answer is: ", "The answer is ", "The final answer is: ", "The final answer is ", "#### ")
"""What an answer stands behind; the first of these that a text has anywhere is the one that counts."""


def training_texts(data: Data, training: Training) -> list[str]:
    """Prompts with their answers, in the order of the data set: exactly those that the steps need.

    Raises:
        DataError: there are too few.
    """
    rows = _rows(data.train, "train", TRAINING_COLUMNS)
    texts = (
        training.query_template.format(query=row["query"]) + row["response"]
        for row in rows
        if len(row["query"]) + 1 + len(row["response"]) <= MAX_CHARACTERS
    )
    needed = training.max_steps * training.batch_size
    result = list(islice(texts, needed))
    if len(result) < needed:
        raise DataError(
            f"{data.train!r} has {len(result)} rows of at most {MAX_CHARACTERS:,} characters; {training.max_steps} "
            f"steps of {training.batch_size} need {needed}."
        )
    return result


def bucketed(token_rows: list[list[int]], batch_size: int) -> Iterator[list[list[int]]]:
    """Batches of token rows, by falling length within each bucket of 20 batches, so that little is padded."""
    bucket = BATCHES_PER_BUCKET * batch_size
    for start in range(0, len(token_rows), bucket):
        rows = sorted(token_rows[start : start + bucket], key=len, reverse=True)
        yield from (rows[first : first + batch_size] for first in range(0, len(rows), batch_size))


def validation_questions(data: Data) -> list[tuple[str, str]]:
    """Question and answer of the rows of GSM8K's training split that PEFT validates on."""
    rows = _rows(data.judge, "train", JUDGE_COLUMNS, "main")
    order = numpy.arange(len(rows))
    numpy.random.RandomState(0).shuffle(order)  # numpy's old generator: it gives PEFT's very rows
    return [(row["question"], row["answer"]) for row in rows.select(order[:VALIDATION_ROWS])]


def test_questions(data: Data) -> list[tuple[str, str]]:
    """Question and answer of GSM8K's whole test split."""
    return [(row["question"], row["answer"]) for row in _rows(data.judge, "test", JUDGE_COLUMNS, "main")]


def unrelated_texts(data: Data) -> list[str]:
    """The first texts of Wikipedia, which the task says nothing about."""
    return [row["text"] for row in islice(_rows(data.unrelated, "train", ("text",), streaming=True), UNRELATED_ROWS)]


def accuracy(texts: list[str], answers: list[str]) -> float:
    """The share of generated texts that give the answer.

    Raises:
        DataError: an answer of the data set cannot be read.
    """
    right = 0
    for text, answer in zip(texts, answers, strict=True):
        expected = parse_answer(answer)
        if expected is None:
            raise DataError(f"This row of the data set has no answer behind any of {ANSWER_MARKS}: {answer!r:.300}.")
        right += parse_answer(text) == expected
    return right / len(answers)


def parse_answer(text: str) -> float | str | None:
    """What a text gives as its answer: a number ("20/14" is one), other text as it stands, or None."""
    text = text.strip().rstrip(".!?")
    mark = next((mark for mark in ANSWER_MARKS if mark in text), None)
    if mark is None:
        return None
    last = text.rpartition(mark)[2].strip()
    answer = last.split("\n", 1)[0].strip(" .!?$%")
    numerator, slash, denominator = answer.partition("/")
    try:
        return float(Decimal(numerator.strip()) / Decimal(denominator.strip() if slash else 1))
    except (ArithmeticError, ValueError):
        return answer


def _rows(
    source: str, split: str, columns: tuple[str, ...], config: str | None = None, *, streaming: bool = False
) -> Dataset | IterableDataset:
    """The rows of a split, from a folder or from the Hub; `config` is the Hub's name of a part.

    Raises:
        DataError: the folder has no such split, or the rows lack one of the columns.
    """
    folder = Path(source)
    if folder.is_dir():
        file = folder / f"{split}.jsonl"
        if not file.is_file():
            raise DataError(f"The folder {source!r} has no {file.name}.")
        rows = load_dataset("json", data_files=str(file), split="train", streaming=streaming)
    else:
        rows = load_dataset(source, config, split=split, streaming=streaming)
    missing = [name for name in columns if name not in (rows.column_names or columns)]  # None: known to the rows only
    if missing:
        raise DataError(f"The rows of {source!r} have no {missing[0]!r}, only {', '.join(rows.column_names)}.")
    return rows
