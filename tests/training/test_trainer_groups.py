"""KANTrainer and what `kan_trainer` makes give curves their own learning rate; a plain Trainer warns."""

import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import MODELS, tiny_llama
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from kansformer import KANConfig, convert, freeze_curves
from kansformer.nn import LearnedActivation
from kansformer.nn.optim import split_curves
from kansformer.training.trainer import KANTrainer, kan_trainer

ROWS = [{"input_ids": torch.arange(i, i + 6), "labels": torch.arange(i, i + 6)} for i in range(8)]


def make_model(curves=True):
    model = tiny_llama(num_hidden_layers=1)
    return convert(model, KANConfig()) if curves else model


def make_trainer(model, folder, kind=KANTrainer, **settings):
    arguments = TrainingArguments(
        output_dir=folder, max_steps=4, save_steps=2, per_device_train_batch_size=2, learning_rate=1e-3,
        weight_decay=0.1, report_to=[], disable_tqdm=True, dataloader_pin_memory=False, use_cpu=True,
    )  # fmt: skip
    return kind(model, arguments, train_dataset=ROWS, **settings)


def groups_of(trainer):
    return {g.get("name", ""): (g["lr"], g["weight_decay"]) for g in trainer.create_optimizer().param_groups}


def test_curves_get_their_rate_and_no_decay(tmp_path):
    model = make_model()
    trainer = make_trainer(model, tmp_path)
    optimizer = trainer.create_optimizer()
    (curves,) = [group for group in optimizer.param_groups if group.get("name") == "curves x30"]
    assert (curves["lr"], curves["weight_decay"]) == (pytest.approx(3e-2), 0.0)
    assert [id(p) for p in curves["params"]] == [id(m.act_fn.coefficients) for m in [model.model.layers[0].mlp]]
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))
    trainer = make_trainer(model, tmp_path, curve_lr_multiplier=5.0)
    assert groups_of(trainer)["curves x5"][0] == pytest.approx(5e-3)


def test_models_without_curves_and_optimizers_of_the_user_are_left_alone(tmp_path):
    plain = make_trainer(make_model(curves=False), tmp_path)
    assert len(plain.create_optimizer().param_groups) == 2
    model = make_model()
    own = torch.optim.SGD(model.parameters(), lr=0.5)
    trainer = make_trainer(model, tmp_path, optimizers=(own, None))
    assert trainer.create_optimizer() is own and len(own.param_groups) == 1


def test_it_resumes_with_these_groups(tmp_path):
    through = make_model()
    make_trainer(through, tmp_path / "run").train()
    resumed = make_model()
    make_trainer(resumed, tmp_path / "again").train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    expected, found = through.state_dict(), resumed.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert through.model.layers[0].mlp.act_fn.coefficients.abs().max() > 0.01  # 30 times the rate, 4 steps


def test_experts_resume_though_files_name_them_otherwise(tmp_path):
    def make_experts(seed):
        torch.manual_seed(seed)
        return convert(AutoModelForCausalLM.from_config(MODELS["mixtral"]()), KANConfig())

    through, resumed = make_experts(0), make_experts(1)
    make_trainer(through, tmp_path / "run").train()
    make_trainer(resumed, tmp_path / "again").train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    expected, found = through.state_dict(), resumed.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "checkpoint-4").state_dict()
    assert all(torch.equal(expected[name], loaded[name]) for name in expected)
    through.save_pretrained(tmp_path / "whole")  # under the names of files, as before
    assert any("block_sparse_moe.experts.0.w1" in name for name in load_file(tmp_path / "whole/model.safetensors"))


def test_a_checkpoint_of_an_earlier_run_is_replaced(tmp_path):
    make_trainer(make_model(), tmp_path).train()
    second = make_model()
    torch.nn.init.constant_(second.model.norm.weight, 2.0)
    make_trainer(second, tmp_path).train()
    saved = load_file(tmp_path / "checkpoint-4" / "model.safetensors")
    assert torch.equal(saved["model.norm.weight"], second.model.norm.weight)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-4"]


