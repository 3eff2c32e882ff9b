"""Blocks in the cache of the `datasets` library."""

import shutil

import pytest
import torch

from kansformer.embedded import embedded_model_path
from kansformer.errors import DataError
from kansformer.training.data import DataRecipe, prepare_data


@pytest.fixture
def prepare(text):
    def prepared(block=8, **fields):
        recipe = DataRecipe(files=str(text), block=block, **fields)
        data = prepare_data("causal-lm", recipe, str(embedded_model_path()))
        return data.train[:]["input_ids"], data.facts

    return prepared


@pytest.fixture
def nothing_is_packed(monkeypatch):
    monkeypatch.setattr("kansformer.training.data.language.pack_all", None)


def test_the_second_time_nothing_is_tokenised(prepare, request):
    first, facts = prepare()
    request.getfixturevalue("nothing_is_packed")
    again, same_facts = prepare()
    assert torch.equal(again, first) and same_facts == facts and first.dtype == torch.int64
    with pytest.raises(DataError, match="cannot be loaded"):
        prepare(block=9)


def test_everything_that_decides_has_blocks_of_its_own(prepare, cache, text):
    for fields in ({}, {"block": 9}, {"tokenizer": 300}):
        prepare(**fields)
    text.write_text(text.read_text()[:-100] + "x")
    prepare()
    assert len(list(cache.iterdir())) == 8


@pytest.mark.parametrize("damage", [lambda data: data[:-3], lambda data: data[:-1] + b"\x7f", lambda data: b""])
@pytest.mark.parametrize("file", ["generator-train.arrow", "dataset_info.json"])
def test_a_damaged_file_is_made_again(prepare, cache, damage, file, request):
    first, _ = prepare()
    for path in cache.rglob(file):
        path.write_bytes(damage(path.read_bytes()))
    assert torch.equal(prepare()[0], first)
    request.getfixturevalue("nothing_is_packed")
    assert torch.equal(prepare()[0], first)


def test_nothing_is_kept_where_nothing_can_be_written(prepare, cache, monkeypatch):
    first, _ = prepare()
    shutil.rmtree(cache)
    with monkeypatch.context() as context:
        move = shutil.move

        def full(source, target):
            if str(cache) in str(source):
                raise OSError(28, "No space left on device")
            return move(source, target)

        context.setattr("datasets.builder.shutil.move", full)
        assert torch.equal(prepare()[0], first)
        assert not list(cache.rglob("*.arrow"))
    shutil.rmtree(cache)
    cache.touch()
    assert torch.equal(prepare()[0], first)


def test_the_library_is_as_loud_as_before_and_asks_no_server(prepare, capfd):
    import datasets

    datasets.enable_progress_bars()
    level = datasets.logging.get_verbosity()
    prepare()
    assert not datasets.are_progress_bars_disabled() and datasets.logging.get_verbosity() == level
    assert not datasets.config.HF_UPDATE_DOWNLOAD_COUNTS and "Generating" not in capfd.readouterr().err
