"""Texts and tables that a recipe names, and how evaluation data are cut off."""

import pytest

from kansformer.errors import DataError
from kansformer.training.data import texts as texts_module
from kansformer.training.data.load import load_tables
from kansformer.training.data.prepare import split_rows
from kansformer.training.data.texts import Piece, cut, file_text, file_texts, texts_of


def texts_in(*names):
    return [piece.text for piece in file_texts([str(name) for name in names])]


def test_a_folder_gives_its_text_files_in_order(tmp_path):
    for name, content in {
        "b.txt": b"B",
        "a/z.md": b"AZ",
        "c.bin": b"\xff\xfe",
        "d.dat": b"x\0y",
        "e.txt": b" ",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / ".hidden").write_text("no")
    assert texts_in(tmp_path) == ["AZ", "B"]
    assert texts_in(tmp_path / "b.txt") == ["B"]
    assert texts_in(tmp_path / "b.*", tmp_path) == ["B", "AZ"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty.txt", r"The text file '.*empty.txt' is empty"),
        ("lat*.txt", r"latin.txt' is not UTF-8 text: invalid start byte at byte 9001"),
        ("cut.txt", r"cut.txt' is not UTF-8 text: unexpected end of data at byte 3"),
        (".", "There is no UTF-8 text file in the folder"),
        ("nowhere.txt", r"There is no text file '.*nowhere.txt'"),
        ("*.md", r"No file matches '.*\*.md'"),
    ],
)
def test_unusable_files_are_refused(tmp_path, name, message):
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes(b"D" * 9001 + b"\xf6ner")
    (tmp_path / "cut.txt").write_bytes("xxx—".encode()[:-1])
    with pytest.raises(DataError, match=message):
        texts_in(tmp_path / name)
    if "*" not in name and name != ".":
        with pytest.raises(DataError, match=message):
            file_text(tmp_path / name)


def test_tables_are_read(tmp_path):
    (tmp_path / "a.csv").write_text('text,label\n"two\nlines, one comma",1\nshort,2\nNA,null\n')
    (tmp_path / "b[1].jsonl").write_text('{"text": "x", "label": 3}\n\n{"text": "y\\u2028z", "label": 4}\n')
    (tmp_path / "d.jsonl").write_text('{"text": "mixed", "label": 6}\n{"text": "labels", "label": "seven"}\n')
    long = "x" * 200_000
    (tmp_path / "c.csv").write_text(f"text,label\n{long},5\n")
    rows = [(row["text"], row["label"]) for _, table in load_tables((str(tmp_path),)) for row in table]
    assert rows == [
        ("two\nlines, one comma", "1"), ("short", "2"), ("NA", "null"), ("x", 3), ("y\u2028z", 4), (long, "5"),
        ("mixed", 6), ("labels", "seven"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "text", r"a.txt' has no rows with labels. Give .csv or .jsonl files"),
        ("a.csv", "text,label\nx,y,z\n", "a.csv' cannot be loaded: Length of header or names does not match"),
        ("a.csv", "text,label\na,b\nx,y,z\n", "a.csv' cannot be loaded: .*Expected 2 fields in line 3, saw 3"),
        ("a.csv", 'text,label\n"x,y\n', r"a.csv' cannot be loaded: .*EOF inside string starting at row"),
        ("a.jsonl", '{"text": "x"}\n{"text"', "a.jsonl' cannot be loaded: JSON parse error: .* in row 1"),
        ("a.jsonl", '{"a":' + "[" * 100_000, "a.jsonl' is nested more than 64 levels deep in line 1"),
        ("a.jsonl", "3\n", "a.jsonl' cannot be loaded: JSON parse error"),
        ("a.csv", "text,label\n", "a.csv' has no rows"),
        ("a.csv", "", "is empty"),
        ("", "", r"There is no .csv or .jsonl file in the folder"),
    ],
)
def test_unusable_tables_are_refused(tmp_path, name, content, message):
    if name:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        list(load_tables((str(tmp_path / name),)))


def test_rows_are_split_off_the_end():
    assert split_rows(range(20), 0.1, "rows") == (range(18), range(18, 20))
    assert split_rows([1, 2], 0.001, "rows") == ([1], [2])
    assert split_rows([1, 2], 0.999, "rows") == ([1], [2])
    with pytest.raises(DataError, match="'a' has 1 row, too few"):
        split_rows([1], 0.1, "'a'")


def test_characters_are_split_off_the_end():
    def split(documents, fraction):
        return tuple([piece.text for piece in part] for part in texts_of(documents).split(fraction))

    assert split(["abcdefgh", "ij"], 0.3) == (["abcdefg"], ["h", "ij"])
    assert split(["abcdefghij"], 0.1) == (["abcdefghi"], ["j"])
    assert split(["ab", "", "cd"], 0.5) == (["ab"], ["cd"])


def test_texts_are_shortened_to_what_the_tokens_can_need():
    documents = texts_of(["a" * 20, "b" * 20, "c"])
    assert [piece.text for piece in documents.shorten(2)] == ["a" * 20, "b" * 12]
    assert documents.shorten(None) == documents


def test_a_long_document_is_read_and_split_in_pieces(monkeypatch, tmp_path):
    monkeypatch.setattr(texts_module, "MAX_PIECE", 10)
    assert list(cut(["a\nb\n  c\ndef\ngh"])) == [Piece("a\nb\n  c\n", True, False), Piece("def\ngh", False, True)]
    text = "".join(f"{i}\n\n" if i % 3 else f"line {i}\n" for i in range(100)) + "x" * 25
    path = tmp_path / "text.txt"
    path.write_text(text)
    for texts in (texts_of([text]), file_texts([str(path)])):
        pieces = list(texts)
        assert "".join(piece.text for piece in pieces) == text and max(len(piece.text) for piece in pieces) <= 10
        assert [piece.first for piece in pieces] == [True] + [False] * (len(pieces) - 1)
        assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
        for fraction in (0.1, 0.33, 0.5):
            for part in texts.split(fraction):
                assert next(iter(part)).first and list(part)[-1].last and sum(piece.last for piece in part) == 1
    assert texts_of(["ab", "c"]).digest() != texts_of(["a", "bc"]).digest() != texts_of(["abc"]).digest()


@pytest.mark.parametrize("text", ['{"a": ' * 70 + "1" + "}" * 70, '{"a": [\n' * 40])
def test_json_that_is_nested_without_end_is_refused_before_a_reader_recurses(tmp_path, text):
    (tmp_path / "rows.jsonl").write_text('{"a": "[[[[{"}\n' * 100 + text + "\n")
    with pytest.raises(DataError, match=r"rows.jsonl' is nested more than 64 levels deep in line 1\d\d"):
        list(load_tables((str(tmp_path),)))
