"""What a run survives: kills at any moment, SIGTERM, a full disk, and numbers that are none."""

import json
import math
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from programs import Program
from safetensors.torch import load_file
from tiny_run import LAUNCH, equal_weights, killed_run, write_recipe_file
from transformers import PreTrainedModel
from typer.testing import CliRunner

from kansformer.cli import app
from kansformer.errors import CheckpointError, ConfigError
from kansformer.training.guard import MAX_SKIPPED_IN_A_ROW
from kansformer.training.recipe_file import read_recipe
from kansformer.training.run import train
from kansformer.training.trainer import ASIDE, KANTrainer


@pytest.fixture
def recipe_file(tmp_path):
    return write_recipe_file(tmp_path)


@pytest.fixture
def make(recipe_file):
    return lambda *changes: read_recipe(recipe_file, changes)


# Half a file written, before and after a rename, half of the grids moved or refined, half of the model in its place.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "changes", "kills"),
    [
        pytest.param(
            1,
            ["curves.refine_grid_at={5: 10}"],
            ["after:0.02", "write weights:1", "write optimizer:2", "before rename:1", "after rename:1", "move grid:3",
             "refine grid:2", "remove old:1", "write model:1", "move file:2"],
            id="one process",
        ),
        pytest.param(
            2,
            ["curves.refine_grid_at={3: 10}"],
            ["after:0.1@all", "write random state:1@1", "move grid:4@1", "refine grid:2@1", "before rename:2@0"],
            id="two processes",
        ),
    ],
)  # fmt: skip
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(recipe_file, tmp_path, processes, changes, kills):
    for name, moments in (("through", []), ("killed", kills)):
        starts = killed_run(recipe_file, tmp_path / name, *changes, processes=processes, kills=moments)
        log = (tmp_path / f"{name}.log").read_text()[-3000:]
        assert [started["kill"] for started in starts] == [*moments, ""]
        assert all(-signal.SIGKILL in started["codes"] for started in starts[:-1]), (starts, log)
        assert starts[-1]["codes"] == [0] * processes, log
    equal_weights(tmp_path / "through", tmp_path / "killed")
    assert not (tmp_path / "killed" / ASIDE).exists()


def has_logged_two_steps(output):
    losses = output / "losses.csv"
    return losses.exists() and losses.read_text().count("\n") >= 3


def last_step_is_saved(output):
    steps = (output / "losses.csv").read_text().splitlines()[-1].partition(",")[0]
    state = json.loads((output / f"checkpoint-{steps}" / "trainer_state.json").read_text())
    return state["global_step"] == int(steps)


def test_sigterm_saves_the_step_and_ends_with_a_code_of_its_own(recipe_file, tmp_path):
    is_over = threading.Event()

    def terminate():
        while not has_logged_two_steps(tmp_path / "run") and not is_over.wait(0.05):
            pass
        if not is_over.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    arguments = ["train", str(recipe_file), "training.max_steps=400", "--output", str(tmp_path / "run")]
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # unless the run handles it
    sender = threading.Thread(target=terminate)
    sender.start()
    result = CliRunner().invoke(app, arguments)
    is_over.set()
    sender.join()
    signal.signal(signal.SIGTERM, before)
    assert "which is saved. Go on with --resume." in " ".join(result.output.split())
    assert result.exit_code == 75, result.output
    assert last_step_is_saved(tmp_path / "run")


@pytest.mark.slow
def test_sigterm_to_a_launcher_saves_the_step_of_its_processes(recipe_file, tmp_path):
    output, log = tmp_path / "run", tmp_path / "run.log"
    command = [*LAUNCH, "--config", str(recipe_file), "--output", str(output), "training.max_steps=100000"]
    launcher = Program(command, log, {**os.environ, "OMP_NUM_THREADS": "1"})
    while launcher.poll() is None and not has_logged_two_steps(output):
        time.sleep(0.05)
    launcher.send_signal(signal.SIGTERM)
    code, printed = launcher.wait(300), log.read_text()
    assert "which is saved. Go on with --resume." in " ".join(printed.split()), code
    assert code == 1, printed  # the launcher has a code of its own
    assert last_step_is_saved(tmp_path / "run")


