"""Exports hold the same function, by their definitions here and by the other tools' own loaders where they are."""

import json
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file

from kansformer.errors import CheckpointError, ConfigError
from kansformer.hub import export_circuit_tracer, export_sae_lens
from kansformer.nn.transcoder import Transcoder

X = torch.randn(9, 16, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def make(slope=0.0, **settings):
    """A transcoder whose curves add slope·z."""
    torch.manual_seed(0)
    transcoder = Transcoder(16, 64, **settings)
    if transcoder.skip is not None:
        transcoder.skip.weight.normal_()
    if slope:
        basis, act = transcoder.act.curves.basis, transcoder.act
        steps = torch.arange(basis.num_coefficients) - (basis.order - 1) / 2  # of a B-spline that is a line: Greville
        act.domain[:, 0], act.domain[:, 1] = 0.0, 2.0
        act.coefficients.copy_(slope * 2.0 / basis.grid_size * steps * torch.linspace(0.5, 1, 64)[:, None])
    return transcoder


KINDS = {
    "relu": dict(k=None),
    "relu with straight curves": dict(k=None, slope=0.7),
    "relu with skip": dict(k=None, slope=0.7, skip=True),
    "topk": dict(k=5, basis=None),
    "topk with straight curves": dict(k=5, slope=-1.7),
}


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_files_of_sae_lens_compute_the_same(kind, tmp_path):
    transcoder = make(**KINDS[kind])
    folder = export_sae_lens(transcoder, tmp_path / "t", model_name="tiny", hook_name="mlp.hook_in")
    config, tensors = json.loads((folder / "cfg.json").read_text()), load_file(folder / "sae_weights.safetensors")
    z = (X @ tensors["W_enc"] + tensors["b_enc"]).relu()
    if config["architecture"] == "topk":
        kept = z.topk(config["k"]).indices
        z = torch.zeros_like(z).scatter(-1, kept, z.gather(-1, kept))
    y = z @ tensors["W_dec"] + tensors["b_dec"]
    if config["architecture"] == "skip_transcoder":
        y = y + X @ tensors["W_skip"].T
    torch.testing.assert_close(y, transcoder(X), rtol=1e-5, atol=1e-5)
    assert config["metadata"] == {"model_name": "tiny", "hook_name": "mlp.hook_in"}
    with pytest.raises(CheckpointError, match="is not empty"):
        export_sae_lens(transcoder, folder)


@pytest.mark.skipif(find_spec("sae_lens") is None, reason="pip install sae-lens")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_sae_lens_loads_and_runs_them(kind, tmp_path):
    from sae_lens import SAE

    transcoder = make(**KINDS[kind])
    loaded = SAE.load_from_disk(export_sae_lens(transcoder, tmp_path / "t"))
    torch.testing.assert_close(loaded(X), transcoder(X), rtol=1e-5, atol=1e-5)


def norms_of(kind):
    torch.manual_seed(1)
    norms = {layer: kind(16) for layer in range(2)}
    for norm in norms.values():
        torch.nn.init.normal_(norm.weight)
        if getattr(norm, "bias", None) is not None:
            torch.nn.init.normal_(norm.bias)
    return norms


def normalized(norm, h):
    return torch.nn.functional.layer_norm(h, (16,)) if hasattr(norm, "bias") else torch.nn.functional.rms_norm(h, (16,))


@pytest.mark.parametrize("kind", [torch.nn.LayerNorm, torch.nn.RMSNorm])
@pytest.mark.parametrize("skip", [False, True])
@torch.no_grad()
def test_a_set_of_circuit_tracer_reads_what_stands_before_the_scale_of_the_norm(kind, skip, tmp_path):
    norms, transcoders = norms_of(kind), {layer: make(k=None, slope=0.7, skip=skip) for layer in range(2)}
    folder = export_circuit_tracer(transcoders, norms, tmp_path / "set", model_name="tiny")
    config = json.loads((folder / "config.yaml").read_text())
    assert config["feature_input_hook"] == "ln2.hook_normalized" and config["feature_output_hook"] == "hook_mlp_out"
    if find_spec("circuit_tracer") is not None:
        from circuit_tracer.transcoder import load_transcoder_set

        paths = dict(enumerate(config["transcoders"]))
        hooks = {name: config[name] for name in ("scan", "feature_input_hook", "feature_output_hook")}
        loaded = load_transcoder_set(paths, **hooks, device=torch.device("cpu"))
    for layer, norm in norms.items():
        tensors, x = load_file(config["transcoders"][layer]), normalized(norm, 3 * X)
        y = (x @ tensors["W_enc"].T + tensors["b_enc"]).relu() @ tensors["W_dec"] + tensors["b_dec"]
        y = y + x @ tensors["W_skip"].T if skip else y
        torch.testing.assert_close(y, transcoders[layer](norm(3 * X)), rtol=1e-4, atol=1e-4)
        if find_spec("circuit_tracer") is not None:
            torch.testing.assert_close(loaded[layer](x), transcoders[layer](norm(3 * X)), rtol=1e-4, atol=1e-4)


def test_what_would_be_another_function_is_refused(tmp_path):
    bent = make(k=None)
    with torch.no_grad():
        bent.act.coefficients[2:5].normal_()
    with pytest.raises(ConfigError, match="3 of 64 curves bend, .* Keep the curves by Transcoder.save, pass"):
        export_sae_lens(bent, tmp_path / "t")
    shifted = make(k=None)
    with torch.no_grad():
        shifted.act.coefficients[:] = 0.1  # z + 0.1 for z > 0
    with pytest.raises(ConfigError, match="64 of 64 curves bend"):
        export_sae_lens(shifted, tmp_path / "t")
    with pytest.raises(ConfigError, match="SAELens has no TopK transcoder with a skip or two widths, .* k=4"):
        export_sae_lens(make(k=4, skip=True), tmp_path / "t")
    norms = norms_of(torch.nn.RMSNorm)
    with pytest.raises(ConfigError, match="circuit-tracer's files hold ReLU latents, and layer 0 has TopK of 4"):
        export_circuit_tracer({0: make(k=4)}, norms, tmp_path / "t", model_name="tiny")
    with pytest.raises(ConfigError, match=r"A set needs every layer from 0 on, got \[1\]"):
        export_circuit_tracer({1: make(k=None)}, norms, tmp_path / "t", model_name="tiny")
    with pytest.raises(ConfigError, match="norms lacks layer 0"):
        export_circuit_tracer({0: make(k=None)}, {}, tmp_path / "t", model_name="tiny")
    mixed = {0: make(k=None), 1: make(k=None, skip=True)}
    with pytest.raises(ConfigError, match="one number of latents"):
        export_circuit_tracer(mixed, norms, tmp_path / "t", model_name="tiny")
    assert not any(tmp_path.iterdir())
