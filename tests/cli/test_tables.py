"""Tables as people save them become numbers, and what cannot be a number is named by row and column."""

import numpy
import pandas
import pytest

from kansformer.cli import table_files
from kansformer.cli.table_columns import Choices
from kansformer.cli.table_files import read_cells
from kansformer.cli.table_numbers import to_numbers
from kansformer.errors import ConfigError, DataError

N = 40
X = [i / 8 for i in range(N)]


@pytest.fixture
def write(tmp_path):
    """write(text, name, encoding): the path of a table."""

    def call(text, name="table.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(text.encode(encoding))
        return path

    return call


def rows(*columns, separator=","):
    """Lines of a table; every column is its header and its cells."""
    return "\n".join(separator.join(map(str, line)) for line in zip(*columns, strict=True)) + "\n"


def numbers(path, target="y", **choices):
    return to_numbers(read_cells(path), target, Choices(**choices))


def y_column(header="y"):
    return [header, *(2 * x + 1 for x in X)]


@pytest.mark.parametrize(
    ("separator", "word"), [(",", "commas"), (";", "semicolons"), ("\t", "tabs"), ("|", "bars"), ("  ", "spaces")]
)
def test_the_separator_is_detected(write, separator, word):
    path = write(rows(["x", *X], ["z", *reversed(X)], y_column(), separator=separator), "table.txt")
    table = numbers(path)
    assert table.inputs["x"].tolist() == X and table.inputs["z"].tolist() == X[::-1]
    assert table.target.tolist() == y_column()[1:]
    assert table.notes == [] and f"40 rows, separated by {word}, UTF-8" in read_cells(path).notes[0]


@pytest.mark.parametrize(
    ("encoding", "word"),
    [("utf-8-sig", "UTF-8"), ("utf-16", "UTF-16"), ("utf-16-le", "UTF-16"), ("utf-16-be", "UTF-16"),
     ("cp1252", "not UTF-8, so read as Windows-1252")],
)  # fmt: skip
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_the_encoding_is_detected(write, encoding, word, line_end):
    text = rows(["Länge", *X], y_column(), separator=";").replace("\n", line_end)
    path = write(text, encoding=encoding)
    assert numbers(path).inputs["Länge"].tolist() == X
    assert word in read_cells(path).notes[0]


def test_an_umlaut_far_behind_the_start_is_read(write, monkeypatch):
    monkeypatch.setattr(table_files, "SAMPLE_BYTES", 60)
    colors = ["grün" if i > 30 else "rot" for i in range(N)]
    table = numbers(write(rows(["color", *colors], y_column()), encoding="cp1252"))
    assert table.inputs["[color = rot]"].sum() == 31


def test_headers_are_quoted_and_have_units(write):
    header = '"Body mass, fasting [kg]";"x-1";"2020";length (m);"y (s)"'
    cells = rows(X, X[::-1], X, X, y_column()[1:], separator=";")
    table = numbers(write(f"\n{header}\n{cells}"), target="y")
    assert list(table.inputs) == ["Body_mass_fasting", "x_1", "[2020]", "length"]
    assert table.target.name == "y" and table.unit == "s"


def test_headers_that_would_have_one_name_stay_whole(write):
    path = write(rows(["price (new)", *X], ["price (old)", *X[::-1]], ["x [0]", *X], ["_", *X], y_column()))
    assert list(numbers(path).inputs) == ["[price (new)]", "[price (old)]", "x_0", "_"]
    assert list(numbers(path, inputs=("price (old)",)).inputs) == ["[price (old)]"]


def test_decimal_commas(write):
    comma = [str(x).replace(".", ",") for x in X]
    table = numbers(write(rows(["x", *comma], ["n", *range(N)], ["y", *comma[::-1]], separator=";")))
    assert table.inputs["x"].tolist() == X and table.inputs["n"].tolist() == list(range(N))
    assert table.notes == ["Numbers have decimal commas."]
    table = numbers(write(rows(["x", *(f'"{x}"' for x in comma)], ["y", *range(N)], separator="\t")))
    assert table.inputs["x"].tolist() == X


def test_three_digits_behind_a_comma_are_decimals_only_beside_semicolons_or_if_said(write):
    comma = [f"{i + 1},{i + 500:03d}" for i in range(N)]
    expected = [i + 1 + (i + 500) / 1000 for i in range(N)]
    assert numbers(write(rows(["x", *comma], ["y", *range(N)], separator=";"))).inputs["x"].tolist() == expected
    path = write(rows(["x", *comma], ["y", *range(N)], separator="\t"))
    with pytest.raises(
        DataError, match="column 'x' has '1,500' in row 2, whose comma may be a decimal comma or separate"
    ):
        numbers(path)
    assert numbers(path, decimal=",").inputs["x"].tolist() == expected
    with pytest.raises(DataError, match="'1,500' in row 2.*Separators of thousands are not guessed"):
        numbers(path, decimal=".")


def test_dates_are_days(write):
    dates = pandas.date_range("2020-02-27", periods=N, freq="D")
    texts = {
        "iso": "%Y-%m-%d",
        "dotted": "%d.%m.%Y",
        "slashed": "%m/%d/%Y",
        "worded": "%d %b %Y",
        "timed": "%Y-%m-%d %H:%M",
    }
    table = numbers(write(rows(*([name, *dates.strftime(f)] for name, f in texts.items()), y_column())))
    assert list(table.inputs) == [f"{name}_days" for name in texts]
    assert all((table.inputs[f"{name}_days"] == numpy.arange(N)).all() for name in texts)
    assert "iso: days since 2020-02-27, as iso_days." in table.notes


def test_days_that_would_have_the_name_of_another_column(write):
    dates = pandas.date_range("2020-02-27", periods=N).strftime("%Y-%m-%d")
    table = numbers(write(rows(["t_days", *X], ["t", *dates], y_column())))
    assert list(table.inputs) == ["t_days", "[t in days]"]
    table = numbers(write(rows(["t", *dates], ["t_days", *X], y_column())))
    assert list(table.inputs) == ["[t in days]", "t_days"]


def test_a_time_of_day_is_a_part_of_a_day(write):
    times = pandas.date_range("2020-01-01 06:00", periods=N, freq="6h").strftime("%Y-%m-%dT%H:%M:%S")
    assert numbers(write(rows(["t", *times], y_column()))).inputs["t_days"].tolist() == [0.25 + i / 4 for i in range(N)]


def test_a_day_that_may_be_a_month_is_asked_for(write):
    path = write(rows(["t", *(f"0{i % 9 + 1}/0{i % 7 + 1}/2020" for i in range(N))], y_column()))
    with pytest.raises(DataError, match="column 't' has dates such as '01/01/2020'.*--day-first or --month-first"):
        numbers(path)
    days_first, months_first = (numbers(path, day_first=first).inputs["t_days"] for first in (True, False))
    assert days_first[7] == 7 and months_first[7] == 213  # 08/01/2020 after 01/01/2020


def test_a_date_that_does_not_exist(write):
    dates = list(pandas.date_range("2020-01-01", periods=N).strftime("%Y-%m-%d"))
    dates[4] = "2020-02-31"
    with pytest.raises(DataError, match="column 't' has '2020-02-31' in row 6, where dates are expected"):
        numbers(write(rows(["t", *dates], y_column())))


def test_categories_are_indicators(write):
    colors, on = [["red", "green", "blue"][i % 3] for i in range(N)], [i % 4 == 0 for i in range(N)]
    table = numbers(write(rows(["color (of car)", *colors], ["on", *on], y_column())))
    assert list(table.inputs) == ["[color = blue]", "[color = green]", "[color = red]", "[on = True]"]
    assert table.inputs["[color = red]"].tolist() == [float(color == "red") for color in colors]
    assert table.inputs["[on = True]"].tolist() == [float(value) for value in on]
    assert "on: 1 or 0 for 2 values, as [on = True]." in table.notes


def test_too_many_categories(write):
    path = write(rows(["name", *(f"c{i}" for i in range(N))], ["x", *X], y_column()))
    with pytest.raises(DataError, match="'name' is text with 40 different values, such as 'c0'.*--exclude.*--inputs"):
        numbers(path)
    assert list(numbers(path, exclude=("name",)).inputs) == ["x"]


@pytest.mark.parametrize("form", ["{}%", "{} kg", "$ {}", "{}.5°"])
def test_units_in_cells(write, form):
    path = write(rows(["x", *(form.format(i + 10) for i in range(N))], y_column()))
    with pytest.raises(DataError, match=r"column 'x' has cells such as .*10.*Write numbers alone; a unit can stand in"):
        numbers(path)


@pytest.mark.parametrize("form", ["{:02d}.01.21", "{}/3/21", "1-{}-20"])
def test_years_of_two_digits(write, form):
    path = write(rows(["t", *(form.format(i % 12 + 1) for i in range(N))], y_column()))
    with pytest.raises(
        DataError, match="column 't' has '.*' in row 2.*If it is a date, write its year with four digits"
    ):
        numbers(path)


def test_a_target_of_classes(write):
    path = write(rows(["x", *X], ["y", *("ab"[i % 2] for i in range(N))]))
    with pytest.raises(DataError, match=r"target 'y' is text with 2 classes \('a', 'b'\).*KANClassifier"):
        numbers(path)


@pytest.fixture
def gaps(write):
    """A table with missing values, in rows 4 (x), 6 (color), 8 (x) and 10 (y)."""
    x, color, y = list(map(str, X)), ["red" if i % 2 else "blue" for i in range(N)], list(map(str, y_column()[1:]))
    x[2], x[6], color[4], y[8] = "NA", "?", "", "-"
    return write(rows(["x", *x], ["color", *color], ["y", *y]))


def test_a_missing_value_is_named(gaps):
    with pytest.raises(
        DataError, match=r"'y' has no value in row 10 \(missing values in the table: 4\).*--drop-missing.*--impute"
    ):
        numbers(gaps)


def test_rows_with_missing_values_are_dropped(gaps):
    table = numbers(gaps, drop_missing=True)
    assert len(table.inputs) == len(table.target) == N - 4
    assert "Rows left out for missing values: 4 of 40." in table.notes


def test_missing_values_are_filled(gaps):
    table = numbers(gaps, impute=True)
    assert len(table.inputs) == len(table.target) == N - 1  # the target is not made up
    median = numpy.median([x for i, x in enumerate(X) if i not in (2, 6, 8)])
    assert table.inputs["x"][[2, 6]].tolist() == [median, median]
    assert table.inputs["[color = missing]"].sum() == 1
    assert table.notes[:3] == [
        "Rows left out, as 'y' has no value: 1.",
        f"x: missing values filled by the median {median:.6g}: 2.",
        "color: missing values filled by the level 'missing': 1.",
    ]


def test_missing_values_are_either_dropped_or_filled():
    with pytest.raises(ConfigError, match="--drop-missing and --impute exclude each other"):
        Choices(drop_missing=True, impute=True)
    with pytest.raises(ConfigError, match=r"--decimal must be \. or , and is 'comma'"):
        Choices(decimal="comma")


def test_too_few_rows_remain(write):
    path = write(rows(["x", *["NA" if i % 2 else i for i in range(30)]], ["y", *range(30)]))
    with pytest.raises(DataError, match="table.csv has 15 rows with all values; a formula takes 20 or more"):
        numbers(path, drop_missing=True)


@pytest.mark.parametrize("cell", ["12..5", "abc", "1,5", "inf", "-Infinity", "1e999"])
@pytest.mark.parametrize("decimal", [".", ","])
def test_one_bad_cell_is_named(write, cell, decimal):
    x = [str(value).replace(".", decimal) for value in X]
    x[30] = cell if decimal == "." or cell != "1,5" else "1.5"
    # A blank line counts, as it does in an editor.
    lines = rows(["x", *x], ["y", *range(N)], separator=";").splitlines()
    path = write("\n".join([*lines[:5], "", *lines[5:]]))
    with pytest.raises(DataError, match=f"The column 'x' has '{x[30]}' in row 33") as error:
        numbers(path, decimal=decimal)
    assert ("not a finite number" if "inf" in cell.lower() or cell == "1e999" else "numbers are expected") in str(
        error.value
    )


@pytest.mark.parametrize("cell", ["1.234,5", "1,234.5", "1 234", "1'234.5"])
def test_separators_of_thousands_are_not_guessed(write, cell):
    x = [*X]
    x[3] = cell
    with pytest.raises(DataError, match=f"'x' has .{cell}. in row 5.*Separators of thousands are not guessed"):
        numbers(write(rows(["x", *x], ["y", *range(N)], separator=";")))


def test_a_constant_column_is_left_out(write):
    path = write(rows(["x", *X], ["k", *["1.5"] * N], ["t", *["a"] * N], ["e", *[""] * N], y_column()))
    table = numbers(path)
    assert list(table.inputs) == ["x"]
    assert table.notes == [
        "k: left out, 1.5 in every row.",
        "t: left out, a in every row.",
        "e: left out, empty in every row.",
    ]


def test_row_numbers_without_a_header_are_left_out(tmp_path):
    pandas.DataFrame({"x": X, "y": X[::-1]}).to_csv(tmp_path / "t.csv")
    table = numbers(tmp_path / "t.csv")
    assert list(table.inputs) == ["x"] and table.notes == ["A column without a name is left out."]


def test_copied_rows_are_counted(write):
    path = write(rows(["x", *X, *X[:10]], ["y", *X, *X[:10]]))
    assert numbers(path).notes == [
        "Rows that are copies of others: 10 of 50; a row that judges may be one to search on."
    ]
    assert numbers(write(rows(["x", *X, X[0]], ["y", *X, X[0]]))).notes == []


def test_fewer_rows_than_numbers(write):
    columns = [[f"x{k}", *numpy.random.default_rng(k).normal(size=25)] for k in range(30)]
    with pytest.raises(DataError, match="has 25 rows for 30 inputs; even a straight line has more numbers"):
        numbers(write(rows(*columns, ["y", *range(25)])))


NOT_A_TABLE = {
    "empty": (b"", "is empty"),
    "only comments": (b"# a b\n\n", "is empty"),
    "only a hint": (b"sep=;\n", "is empty"),
    "numbers": (b"1.5,2\n3,4\n", "The first line of t.csv is numbers"),
    "more cells": (b"a,b\n1,2\n1,2,3\n", "Row 3 of t.csv has 3 cells, where the header has 2"),
    "more cells in every row": (b"a,b\n1,2,3\n1,2,3\n", "rows of t.csv have more cells than its header has names"),
    "binary": (bytes(range(256)) * 20, "is not a text file"),
    "an open quote": (b'a,b\n"1,2\n1,2\n', "cannot be read as a table"),
    "one column": (b"a\n" + b"1\n" * 30, "t.csv has one column, 'a'"),
    "a name twice": (b"a,a,y\n" + b"1,2,3\n" * 30, "'a' is there twice"),
}


@pytest.mark.parametrize("case", NOT_A_TABLE)
def test_what_is_not_a_table(case, tmp_path):
    data, message = NOT_A_TABLE[case]
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    with pytest.raises((DataError, ConfigError), match=message):
        numbers(path, target="a" if case == "one column" else "y")


@pytest.mark.parametrize("head", ["# made by hand\n# x y\n", "# made by hand\n#\n\nx   y\n"])
def test_comments_stand_above_a_table(write, head):
    x = [*X[:20], "?", *X[21:]]
    path = write(head + rows(x, y_column()[1:], separator="  "), "t.dat")
    with pytest.raises(DataError, match=f"'x' has no value in row {head.count(chr(10)) + 21}"):
        numbers(path)
    assert numbers(path, drop_missing=True).inputs["x"].tolist() == [*X[:20], *X[21:]]


def test_a_header_with_a_mark(write):
    kinds = ["ab"[i % 2] for i in range(N)]
    table = numbers(write(rows(["#kind", *kinds], ["x", *X], y_column()), "t.tsv"))
    assert list(table.inputs) == ["[kind = b]", "x"]
    assert list(numbers(write("# no names, here\n" + rows(["x", *X], y_column()))).inputs) == ["x"]


def test_blank_lines_are_not_rows(write):
    lines = rows(["x", *X], y_column()).splitlines()
    path = write("\n\n".join(lines) + "\n\n\n")
    assert numbers(path).inputs["x"].tolist() == X and "40 rows" in read_cells(path).notes[0]


def test_the_hint_of_a_spreadsheet(write):
    assert numbers(write("sep=,\n" + rows(["x", *X], y_column()))).inputs["x"].tolist() == X


def test_a_named_index_of_parquet_is_a_column(tmp_path):
    frame = pandas.DataFrame({"noise": [i % 3 for i in range(N)], "y": range(N)})
    frame.set_axis(pandas.Index([2.0 * i for i in range(N)], name="time")).to_parquet(tmp_path / "t.parquet")
    assert list(numbers(tmp_path / "t.parquet").inputs) == ["time", "noise"]
    frame[frame["y"] > 2].to_parquet(tmp_path / "u.parquet")  # numbers of rows
    assert list(numbers(tmp_path / "u.parquet").inputs) == ["noise"]


def test_parquet_keeps_its_types(tmp_path):
    frame = pandas.DataFrame(
        {
            "on": [i % 3 == 0 for i in range(N)],
            "when": pandas.date_range("2021-05-01", periods=N, tz="Europe/Paris"),
            "count": pandas.array([None if i == 5 else i for i in range(N)], dtype="Int64"),
            "kind": pandas.Categorical(["abc"[i % 3] for i in range(N)]),
            "y": numpy.arange(N, dtype="float32"),
        }
    )
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"'count' has no value in row 6 \(missing values in the table: 1"):
        numbers(tmp_path / "t.parquet")
    table = numbers(tmp_path / "t.parquet", drop_missing=True)
    assert list(table.inputs) == ["[on = True]", "when_days", "count", "[kind = a]", "[kind = b]", "[kind = c]"]
    assert len(table.inputs) == N - 1 and table.inputs["when_days"].iloc[-1] == N - 1
    frame.loc[7, "y"] = numpy.inf
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="'y' has 'inf' in row 8, which is not a finite number"):
        numbers(tmp_path / "t.parquet")


