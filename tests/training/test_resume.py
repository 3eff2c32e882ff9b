"""A run that was stopped goes on to the same bits, by the command that began it; and what cannot be resumed."""

import json
import shutil

import pytest
import torch
from tiny_run import log_rows, weights_of
from transformers import AutoModelForMaskedLM

from kansformer.errors import CheckpointError
from kansformer.training.run import train


@pytest.mark.parametrize("curves", [None, {"refine_grid_at": {2: 10}, "warm_up": 3, "update_grid_at": [1]}])
def test_a_killed_run_resumes_to_the_bit(make, tmp_path, curves):
    recipe = make(curves=curves, training={"save_strategy": "steps", "save_steps": 3, "max_steps": 8})

    def kill(stage, done, total, detail):
        if done == 5:
            raise KeyboardInterrupt

    through = train(recipe, tmp_path / "through")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "killed", progress=kill)
    resumed = train(recipe, tmp_path / "killed", resume=True)
    assert resumed.losses == through.losses[3:] and resumed.steps == 8
    expected, found = weights_of(tmp_path / "through"), weights_of(tmp_path / "killed")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    losses = [[row["loss"] for row in log_rows(tmp_path / name)] for name in ("through", "killed")]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("ends_with_the_best", [False, True])
def test_a_run_that_was_killed_after_its_last_step_takes_no_further_one(make, tmp_path, ends_with_the_best):
    training = {"save_strategy": "steps", "save_steps": 3}
    if ends_with_the_best:  # by a measure whose best value is the first one
        training = {"max_steps": 6, "eval_strategy": "steps", "eval_steps": 2, "greater_is_better": True}
    recipe = make(training=training, early_stop=9 if ends_with_the_best else None)
    result = train(recipe, tmp_path / "run")
    expected = weights_of(tmp_path / "run")
    for name in ("training.json", "model.safetensors"):
        (tmp_path / "run" / name).unlink()
    again = train(recipe, tmp_path / "run", resume=True)
    assert again.steps == result.steps == 6 and again.evaluation == result.evaluation
    assert again.tokens_per_second == 0 and float(log_rows(tmp_path / "run")[-1]["seconds"]) < 60
    assert all(torch.equal(value, expected[name]) for name, value in weights_of(tmp_path / "run").items())


@pytest.mark.parametrize("batch", [4, 64])  # of 64 a few steps are an epoch
def test_masks_are_the_same_when_a_run_is_resumed(make_masked, tmp_path, batch):
    recipe = make_masked(training={"save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": batch})
    through = train(recipe, tmp_path / "run")
    expected = weights_of(tmp_path / "run", AutoModelForMaskedLM)
    for name in ("training.json", "checkpoint-4", "checkpoint-6"):
        path = tmp_path / "run" / name
        path.unlink() if path.is_file() else shutil.rmtree(path)
    assert train(recipe, tmp_path / "run", resume=True).losses == through.losses[2:]
    found = weights_of(tmp_path / "run", AutoModelForMaskedLM)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_run_whose_patience_was_over_takes_no_further_step(make, tmp_path):
    training = {"learning_rate": 0.3, "max_steps": 30, "eval_strategy": "steps", "eval_steps": 2}
    recipe = make(early_stop=1, training=training)
    result = train(recipe, tmp_path / "run")
    (tmp_path / "run" / "training.json").unlink()
    again = train(recipe, tmp_path / "run", resume=True)
    assert result.steps < 30 and again.steps == result.steps and again.evaluation == result.evaluation


def test_a_checkpoint_that_was_cut_off_is_passed_over(make, tmp_path):
    recipe = make(training={"save_strategy": "steps", "save_steps": 2})
    through = train(recipe, tmp_path / "run")
    (tmp_path / "run" / "training.json").unlink()
    (tmp_path / "run" / "checkpoint-6" / "trainer_state.json").write_text('{"global')
    assert train(recipe, tmp_path / "run", resume=True).losses == through.losses[4:]


