"""Rows: there and back, as Markdown, and where they say they come from."""

import csv
from dataclasses import replace

import pytest
from speed.table import (
    Environment,
    Row,
    cell,
    commit_of,
    describe_environment,
    markdown,
    read_devices,
    read_rows,
    source_digest,
    write_rows,
)

from kansformer.errors import DataError

TIME = Row(
    suite="cpu", shape="S", variant="ours", measure="step", ratio=0.5, ratio_lower=0.25, ratio_upper=0.75,
    baseline="MLP", rounds=9, calls=3, parameters=42, note='a "note", with a comma',
)  # fmt: skip
SAVED = Row(suite="cpu", shape="S", variant="ours", measure="saved", baseline="MLP", mib=12.5)


def test_there_and_back(tmp_path):
    path = tmp_path / "new" / "rows.csv"
    environment = Environment(device="a CPU", machine="Linux", cpus=2, threads=1, backend="cpu", commit="abc")
    write_rows(path, [TIME, SAVED], environment)
    assert read_rows(path) == [TIME, SAVED]
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["device"], line["threads"], line["commit"]) for line in lines] == [("a CPU", "1", "abc")] * 2


def test_older_files_have_no_allocator(tmp_path):
    path = tmp_path / "rows.csv"
    write_rows(path, [TIME], Environment(device="a CPU", machine="Linux", cpus=2, threads=1, backend="cpu"))
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(
            file, [n for n in lines[0] if n not in ("allocator", "page_faults")], extrasaction="ignore"
        )
        writer.writeheader()
        writer.writerows(lines)
    assert read_rows(path) == [TIME] and read_devices(path) == ["a CPU"]


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("model,case\n1,2\n")
    with pytest.raises(DataError, match=r"other\.csv' is not a file of .*: it has no column 'baseline'"):
        read_rows(path)


def test_cells():
    assert cell(None) == "–"
    assert cell(TIME) == "0.50 (0.25–0.75)"
    assert cell(SAVED) == "12 MiB"
    assert cell(Row(suite="", shape="", variant="a", measure="saved", baseline="b", mib=2.0, ratio=0.25)) == (
        "2.0 MiB (0.25)"
    )
    base = Row(suite="", shape="", variant="a", measure="step", ratio=1.0, ratio_lower=1.0, ratio_upper=1.0,
               baseline="a", milliseconds=2.0)  # fmt: skip
    assert cell(base) == "1, 2.00 ms"
    kept = replace(TIME, allocator="memory kept", page_faults=1234.0)
    assert cell(kept) == "0.50 (0.25–0.75), 1,234 faults" and kept.column == "step, memory kept"


def test_markdown_has_a_table_per_shape_and_a_dash_where_nothing_was_measured():
    other = Row(suite="cpu", shape="L", variant="ours", measure="step", ratio=2.0, ratio_lower=2.0, ratio_upper=2.0)
    missing = Row(suite="cpu", shape="S", variant="peer", measure="saved", mib=1.0)
    assert markdown([TIME, SAVED, missing, other]).splitlines() == [
        "| S | step | saved |",
        "|---|---|---|",
        "| ours | 0.50 (0.25–0.75) | 12 MiB |",
        "| peer | – | 1.0 MiB |",
        "",
        "| L | step |",
        "|---|---|",
        "| ours | 2.00 (2.00–2.00) |",
    ]


def test_the_environment_is_of_this_process():
    environment = describe_environment("cpu", "reference")
    assert environment.device and environment.torch and environment.transformers and environment.threads >= 1
    assert environment.source == source_digest() and len(environment.source) == 8


def test_the_commit_is_read_from_any_kind_of_work_tree(tmp_path):
    assert commit_of(tmp_path) == ""
    git = tmp_path / "main" / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/topic\n")
    assert commit_of(tmp_path / "main") == ""
    (git / "packed-refs").write_text("# pack-refs\n" + "b" * 40 + " refs/heads/topic\n")
    assert commit_of(tmp_path / "main") == "b" * 12
    (git / "refs" / "heads" / "topic").write_text("c" * 40 + "\n")
    assert commit_of(tmp_path / "main") == "c" * 12
    side = git / "worktrees" / "side"
    side.mkdir(parents=True)
    (side / "HEAD").write_text("ref: refs/heads/topic\n")
    (side / "commondir").write_text("../..\n")
    (tmp_path / "side").mkdir()
    (tmp_path / "side" / ".git").write_text(f"gitdir: {side}\n")
    assert commit_of(tmp_path / "side") == "c" * 12
    (side / "HEAD").write_text("d" * 40 + "\n")
    assert commit_of(tmp_path / "side") == "d" * 12
