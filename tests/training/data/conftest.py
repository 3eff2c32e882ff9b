"""Every test has a cache folder of its own."""

import json

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    import datasets

    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    return folder / "kansformer" / "blocks"


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
