"""The recipe of the data, and which tasks can use it."""

import pytest

from kansformer.errors import ConfigError
from kansformer.training.data import DataRecipe, check_task


def test_paths_become_a_tuple_and_digits_a_number():
    recipe = DataRecipe(files="a.txt", eval_files=["b.txt", "c/*.txt"], tokenizer="2048")
    assert (recipe.files, recipe.eval_files, recipe.tokenizer) == (("a.txt",), ("b.txt", "c/*.txt"), 2048)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "Give exactly one of corpus, files and dataset; none was given"),
        ({"corpus": "digits", "files": "a.txt"}, r"corpus='digits' and files=\('a.txt',\) were given"),
        (
            {"corpus": "wikipedia"},
            "corpus is 'wikipedia'. Choose one of: standard-library, language-reference, digits",
        ),
        ({"corpus": "digits", "eval_files": "a"}, r"eval_files=\('a',\) goes with files, not with corpus"),
        ({"files": "a", "eval_split": "test"}, "eval_split='test' goes with dataset, not with files"),
        ({"files": "a", "streaming": True, "max_eval_tokens": 9}, "streaming=True goes with dataset, not with files"),
        ({"files": []}, r"files must not be empty"),
        ({"files": [""]}, r"files must not be empty"),
        ({"files": 3}, "files must be a list, got 3"),
        ({"files": "a", "text_column": 3}, "text_column must be a text, got 3"),
        ({"fiels": "a"}, "Unknown field 'fiels'. Choose from: corpus, files, eval_files"),
        ({"files": "a", "eval_fraction": 1.0}, "eval_fraction must be below 1, got 1.0"),
        ({"files": "a", "block": 1}, "block must be at least 2, got 1"),
        ({"files": "a", "max_train_tokens": 1.5}, "max_train_tokens must be a whole number, got 1.5"),
        ({"files": "a", "tokenizer": 256}, "tokenizer: 256 is too small: byte-level BPE needs 257"),
        (
            {"files": "a", "tokenizer": True},
            r"tokenizer: True is not a tokenizer. Choose .model. .*, .characters., a n",
        ),
        ({"dataset": "a", "eval_split": "train"}, "eval_split='train' is trained on"),
        ({"dataset": "a", "streaming": True}, "streaming=True needs max_eval_tokens"),
        (
            {"dataset": "a", "streaming": True, "max_eval_tokens": 9, "tokenizer": "characters"},
            "tokenizer='characters' is made from the whole training text",
        ),
    ],
)
def test_impossible_fields_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        DataRecipe(**fields)


@pytest.mark.parametrize(
    ("task", "fields", "message"),
    [
        ("translation", {"files": "a"}, "Unknown task 'translation'. Choose one of: causal-lm, masked-lm, sequence"),
        (
            "causal-lm",
            {"corpus": "digits"},
            "corpus='digits' is not for task='causal-lm', but for image-classification",
        ),
        ("sequence-classification", {"corpus": "language-reference"}, "Choose from: standard-library"),
        ("image-classification", {"files": "a"}, "choose dataset or corpus='digits'"),
        ("image-classification", {"corpus": "digits", "tokenizer": 300}, "tokenizer=300 does not go with task='image"),
        ("image-classification", {"corpus": "digits", "max_train_tokens": 300}, "images have no tokens"),
        ("causal-lm", {"files": "a", "max_eval_tokens": 100}, "max_eval_tokens=100 is less than one block=256"),
        (
            "sequence-classification",
            {"dataset": "a", "streaming": True, "max_eval_tokens": 9},
            "streaming=True is for causal-lm and masked-lm, not for task='sequence-classification'",
        ),
    ],
)
def test_data_that_a_task_cannot_use_are_refused(task, fields, message):
    with pytest.raises(ConfigError, match=message):
        check_task(task, DataRecipe(**fields))
