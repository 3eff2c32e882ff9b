"""`kansformer train` with a recipe of the task transcoder."""

import json

import pytest
import torch

from kansformer.interp import Transcoder
from kansformer.training import read_recipe, train


@pytest.fixture
def recipe(tiny, text, tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(
        f"task: transcoder\nmodel: {{path: {tiny}}}\ndata: {{files: {text}, block: 16, max_train_tokens: 640}}\n"
        "transcoder: {layers: [0, 1], latents: 24, k: 4, steps: 6, batch_tokens: 64}\n"
    )
    return path


def test_each_layer_gets_a_folder_with_its_transcoder_and_figures(run, recipe, tmp_path):
    result = run("train", recipe, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    for layer in (0, 1):
        folder = tmp_path / "out" / f"layer-{layer}"
        assert f"Written: {folder}, with config.json" in result.stdout
        figures = json.loads((folder / "figures.json").read_text())
        assert figures["path"] == f"model.layers.{layer}.mlp" and 0 < figures["l0"] <= 4 and figures["fvu"] < 2
        assert figures["training"]["steps"] == 6 and figures["names"]["curves"] >= 0
        assert Transcoder.load(folder)(torch.randn(2, 16)).shape == (2, 16)
    assert read_recipe(tmp_path / "out" / "recipe.yaml") == read_recipe(recipe)


def test_the_plain_twin_and_an_l1_penalty(run, recipe, tmp_path):
    changes = ["transcoder.curves=null", "transcoder.k=null", "transcoder.l1=0.01", "transcoder.layers=1"]
    result = run("train", recipe, *changes, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    transcoder = Transcoder.load(tmp_path / "out" / "layer-1")
    assert transcoder.act is None and transcoder.k is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["transcoder.k=null"], "k=null and l1=0 do not go together: sparsity comes from k, or"),
        (["transcoder.l1=0.1"], "k=4 and l1=0.1 do not go together"),
        (["transcoder.k=25"], "k=25 is more than the 24 latents"),
        (["transcoder.layers=[1, 1]"], "layers=[1, 1] names a layer twice"),
        (["transcoder.layers=[2]"], "Layer 2 has no feed-forward network. Choose from 0 to 1"),
        (["transcoder.layers=[]"], "transcoder.layers must not be empty"),
        (["transcoder.latent=3"], "Unknown field 'transcoder.latent'. Choose from: layers, latents"),
        (["transcoder.curves.basis=splines"], "basis is 'splines'. Choose one of: bspline"),
        (["transcoder=null"], "task=transcoder and the section transcoder belong together"),
        (["task=causal-lm"], "task=transcoder and the section transcoder belong together"),
        (["training.max_steps=3", "trainable=curves"], "trainable, training does not go with the section transcoder"),
        (["model={config: {model_type: llama}}"], "A transcoder needs model.path: a model to read"),
        (["transcoder.curves.order=9"], "order of the basis 'bspline' must be a whole number from 1 to 5, got 9"),
        (["--resume"], "keeps no checkpoints to resume from. Leave out --resume"),
        (["transcoder.batch_tokens=4096"], "recorded tokens are fewer than one batch of 4096"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(changes, sentence, refused, recipe, tmp_path):
    assert sentence in refused("train", recipe, *changes, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_function_for_models_refuses_the_recipe(recipe, tmp_path):
    from kansformer.errors import ConfigError

    with pytest.raises(ConfigError, match="is run by `kansformer train`, or by train_transcoder"):
        train(read_recipe(recipe), tmp_path / "out")
