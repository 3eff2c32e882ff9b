"""The file of edges: the columns of `to_pandas` to the digits that mean something, in little room."""

import numpy as np
import pandas
import pytest
import torch

from kansformer.interp.edge_file import FORMULA_COLUMNS, R2_COLUMNS, SCORE_COLUMNS, write_edges
from kansformer.symbolic import LIBRARY, fit_symbolic

EDGES, OUTPUTS, POINTS = 4096, 64, 64


def curves(count=EDGES, seed=0):
    """Smooth curves on a range of each input, as edges of a layer have them."""
    generator = torch.Generator().manual_seed(seed)
    reach = torch.rand(count // OUTPUTS, 1, generator=generator).add(0.2).repeat_interleave(OUTPUTS, dim=0)
    x = torch.linspace(-1, 1, POINTS) * reach
    slopes, bends = torch.randn(2, count, 1, generator=generator)
    return x, slopes * torch.nn.functional.silu(3 * x) + 0.3 * bends * torch.sin(4 * x + bends)


def edges(seed=0):
    generator = np.random.default_rng(seed)
    x, y = curves(seed=seed)
    numbers = np.arange(EDGES)
    table = pandas.DataFrame({"site": "model.layers.0.mlp", "slot": "down"}, index=numbers)
    table = table.assign(input=numbers // OUTPUTS, output=numbers % OUTPUTS)
    table = table.assign(**{name: generator.lognormal(size=EDGES) for name in SCORE_COLUMNS})
    table = table.assign(lower=x[:, 0].numpy(), upper=x[:, -1].numpy(), outside=np.float32(0.01))
    fits = fit_symbolic(x, y)
    table = table.join(fits.to_pandas().rename(columns={"name": "function"}))
    return table.assign(r2_tokens=table.r2, r2_learned=table.r2_fit, trained=True), fits, x, y


def test_columns_and_rows_come_back_rounded(tmp_path):
    table, *_ = edges()
    write_edges([table[:1000], table[1000:]], tmp_path / "edges.parquet")
    written = pandas.read_parquet(tmp_path / "edges.parquet")
    assert list(written) == list(table)
    exact = [name for name in table if name not in SCORE_COLUMNS + FORMULA_COLUMNS + R2_COLUMNS]
    pandas.testing.assert_frame_equal(written[exact], table[exact])
    for names, relative, absolute in ((SCORE_COLUMNS, 2**-7, 0), (FORMULA_COLUMNS, 2**-15, 0), (R2_COLUMNS, 0, 2**-14)):
        for name in names:
            np.testing.assert_allclose(written[name], table[name], rtol=relative, atol=absolute, err_msg=name)


def test_a_row_takes_little_room(tmp_path):
    table, *_ = edges()
    parts = [table.assign(site=f"model.layers.{k}.mlp", variance=table.variance * (1 + k / 100)) for k in range(8)]
    write_edges(parts, tmp_path / "edges.parquet")
    assert (tmp_path / "edges.parquet").stat().st_size < 26 * 8 * EDGES  # 120 bytes a row with all digits


def test_rounded_formulas_are_as_good(tmp_path):
    table, fits, x, y = edges()
    write_edges([table], tmp_path / "edges.parquet")
    written = pandas.read_parquet(tmp_path / "edges.parquet")
    rounded = {"name": written.function.tolist()}
    for name in ("a", "b", "c", "d", "r2", "r2_fit", "best_r2"):
        rounded[name] = written[name].astype("float64").tolist()
    spread = (y - y.mean(-1, keepdim=True)).square().sum(-1)
    lost = [1 - (f.evaluate(x.double()) - y).square().sum(-1) / spread for f in (fits, type(fits).from_dict(rounded))]
    lost = (lost[0] - lost[1])[fits.varies]
    assert lost.mean() < 1e-4 and lost.quantile(0.99) < 1e-3
    assert set(written.function) <= set(LIBRARY.names)


def test_parts_are_read_as_they_are_written(tmp_path):
    table, *_ = edges()
    alive = []

    def parts():
        for start in range(0, EDGES, 512):
            alive.append(start)
            yield table[start : start + 512]

    write_edges(parts(), tmp_path / "edges.parquet")
    import pyarrow.parquet

    assert pyarrow.parquet.ParquetFile(tmp_path / "edges.parquet").num_row_groups == len(alive) == 8


def test_nothing_is_left_of_a_file_that_fails(tmp_path):
    table, *_ = edges()

    def parts():
        yield table
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_edges(parts(), tmp_path / "edges.parquet")
    assert not list(tmp_path.iterdir())
