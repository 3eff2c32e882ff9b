"""`scripts/peft_comparison`: a whole run on a tiny Llama and local rows, and what it counts as a right answer."""

import json
import math
import runpy
import sys
from pathlib import Path

import datasets
import pytest
import torch
import transformers
from tiny_models import tiny_llama

from kansformer import load_curves
from kansformer.training.data.tokenizer import train_tokenizer

FOLDER = Path(__file__).resolve().parents[2] / "scripts" / "peft_comparison"
MODULES = ("comparison_settings", "math_task", "curve_training", "result_row")
EXPERIMENT = """
experiment: kansformer/tiny
model: {folder}/model
data: {{train: {folder}/metamath, judge: {folder}/gsm8k, unrelated: {folder}/wiki}}
kan: {{slots: [input, act], edges: channel, grid_size: 5, order: 3}}
curves: {{calibration_batches: 2}}
training: {{batch_size: 2, batch_size_eval: 3, max_steps: 6, eval_steps: 3, lr: 1.5e-3, max_new_tokens: 4}}
"""


@pytest.fixture
def script(monkeypatch, tmp_path):
    """Gives the modules beside the program by their names, as `python run.py` finds them."""
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    yield lambda name: runpy.run_path(str(FOLDER / f"{name}.py"))
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def experiment(tmp_path):
    """The file of an experiment with a tiny model and rows in the layouts of both data sets."""
    questions = [f"Tom has {i} apples and buys {i + 1} more. How many are there?" for i in range(13)]
    write_rows(
        tmp_path / "metamath" / "train.jsonl",
        [
            {"type": "GSM_AnsAug", "query": q, "original_question": q, "response": f"The answer is: {2 * i + 1}"}
            for i, q in enumerate(questions)
        ],
    )
    for split, rows in (("train", questions[:4]), ("test", questions[4:9])):
        answered = [{"question": q, "answer": f"Add them. <<1+1=2>>\n#### {i}"} for i, q in enumerate(rows)]
        write_rows(tmp_path / "gsm8k" / f"{split}.jsonl", answered)
    write_rows(tmp_path / "wiki" / "train.jsonl", [{"text": f"{q} An apple is a fruit."} for q in questions[:3]])
    tokenizer = train_tokenizer(questions, 270)
    tokenizer.save_pretrained(tmp_path / "model")
    config = dict(vocab_size=len(tokenizer), max_position_embeddings=256, bos_token_id=0, eos_token_id=0)
    tiny_llama(**config).save_pretrained(tmp_path / "model")
    path = tmp_path / "tiny.yaml"
    path.write_text(EXPERIMENT.format(folder=tmp_path), encoding="utf-8")
    return path


def write_rows(path, rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_a_run_writes_a_row_and_its_curves(script, experiment, tmp_path, capsys):
    """Everything that `preprocess` of PEFT's `processing.py` reads is there, and only curves were trained."""
    main = script("run")["main"]
    main(experiment, output=tmp_path / "results")
    trained = 2 * (16 + 24) * 8  # layers x (input + activation channels) x coefficients
    assert f"trains {trained:,} numbers" in capsys.readouterr().out
    row = json.loads((tmp_path / "results" / "kansformer--tiny.json").read_text(encoding="utf-8"))
    run, train, meta = row["run_info"], row["train_info"], row["meta_info"]
    assert run["experiment_name"] == "kansformer/tiny" and run["error_msg"] == "" and run["total_time"] > 0
    assert run["peft_config"]["peft_type"] == "KANSFORMER" and run["peft_config"]["slots"] == ["input", "act"]
    assert run["peft_config"]["curve_learning_rates"] == [pytest.approx(30 * 1.5e-3)]
    assert run["train_config"]["model_id"] == str(tmp_path / "model") and run["train_config"]["batch_size"] == 2
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    assert train["num_trainable_params"] == trained
    assert train["num_total_params"] == plain.num_parameters() + trained
    assert train["status"] == "success" and train["train_time"] > 0
    assert train["accelerator_memory_max"] >= train["accelerator_memory_reserved_avg"] >= 0
    assert set(meta["dataset_info"]) == {"metamath", "gsm8k"} and meta["model_info"]["sha"] is None
    packages = meta["package_info"]  # versions as they were installed, which may leave out the build's name
    assert torch.__version__.startswith(packages["torch-version"].partition("+")[0])
    assert "bitsandbytes-version" in packages

    *validations, final = train["metrics"]
    assert [one["step"] for one in validations] == [3, 6]
    assert validations[1]["train loss"] < validations[0]["train loss"] < math.log(270) + 1
    assert all(0 <= one["valid accuracy"] <= 1 for one in validations)
    assert 0 <= final["test accuracy"] <= 1 and final["train samples"] == 12 and final["forgetting"] != 0
    texts = script("math_task")["training_texts"](*settings_of(script, experiment))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert final["train total tokens"] == sum(len(tokens) + 1 for tokens in tokenizer(texts)["input_ids"])

    curves = tmp_path / "results" / "kansformer--tiny"
    assert train["file_size"] == (curves / "curves.safetensors").stat().st_size
    load_curves(plain, curves)  # whose weights it compares with those of training
    values = [value for name, value in plain.named_parameters() if name.endswith("coefficients")]
    assert len(values) == 4 and all(value.any() and value.dtype == torch.float32 for value in values)

    with pytest.raises(SystemExit, match="not empty"):
        main(experiment, output=tmp_path / "results")


def settings_of(script, experiment):
    settings = script("comparison_settings")["read_settings"](experiment)
    return settings.data, settings.training


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("max_steps: 6", "max_steps: 7"), "has 13 rows of at most 1,300 characters; 7 steps of 2 need 14"),
        (("slots: [input, act]", "slots: [inputs]"), "Unknown slot 'inputs'"),
        (("max_steps", "steps"), "Unknown field 'training.steps'"),
        (("kansformer/tiny", "tiny"), "experiment"),
        (("/gsm8k", "/metamath"), "have no 'question', only type, query"),
        (("/wiki", ""), "has no train.jsonl"),
    ],
)
def test_what_cannot_be_run_is_refused_before_training(change, message, script, experiment, tmp_path):
    experiment.write_text(experiment.read_text(encoding="utf-8").replace(*change), encoding="utf-8")
    with pytest.raises(SystemExit, match=message):
        script("run")["main"](experiment, output=tmp_path / "results")
    assert not list((tmp_path / "results").glob("*"))


