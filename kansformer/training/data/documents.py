"""The training and evaluation texts of a language model."""

from __future__ import annotations

from kansformer.errors import DataError
from kansformer.training.corpus import standard_library_documents
from kansformer.training.data.cut import cut_characters, cut_rows, shorten
from kansformer.training.data.files import text_files
from kansformer.training.data.spec import DataRecipe
from kansformer.training.data.tables import check_column, load_rows, text_of
from kansformer.training.language_reference import language_reference_text


def load_documents(data: DataRecipe) -> tuple[list[str], list[str]]:
    """Read the texts to train on and those to evaluate on, shortened to what the recipe's limits can need.

    Raises:
        DataError: a source is not there, is not text, or has none.
    """
    if data.corpus == "standard-library":
        train, evaluation = standard_library_documents("train"), standard_library_documents("held_out")
    elif data.corpus == "language-reference":
        train, evaluation = [language_reference_text("train")], [language_reference_text("held_out")]
    elif data.files is not None:
        train = text_files(data.files)
        if data.eval_files is not None:
            evaluation = text_files(data.eval_files)
        else:
            train, evaluation = cut_characters(train, data.eval_fraction)
    else:
        train = _column(data, data.train_split)
        if data.eval_split is not None:
            evaluation = _column(data, data.eval_split)
        else:
            train, evaluation = map(list, cut_rows(train, data.eval_fraction, source_of(data)))
    return shorten(train, data.max_train_tokens), shorten(evaluation, data.max_eval_tokens)


def source_of(data: DataRecipe) -> str:
    """Where the data come from, in words, for messages and model cards."""
    if data.corpus is not None:
        return data.corpus
    if data.files is not None:
        return ", ".join(data.files)
    return f"{data.dataset}" if data.dataset_config is None else f"{data.dataset} ({data.dataset_config})"


def _column(data: DataRecipe, split: str) -> list[str]:
    rows, source = load_rows(data, split), repr(data.dataset)
    check_column(rows.column_names, data.text_column, "text", source)
    texts = [text_of(value, i, data.text_column, source) for i, value in enumerate(rows[data.text_column])]
    kept = [text for text in texts if text.strip()]
    if not kept:
        raise DataError(f"The column {data.text_column!r} of {source} (split={split!r}) is empty.")
    return kept
