"""A text, and folders with datasets."""

import json

import pytest


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(f"Line {i:03d} of a text, with an ö and a tab\t.\n" for i in range(100)), encoding="utf-8")
    return path


@pytest.fixture
def write_dataset(tmp_path):
    """Write a folder that the datasets library loads: file names and their rows."""

    def write(**files):
        folder = tmp_path / "dataset"
        folder.mkdir()
        for name, rows in files.items():
            (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return str(folder)

    return write
