"""Texts of any length, read piece by piece each time: from strings, files or rows of a dataset."""

import hashlib
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from glob import glob, has_magic
from io import TextIOWrapper
from pathlib import Path
from typing import NamedTuple

from kansformer.errors import DataError
from kansformer.wording import counted

# A tokenizer needs up to 200 bytes for a character of one text, so a longer one is tokenised in pieces. With 2,000,000
# the allocator keeps so much of it that a text of 12 MB takes 830 MB in place of 260.
MAX_PIECE = 500_000
# Up to where a long text is cut, best places first: no token reaches from a word over the following space, over a line
# break between two lines, or, in scripts without spaces, over a punctuation mark.
CUT = re.compile(r"(?s).*[^\W_](?= )|.*\S\n(?=\S)|.*[^\W_](?=[.,;:!?、。，！？])")
# No tokenizer in use averages more; this many characters hold the tokens asked for without reading a whole dataset.
CHARACTERS_PER_TOKEN = 16


class Piece(NamedTuple):
    """A document, or a part of one that has more than `MAX_PIECE` characters."""

    text: str
    first: bool = True
    last: bool = True


@dataclass(frozen=True)
class Texts:
    """Documents that are read again each time they are iterated, as pieces.

    Args:
        read: gives all pieces.
        begin, end: the characters to give, counted over all documents. A document that is cut begins or ends there.
    """

    read: Callable[[], Iterable[Piece]]
    begin: int = 0
    end: int = sys.maxsize

    def __iter__(self) -> Iterator[Piece]:
        place = 0
        for text, first, last in self.read():
            begin, end = max(self.begin - place, 0), min(self.end - place, len(text))
            if begin < end:
                yield Piece(text[begin:end], first or place + begin == self.begin, last or place + end == self.end)
            place += len(text)
            if place >= self.end:
                break

    def split(self, fraction: float) -> tuple["Texts", "Texts"]:
        """Everything but the last `fraction` of the characters, and these."""
        place = int(sum(len(piece.text) for piece in self) * (1 - fraction))
        return replace(self, end=self.begin + place), replace(self, begin=self.begin + place)

    def shorten(self, max_tokens: int | None) -> "Texts":
        """Leave out what is certainly beyond `max_tokens`; None keeps everything."""
        if max_tokens is None:
            return self
        return replace(self, end=min(self.end, self.begin + CHARACTERS_PER_TOKEN * max_tokens))

    def digest(self) -> str:
        """SHA-256 of the texts, each followed by a byte that UTF-8 does not have."""
        digest = hashlib.sha256()
        for piece in self:
            digest.update(piece.text.encode("utf-8", "surrogatepass") + (b"\xff" if piece.last else b""))
        return digest.hexdigest()


def texts_of(documents: Iterable[str]) -> Texts:
    """Texts of documents that are in memory, or that an iterable gives anew each time."""

    def chunks(text: str) -> Iterator[str]:
        return (text[begin : begin + MAX_PIECE] for begin in range(0, len(text), MAX_PIECE))

    return Texts(lambda: (piece for text in documents for piece in cut(chunks(text))))


def file_texts(names: Sequence[str], read_table: Callable[[Path], Iterable[str] | None] = lambda path: None) -> Texts:
    """Texts of files, one document per file; of a folder, all UTF-8 text files below it, sorted by path.

    Args:
        names: of files, folders and globs.
        read_table: gives the documents of a file that is a table, and None for any other. Not asked for the files of a
            folder, which are text as they are, such as the CSV files among the sources of a program.
    """
    paths = find_files(names, "UTF-8 text", _is_text)
    for path in paths:
        if path.is_fifo():
            raise DataError(f"{str(path)!r} is a pipe, and data for training are read more than once. Give a file.")
    folders = {path for path in (Path(name).expanduser() for name in names) if path.is_dir()}

    def pieces(path: Path) -> Iterable[Piece]:
        documents = None if folders & {*path.parents} else read_table(path)
        return read_pieces(path) if documents is None else texts_of(documents)

    return Texts(lambda: (piece for path in paths for piece in pieces(path)))


