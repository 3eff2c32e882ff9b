"""`kansformer evaluate` prints what `mean_loss` returns."""

import json
import os
import re

import pytest
from tiny_models import randomize_curves
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertForMaskedLM

from kansformer import KANConfig, convert
from kansformer.conversion.measured import digest_of_weights
from kansformer.training.data.packing import tokenize_blocks
from kansformer.training.evaluate import mean_loss


def numbers(stdout, row):
    """Loss, perplexity, tokens of a printed row."""
    line = next(line for line in stdout.splitlines() if line.startswith(row))
    return [float(n.replace(",", "")) for n in re.findall(r"[+-]?[\d,]+\.?\d*", line.removeprefix(row))]


@pytest.fixture
def bent(tiny, tmp_path):
    """Folder of the tiny model with curves that are not straight, and what `mean_loss` says with and without them."""
    model = randomize_curves(convert(AutoModelForCausalLM.from_pretrained(tiny), KANConfig()), 1.0)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    model.save_pretrained(tmp_path / "bent")
    tokenizer.save_pretrained(tmp_path / "bent")
    return tmp_path / "bent", model, tokenizer


def test_the_printed_numbers_are_those_of_mean_loss(run, tiny, text):
    result = run("evaluate", tiny, "--text", text, "--block", 32)
    assert result.exit_code == 0, result.output
    blocks = tokenize_blocks(text.read_text(), AutoTokenizer.from_pretrained(tiny), 32)
    expected = mean_loss(AutoModelForCausalLM.from_pretrained(tiny), blocks, 8)
    loss, perplexity, tokens = numbers(result.stdout, "as it is")[:3]
    assert (loss, perplexity) == (round(expected.loss, 4), round(expected.perplexity, 3))
    assert tokens == expected.tokens == len(blocks) * 31
    assert f"{len(blocks)} blocks of 32 tokens" in result.stdout


def test_the_device_can_be_chosen(run, refused, tiny, text):
    short = ("evaluate", tiny, "--text", text, "--block", 32, "--max-tokens", 64)
    assert "as it is" in run(*short, "--device", "cpu").stdout
    assert refused(*short, "--device", "moon").startswith(
        "--device moon cannot be used here: Expected one of cpu, cuda"
    )
    assert refused(*short, "--device", "xla:7").endswith("Choose cpu, or leave it out.")


def test_compare_prints_both_and_the_difference(run, tiny, bent, text):
    folder, model, tokenizer = bent
    result = run("evaluate", folder, "--text", text, "--block", 32, "--max-tokens", 100, "--compare")
    assert result.exit_code == 0, result.output
    blocks = tokenize_blocks(text.read_text(), tokenizer, 32)[:3]
    with_curves = mean_loss(model, blocks)
    without = mean_loss(AutoModelForCausalLM.from_pretrained(tiny), blocks)
    assert abs(with_curves.loss - without.loss) > 0.01
    assert numbers(result.stdout, "with curves")[0] == round(with_curves.loss, 4)
    assert numbers(result.stdout, "without curves")[0] == round(without.loss, 4)
    assert numbers(result.stdout, "difference")[0] == pytest.approx(with_curves.loss - without.loss, abs=5e-5)


def test_recorded_results_stand_in_the_card(run, bent, text):
    folder, *_ = bent
    for more in ([], ["--compare"]):  # the second time in the place of the first
        result = run("evaluate", folder, "--text", text, "--block", 32, "--max-tokens", 100, "--record", *more)
        assert result.exit_code == 0, result.output
    loss, perplexity = numbers(result.stdout, "with curves")[:2]
    loss_before, perplexity_before = numbers(result.stdout, "without curves")[:2]
    card = (folder / "README.md").read_text()
    assert card.count(f"{text.name}, the first 100 tokens in blocks of 32 tokens | loss |") == 1
    assert f"| {text.name}, the first 100 tokens in blocks of 32 tokens | loss | {loss} | {loss_before} |" in card
    assert f"| perplexity | {perplexity} | {perplexity_before} |" in card
    rows = json.loads((folder / "kansformer.json").read_text())["results"]
    assert {row["weights"] for row in rows} == {digest_of_weights(folder)}


