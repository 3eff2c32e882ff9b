"""Texts of any length, read piece by piece each time: from strings, files or rows of a dataset."""

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from glob import glob, has_magic
from io import TextIOWrapper
from pathlib import Path
from typing import NamedTuple

from kansformer.errors import DataError

# A tokenizer needs up to 200 bytes for a character of one text, so a longer one is tokenised in pieces. With 2,000,000
# the allocator keeps so much of it that a text of 12 MB takes 830 MB in place of 260.
MAX_PIECE = 500_000
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
        """SHA-256 of the texts and of where each ends."""
        digest = hashlib.sha256()
        for piece in self:
            data = piece.text.encode("utf-8", "surrogatepass")
            digest.update((b"" if piece.first else b"+") + len(data).to_bytes(8, "big"))
            digest.update(data)
        return digest.hexdigest()


def texts_of(documents: Iterable[str]) -> Texts:
    """Texts of documents that are in memory, or that an iterable gives anew each time."""
    return Texts(lambda: (piece for text in documents for piece in cut(_chunks(text))))


def file_texts(names: Sequence[str]) -> Texts:
    """Texts of files, one document per file; of a folder, all UTF-8 text files below it, sorted by path."""
    paths = find_files(names, "UTF-8 text", _is_text)
    return Texts(lambda: (piece for path in paths for piece in read_pieces(path)))


def file_text(path: Path, *, max_tokens: int | None = None) -> str:
    """Read a text file as UTF-8.

    Args:
        path: of the file.
        max_tokens: stop reading when the text certainly has this many; None reads the whole file.

    Raises:
        DataError: the file is missing, empty, or not UTF-8.
    """
    return "".join(piece.text for piece in Texts(partial(read_pieces, path)).shorten(max_tokens))


def read_pieces(path: Path) -> Iterator[Piece]:
    """Read a text file as one document, a piece at a time."""
    if not path.is_file():
        raise DataError(f"There is no text file {str(path)!r}.")
    blank = True
    with path.open("rb") as data, TextIOWrapper(data, encoding="utf-8") as file:
        try:
            for piece in cut(iter(lambda: file.read(MAX_PIECE), "")):
                blank = blank and not piece.text.strip()
                if not blank or not piece.last:
                    yield piece
        except UnicodeDecodeError as error:
            place = data.tell() - len(error.object) + error.start
            raise DataError(f"{str(path)!r} is not UTF-8 text: {error.reason} at byte {place}.") from None
    if blank:
        raise DataError(f"The text file {str(path)!r} is empty.")


def cut(chunks: Iterable[str]) -> Iterator[Piece]:
    """Cut a document into pieces, behind line breaks between two lines of text: there tokenizers start a new word."""
    rest, first = "", True
    for chunk in chunks:
        rest += chunk
        while len(rest) > MAX_PIECE:
            place = rest.rfind("\n", 1, MAX_PIECE)
            while place > 0 and (rest[place - 1].isspace() or rest[place + 1].isspace()):
                place = rest.rfind("\n", 1, place)
            place = place + 1 if place > 0 else MAX_PIECE
            yield Piece(rest[:place], first, last=False)
            rest, first = rest[place:], False
    yield Piece(rest, first)


def find_files(names: Sequence[str], kind: str, is_usable: Callable[[Path], bool]) -> list[Path]:
    """List the files of names, folders (those that are usable, and not hidden) and globs, each once."""
    paths: dict[Path, Path] = {}
    for name in names:
        path = Path(name).expanduser()
        if path.is_dir():
            inside = sorted((p.relative_to(path), p) for p in path.rglob("*") if p.is_file())
            visible = (p for place, p in inside if not any(part.startswith(".") for part in place.parts))
            found = [p for p in visible if is_usable(p)]
            if not found:
                raise DataError(f"There is no {kind} file in the folder {name!r}.")
        elif path.is_file() or not has_magic(name):
            found = [path]
        else:
            found = [p for p in map(Path, sorted(glob(str(path), recursive=True))) if p.is_file()]
            if not found:
                raise DataError(f"No file matches {name!r}.")
        for p in found:
            paths.setdefault(p.resolve(), p)
    return list(paths.values())


def _is_text(path: Path) -> bool:
    try:
        return not any("\0" in piece.text for piece in read_pieces(path))
    except DataError:
        return False


def _chunks(text: str) -> Iterator[str]:
    return (text[begin : begin + MAX_PIECE] for begin in range(0, len(text), MAX_PIECE))
