"""A loaded model in the hands of the libraries around it: pipeline, Trainer, upload, adapters' flag."""

import copy

import pytest
import torch
from tiny_models import randomize_curves, tiny_llama
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, pipeline

from kansformer import KANConfig, convert, load_curves, optimizer_groups, save_curves
from kansformer.errors import ConfigError
from kansformer.hub import list_curves, set_curves


def test_pipeline(make_converted, tokenizer, tmp_path):
    model = make_converted()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    options = dict(max_new_tokens=4, do_sample=False, return_full_text=False)
    found = pipeline("text-generation", model=str(tmp_path), device="cpu")("w3 w4 w5", **options)
    ids = tokenizer("w3 w4 w5", return_tensors="pt")["input_ids"]
    expected = model.generate(ids, max_new_tokens=4, do_sample=False)[0, 3:]
    assert found[0]["generated_text"] == tokenizer.decode(expected, skip_special_tokens=True)


def test_a_model_that_was_compiled_before(tmp_path):
    plain = tiny_llama().eval()
    compiled = torch.compile(copy.deepcopy(plain), backend="eager")
    assert convert(compiled, KANConfig()) is compiled
    model = randomize_curves(compiled)._orig_mod
    compiled.save_pretrained(tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    save_curves(compiled, tmp_path / "curves")
    again = torch.compile(copy.deepcopy(plain), backend="eager")
    assert load_curves(again, tmp_path / "curves", name="mine") is again and list_curves(again) == {"mine": 1.0}
    ids = torch.arange(6)[None]
    for other in (loaded, again._orig_mod):
        assert torch.equal(other(ids).logits, model(ids).logits)
    assert torch.equal(set_curves(again, None)._orig_mod(ids).logits, plain(ids).logits)


def train(model, folder, resume=None):
    options = dict(max_steps=4, save_steps=2, per_device_train_batch_size=2, learning_rate=1e-2, use_cpu=True)
    arguments = TrainingArguments(
        output_dir=folder, report_to=[], disable_tqdm=True, dataloader_pin_memory=False, **options
    )
    rows = [{"input_ids": torch.arange(i, i + 6), "labels": torch.arange(i, i + 6)} for i in range(8)]
    optimizer = torch.optim.AdamW(optimizer_groups(model, 1e-2))
    Trainer(model, arguments, train_dataset=rows, optimizers=(optimizer, None)).train(resume_from_checkpoint=resume)
    return model


def test_trainer_saves_and_resumes(make_converted, outputs, tmp_path):
    make_converted().save_pretrained(tmp_path / "start")
    start = AutoModelForCausalLM.from_pretrained(tmp_path / "start")
    before = outputs(start)
    through = train(start, tmp_path / "run").eval()
    assert not torch.equal(outputs(through), before)
    half = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "checkpoint-2")
    resumed = train(half, tmp_path / "again", str(tmp_path / "run" / "checkpoint-2")).eval()
    assert torch.equal(outputs(resumed), outputs(through))
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "checkpoint-4")
    assert torch.equal(outputs(saved), outputs(through))
    assert (tmp_path / "run" / "checkpoint-4" / "modeling_kansformer.py").exists()


@pytest.fixture
def uploads(monkeypatch):
    """Names of the files that each upload would have sent, by repository."""
    import os

    from transformers.utils import hub

    sent = {}

    def record(self, folder, repo_id, files_timestamps, **options):
        sent[repo_id] = {name for name in os.listdir(folder) if name not in files_timestamps}

    class Api:
        def create_repo(self, repo_id, **options):
            return type("Url", (), {"repo_id": repo_id})

    class Card:
        def save(self, path):
            open(path, "w").close()

    monkeypatch.setattr(hub, "hf_api" if hasattr(hub, "hf_api") else "create_repo", lambda *a, **k: Api())
    monkeypatch.setattr(hub, "create_and_tag_model_card", lambda *a, **k: Card())
    monkeypatch.setattr(hub.PushToHubMixin, "_upload_modified_files", record)
    return sent


def test_push_to_hub_sends_the_modelling_file(make_converted, uploads, tmp_path):
    model = make_converted()
    model.push_to_hub("me/first")
    model.save_pretrained(tmp_path, push_to_hub=True, repo_id="me/second", commit_message="x")
    for name in ("me/first", "me/second"):
        assert {"config.json", "model.safetensors", "modeling_kansformer.py"} <= uploads[name]
    with pytest.raises(ConfigError, match="cannot take state_dict and push_to_hub in one call"):
        model.save_pretrained(tmp_path, state_dict=model.state_dict(), push_to_hub=True)
    with pytest.raises(ConfigError, match="cannot take variant and push_to_hub in one call"):
        model.save_pretrained(tmp_path, variant="fp16", push_to_hub=True)