def test_excel_without_its_reader_is_a_sentence(tmp_path, monkeypatch):
    def read_excel(*_, **__):
        raise ImportError("Missing optional dependency 'openpyxl'.")

    monkeypatch.setattr(pandas, "read_excel", read_excel)
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    with pytest.raises(ConfigError, match="t.xlsx is an Excel file, which openpyxl reads: pip install openpyxl"):
        numbers(tmp_path / "t.xlsx")


def test_excel_cells_become_the_same_numbers(tmp_path, monkeypatch):
    body = [[X[i], pandas.Timestamp("2020-01-01") + pandas.Timedelta(days=i), "ab"[i % 2], 3 * i] for i in range(N)]
    sheet = pandas.DataFrame([[None] * 4, ["x [m]", "day", "kind", "y"], *body], dtype=object)
    sheet.loc[9, 0] = "oops"
    monkeypatch.setattr(pandas, "read_excel", lambda path, **_: sheet.copy())
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    with pytest.raises(DataError, match="'x \\[m\\]' has 'oops' in row 10, where numbers are expected"):
        numbers(tmp_path / "t.xlsx")
    table = numbers(tmp_path / "t.xlsx", exclude=("x",))
    assert list(table.inputs) == ["day_days", "[kind = b]"] and table.inputs["day_days"].tolist() == list(range(N))
