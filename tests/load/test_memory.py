"""What reads a stream holds little of it, however long it is; `benchmarks/bounds.py` measures how much."""

import gc
import tempfile
import weakref

import datasets
import pytest
import torch
import transformers
from tiny_models import randomize_curves, tiny_llama

from kansformer import KANConfig, convert
from kansformer.embedded import embedded_model_path
from kansformer.errors import DataError
from kansformer.interp import edge_scores, summarize
from kansformer.training.data import language as language_module
from kansformer.training.data import packing as packing_module
from kansformer.training.data import texts as texts_module
from kansformer.training.data.texts import CHARACTERS_PER_TOKEN, file_text
from kansformer.training.recipe import Recipe
from kansformer.training.run import train

BATCHES = 24
HELD = 2
"""Batches that may be there at once: the one that is read, and the one before it."""


class Source:
    """Batches made one by one, and how many of them were there at once."""

    def __init__(self):
        self.alive, self.most = weakref.WeakSet(), 0

    def __iter__(self):
        generator = torch.Generator().manual_seed(0)
        for _ in range(BATCHES):
            ids = torch.randint(50, (2, 16), generator=generator)
            self.alive.add(ids)
            self.most = max(self.most, len(self.alive))
            yield {"input_ids": ids, "labels": ids}
            del ids


@pytest.fixture
def model():
    return randomize_curves(convert(tiny_llama(vocab_size=50, num_hidden_layers=1), KANConfig()), 0.1)


@pytest.fixture
def temporary(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_the_audit_of_a_generator_is_that_of_a_list_and_holds_none_of_it(model, temporary):
    source = Source()
    streamed = summarize(model, iter(source))
    assert source.most <= HELD
    listed = summarize(model, list(Source()))
    assert streamed.tokens == listed.tokens == BATCHES * 32
    assert (streamed.loss, streamed.replaced) == (listed.loss, listed.replaced)
    assert streamed.to_pandas().equals(listed.to_pandas())
    assert all(folder.name.startswith("kansformer-audit-") for folder in temporary.iterdir())  # tables of both
    del streamed, listed
    gc.collect()
    assert not list(temporary.iterdir())


def test_scores_of_a_generator_hold_none_of_it_and_leave_nothing_after_an_error(model, temporary):
    source = Source()
    scores = edge_scores(model, iter(source))
    assert source.most <= HELD
    (slot,) = edge_scores(model, list(Source())).items()
    assert torch.equal(scores[slot[0]].attribution, slot[1].attribution)

    def broken():
        yield from Source()
        raise DataError("no more")

    with pytest.raises(DataError, match="no more") as kept:
        summarize(model, broken())
    assert kept.tb is not None  # its frames are alive
    assert not list(temporary.iterdir())


def test_of_a_file_larger_than_any_memory_no_more_is_read_than_its_tokens_can_need(tmp_path):
    file = tmp_path / "text"
    with file.open("wb") as out:
        out.write("ü\r\n".encode() * 1000)
        out.truncate(2**40)  # a terabyte, of which the disk holds the beginning
    text = file_text(file, max_tokens=50)
    assert text == ("ü\n" * 1000)[: len(text)] and len(text) > CHARACTERS_PER_TOKEN * 50 / 2
    file.write_bytes("ü".encode()[:1] + b"x")
    with pytest.raises(DataError, match="not UTF-8 text: .* at byte 0"):
        file_text(file, max_tokens=50)


def test_training_on_a_stream_without_an_end_comes_to_an_end(monkeypatch, tmp_path):
    read = []

    def rows():
        while True:
            read.append(len(read))
            yield {"text": f"Row {len(read)} of a text that goes on and on."}

    monkeypatch.setattr(
        language_module, "load_split", lambda data, split: datasets.IterableDataset.from_generator(rows)
    )
    monkeypatch.setattr(packing_module, "BATCH_CHARACTERS", 100_000)
    recipe = Recipe.from_dict(
        {
            "task": "causal-lm",
            "model": {"path": "embedded"},
            "kan": {},
            "trainable": ["curves"],
            "data": {"dataset": "endless", "streaming": True, "block": 16, "max_eval_tokens": 64},
            "training": {"max_steps": 2, "per_device_train_batch_size": 2, "use_cpu": True, "report_to": "none"},
        }
    )
    result = train(recipe, tmp_path / "out")
    assert result.steps == 2
    # The rows that wait to be shuffled and the text that is tokenised together, for the grids, for training, for eval.
    most = 3 * (
        language_module.SHUFFLE_ROWS
        + 2 * packing_module.BATCH_CHARACTERS // len("Row 1 of a text that goes on and on.")
    )
    assert len(read) < most


@pytest.mark.parametrize("bos", [None, 0])
def test_a_long_text_is_tokenised_in_pieces_to_the_same_tokens(monkeypatch, bos):
    tokenizer = transformers.AutoTokenizer.from_pretrained(embedded_model_path())
    tokenizer.bos_token = None if bos is None else tokenizer.convert_ids_to_tokens(bos)
    packing = packing_module.choose_packing("causal-lm", tokenizer, 16)
    code = "".join(f"def f{i}(x):\n    return x + {i}\n\n\nprint(f{i}(1))\n" for i in range(200))
    documents = ["a first one", code, "x" * 3000, "the last one"]
    monkeypatch.setattr(packing_module, "BATCH_CHARACTERS", 1000)

    def pack(texts):
        return torch.tensor(list(map(list, packing_module.pack(texts_module.texts_of(texts), tokenizer, packing))))

    whole = pack(documents[:2])
    monkeypatch.setattr(texts_module, "MAX_PIECE", 1000)
    assert torch.equal(pack(documents[:2]), whole)
    pieces = [piece.text for piece in texts_module.texts_of([code])]
    assert "".join(pieces) == code and len(pieces) > 8 and max(map(len, pieces)) <= 1000
    text = tokenizer.decode(pack(documents).flatten(), skip_special_tokens=True)
    joined = ("" if bos is not None else "\n\n").join(documents)
    # Where there is no line break, it is cut all the same.
    assert joined.startswith(text) and len(text) > len(joined) - 64
