"""Datasets that are read while training."""

import dataclasses
import itertools
import types

import pytest
import torch
from accelerate.data_loader import IterableDatasetShard
from transformers import TrainerControl, TrainerState

from kansformer.embedded import embedded_model_path
from kansformer.errors import DataError
from kansformer.training.callbacks import StreamEnd
from kansformer.training.data import DataRecipe, prepare_data
from kansformer.training.recipe import Recipe
from kansformer.training.run import train

EMBEDDED = str(embedded_model_path())


@pytest.fixture
def stream(write_dataset):
    """Two files of 30 rows, 8 blocks of evaluation from the first rows, and what else a test sets."""
    rows = [{"text": f"Row number {i} here.", "blank": ""} for i in range(60)]
    folder = write_dataset(**{"train-0": rows[:30], "train-1": rows[30:], "test": rows[:2] * 20})

    def prepare(task="causal-lm", seed=0, **fields):
        recipe = DataRecipe(**{"dataset": folder, "streaming": True, "block": 8, "max_eval_tokens": 64, **fields})
        return prepare_data(task, recipe, EMBEDDED, seed=seed)

    prepare.folder = folder
    return prepare


def rows_in(blocks, tokenizer):
    text = tokenizer.decode(torch.cat([block["input_ids"] for block in blocks]))
    return [part for part in text.split(tokenizer.bos_token) if part.endswith(".")]


def test_a_stream_is_complete_and_leaves_out_what_it_is_evaluated_on(stream):
    data = stream()
    assert isinstance(data.train, torch.utils.data.IterableDataset) and len(data.evaluation) == 8
    blocks = list(data.train)
    batch = data.collator(blocks[:2])
    assert torch.equal(batch["input_ids"], batch["labels"]) and batch["labels"].shape == (2, 8)
    held_out = rows_in([data.evaluation[i] for i in range(8)], data.processor)
    found = rows_in(blocks, data.processor)
    assert len(found) == len(set(found)) > 30 and not set(held_out) & set(found) and "Row number 0 here." in held_out
    assert found != sorted(found, key=lambda row: int(row.split()[2]))  # shuffled, and in each epoch the same
    assert found == rows_in(list(data.train), data.processor) != rows_in(list(stream(seed=1).train), data.processor)
    assert data.facts["streaming"] and data.facts["eval_tokens"] == 64


def test_a_split_of_its_own_leaves_nothing_out(stream):
    data = stream(eval_split="test")
    assert len(rows_in(list(data.train), data.processor)) >= 59  # the rest of the last block is dropped


def test_processes_share_the_stream(stream):
    train = stream(max_train_tokens=8 * 8).train
    whole = [block["input_ids"].tolist() for block in train]
    for process, own in enumerate((whole[0:2] + whole[4:6], whole[2:4] + whole[6:8])):
        share = IterableDatasetShard(train, batch_size=2, num_processes=2, process_index=process)
        assert [block["input_ids"].tolist() for block in share] == own


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_share_the_files(stream, monkeypatch, workers):
    data, found = stream(eval_split="test"), []
    limited = stream(eval_split="test", max_train_tokens=13 * 8).train
    count = 0
    for number in range(workers):
        info = types.SimpleNamespace(id=number, num_workers=workers, seed=0, dataset=data.train)
        monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda info=info: info)
        found += rows_in(list(data.train), data.processor) if number < 2 else [str(b) for b in data.train]
        count += len(list(limited))
    assert len(found) == len(set(found)) >= 58 and count == 13


def test_passes_follow_one_another(stream, monkeypatch):
    data = stream()
    once, endless = list(data.train), dataclasses.replace(data.train, repeats=True)
    rows = list(itertools.islice(endless, 2 * len(once) + 3))
    assert [row["input_ids"].tolist() for row in rows] == [row["input_ids"].tolist() for row in [*once * 2, *once[:3]]]
    assert [int(row["epoch"]) for row in rows] == [0] * len(once) + [1] * len(once) + [2] * 3
    assert data.collator(rows[-2:]).keys() == {"input_ids", "labels"}
    for workers, repeats in ((1, True), (2, False)):
        info = types.SimpleNamespace(id=0, num_workers=workers, seed=0, dataset=endless)
        monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda info=info: info)
        assert (len(list(itertools.islice(endless, 3 * len(once)))) == 3 * len(once)) == repeats


