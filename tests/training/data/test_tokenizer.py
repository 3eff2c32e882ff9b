"""Tokenizers made from the text, and those that a recipe names."""

import json

import pytest
from transformers import AutoTokenizer

from kansformer.embedded import embedded_model_path
from kansformer.errors import ConfigError
from kansformer.training.data import DataRecipe
from kansformer.training.data.texts import texts_of
from kansformer.training.data.tokenizer import character_tokenizer, choose_tokenizer, train_tokenizer

TEXT = "Zwei  Döner ,\n\n\tbitte\r\n 's don't ☃.\n"


@pytest.fixture
def choose():
    def chosen(task="causal-lm", tokenizer="model", model=None, train=(TEXT,), evaluation=("Q",)):
        return choose_tokenizer(
            task, DataRecipe(files="a", tokenizer=tokenizer), model, texts_of(train), texts_of(evaluation)
        )

    return chosen


@pytest.mark.parametrize("make", [lambda: character_tokenizer([TEXT]), lambda: train_tokenizer([TEXT], 300)])
def test_a_tokenizer_made_here_is_lossless_and_saved_whole(tmp_path, make):
    tokenizer = make()
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for each in (tokenizer, loaded):
        assert each.decode(each(TEXT)["input_ids"]) == TEXT
    assert loaded(TEXT)["input_ids"] == tokenizer(TEXT)["input_ids"] and len(loaded) == len(tokenizer)
    assert loaded.special_tokens_map == tokenizer.special_tokens_map


def test_a_character_is_one_token(choose):
    tokenizer = choose(tokenizer="characters")
    characters = sorted(set(TEXT + "Q\n"))  # with what stands between texts
    assert len(tokenizer) == len(characters) and tokenizer.bos_token is None
    assert tokenizer.convert_ids_to_tokens(range(len(tokenizer))) == characters
    assert len(tokenizer(TEXT)["input_ids"]) == len(TEXT)
    with pytest.raises(Exception, match="Missing .UNK. token"):
        tokenizer("€")


def test_special_tokens_are_those_that_the_task_needs(choose):
    masked = choose("masked-lm", "characters")
    assert (masked.pad_token_id, masked.mask_token_id, masked.unk_token_id) == (0, 1, None)
    classified = choose("sequence-classification", "characters")
    assert classified("Q€")["input_ids"] == [classified.unk_token_id] * 2 and classified.padding_side == "right"
    bpe = choose("masked-lm", 260)
    assert (bpe.bos_token_id, bpe.pad_token_id, bpe.mask_token_id, len(bpe)) == (0, 0, 1, 260)
    assert choose("causal-lm", 270).mask_token is None


def test_the_tokenizer_of_the_model_and_of_another_folder(choose):
    source = str(embedded_model_path())
    assert len(choose(model=source)) == len(choose(tokenizer=source)) == 2048


def test_the_tokenizer_inside_a_gguf_file(choose, tmp_path):
    gguf = pytest.importorskip("gguf", reason="needs the extra `gguf`")
    original = train_tokenizer([TEXT * 3], 300)
    model = json.loads(original.backend_tokenizer.to_str())["model"]
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(model["vocab"], key=model["vocab"].get))
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    loaded = choose(model=str(tmp_path / "model.gguf"))
    assert loaded("Döner bitte")["input_ids"] == original("Döner bitte")["input_ids"]


def test_a_tokenizer_without_a_pad_token_pads_with_its_end_token(choose, tmp_path):
    tokenizer = train_tokenizer([TEXT], 300)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert choose("causal-lm", str(tmp_path)).pad_token is None
    assert choose("sequence-classification", str(tmp_path)).pad_token == tokenizer.eos_token
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="has neither a pad token nor an end token"):
        choose("sequence-classification", str(tmp_path))


def test_missing_tokenizers_are_refused(choose, tmp_path):
    with pytest.raises(ConfigError, match=r"needs a pretrained model. Training from scratch, choose .characters., a n"):
        choose()
    with pytest.raises(ConfigError, match=rf"tokenizer='{tmp_path}': none can be loaded from '{tmp_path}'"):
        choose(tokenizer=str(tmp_path))
    with pytest.raises(
        ConfigError, match=rf"tokenizer='model': none can be loaded from '{tmp_path}' .*Choose .charact"
    ):
        choose(model=str(tmp_path))
    with pytest.raises(ConfigError, match=r"The tokenizer of '.*embedded' has no mask token, which task='masked-lm'"):
        choose("masked-lm", model=str(embedded_model_path()))