def test_a_run_that_was_moved_takes_back_its_best_model(make, tmp_path, monkeypatch):
    """Begun under a relative path, and by a measure whose best value is the first one."""
    training = {"eval_strategy": "steps", "eval_steps": 2, "greater_is_better": True}
    recipe = make(early_stop=9, training=training)
    monkeypatch.chdir(tmp_path)
    result = train(recipe, "run")
    expected = weights_of(tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.move(tmp_path / "run", tmp_path / "elsewhere" / "moved")
    monkeypatch.chdir(tmp_path / "elsewhere")
    (moved / "training.json").unlink()
    shutil.rmtree(moved / "checkpoint-6")
    state = json.loads((moved / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == "run/checkpoint-2"
    again = train(recipe, moved, resume=True)
    assert again.steps == 6 and again.evaluation == result.evaluation
    assert all(torch.equal(value, expected[name]) for name, value in weights_of(moved).items())
    (moved / "training.json").unlink()
    shutil.rmtree(moved / "checkpoint-2")
    with pytest.raises(CheckpointError, match=r"moved/checkpoint-2' is missing, the best checkpoint of the run"):
        train(recipe, moved, resume=True)


def test_no_step_is_taken_from_a_checkpoint_without_an_optimizer(make, tmp_path):
    recipe = make(training={"save_strategy": "steps", "save_steps": 3, "save_only_model": True})
    result = train(recipe, tmp_path / "run")
    (tmp_path / "run" / "training.json").unlink()
    assert train(recipe, tmp_path / "run", resume=True).evaluation == result.evaluation  # after the last step
    (tmp_path / "run" / "training.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoint-6")
    with pytest.raises(CheckpointError, match=r"checkpoint-3' has no state of the optimizer.*save_only_model=true"):
        train(recipe, tmp_path / "run", resume=True)


def test_a_run_goes_on_with_its_own_data_only(make, text, tmp_path):
    recipe, kept = make(training={"save_strategy": "steps", "save_steps": 2}), []
    file = tmp_path / "run" / "data.json"
    through = train(recipe, tmp_path / "run", progress=lambda *_: kept.append(file.read_text()))
    assert json.loads(kept[-1]) == through.facts["data"] and not file.exists()
    (tmp_path / "run" / "training.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoint-6")
    file.write_text(kept[-1])
    before = text.read_text(encoding="utf-8")
    text.write_text(before.replace("e", "a"), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"data of the run in .* were changed since it began \(train_sha256 is"):
        train(recipe, tmp_path / "run", resume=True)
    text.write_text(before, encoding="utf-8")
    assert train(recipe, tmp_path / "run", resume=True).losses == through.losses[4:]


def test_a_step_keeps_its_rows_when_a_run_is_resumed(make, tmp_path):
    """The checkpoint of two processes, as one process sees it that would take half of their rows."""
    training = {"save_strategy": "steps", "save_steps": 2, "gradient_accumulation_steps": 2}
    recipe = make(training=training)
    through = train(recipe, tmp_path / "run")
    (tmp_path / "run" / "training.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoint-6")
    last = tmp_path / "run" / "checkpoint-4"
    rows = 2 * recipe.training["per_device_train_batch_size"]
    shutil.copy(last / "rng_state.pth", last / "rng_state_1.pth")
    with pytest.raises(CheckpointError, match=rf"took {2 * rows} rows, and would take {rows} now.*\(2 before"):
        train(recipe, tmp_path / "run", resume=True)
    (last / "rng_state_1.pth").unlink()
    del training["gradient_accumulation_steps"]
    with pytest.raises(CheckpointError, match=f"took {rows} rows, and would take {2 * rows} now"):
        train(make(training=training, rows_per_step=2 * rows), tmp_path / "run", resume=True)
    assert (
        train(make(training=training, rows_per_step=rows), tmp_path / "run", resume=True).losses == through.losses[4:]
    )


def test_the_same_command_begins_a_run_and_returns_the_result_of_a_finished_one(make, tmp_path):
    """As a launcher needs it that restarts a command; files of a start that was killed are no other run."""
    (tmp_path / "run" / ".kansformer-abc").mkdir(parents=True)
    (tmp_path / "run" / ".recipe.yaml.partial-1-2").touch()
    first = train(make(), tmp_path / "run", resume=True)
    again = train(make(), tmp_path / "run", resume=True)
    assert len(first.losses) == 6 and again.losses == ()
    assert again.to_dict() == first.to_dict()


def test_what_cannot_be_resumed(make, tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.txt").write_text("precious")
    with pytest.raises(CheckpointError, match=r"no run to resume .* it has no recipe.yaml"):
        train(make(), tmp_path / "used", resume=True)
    train(make(), tmp_path / "run")
    (tmp_path / "run" / "training.json").write_text("[]")
    with pytest.raises(CheckpointError, match="training.json' is not the result of a run"):
        train(make(), tmp_path / "run", resume=True)
    (tmp_path / "run" / "training.json").unlink()
    with pytest.raises(CheckpointError, match="left no checkpoint"):
        train(make(), tmp_path / "run", resume=True)
    with pytest.raises(CheckpointError, match="another recipe: seed is None in one and 4 in the other"):
        train(make(seed=4), tmp_path / "run", resume=True)