@pytest.mark.parametrize("part", ["checkpoint", "model"])
def test_a_full_disk_is_an_error_that_keeps_what_was_saved(make, tmp_path, monkeypatch, part):
    recipe = make()
    through = train(recipe, tmp_path / "through")

    def full(self, folder, *args, **kwargs):
        if ("checkpoint-6" if part == "checkpoint" else "model") == Path(folder).name:
            (Path(folder) / "half").parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / "half").write_text("half of it")
            raise OSError(28, "No space left on device")
        return save(self, folder, *args, **kwargs)

    save = PreTrainedModel.save_pretrained
    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    with pytest.raises(CheckpointError, match=r"could not be written .* No space left on device\. What was saved"):
        train(recipe, tmp_path / "run")
    monkeypatch.undo()
    assert not (tmp_path / "run" / ASIDE).exists()
    assert not list((tmp_path / "run").rglob("half"))
    assert train(recipe, tmp_path / "run", resume=True).evaluation == through.evaluation
    equal_weights(tmp_path / "through", tmp_path / "run")


@pytest.fixture
def spoil(monkeypatch):
    """Have the loss be no number at these steps of a run."""
    plain = KANTrainer.compute_loss

    def spoil(*steps, value=math.nan):
        seen = 0

        def compute_loss(self, model, *args, **kwargs):
            nonlocal seen
            seen += model.training
            loss = plain(self, model, *args, **kwargs)
            return loss * value if model.training and seen in steps else loss

        monkeypatch.setattr(KANTrainer, "compute_loss", compute_loss)

    return spoil


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bad_batch_stops_the_run_before_the_step_and_is_named(make, tmp_path, spoil, value):
    spoil(3, value=value)
    file = tmp_path / "run" / "non-finite-step-3-process-0.safetensors"
    with pytest.raises(ConfigError, match=rf"The loss became {value} at step 3 in process 0; its batch is in '{file}'"):
        train(make(), tmp_path / "run")
    batch = load_file(file)
    assert batch["input_ids"].shape == (4, 16) and torch.equal(batch["input_ids"], batch["labels"])


def test_a_gradient_that_is_no_number_is_seen_under_a_fine_loss(make, tmp_path, monkeypatch):
    backward = torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, "backward", lambda loss, *args, **kwargs: backward(loss, torch.tensor(math.inf)))
    with pytest.raises(ConfigError, match="A gradient became infinite or NaN at step 1 in process 0"):
        train(make(), tmp_path / "run")


def test_a_run_that_was_stopped_goes_on_without_the_bad_batch(make, tmp_path, spoil, monkeypatch):
    spoil(3)
    skipping = make("non_finite=skip")
    skipped = train(skipping, tmp_path / "skipped")
    assert skipped.skipped_steps == (3,) and skipped.steps == 8
    assert all(loss == loss for _, loss in skipped.losses)
    spoil(3)
    with pytest.raises(ConfigError, match="Leave such steps out with --resume non_finite=skip"):
        train(make(), tmp_path / "run")
    monkeypatch.undo()
    spoil(1)  # the run goes on at step 3
    resumed = train(skipping, tmp_path / "run", resume=True)
    assert resumed.skipped_steps == (3,)
    equal_weights(tmp_path / "skipped", tmp_path / "run")


def test_a_skipped_step_leaves_weights_and_optimizer_as_they_were(make, tmp_path, spoil):
    spoil(2)
    train(make("non_finite=skip", "training.max_steps=2", "training.save_steps=1"), tmp_path / "run")
    before, after = (tmp_path / "run" / f"checkpoint-{step}" for step in (1, 2))
    equal_weights(before, after)
    states = [torch.load(path / "optimizer.pt", weights_only=True)["state"] for path in (before, after)]
    for one, other in zip(*(state.values() for state in states), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_weights_that_are_to_blame_end_the_run(make, tmp_path, spoil):
    spoil(*range(2, 99))
    with pytest.raises(ConfigError, match=f"It was the {MAX_SKIPPED_IN_A_ROW}th step in a row"):
        train(make("non_finite=skip", "training.max_steps=40", "training.save_strategy=no"), tmp_path / "run")