def test_complete_checkpoints_are_uploaded(tmp_path, monkeypatch):
    uploaded = []
    monkeypatch.setattr(Trainer, "_push_from_checkpoint", lambda self, folder: uploaded.append(Path(folder)))
    trainer = make_trainer(make_model(), tmp_path)
    trainer.args.push_to_hub = True
    trainer.train()
    assert uploaded == [tmp_path / "checkpoint-2", tmp_path / "checkpoint-4"]
    assert all((folder / "optimizer.pt").exists() for folder in uploaded)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning")  # of PEFT 0.18
def test_an_adapter_with_a_name_is_saved_again(tmp_path):
    peft = pytest.importorskip("peft", reason="needs the extra `lora`: pip install 'kansformer[lora]'")
    config = peft.LoraConfig(target_modules=["q_proj"])
    trainer = make_trainer(peft.get_peft_model(make_model(), config, adapter_name="style"), tmp_path / "run")
    for _ in range(2):
        trainer.save_model(str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "style" / "adapter_model.safetensors").exists()
    assert not (tmp_path / "saved" / "_partial").exists()


def test_shared_curves_are_trained_once_and_resume(tmp_path):
    config = KANConfig(edges="group", groups=4, share="model")
    through, resumed = (convert(tiny_llama(), config) for _ in range(2))
    trainer = make_trainer(through, tmp_path / "run")
    (curves,) = [group for group in trainer.create_optimizer().param_groups if group.get("name") == "curves x30"]
    assert len(curves["params"]) == 1
    trainer.train()
    make_trainer(resumed, tmp_path / "again").train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "checkpoint-4")
    for model in (through, resumed, read):
        first, second = (layer.mlp.act_fn.coefficients for layer in model.model.layers)
        assert first is second and first.abs().max() > 0.01
        assert torch.equal(first, through.model.layers[0].mlp.act_fn.coefficients)