@pytest.mark.parametrize(("name", "millions"), [("act", 1.835008), ("input-act", 2.523136)])
def test_the_experiments_train_the_stated_number(name, millions, script, monkeypatch, capsys):
    """With the sizes of Llama-3.2-3B, whose config needs a login."""
    sizes = dict(hidden_size=3072, intermediate_size=8192, num_hidden_layers=28, vocab_size=128256)
    config = transformers.LlamaConfig(
        **sizes, num_attention_heads=24, num_key_value_heads=8, head_dim=128, tie_word_embeddings=True
    )
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", lambda source: config)
    script("run")["main"](FOLDER / f"{name}.yaml", count=True)
    number = f"{round(millions * 1e6):,}"
    assert f"kansformer/llama-3.2-3B-{name} trains {number} numbers" in capsys.readouterr().out
    for file in (FOLDER / f"{name}.yaml", FOLDER / "README.md"):
        assert number in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Question: 2+2? Answer: It is 4.The answer is: 4", 4.0),
        ("<<48/2=24>>\n#### 24", 24.0),
        ("The answer is: $65.30.\n\nQuestion: and now?", 65.3),
        ("The answer is: 20/14", 20 / 14),
        ("The answer is: 1/0", "1/0"),
        ("The answer is: 1,000", "1,000"),
        ("The final answer is 50%.", 50.0),
        ("The answer is: 3. No, The answer is: 9", 9.0),
        ("#### 3 The answer is: 7", 7.0),
        ("It is 4.", None),
    ],
)
def test_answers(text, answer, script):
    assert script("math_task")["parse_answer"](text) == answer


def test_accuracy_counts_equal_numbers_and_refuses_a_row_without_answer(script):
    accuracy = script("math_task")["accuracy"]
    assert accuracy(["The answer is: 8/2", "The answer is: 5", "no idea"], ["#### 4", "#### 4", "#### 4"]) == 1 / 3
    with pytest.raises(ValueError, match="has no answer"):
        accuracy(["The answer is: 4"], ["4"])


def test_batches_are_sorted_within_their_bucket_only(script):
    rows = [[0] * (1 + i % 7) for i in range(90)]
    batches = list(script("math_task")["bucketed"](rows, 4))
    assert [len(batch) for batch in batches] == [4] * 22 + [2]
    lengths = [len(row) for batch in batches for row in batch]
    assert lengths[:80] == sorted((len(row) for row in rows[:80]), reverse=True)
    assert lengths[80:] == sorted((len(row) for row in rows[80:]), reverse=True)


def test_of_the_padding_only_the_first_token_is_learned(script):
    tokens = torch.tensor([[5, 6, 7, 8], [5, 6, 0, 0], [5, 0, 0, 0]])
    labels = script("curve_training")["labels_of"](tokens, [[5, 6, 7, 8], [5, 6], [5]])
    assert labels.tolist() == [[5, 6, 7, 8], [5, 6, 0, -100], [5, 0, -100, -100]]
