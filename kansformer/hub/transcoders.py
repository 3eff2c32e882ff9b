"""Transcoders as other tools read them: SAELens' folders and circuit-tracer's sets.

What a format cannot hold exactly is refused. A curve is exact there where it is a line through zero, whose slope goes
into the decoder.

Shape letters: I input width, M latents, O output width, S points.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from kansformer.errors import ConfigError
from kansformer.files import atomic_folder, check_unused
from kansformer.nn.transcoder import Transcoder

# A curve is a line through zero if it is one to this share of its largest value or input.
STRAIGHT = 1e-6
# Points of a curve that are compared with a line, over twice its domain: linear extrapolation goes on beyond.
POINTS = 257


def export_sae_lens(
    transcoder: Transcoder,
    folder: str | Path,
    *,
    model_name: str | None = None,
    hook_name: str | None = None,
    hook_name_out: str | None = None,
) -> Path:
    """Write `cfg.json` and `sae_weights.safetensors`, which `sae_lens.SAE.load_from_disk` reads.

    With ReLU latents the architecture is `transcoder` or `skip_transcoder`, with TopK `topk`: SAELens has no TopK
    transcoder, and its TopK autoencoder without input bias computes the same where the widths agree.

    Args:
        transcoder: without curves, or with straight ones.
        folder: new or empty.
        model_name, hook_name, hook_name_out: for SAELens' metadata: the model, and the hook points that the transcoder
            reads and replaces.

    Returns:
        The folder.

    Raises:
        ConfigError: SAELens has nothing that computes the same.
        CheckpointError: the folder is in use.

    Examples:
        >>> from kansformer.hub import export_sae_lens
        >>> from kansformer.interp import Transcoder
        >>> folder = export_sae_lens(Transcoder(16, latents=64, k=4), "for-sae-lens")
        >>> sorted(file.name for file in folder.iterdir())
        ['cfg.json', 'sae_weights.safetensors']
    """
    tensors = folded_tensors(transcoder)
    sizes = {"d_in": transcoder.encoder.in_features, "d_sae": transcoder.latents}
    if transcoder.k is None:
        settings = {"architecture": "transcoder", "d_out": transcoder.decoder.out_features}
        if transcoder.skip is not None:
            settings["architecture"] = "skip_transcoder"
    else:
        if transcoder.skip is not None or transcoder.decoder.out_features != transcoder.encoder.in_features:
            raise ConfigError(
                f"SAELens has no TopK transcoder with a skip or two widths, and this one has k={transcoder.k}. Write "
                "it by Transcoder.save, or train with k=null and an l1, which SAELens' skip_transcoder holds."
            )
        settings = {"architecture": "topk", "k": transcoder.k, "rescale_acts_by_decoder_norm": False}
    metadata = {"model_name": model_name, "hook_name": hook_name, "hook_name_out": hook_name_out}
    config = {
        **settings,
        **sizes,
        "dtype": str(tensors["W_enc"].dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {name: value for name, value in metadata.items() if value is not None},
    }
    tensors["W_enc"] = tensors["W_enc"].mT
    return _write(Path(folder), {"sae_weights.safetensors": tensors}, {"cfg.json": config})


def export_circuit_tracer(
    transcoders: Mapping[int, Transcoder],
    norms: Mapping[int, nn.Module],
    folder: str | Path,
    *,
    model_name: str,
    scan: str | None = None,
) -> Path:
    """Write a transcoder set, `config.yaml` and `layer_N.safetensors`, which circuit-tracer's `load_transcoders` reads.

    The set reads `ln2.hook_normalized`, the input of the norm's own scale, so scale and shift go into the encoder.

    Args:
        transcoders: with ReLU latents (k=None), of all layers from 0 on, with as many latents each; without curves, or
            with straight ones.
        norms: of each layer, the norm before its feed-forward network, such as `post_attention_layernorm` of Llama.
        folder: new or empty; `config.yaml` names the files by their absolute paths, as circuit-tracer opens them.
        model_name: on the Hub.
        scan: circuit-tracer's name of the set; None is the model's.

    Returns:
        The folder.

    Raises:
        ConfigError: the set cannot hold these transcoders, or layers are missing.
        CheckpointError: the folder is in use.

    Examples:
        >>> from kansformer.hub import export_circuit_tracer
        >>> from kansformer.interp import Transcoder
        >>> transcoders, norms = {0: Transcoder(16, latents=64, k=None)}, {0: torch.nn.RMSNorm(16)}
        >>> folder = export_circuit_tracer(transcoders, norms, "a-set", model_name="my-model")
        >>> sorted(file.name for file in folder.iterdir())
        ['config.yaml', 'layer_0.safetensors']
    """
    folder = Path(folder).absolute()
    if not transcoders or sorted(transcoders) != list(range(len(transcoders))):
        raise ConfigError(f"A set needs every layer from 0 on, got {sorted(transcoders)}.")
    if missing := transcoders.keys() - norms.keys():
        raise ConfigError(f"norms lacks layer {min(missing)}.")
    if len({(t.latents, t.skip is None) for t in transcoders.values()}) > 1:
        raise ConfigError("The transcoders of a set have one number of latents, and all of them a skip or none.")
    files = {}
    for layer, transcoder in sorted(transcoders.items()):
        if transcoder.k is not None:
            raise ConfigError(
                f"circuit-tracer's files hold ReLU latents, and layer {layer} has TopK of {transcoder.k}. Train with "
                "k=null and an l1, or pass its tensors to circuit-tracer's SingleLayerTranscoder in code, as "
                "docs/reading_tools.md does."
            )
        tensors = folded_tensors(transcoder)
        scale_I, shift_I = _scale_and_shift(norms[layer], tensors["W_enc"])
        tensors["b_enc"] = tensors["b_enc"] + tensors["W_enc"] @ shift_I
        tensors["W_enc"] = tensors["W_enc"] * scale_I
        if "W_skip" in tensors:
            tensors["b_dec"] = tensors["b_dec"] + tensors["W_skip"] @ shift_I
            tensors["W_skip"] = tensors["W_skip"] * scale_I
        files[f"layer_{layer}.safetensors"] = tensors
    config = {
        "model_name": model_name,
        "model_kind": "transcoder_set",
        "scan": scan or model_name,
        "feature_input_hook": "ln2.hook_normalized",
        "feature_output_hook": "hook_mlp_out",
        "transcoders": [str(folder / name) for name in files],
    }
    return _write(folder, files, {"config.yaml": config})  # JSON is YAML


@torch.no_grad()
def folded_tensors(transcoder: Transcoder) -> dict[str, Tensor]:
    """W_enc (M, I), b_enc, W_dec (M, O), b_dec and, with a skip, W_skip (O, I), with the curves in the decoder.

    Raises:
        ConfigError: a curve is not a line through zero.
    """
    decoder_MO = transcoder.decoder.weight.mT
    if transcoder.act is not None:
        decoder_MO = decoder_MO * _slopes(transcoder)[:, None].to(decoder_MO)
    tensors = {"W_enc": transcoder.encoder.weight, "b_enc": transcoder.encoder.bias, "W_dec": decoder_MO}
    tensors["b_dec"] = transcoder.decoder.bias
    if transcoder.skip is not None:
        tensors["W_skip"] = transcoder.skip.weight
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _slopes(transcoder: Transcoder) -> Tensor:
    """The slope of every curve, (M,)."""
    act = transcoder.act
    assert act is not None
    upper_M = act.domain[:, 1].repeat_interleave(transcoder.latents // len(act.domain))
    z_SM = torch.linspace(0, 2, POINTS, dtype=upper_M.dtype, device=upper_M.device)[1:, None] * upper_M
    a_SM = act(z_SM.to(act.coefficients.dtype)).double()
    slope_M = a_SM[-1] / z_SM[-1].double()
    error_M = (a_SM - slope_M * z_SM.double()).abs().amax(0)
    bent_M = error_M > STRAIGHT * torch.maximum(a_SM.abs().amax(0), z_SM[-1].double())
    if bent_M.any():
        raise ConfigError(
            f"{int(bent_M.sum())} of {transcoder.latents} curves bend, and the files of other tools hold ReLU: an "
            "export would compute another function. Keep the curves by Transcoder.save, pass transcoder.act to "
            "circuit-tracer's SingleLayerTranscoder in code, or train with curves=null."
        )
    return slope_M


@torch.no_grad()
def _scale_and_shift(norm: nn.Module, like: Tensor) -> tuple[Tensor, Tensor]:
    """w and b of a norm w·x̂ + b, by what it computes, since some store w - 1: (I,) each."""
    signs_I = torch.ones(like.shape[1], device=like.device, dtype=like.dtype)
    signs_I[1::2] = -1
    shift_I = norm(torch.zeros_like(signs_I))
    large = 1e4  # beside which the norm's epsilon is nothing
    return (norm(large * signs_I) - shift_I) * signs_I, shift_I


def _write(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], tables: Mapping[str, object]) -> Path:
    from safetensors.torch import save_file

    check_unused(folder)
    with atomic_folder(folder) as partial:
        for name, values in tensors.items():
            save_file({key: tensor.contiguous().cpu().clone() for key, tensor in values.items()}, partial / name)
        for name, table in tables.items():
            (partial / name).write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    return folder
