"""Text to evaluate on or train with, from a file or from a dataset."""

from codecs import getincrementaldecoder
from pathlib import Path

from kansformer.errors import DataError
from kansformer.training.corpus import SEPARATOR

# No tokenizer in use averages more; so many characters hold the tokens asked for without reading a whole dataset.
CHARACTERS_PER_TOKEN = 16


def file_text(path: Path, *, max_tokens: int | None = None) -> str:
    """Read a text file as UTF-8.

    Args:
        path: of the file.
        max_tokens: stop reading when the text surely holds that many; None reads the whole file.

    Raises:
        DataError: the file is not there, is empty, or is no UTF-8.
    """
    if not path.is_file():
        raise DataError(f"There is no text file {str(path)!r}.")
    try:
        text = path.read_text(encoding="utf-8") if max_tokens is None else _beginning(path, max_tokens)
    except UnicodeDecodeError as error:
        raise DataError(f"{str(path)!r} is no UTF-8 text: {error.reason} at byte {error.start}.") from None
    if not text.strip():
        raise DataError(f"The text file {str(path)!r} is empty.")
    return text


def _beginning(path: Path, max_tokens: int) -> str:
    characters = CHARACTERS_PER_TOKEN * max_tokens
    with path.open("rb") as file:
        data = file.read(4 * characters)  # the longest character of UTF-8
    text = getincrementaldecoder("utf-8")().decode(data, final=len(data) < 4 * characters)
    return text[:characters].replace("\r\n", "\n").replace("\r", "\n")


def dataset_text(
    name: str,
    *,
    config: str | None = None,
    split: str = "test",
    column: str = "text",
    max_tokens: int | None = None,
) -> str:
    """Read a column of a dataset as one text, streaming, its rows joined by an empty line.

    Args:
        name: a Hub id, or a folder that the `datasets` library can load.
        config: name of a configuration, where the dataset has several.
        split: which split.
        column: which column; its values must be strings.
        max_tokens: stop reading when the text surely holds that many; None reads the whole split.

    Raises:
        DataError: the dataset, configuration, split or column is not there, or has no text.
    """
    import datasets

    datasets.disable_progress_bars()
    try:
        rows = datasets.load_dataset(name, config, split=split, streaming=True)
    except (ValueError, OSError) as error:  # datasets' own errors inherit one of these
        which = f"{name!r} (config={config!r}, split={split!r})"
        raise DataError(f"The dataset {which} cannot be loaded: {error}") from error
    texts, characters = [], 0
    for row in rows:
        if not isinstance(row.get(column), str):
            strings = [key for key, value in row.items() if isinstance(value, str)]
            raise DataError(f"{name!r} has no text column {column!r}. Choose from: {', '.join(strings) or 'none'}.")
        texts.append(row[column])
        characters += len(row[column])
        if max_tokens is not None and characters > CHARACTERS_PER_TOKEN * max_tokens:
            break
    if not characters:
        raise DataError(f"The column {column!r} of {name!r} (split={split!r}) is empty.")
    return SEPARATOR.join(texts)
