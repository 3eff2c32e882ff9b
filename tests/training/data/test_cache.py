"""Blocks kept on disk."""

import os

import pytest
import torch

from kansformer.training.data.cache import cache_key, cached_blocks, content_digest
from kansformer.training.data.packing import Packing
from kansformer.training.data.train_tokenizer import character_tokenizer

BLOCKS = torch.arange(12, dtype=torch.int32).view(3, 4)


def never():
    raise AssertionError("the blocks are in the cache")


def test_blocks_are_made_once(cache):
    assert torch.equal(cached_blocks("key", lambda: BLOCKS).long(), BLOCKS.long())
    found = cached_blocks("key", never)
    assert torch.equal(found.long(), BLOCKS.long()) and found.dtype == torch.uint16
    assert [path.name for path in cache.iterdir()] == ["key.safetensors"]


def test_large_token_numbers_are_kept():
    large = BLOCKS + 2**16
    for make in (lambda: large, never):
        found = cached_blocks("key", make)
        assert torch.equal(found, large) and found.dtype == torch.int32


@pytest.mark.parametrize("damage", [lambda data: data[:-3], lambda data: data[:-1] + b"\x7f", lambda data: b""])
def test_a_damaged_file_is_made_again(cache, damage):
    cached_blocks("key", lambda: BLOCKS)
    path = cache / "key.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    assert torch.equal(cached_blocks("key", lambda: BLOCKS).long(), BLOCKS.long())
    assert torch.equal(cached_blocks("key", never).long(), BLOCKS.long())


def test_nothing_is_kept_where_nothing_can_be_written(cache, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert torch.equal(cached_blocks("key", lambda: BLOCKS).long(), BLOCKS.long())

    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent.parent))
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert torch.equal(cached_blocks("key", lambda: BLOCKS).long(), BLOCKS.long())
    assert not list(cache.iterdir())


def test_the_key_names_all_that_decides():
    tokenizer, other = character_tokenizer(["ab"]), character_tokenizer(["abc"])
    content = content_digest(["a", "b"])
    assert content != content_digest(["ab"])
    keys = [
        cache_key(content, tokenizer, Packing(4)),
        cache_key(content_digest(["b", "a"]), tokenizer, Packing(4)),
        cache_key(content, other, Packing(4)),
        cache_key(content, tokenizer, Packing(5)),
        cache_key(content, tokenizer, Packing(4, start=(0,))),
    ]
    assert len(set(keys)) == 5
    assert cache_key(content, character_tokenizer(["ab"]), Packing(4)) == keys[0]
    assert cache_key(content, object(), Packing(4)) is None
