"""Callbacks for curves inside a Trainer."""

import pytest
import torch
from tiny_models import tiny_llama
from transformers import TrainerCallback, TrainingArguments

from kansformer import KANConfig, convert
from kansformer.nn.curves import curved_modules
from kansformer.nn.optim import CURVE_GROUP, curve_parameters
from kansformer.nn.penalties import smoothness_penalty, sparsity_penalty
from kansformer.training.callbacks import CurvePenalties, CurveWarmUp, GridSchedule, exchange_parameters
from kansformer.training.recipe import Penalty
from kansformer.training.trainer import KANTrainer

TOKENS = torch.arange(8 * 6).reshape(8, 6) % 24
ROWS = [{"input_ids": row, "labels": row} for row in TOKENS]


def make_model():
    return convert(tiny_llama(num_hidden_layers=1), KANConfig(slots=("input", "act")))


def train(model, folder, *callbacks, steps=6, lr=1e-3, **training):
    arguments = TrainingArguments(
        output_dir=folder, max_steps=steps, per_device_train_batch_size=4, learning_rate=lr, report_to=[],
        disable_tqdm=True, dataloader_pin_memory=False, use_cpu=True, save_strategy="no",
        **{"lr_scheduler_type": "constant", **training},
    )  # fmt: skip
    KANTrainer(model, arguments, train_dataset=ROWS, eval_dataset=ROWS, callbacks=list(callbacks)).train()


class Rates(TrainerCallback):
    """The learning rates that each optimizer step takes."""

    def __init__(self):
        self.curves, self.base = [], []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        for group in optimizer.param_groups:
            curved = str(group.get("name", "")).startswith(CURVE_GROUP)
            (self.curves if curved else self.base).append(group["lr"])


@pytest.mark.parametrize("scheduler", ["constant", "reduce_lr_on_plateau"])
def test_curves_warm_up_and_base_weights_do_not(tmp_path, scheduler):
    rates, training = Rates(), {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "eval_loss"}
    train(make_model(), tmp_path, CurveWarmUp(3), rates, lr_scheduler_type=scheduler, **training)
    assert rates.curves == pytest.approx([0.03 * share for share in (0.25, 0.5, 0.75, 1, 1, 1)])
    assert set(rates.base) == {1e-3}


@pytest.mark.parametrize(
    ("settings", "measure"),
    [({"sparsity": Penalty(weight=10.0)}, sparsity_penalty), ({"smoothness": Penalty(weight=1.0)}, smoothness_penalty)],
)
def test_a_penalty_lowers_what_it_measures(tmp_path, settings, measure):
    free, pulled = make_model(), make_model()
    train(free, tmp_path / "free", steps=20)
    train(pulled, tmp_path / "pulled", CurvePenalties(**settings), steps=20)
    assert measure(pulled).item() < 0.5 * measure(free).item()


def test_a_penalty_waits_for_its_beginning(tmp_path):
    free, waiting = make_model(), make_model()
    train(free, tmp_path / "free")
    train(waiting, tmp_path / "waiting", CurvePenalties(sparsity=Penalty(weight=10.0, begin=6)))
    assert all(torch.equal(a, b) for a, b in zip(free.parameters(), waiting.parameters(), strict=True))


def test_grids_move_and_refine_on_schedule(tmp_path):
    model = make_model()
    before = model.model.layers[0].mlp.act_fn.domain.clone()
    train(model, tmp_path, GridSchedule([{"input_ids": TOKENS}], update_at=(2,), refine_at={3: 10}))
    assert {m.curves.basis.grid_size for _, m in curved_modules(model)} == {10}
    assert not torch.equal(model.model.layers[0].mlp.act_fn.domain, before)
    assert all(p.grad is None or p.grad.shape == p.shape for _, p in curve_parameters(model))


def test_an_optimizer_goes_on_with_the_new_parameters():
    old, kept, new = (torch.nn.Parameter(torch.ones(size)) for size in (2, 3, 4))
    optimizer = torch.optim.AdamW([old, kept])
    (old.sum() + kept.sum()).backward()
    optimizer.step()
    exchange_parameters(optimizer, {"a": old, "b": kept}, {"a": new, "b": kept})
    assert optimizer.param_groups[0]["params"][0] is new and set(optimizer.state) == {kept}
    new.sum().backward()
    optimizer.step()
    assert (new < 1).all()
