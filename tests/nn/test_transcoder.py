"""A transcoder: its definition, its start without curves, and its files."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from kansformer.errors import CheckpointError, ConfigError, ShapeError
from kansformer.nn.transcoder import Transcoder

KINDS = {
    "curves": dict(k=3),
    "groups, skip, relu": dict(k=None, edges="group", groups=4, grid_size=2, skip=True),
    "plain": dict(k=3, basis=None, out_features=7),
    "rational": dict(k=3, basis="rational"),
}


def make(bent=True, **settings):
    torch.manual_seed(0)
    transcoder = Transcoder(6, 20, **settings)
    with torch.no_grad():
        if bent and transcoder.act is not None:
            transcoder.act.coefficients.normal_()
            transcoder.act.domain[:, 0], transcoder.act.domain[:, 1] = 0.0, 2.0
        if transcoder.skip is not None:
            transcoder.skip.weight.normal_()
    return transcoder


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_it_computes_what_its_definition_says(kind):
    transcoder, x = make(**KINDS[kind]), torch.randn(5, 6)
    pre = x @ transcoder.encoder.weight.T + transcoder.encoder.bias
    expected = torch.zeros(5, 20)
    for token, row in enumerate(pre):
        order = row.argsort(descending=True)[: transcoder.k or 20]
        for latent in order.tolist():
            if row[latent] > 0:
                z = torch.zeros(20).index_fill(0, torch.tensor(latent), float(row[latent]))
                expected[token, latent] = z[latent] if transcoder.act is None else transcoder.act(z)[latent]
    assert torch.equal(transcoder.encode(x) != 0, expected != 0)
    torch.testing.assert_close(transcoder.encode(x), expected)
    y = expected @ transcoder.decoder.weight.T + transcoder.decoder.bias
    if transcoder.skip is not None:
        y = y + x @ transcoder.skip.weight.T
    torch.testing.assert_close(transcoder(x), y)


def test_straight_curves_are_the_plain_transcoder_to_the_bit():
    curved, plain, x = make(bent=False, k=3), Transcoder(6, 20, k=3, basis=None), torch.randn(2, 5, 6)
    plain.load_state_dict({name: t for name, t in curved.state_dict().items() if not name.startswith("act.")})
    assert torch.equal(curved(x), plain(x))


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_it_is_the_same_to_the_bit(kind, tmp_path):
    transcoder, x = make(**KINDS[kind]), torch.randn(5, 6)
    again = Transcoder.load(transcoder.save(tmp_path / "t"))
    assert torch.equal(again(x), transcoder(x)) and again._settings() == transcoder._settings()
    assert sorted(file.name for file in (tmp_path / "t").iterdir()) == ["config.json", "transcoder.safetensors"]
    with pytest.raises(CheckpointError, match="is not empty"):
        transcoder.save(tmp_path / "t")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"format_version": 2}, "has format version 2"),
        ({"widths": 3}, "has the unknown entry 'widths'"),
        ({"latents": "many"}, "latents in .* must be a whole number, got 'many'"),
        ({"latents": 0}, "latents must be a whole number of at least 1, got 0"),
        ({"k": 21}, "k must be a whole number from 1 to 20, got 21"),
        ({"basis": "splines"}, "Unknown basis 'splines'"),
        ({"latents": 19}, r"has act.coefficients of shape \(20, 8\), and config.json asks for \(19, 8\)"),
        ({"basis": None}, r"has act.coefficients of shape \(20, 8\), and config.json asks for None"),
    ],
)
def test_wrong_files_are_refused(changes, sentence, tmp_path):
    folder = make(k=3).save(tmp_path / "t")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | changes))
    with pytest.raises(CheckpointError, match=sentence):
        Transcoder.load(folder)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="holds no transcoder: it has config.json and transcoder.safetensors"):
        Transcoder.load(tmp_path)
    folder = make(k=3).save(tmp_path / "t")
    tensors = load_file(folder / "transcoder.safetensors")
    del tensors["act.domain"]
    save_file(tensors, folder / "transcoder.safetensors")
    with pytest.raises(CheckpointError, match="act.domain of shape None"):
        Transcoder.load(folder)


def test_wrong_arguments():
    with pytest.raises(ConfigError, match="k must be a whole number from 1 to 20, got 32"):
        Transcoder(6, 20)
    with pytest.raises(ShapeError, match=r"reads 6 channels, got input \(2, 5\)"):
        make(k=3)(torch.ones(2, 5))