def test_results_are_recorded_only_where_there_is_a_card(refused, tiny, text):
    assert "has no curves" in refused("evaluate", tiny, "--text", text, "--record")


def test_a_dataset(run, tiny, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "test.jsonl").write_text("\n".join(json.dumps({"story": f"Row {i} of the text."}) for i in range(40)))
    result = run("evaluate", tiny, "--dataset", folder, "--column", "story", "--block", 16, "--max-tokens", 64)
    assert result.exit_code == 0, result.output
    assert numbers(result.stdout, "as it is")[2] == 4 * 15


def test_rows_of_a_table_are_texts(run, tiny, tmp_path):
    texts = [f"Row {i} of the text." for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"story": text, "id": 7}) for text in texts))
    result = run("evaluate", tiny, "--text", tmp_path / "rows.jsonl", "--column", "story", "--block", 16)
    assert result.exit_code == 0, result.output
    blocks = tokenize_blocks(texts, AutoTokenizer.from_pretrained(tiny), 16)
    expected = mean_loss(AutoModelForCausalLM.from_pretrained(tiny), blocks, 8)
    assert numbers(result.stdout, "as it is")[0] == round(expected.loss, 4)


def test_a_column_that_is_not_there_is_chosen_by_the_option(refused, tiny, tmp_path):
    (tmp_path / "rows.csv").write_text("body\n1 2 3\n")
    message = refused("evaluate", tiny, "--text", tmp_path / "rows.csv")
    assert message.endswith("from: body. The commands evaluate and explain take it as --column.")


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="needs /dev/fd, which Linux and macOS have")
def test_a_pipe_is_a_text(run, tiny):
    reader, writer = os.pipe()
    os.write(writer, b"a text of a pipe " * 40)
    os.close(writer)
    try:
        result = run("evaluate", tiny, "--text", f"/dev/fd/{reader}", "--block", 32)
    finally:
        os.close(reader)
    assert result.exit_code == 0 and "blocks of 32 tokens" in result.output, result.output


def test_the_standard_library_is_the_default_text(run, tiny):
    result = run("evaluate", tiny, "--block", 64, "--max-tokens", 640)
    assert result.exit_code == 0, result.output
    assert "the standard library's held-out files: 10 blocks of 64 tokens" in result.stdout


def test_bad_requests_end_in_a_sentence(refused, tiny, text, tmp_path):
    def evaluate(*options):
        return refused("evaluate", tiny, "--text", text, *options)

    assert "is not converted, so there is nothing to compare" in evaluate("--compare")
    assert "is longer than the 256 positions" in evaluate("--block", 257)
    assert "--max-tokens 5 is less than one block of 32" in evaluate("--block", 32, "--max-tokens", 5)
    assert "block=1 leaves no token to predict" in evaluate("--block", 1)
    assert "batch_size must be a whole number of at least 1, got 0" in evaluate("--batch-size", 0)
    assert "Choose one." in evaluate("--dataset", "wikitext")
    assert "There is no text file" in refused("evaluate", tiny, "--text", tmp_path / "nowhere.txt")
    (tmp_path / "empty.txt").touch()
    assert "is empty" in refused("evaluate", tiny, "--text", tmp_path / "empty.txt")
    (tmp_path / "short.txt").write_text("short")
    assert "too few for one block" in refused("evaluate", tiny, "--text", tmp_path / "short.txt")


def test_other_kinds_of_models_are_refused(refused, tiny, text, tmp_path):
    config = BertConfig(vocab_size=30, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
    BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    assert "is a BertForMaskedLM. Only causal" in refused("evaluate", tmp_path / "bert", "--text", text)
    AutoModelForCausalLM.from_pretrained(tiny).save_pretrained(tmp_path / "mute")
    assert "has no tokenizer" in refused("evaluate", tmp_path / "mute", "--text", text)
