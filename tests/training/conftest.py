"""Every test has a cache of the `datasets` library of its own; a tiny recipe."""

import pytest
from tiny_run import BERT, LLAMA, TEXT

from kansformer.training.recipe import Recipe
from kansformer.training.run import train


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    return tmp_path / "datasets" / "kansformer"


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def make(text):
    def make(**changes) -> Recipe:
        values = {
            "task": "causal-lm",
            "model": {"config": LLAMA},
            "kan": {"groups": 4},
            "data": {"files": str(text), "tokenizer": "characters", "block": 16},
            **changes,
        }
        training = {"max_steps": 6, "per_device_train_batch_size": 4, "learning_rate": 3e-3, "logging_steps": 1}
        values["training"] = {**training, **changes.get("training", {})}
        return Recipe.from_dict({k: v for k, v in values.items() if v is not None})

    return make


@pytest.fixture
def start(make, tmp_path):
    """A small trained model without curves, in a folder."""
    train(make(kan=None), tmp_path / "start")
    return tmp_path / "start"


@pytest.fixture
def make_masked(make, text):
    def make_masked(**changes) -> Recipe:
        data = {"files": str(text), "tokenizer": 300, "block": 16}
        kan = {"slots": ["act"], "groups": 4}
        return make(task="masked-lm", model={"config": BERT}, kan=kan, data=data, **changes)

    return make_masked
