"""Tables in files: rows come back as they were, in any order, and nothing stays when the table goes."""

import gc

import pytest
import torch

from kansformer.interp.edge_table import EdgeTable, TableFolder


@pytest.fixture
def table(tmp_path):
    table = EdgeTable(TableFolder(tmp_path))
    for start, stop in ((0, 3), (3, 4), (4, 9)):
        numbers = torch.arange(start, stop)
        table.append({"number": numbers, "square": numbers.double().square(), "pair": numbers[:, None].repeat(1, 2)})
    return table


def test_columns_and_parts(table):
    assert len(table) == 9 and [len(part["number"]) for part in table.parts()] == [3, 1, 5]
    assert [list(part) for part in table.parts(["square"])] == [["square"]] * 3
    columns = table.columns(["square", "number"])
    assert list(columns) == ["square", "number"] and torch.equal(columns["square"], columns["number"].double().square())


def test_rows_in_any_order(table):
    numbers = torch.tensor([8, 0, 3, 3, 2, 4])
    rows = table.rows(numbers)
    assert torch.equal(rows["number"], numbers) and torch.equal(rows["pair"], numbers[:, None].repeat(1, 2))


def test_files_go_with_the_last_table(table, tmp_path):
    other = EdgeTable(table.folder)
    other.append({"x": torch.zeros(2)})
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4
    folder = table.folder
    del other, folder
    table.__dict__.clear()
    gc.collect()
    assert not list(tmp_path.iterdir())
