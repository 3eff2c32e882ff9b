"""Saving over a model that is there already: the old one or the new one, whatever happens in between."""

import copy
import signal
import sys
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from kansformer import files, load_curves, revert, save_curves
from kansformer.conversion import saving
from kansformer.errors import CheckpointError
from kansformer.nn.curves import curved_modules

KILLED = """
import os, signal, sys
from pathlib import Path
import torch
import transformers
from kansformer import files
folder, moment = sys.argv[1:]
model = transformers.AutoModelForCausalLM.from_pretrained(folder)
with torch.no_grad():
    model.model.layers[0].mlp.act_fn.coefficients.add_(1)
def kill(*args, **kwargs):
    if moment == "weights":
        Path(args[1]).write_bytes(b"half of it")
    elif moment == "after":
        exchange(*args)
    os.kill(os.getpid(), signal.SIGKILL)
exchange = files.exchange
if moment == "weights":
    transformers.modeling_utils.safe_save_file = kill
else:
    files.exchange = kill
model.save_pretrained(folder)
"""


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def model(make_converted):
    return make_converted()


@pytest.fixture
def folder(model, tmp_path):
    """A saved model among files of other makers."""
    folder = tmp_path / "model"
    model.save_pretrained(folder, max_shard_size="4KB")
    (folder / "runs").mkdir()
    (folder / "runs" / "notes.txt").write_text("kept")
    (folder / "README.md").write_text("kept")
    return folder


@pytest.fixture(params=["exchanged", "file by file"])
def both_ways(request, monkeypatch):
    if request.param == "file by file":  # as where the folder is a mount, or its file system knows no exchange
        monkeypatch.setattr(files, "exchange", lambda one, other: False)


def train(model):
    with torch.no_grad():
        model.model.layers[0].mlp.act_fn.coefficients.add_(1)


@pytest.mark.parametrize("place", ["in the weights", "after the weights", "in the exchange", "while files are moved"])
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "stopped"]
)
def test_a_save_that_fails_leaves_the_old_model_whole(place, error, model, folder, monkeypatch):
    def fail(*args):
        raise error

    def half(tensors, file, **kwargs):
        Path(file).write_bytes(b"half of it")
        raise error

    def only_some(path, target):
        if path.name == "model.safetensors":
            raise error
        return rename(path, target)

    before, rename = contents(folder.parent), Path.rename
    train(model)
    with monkeypatch.context() as broken:
        if place == "in the weights":
            broken.setattr(transformers.modeling_utils, "safe_save_file", half)
        elif place == "after the weights":
            broken.setattr(saving, "write_modeling_file", fail)
        elif place == "in the exchange":
            broken.setattr(files, "exchange", fail)
        else:
            broken.setattr(files, "exchange", lambda one, other: False)
            broken.setattr(Path, "rename", only_some)
        with pytest.raises(type(error)):
            model.save_pretrained(folder)
    assert contents(folder.parent) == before


@pytest.mark.usefixtures("both_ways")
def test_other_files_stay_and_old_weights_go(model, folder, outputs):
    folder.chmod(0o750)
    train(model)
    model.save_pretrained(folder)
    names = set(contents(folder))
    assert {"README.md", "runs/notes.txt", "model.safetensors", "config.json"} <= names
    assert not [name for name in names if "-of-" in name or "index" in name]
    assert torch.equal(outputs(AutoModelForCausalLM.from_pretrained(folder)), outputs(model))
    train(model)
    model.save_pretrained(folder, max_shard_size="4KB")  # transformers alone would leave, and load, the old weights
    assert torch.equal(outputs(AutoModelForCausalLM.from_pretrained(folder)), outputs(model))
    assert [path.name for path in folder.parent.iterdir()] == ["model"] and folder.stat().st_mode & 0o777 == 0o750


def test_the_current_folder_and_a_link_stay_what_they_are(model, folder, outputs, monkeypatch):
    link = folder.parent / "link"
    link.symlink_to(folder)
    train(model)
    model.save_pretrained(link)
    assert torch.equal(outputs(AutoModelForCausalLM.from_pretrained(folder)), outputs(model))
    monkeypatch.chdir(folder)
    train(model)
    model.save_pretrained(".")
    assert torch.equal(outputs(AutoModelForCausalLM.from_pretrained(".")), outputs(model))
    assert link.is_symlink() and {path.name for path in folder.parent.iterdir()} == {"model", "link"}
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_layers_that_were_removed_leave_the_config(model, outputs, tmp_path):
    curves = len(list(curved_modules(model)))
    model.model.layers = model.model.layers[:-1]
    model.config.num_hidden_layers -= 1
    model.save_pretrained(tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert torch.equal(outputs(loaded), outputs(model))
    assert len(list(curved_modules(loaded))) == curves * len(model.model.layers) / (len(model.model.layers) + 1)
    save_curves(model, tmp_path / "curves")
    assert torch.equal(outputs(load_curves(revert(loaded), tmp_path / "curves")), outputs(model))


def test_curves_at_other_places_than_recorded_are_not_saved(make_converted, folder, outputs):
    lost, more = make_converted(), make_converted()
    lost.model.layers[0].mlp.act_fn = torch.nn.SiLU()
    more.model.layers.append(copy.deepcopy(more.model.layers[0]))
    before = contents(folder)
    for model, message in (
        (lost, r"layers\.0\.mlp\.act_fn has lost the curves"),
        (more, "has curves that the model's"),
    ):
        with pytest.raises(CheckpointError, match=message):
            model.save_pretrained(folder)
        with pytest.raises(CheckpointError, match=message):
            save_curves(model, folder / "curves")
    assert contents(folder) == before


def test_a_variant_outlives_another_save_of_the_model(model, folder, outputs):
    old = outputs(model)
    model.save_pretrained(folder, variant="old")
    train(model)
    model.save_pretrained(folder)
    assert torch.equal(outputs(AutoModelForCausalLM.from_pretrained(folder, variant="old")), old)


def test_a_variant_stands_beside_the_model(model, folder, outputs):
    before = contents(folder)
    train(model)
    model.save_pretrained(folder, variant="new")
    after = contents(folder)
    assert all(after[name] == before[name] for name in before if name.endswith(".safetensors"))
    loaded = AutoModelForCausalLM.from_pretrained(folder, variant="new")
    assert torch.equal(outputs(loaded), outputs(model))


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, where two folders change places in one step")
def test_a_killed_save_leaves_the_old_model_or_the_new(model, folder, outputs, client):
    before, old = contents(folder), outputs(model)
    for moment in ("weights", "before", "after"):
        assert client(KILLED, folder, moment).returncode == -signal.SIGKILL
        assert (contents(folder) == before) is (moment != "after")
        assert (folder / "README.md").read_text() == (folder / "runs" / "notes.txt").read_text() == "kept"
        assert torch.equal(outputs(AutoModelForCausalLM.from_pretrained(folder)), old) is (moment != "after")