def test_a_stream_of_several_workers_ends_with_a_sentence():
    args, state = types.SimpleNamespace(dataloader_num_workers=2), TrainerState(global_step=3, max_steps=9)
    end = StreamEnd()
    with pytest.raises(DataError, match=r"over after step 3 of training.max_steps=9, and .*_workers=2 cannot repeat"):
        end.on_epoch_end(args, state, TrainerControl())
    stopped = TrainerControl(should_training_stop=True)  # without a batch, as a Trainer does
    with pytest.raises(DataError, match="over after step 3"):
        end.on_epoch_end(args, state, stopped)
    end.on_step_begin(args, state, TrainerControl())
    end.on_epoch_end(args, state, stopped)
    end.on_epoch_end(args, TrainerState(global_step=9, max_steps=9), TrainerControl())


def test_every_pass_is_masked_otherwise(stream, tmp_path):
    from kansformer.training.data.tokenizer import train_tokenizer

    train_tokenizer(["Row number 0 here."], 300, mask=True).save_pretrained(tmp_path / "tokenizer")
    data = stream("masked-lm", tokenizer=str(tmp_path / "tokenizer"))
    rows = [[{**row, "epoch": torch.tensor(epoch)} for row in list(data.train)[:4]] for epoch in (0, 1)]
    first, second, again = (data.collator(batch)["labels"] for batch in (*rows, rows[0]))
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_a_masked_model_can_stream(stream, tmp_path):
    from kansformer.training.data.tokenizer import train_tokenizer

    train_tokenizer(["Row number 0 here."], 300, mask=True).save_pretrained(tmp_path / "tokenizer")
    data = stream("masked-lm", tokenizer=str(tmp_path / "tokenizer"))
    rows = list(data.train)
    assert "labels" not in rows[0] and (data.collator(rows)["labels"] != -100).any()


def test_unusable_streams_are_refused(stream):
    with pytest.raises(DataError, match=r"has no text column 'body'. Choose text_column from: text, blank"):
        stream(text_column="body")
    with pytest.raises(DataError, match="The column 'blank' of .* is empty"):
        stream(text_column="blank")
    with pytest.raises(DataError, match=r"The evaluation takes all of the 60 texts of .* is 9,999. Lower it"):
        stream(max_eval_tokens=9999)
    train = stream().train
    with pytest.raises(DataError, match=r"has no block of 9999 tokens to train on beside the \d+ texts of the eval"):
        next(iter(dataclasses.replace(train, packing=dataclasses.replace(train.packing, block=9999))))


@pytest.mark.parametrize("accumulation", [1, 4])
def test_a_killed_run_on_a_stream_resumes_to_the_bit(stream, tmp_path, accumulation):
    def kill(stage, done, *_):
        if done == 5:
            raise KeyboardInterrupt

    assert 2 * 24 < len(list(stream().train)) < 3 * 24, "a pass is of three batches, fewer than the accumulated ones"
    recipe = Recipe.from_dict(
        {
            "task": "causal-lm",
            "model": {"path": "embedded"},
            "kan": {},
            "trainable": ["curves"],
            "data": {"dataset": stream.folder, "streaming": True, "block": 8, "max_eval_tokens": 64},
            "training": {
                "max_steps": 6, "per_device_train_batch_size": 24, "logging_steps": 1, "save_strategy": "steps",
                "save_steps": 4, "gradient_accumulation_steps": accumulation,
            },
        }
    )  # fmt: skip
    through = train(recipe, tmp_path / "through")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "killed", progress=kill)
    assert train(recipe, tmp_path / "killed", resume=True).losses == through.losses[4:]
