"""A tiny random language model with its tokenizer, and the program run in this process."""

import pytest
from tiny_models import tiny_llama
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging
from typer.testing import CliRunner

from kansformer.cli import app

TEXT = "The quick brown fox jumps over the lazy dog, and the dog sleeps on.\n" * 40


@pytest.fixture(autouse=True)
def _restore_transformers_logging():
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    yield
    logging.set_verbosity(verbosity)
    if bars:
        logging.enable_progress_bar()


@pytest.fixture
def run():
    """run(*arguments): result of the program, whose output is in `.stdout` and `.stderr`."""

    def call(*arguments):
        return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200", "NO_COLOR": "1"})

    return call


@pytest.fixture
def refused(run):
    """refused(*arguments): the one sentence on stderr of a command that ends with exit code 1."""

    def call(*arguments):
        result = run(*arguments)
        assert result.exit_code == 1, result.output
        assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
        return result.stderr.removeprefix("Error: ").rstrip("\n")

    return call


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Folder of a Llama with random weights and a byte-level tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([TEXT], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, **dict.fromkeys(("bos_token", "eos_token"), "<|end|>"))
    sizes = dict(vocab_size=300, max_position_embeddings=256, initializer_range=0.2)
    tiny_llama(**sizes, bos_token_id=0, eos_token_id=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def text(tmp_path):
    """A text file of a few hundred tokens."""
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path
