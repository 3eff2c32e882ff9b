"""TRL's SFTTrainer: curves get their own learning rate, and only what is trainable changes."""

import pytest
import torch
from datasets import Dataset

from kansformer.training.trainer import kan_trainer

pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture
def trl():
    """The package, whose import takes longer than its tests, so that only their process pays for it."""
    return pytest.importorskip("trl", reason="pip install trl")


@pytest.mark.parametrize("only_curves", [True, False])
def test_two_steps(trl, only_curves, make_straight, tokenizer, tmp_path):
    model = make_straight(slots=("input", "act"))
    names = {name for name, _ in model.named_parameters()}
    curves = {name for name in names if name.endswith("coefficients")}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in curves or not only_curves)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    arguments = trl.SFTConfig(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=2,
        learning_rate=1e-3,
        max_length=16,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    rows = Dataset.from_dict({"text": ["w3 w4 w5 w6 w7", "w8 w9 w10 w11"] * 4})
    trainer = kan_trainer(trl.SFTTrainer)(model, args=arguments, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    groups = [group for group in trainer.optimizer.param_groups if str(group.get("name", "")).startswith("curves")]
    assert sum(len(group["params"]) for group in groups) == len(curves)
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert curves <= changed and (changed == curves) == only_curves
