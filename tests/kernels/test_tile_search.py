"""The suite `tiles` in Triton's interpreter or on a GPU, with a clock of its own: what it writes, the kernels read."""

import json
import os

import kan_kernels.tiles
import pytest
import torch
from kan_kernels.tiles import choose
from speed import tile_search
from speed.suites import Options
from speed.table import describe_environment
from speed.tile_search import MAX_ERROR, TOY_PROBLEMS, Measured, Problem, measure_tiles, rules_from, write_tiles

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
QUICK = Options(rounds=1, least_seconds=0, device=DEVICE)

SOME = {operation: TOY_PROBLEMS[operation] for operation in ("forward", "expand")}


def two(operation):
    rows, columns = (16, 32) if operation != "expand" else (4, 16)
    yield dict(rows=rows, columns=columns, depth=32, warps=4, stages=2)


class Clock:
    """Later actions of a problem take less time, so that the last is the fastest."""

    def __init__(self):
        self.order = {}

    def __call__(self, action, calls):
        return calls / (1 + self.order.setdefault(action, len(self.order)))


def test_the_fastest_are_written_and_read(tmp_path, monkeypatch):
    report = write_tiles(tmp_path, describe_environment(DEVICE, "triton"), QUICK, SOME, two, Clock())
    assert not report.skips
    assert {row.shape.split()[0] for row in report.rows} == {"forward", "expand"}
    assert all(row.milliseconds > 0 and row.ratio > 0 for row in report.rows)
    (path,) = tmp_path.iterdir()
    written = json.loads(path.read_text())
    assert written["forward"][0]["rows"] == 16 and "outputs_below" not in written["forward"][0]  # one for both widths
    assert written["expand"][0]["columns"] == 16 and written["input_gradient"] and written["weight_gradient"]
    folder = tmp_path / "tiles"
    folder.mkdir()
    (folder / "default.json").write_text((kan_kernels.tiles._FOLDER / "default.json").read_text())
    path.rename(folder / path.name)
    monkeypatch.setattr(kan_kernels.tiles, "_FOLDER", folder)
    kan_kernels.tiles._rules.cache_clear()
    try:
        (gpu,) = written["architectures"]
        assert choose("forward", 8, torch.bfloat16, gpu).rows == 16
        assert choose("forward", 8, torch.bfloat16, gpu, "fused").rows == 16
        assert choose("forward", 8, torch.bfloat16, gpu, "expand").path == "expand"
        assert choose("expand", 8, torch.bfloat16, gpu).columns == 16
        assert choose("forward", 8, torch.float32, gpu) is not None
    finally:
        kan_kernels.tiles._rules.cache_clear()


def test_without_time_only_what_is_in_use_is_measured():
    problems = {"expand": TOY_PROBLEMS["expand"]}
    report, rules = measure_tiles(QUICK, problems, two, Clock(), has_time=lambda: False)
    assert [row.note for row in report.rows] == ["the tile in use"] and len(rules["expand"]) == 1
    assert [skip.reason for skip in report.skips] == ["there was no time left"]


def test_wrong_numbers_are_not_timed(monkeypatch):
    problems = {"expand": TOY_PROBLEMS["expand"]}
    action = tile_search._Tensors.action

    def spoiled(self, operation, tile):
        def run():
            result = action(self, operation, tile)()
            if tile.columns == 16:
                result = result * 1.02
            if tile.columns == 8:
                raise MemoryError("out of shared memory\nmore")
            return result

        return run

    def tried(operation):
        yield dict(rows=4, columns=16, depth=8, warps=4, stages=2)
        yield dict(rows=4, columns=8, depth=8, warps=4, stages=2)

    monkeypatch.setattr(tile_search._Tensors, "action", spoiled)
    report, rules = measure_tiles(QUICK, problems, tried, Clock())
    assert len(report.rows) == 1 and len(rules["expand"]) == 1
    wrong, failed = (skip.reason for skip in report.skips)
    assert wrong.startswith("its numbers are wrong: relative error 2.0e-02") and MAX_ERROR < 0.02
    assert failed == "it failed with MemoryError: out of shared memory"


@pytest.mark.parametrize(
    ("fastest", "expected"),
    [
        (("a", "a", "expand"), [(129, "a"), (None, "expand")]),
        (("a", "b", "b"), [(65, "a"), (None, "b")]),
        (("expand",) * 3, [(None, "expand")]),
    ],
)
def test_rules_follow_from_the_fastest(fastest, expected):
    problems = [Problem(tokens=1, inputs=1, outputs=outputs) for outputs in (64, 128, 256)]
    best = [
        (p, [Measured({"path": name}, 1.0), Measured({"path": "slow"}, 2.0)])
        for p, name in zip(problems, fastest, strict=True)
    ]
    rules = rules_from(best)
    assert [(rule.get("outputs_below"), rule["path"]) for rule in rules] == expected
