"""Rows of dataclasses in a CSV file."""

from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Place:
    name: str
    number: int


@dataclass(frozen=True)
class Line:
    place: Place
    value: float


LINES = [Line(Place("a", 1), 0.5), Line(Place("b, c", 2), -1.0)]


@pytest.fixture
def rows():
    import dataclass_csv

    return dataclass_csv


def test_rows_are_read_as_they_were_appended(rows, tmp_path):
    path = tmp_path / "new" / "lines.csv"
    assert rows.read_rows(path, Line) == []
    for line in LINES:
        rows.append_row(path, line)
    assert rows.read_rows(path, Line) == LINES
    assert path.read_text().startswith("name,number,value\n")


def test_a_file_is_replaced_when_all_is_written(rows, tmp_path, monkeypatch):
    path = tmp_path / "lines.csv"
    rows.write_rows(path, LINES)
    rows.write_rows(path, LINES[1:])
    assert rows.read_rows(path, Line) == LINES[1:]

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(rows, "append_row", stop)
    with pytest.raises(KeyboardInterrupt):
        rows.write_rows(path, LINES)
    assert rows.read_rows(path, Line) == LINES[1:]
    rows.write_rows(path, [])
    assert not path.exists()


def test_lines_of_other_keys_stay(rows, tmp_path):
    path, header = tmp_path / "rows.csv", ["name", "seed", "value"]
    rows.replace_lines(path, header, [["a", 1, 0.5], ["a", 2, 1.0], ["b", 1, 2.0]], ["name", "seed"])
    rows.replace_lines(path, header, [["a", 2, 3.5]], ["name", "seed"])
    assert path.read_text().split() == ["name,seed,value", "a,1,0.5", "b,1,2.0", "a,2,3.5"]
