"""Texts and tables that a recipe names, and how evaluation data are cut off."""

import os
from pathlib import Path

import pytest

from kansformer.errors import DataError
from kansformer.training.data import texts as texts_module
from kansformer.training.data.load import table_rows
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
    sentence = "2 files of the folder .* will be read, and 3 will not, which are not UTF-8 text: c.bin, d.dat, e.txt."
    with pytest.warns(UserWarning, match=sentence):
        assert texts_in(tmp_path) == ["AZ", "B"]
    assert texts_in(tmp_path / "b.txt") == ["B"]
    with pytest.warns(UserWarning, match=sentence):
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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs os.mkfifo, which Windows does not have")
def test_a_pipe_is_refused_as_data_for_training(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe' is a pipe, and data for training are read more than once. Give a file"):
        texts_in(tmp_path / "pipe")


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="needs /dev/fd, which Linux and macOS have")
def test_a_pipe_that_is_not_a_text():
    reader, writer = os.pipe()
    os.write(writer, b"D\xf6ner")
    os.close(writer)
    with pytest.raises(DataError, match=r"is not UTF-8 text: invalid start byte\.$"):
        file_text(Path(f"/dev/fd/{reader}"))
    os.close(reader)


def test_tables_are_read(tmp_path):
    (tmp_path / "a.csv").write_text('text,label\n"two\nlines, one comma",1\nshort,2\nNA,null\n')
    (tmp_path / "b[1].jsonl").write_text('{"text": "x", "label": 3}\n\n{"text": "y\\u2028z", "label": 4}\n')
    (tmp_path / "d.jsonl").write_text('{"text": "mixed", "label": 6}\n{"text": "labels", "label": "seven"}\n')
    long = "x" * 200_000
    (tmp_path / "c.csv").write_text(f"text,label\n{long},5\n")
    rows = [(row["text"], row["label"]) for _, row in table_rows((str(tmp_path),))]
    assert rows == [
        ("two\nlines, one comma", "1"), ("short", "2"), ("NA", "null"), ("x", 3), ("y\u2028z", 4), (long, "5"),
        ("mixed", 6), ("labels", "seven"),
    ]  # fmt: skip


def test_an_array_of_objects_is_a_table(tmp_path):
    (tmp_path / "a.json").write_text('\n[\n {"text": "x",\n  "label": 3},\n {"text": "y", "label": 4}]')
    rows = list(table_rows((str(tmp_path / "a.json"),)))
    assert rows == [
        (f"object {n} of '{tmp_path}/a.json'", {"text": t, "label": n + 2}) for n, t in ((1, "x"), (2, "y"))
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "text", r"a.txt' has no rows with labels. Give .csv or .jsonl files"),
        ("a.csv", "text,label\nx,y,z\n", "a.csv' cannot be loaded: Length of header or names does not match"),
        ("a.csv", "text,label\na,b\nx,y,z\n", "a.csv' cannot be loaded: .*Expected 2 fields in line 3, saw 3"),
        ("a.csv", 'text,label\n"x,y\n', r"a.csv' cannot be loaded: .*EOF inside string starting at row"),
        ("a.jsonl", '{"text": "x"}\n{"text"', "line 2 of '.*a.jsonl' cannot be loaded: Expecting ':' delimiter"),
        ("a.jsonl", '{"a":' + "[" * 100_000, "line 1 of '.*a.jsonl' cannot be loaded: (maximum rec|Stack)"),
        ("a.json", '[{"text": "x"}, 3]', "object 2 of '.*a.json' cannot be loaded: it is not an object, but 3"),
        ("a.json", '[{"text": "x"},]', "a.json' cannot be loaded: (Expecting value|Illegal trailing comma)"),
        ("a.json", "[]", "a.json' has no rows"),
        ("a.jsonl", "{}\n3\n", "line 2 of '.*a.jsonl' cannot be loaded: it is not an object, but 3"),
        ("a.jsonl", '{"text": "\\ud800"}', "line 1 of '.*a.jsonl' has a text with half a character"),
        ("a.csv", "text,label\n", "a.csv' has no rows"),
        ("a.csv", "", "is empty"),
        ("", "", r"There is no .csv or .jsonl file in the folder"),
    ],
)
def test_unusable_tables_are_refused(tmp_path, name, content, message):
    if name:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        list(table_rows((str(tmp_path / name),)))


def test_what_looks_like_a_date_or_a_number_stays_a_string(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\n2020-01-01,007\n1e3,True\n", encoding="utf-8-sig")
    (tmp_path / "b.jsonl").write_text(
        '\n{"text": "2020-01-01T00:00:00", "label": "2020-01-01"}\n', encoding="utf-8-sig"
    )
    assert list(table_rows((str(tmp_path),))) == [
        (f"row 1 of '{tmp_path}/a.csv'", {"text": "2020-01-01", "label": "007"}),
        (f"row 2 of '{tmp_path}/a.csv'", {"text": "1e3", "label": "True"}),
        (f"line 2 of '{tmp_path}/b.jsonl'", {"text": "2020-01-01T00:00:00", "label": "2020-01-01"}),
    ]


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
    assert [piece.text for piece in cut(["one two three"])] == ["one two", " three"]
    assert [piece.text for piece in cut(["天地玄黄，宇宙洪荒。日月"])] == ["天地玄黄，宇宙洪荒", "。日月"]
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


def test_json_that_is_nested_without_end_is_refused(tmp_path):
    nested = '{"a": ' * 70 + "1" + "}" * 70
    (tmp_path / "rows.jsonl").write_text('{"a": "[[[[{"}\n' * 100 + nested + "\n")
    with pytest.raises(DataError, match=r"line 101 of '.*rows.jsonl' is nested more than 64 levels deep"):
        list(table_rows((str(tmp_path),)))
