"""Lines of tables in text files, which line breaks in names and other separators of lines do not shift, and pipes."""

import os
from pathlib import Path

import pytest

from kansformer.cli.table_files import read_cells
from kansformer.errors import DataError

ROWS = [(f"{i / 8}", f"{2 * i}") for i in range(40)]


def table(head, x, separator=","):
    """Text of a table with the columns x and y."""
    return head + "".join(f"{separator.join(row)}\n" for row in [(x, "y"), *ROWS])


def check_rows(cells):
    assert [tuple(row) for row in cells.frame.to_numpy()] == ROWS and cells.first_row == 3


@pytest.mark.parametrize("head", ["# page\f\n", "# made by\u2028 someone\n", "# x\x85y\n", '# 5" wide, "or more\n'])
def test_only_line_breaks_end_lines(tmp_path, head):
    path = tmp_path / "table.csv"
    path.write_text(table(head, "x"), encoding="utf-8")
    check_rows(read_cells(path))


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", [",", ";", " "])
def test_a_name_has_a_line_break(tmp_path, line_end, separator):
    path = tmp_path / "table.csv"
    text = table("# by hand\n", '"Body\n\nmass; dry"', separator)
    path.write_text(text, encoding="utf-8", newline=line_end)
    cells = read_cells(path)
    assert list(cells.frame.columns) == ["Body mass; dry", "y"]
    check_rows(cells)
    path.write_text(f"{text}1{separator}2{separator}3\n", encoding="utf-8", newline=line_end)
    with pytest.raises(DataError, match="Row 43 of table.csv has 3 cells, where the header has 2"):
        read_cells(path)


def test_a_quotation_mark_in_the_header_is_not_closed(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(table("", '"x'), encoding="utf-8")
    with pytest.raises(DataError, match="header of table.csv has a quotation mark that is not closed, or no row"):
        read_cells(path)


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="needs /dev/fd, which Linux and macOS have")
def test_a_pipe_is_a_table():
    reader, writer = os.pipe()
    os.write(writer, table("# by hand\n", "x").encode())
    os.close(writer)
    try:
        check_rows(read_cells(Path(f"/dev/fd/{reader}")))
    finally:
        os.close(reader)