def file_text(path: Path, *, max_tokens: int | None = None) -> str:
    """Read a text file as UTF-8.

    Args:
        path: of the file, or of a pipe such as /dev/stdin.
        max_tokens: stop reading when the text certainly has this many; None reads the whole file.

    Raises:
        DataError: the file is missing, empty, or not UTF-8.
    """
    return "".join(piece.text for piece in Texts(partial(read_pieces, path)).shorten(max_tokens))


def read_pieces(path: Path) -> Iterator[Piece]:
    """Read a text file as one document, a piece at a time."""
    if path.is_dir() or not path.exists():
        raise DataError(f"There is no text file {str(path)!r}.")
    blank = True
    with path.open("rb") as data, TextIOWrapper(data, encoding="utf-8-sig") as file:
        try:
            for piece in cut(iter(lambda: file.read(MAX_PIECE), "")):
                blank = blank and not piece.text.strip()
                if not blank or not piece.last:
                    yield piece
        except UnicodeDecodeError as error:
            place = f" at byte {data.tell() - len(error.object) + error.start}" if data.seekable() else ""
            raise DataError(f"{str(path)!r} is not UTF-8 text: {error.reason}{place}.") from None
    if blank:
        raise DataError(f"The text file {str(path)!r} is empty.")


def cut(chunks: Iterable[str]) -> Iterator[Piece]:
    """Cut a document into pieces where no tokenizer has a token, if there is such a place."""
    rest, first = "", True
    for chunk in chunks:
        rest += chunk
        while len(rest) > MAX_PIECE:
            match = CUT.match(rest, 0, MAX_PIECE + 1)
            place = match.end() if match else MAX_PIECE
            yield Piece(rest[:place], first, last=False)
            rest, first = rest[place:], False
    yield Piece(rest, first)


def find_files(names: Sequence[str], kind: str, is_usable: Callable[[Path], bool]) -> list[Path]:
    """List the files of names, folders (those that are usable, and not hidden) and globs, each once."""
    paths: dict[Path, Path] = {}
    for name in names:
        path = Path(name).expanduser()
        files = [path]
        if path.is_dir():
            inside = sorted(p.relative_to(path) for p in path.rglob("*") if p.is_file())
            visible = [path / p for p in inside if not any(part.startswith(".") for part in p.parts)]
            usable = {p: is_usable(p) for p in visible}
            files = [p for p in visible if usable[p]]
            if not files:
                raise DataError(f"There is no {kind} file in the folder {name!r}.")
            if others := [p.name for p in visible if not usable[p]]:
                warnings.warn(
                    f"{counted(len(files), 'file')} of the folder {name!r} will be read, and {len(others)} will not, "
                    f"which are not {kind}: {', '.join(others[:3])}{' …' if len(others) > 3 else ''}.",
                    stacklevel=2,
                )
        elif not path.is_file() and has_magic(name):
            files = [p for p in map(Path, sorted(glob(str(path), recursive=True))) if p.is_file()]
            if not files:
                raise DataError(f"No file matches {name!r}.")
        for p in files:
            paths.setdefault(p.resolve(), p)
    return list(paths.values())


def check_apart(files: Sequence[str], eval_files: Sequence[str]) -> None:
    """Check that no file is among both.

    Raises:
        DataError: one is.
    """
    train, held_out = (
        {path.resolve() for path in find_files(names, "text", lambda path: True)} for names in (files, eval_files)
    )
    if both := sorted(train & held_out):
        raise DataError(
            f"{str(both[0])!r} is in data.files and in data.eval_files. Evaluate on a text that is not trained on, or "
            "leave eval_files out: then a part of the files is held out."
        )


def _is_text(path: Path) -> bool:
    try:
        return not any("\0" in piece.text for piece in read_pieces(path))
    except DataError:
        return False
