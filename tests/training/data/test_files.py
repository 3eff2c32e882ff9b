"""Texts and tables that a recipe names, and how evaluation data are cut off."""

import pytest

from kansformer.errors import DataError
from kansformer.training.data.cut import cut_characters, cut_rows, shorten
from kansformer.training.data.files import table_rows, text_files


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
    assert text_files([str(tmp_path)]) == ["AZ", "B"]
    assert text_files([str(tmp_path / "b.txt")]) == ["B"]
    assert text_files([str(tmp_path / "b.*"), str(tmp_path)]) == ["B", "AZ"]


def test_unusable_files_are_refused(tmp_path):
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes(b"D\xf6ner")
    with pytest.raises(DataError, match=r"The text file '.*empty.txt' is empty"):
        text_files([str(tmp_path / "empty.txt")])
    with pytest.raises(DataError, match=r"latin.txt' is no UTF-8 text: .* at byte 1"):
        text_files([str(tmp_path / "lat*.txt")])
    with pytest.raises(DataError, match="There is no UTF-8 text file in the folder"):
        text_files([str(tmp_path)])
    with pytest.raises(DataError, match=r"There is no text file '.*nowhere.txt'"):
        text_files([str(tmp_path / "nowhere.txt")])
    with pytest.raises(DataError, match=r"No file matches '.*\*.md'"):
        text_files([str(tmp_path / "*.md")])


def test_tables_are_read(tmp_path):
    (tmp_path / "a.csv").write_text('text,label\n"two\nlines, one comma",1\nshort,2\n')
    (tmp_path / "b.jsonl").write_text('{"text": "x", "label": 3}\n\n{"text": "y\\u2028z", "label": 4}\n')
    long = "x" * 200_000  # beyond the csv module's own limit
    (tmp_path / "c.csv").write_text(f"text,label\n{long},5\n")
    rows = [(row["text"], row["label"]) for row in table_rows([str(tmp_path)])]
    assert rows == [("two\nlines, one comma", "1"), ("short", "2"), ("x", 3), ("y\u2028z", 4), (long, "5")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "text", r"a.txt' has no rows with labels. Give .csv or .jsonl files"),
        ("a.csv", "text,label\nx,y,z\n", "more fields than its header in line 2"),
        ("a.csv", 'text,label\n"x,y\n', r"is no CSV in line \d: unexpected end of data"),
        ("a.jsonl", '{"text": "x"}\n{"text"', "is no JSON in line 2"),
        ("a.jsonl", "[1, 2]", r"has no JSON object in line 1, but '\[1, 2\]'"),
        ("a.csv", "", "is empty"),
    ],
)
def test_unusable_tables_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        table_rows([str(tmp_path / name)])


def test_a_folder_without_tables_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"There is no .csv or .jsonl file in the folder"):
        table_rows([str(tmp_path)])


def test_evaluation_data_are_cut_off_the_end():
    assert cut_characters(["abcdefgh", "ij"], 0.3) == (["abcdefg"], ["h", "ij"])
    assert cut_characters(["abcdefghij"], 0.1) == (["abcdefghi"], ["j"])
    assert cut_rows(range(20), 0.1, "rows") == (range(18), range(18, 20))
    assert cut_rows([1, 2], 0.001, "rows") == ([1], [2])
    assert cut_rows([1, 2], 0.999, "rows") == ([1], [2])
    with pytest.raises(DataError, match="'a' has 1 row, too few"):
        cut_rows([1], 0.1, "'a'")


def test_texts_are_shortened_to_what_the_tokens_can_need():
    assert shorten(["a" * 20, "b" * 20, "c"], 2) == ["a" * 20, "b" * 12]
    assert shorten(["a"], None) == ["a"]
