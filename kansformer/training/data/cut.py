"""How evaluation data are cut off the end of training data, and how both are shortened."""

from collections.abc import Sequence
from typing import TypeVar

from kansformer.errors import DataError
from kansformer.training.text import CHARACTERS_PER_TOKEN

Row = TypeVar("Row")


def cut_characters(documents: Sequence[str], fraction: float) -> tuple[list[str], list[str]]:
    """Cut the last `fraction` of the characters off; the document in which the cut falls is divided."""
    total = sum(map(len, documents))
    place = min(max(int(total * (1 - fraction)), 0), total)
    before, after = [], []
    for text in documents:
        here = min(max(place, 0), len(text))
        before.append(text[:here])
        after.append(text[here:])
        place -= len(text)
    return [text for text in before if text], [text for text in after if text]


def cut_rows(rows: Sequence[Row], fraction: float, source: str) -> tuple[Sequence[Row], Sequence[Row]]:
    """Cut the last `fraction` of the rows off, one row at least.

    Raises:
        DataError: there is one row only.
    """
    if len(rows) < 2:
        raise DataError(f"{source} has {len(rows)} row, too few to cut evaluation rows off. Give evaluation data.")
    count = min(max(1, round(len(rows) * fraction)), len(rows) - 1)
    return rows[: len(rows) - count], rows[len(rows) - count :]


def shorten(documents: Sequence[str], max_tokens: int | None) -> list[str]:
    """Drop what lies surely beyond `max_tokens`, so that it need not be tokenised; None keeps all."""
    if max_tokens is None:
        return list(documents)
    left, kept = CHARACTERS_PER_TOKEN * max_tokens, []
    for text in documents:
        if left <= 0:
            break
        kept.append(text[:left])
        left -= len(text)
    return kept