def test_frozen_curves_have_no_group_and_stay(tmp_path):
    model = convert(tiny_llama(), KANConfig())
    torch.nn.init.normal_(model.model.layers[0].mlp.act_fn.coefficients, std=0.1)
    before = model.model.layers[0].mlp.act_fn.coefficients.clone()
    freeze_curves(model)
    trainer = make_trainer(model, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer.train()
    assert not [group for group in trainer.optimizer.param_groups if "curves" in group.get("name", "")]
    assert torch.equal(model.model.layers[0].mlp.act_fn.coefficients, before)


def test_the_same_of_another_trainer_class(tmp_path):
    class Other(Trainer):
        def __init__(self, *args, own, **kwargs):
            super().__init__(*args, **kwargs)
            self.own = own

    kind = kan_trainer(Other)
    assert issubclass(kind, Other) and issubclass(kind, KANTrainer) and kind.__name__ == "KANOther"
    assert kan_trainer(kind) is kind and kan_trainer(Trainer) is KANTrainer
    trainer = make_trainer(make_model(), tmp_path, kind, own=7, curve_lr_multiplier=5.0)
    assert trainer.own == 7 and trainer.guard
    assert groups_of(trainer)["curves x5"] == (pytest.approx(5e-3), 0.0)


def test_trainers_that_copy_their_arguments_and_narrow_their_methods(tmp_path):
    class Other(Trainer):
        def __init__(self, model, reward, args, **kwargs):
            super().__init__(model, TrainingArguments(**args.to_dict()), **kwargs)

        def create_optimizer(self):
            self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.args.learning_rate)

        def _load_from_checkpoint(self, path):
            super()._load_from_checkpoint(path)

    def make(folder):
        kind = lambda model, arguments, **settings: kan_trainer(Other)(model, max, arguments, **settings)  # noqa: E731
        return make_trainer(make_model(), folder, kind)

    through, resumed = make(tmp_path / "run"), make(tmp_path / "again")
    through.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    names = [group.get("name") for group in through.optimizer.param_groups]
    assert "curves x30" in names and not through.args.save_only_model
    for one, other in zip(through.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_batches_that_are_lists_of_rows_are_written_when_a_step_is_skipped(tmp_path):
    class Rows(Trainer):
        def compute_loss(self, model, inputs, **kwargs):
            batch = {name: torch.stack([row[name] for row in inputs]) for name in ("input_ids", "labels")}
            return model(**batch).loss * (torch.nan if self.state.global_step == 1 else 1.0)

    rows = [{**row, "prompt": "a text"} for row in ROWS]
    trainer = make_trainer(make_model(), tmp_path, kan_trainer(Rows), non_finite="skip", data_collator=list)
    trainer.train_dataset, trainer.args.remove_unused_columns = rows, False
    trainer.train()
    assert trainer.guard.skipped == [2]
    written = load_file(tmp_path / "non-finite-step-2-process-0.safetensors")
    assert sorted(written) == ["0.input_ids", "0.labels", "1.input_ids", "1.labels"]


def test_weights_of_an_older_model_go(tmp_path):
    make_model().save_pretrained(tmp_path, max_shard_size="5KB")
    (tmp_path / "notes.txt").touch()
    assert (tmp_path / "model.safetensors.index.json").exists()
    make_trainer(make_model(), tmp_path / "run").save_model(str(tmp_path))
    assert [file.name for file in tmp_path.glob("model*safetensors*")] == ["model.safetensors"]
    assert (tmp_path / "notes.txt").exists()


def test_a_plain_trainer_is_left_alone_and_its_first_step_warns(tmp_path):
    assert Trainer.create_optimizer.__module__ == "transformers.trainer"
    trainer = make_trainer(make_model(), tmp_path, Trainer)
    with pytest.warns(UserWarning, match=r"a learning rate of 0.001, .* and a weight decay of 0.1, .*KANTrainer"):
        trainer.train()


def test_it_warns_where_it_cannot_make_groups(tmp_path, monkeypatch):
    trainer, placeholder = make_trainer(make_model(), tmp_path), object()
    monkeypatch.setattr(Trainer, "create_optimizer", lambda self, model=None: placeholder)
    with pytest.warns(UserWarning, match="the optimizer is DeepSpeed's own"):
        assert trainer.create_optimizer() is placeholder
    model, flat = make_model(), torch.nn.Parameter(torch.zeros(9))
    trainer, optimizer = make_trainer(model, tmp_path), torch.optim.AdamW([flat])
    del model.model.layers[0].mlp.act_fn.coefficients  # as FSDP version 1 does it
    monkeypatch.setattr(Trainer, "create_optimizer", lambda self, model=None: optimizer)
    with pytest.warns(UserWarning, match="parameters were flattened"):
        assert trainer.create_optimizer() is optimizer


def test_splitting_keeps_every_parameter_once_and_the_settings_of_its_group():
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), LearnedActivation(3), LearnedActivation(3, basis="rational"))
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2, betas=(0.5, 0.6))
    split_curves(optimizer, module)
    found = {g.get("name", ""): g for g in optimizer.param_groups}
    assert set(found) == {"", "curves x30", "curves x3"}
    assert all(g["betas"] == (0.5, 0.6) for g in optimizer.param_groups)
    ids = [id(p) for g in optimizer.param_groups for p in g["params"]]
    assert sorted(ids) == sorted(id(p) for p in module.parameters())


def test_activations_whose_forward_was_replaced_are_said(tmp_path):
    model = convert(tiny_llama())
    for layer in model.model.layers:  # as Liger's kernels do
        mlp = layer.mlp
        mlp.forward = lambda x, m=mlp: m.down_proj(torch.nn.functional.silu(m.gate_proj(x)) * m.up_proj(x))
    rows = [{"input_ids": torch.arange(6), "labels": torch.arange(6)}] * 2
    arguments = TrainingArguments(str(tmp_path), max_steps=1, use_cpu=True, report_to="none", save_strategy="no")
    with pytest.warns(UserWarning, match="No curve on an activation has a gradient after the first batch"):
        KANTrainer(model, arguments, train_dataset=rows).train()
