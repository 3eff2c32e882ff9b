"""Inputs of the model types whose forward takes something that no general rule makes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

BATCH = 2
TOKENS = 7
PATCHES = 16


def _tokens(*shape: int, below: int = 200) -> torch.Tensor:
    return torch.randint(5, below, shape)


def _series(model: nn.Module) -> dict[str, object]:
    """Forecasters with lags: the past is longer than the context by the largest lag."""
    config = model.config
    past = config.context_length + max(config.lags_sequence)
    features = config.num_time_features
    return {
        "past_values": torch.randn(BATCH, past),
        "past_time_features": torch.randn(BATCH, past, features),
        "past_observed_mask": torch.ones(BATCH, past),
        "future_values": torch.randn(BATCH, config.prediction_length),
        "future_time_features": torch.randn(BATCH, config.prediction_length, features),
    }


def _channels_of_series(model: nn.Module) -> dict[str, object]:
    return {"past_values": torch.randn(BATCH, model.config.context_length, model.config.num_input_channels)}


def _timesfm(model: nn.Module) -> dict[str, object]:
    length = 4 * model.config.patch_length
    inputs = {
        "past_values": torch.randn(BATCH, length),
        "past_values_padding": torch.zeros(BATCH, length, dtype=torch.long),
    }
    return inputs | ({"freq": torch.zeros(BATCH, 1, dtype=torch.long)} if hasattr(model.config, "freq_size") else {})


def _trajectory(model: nn.Module) -> dict[str, object]:
    config = model.config
    return {
        "states": torch.randn(BATCH, TOKENS, config.state_dim),
        "actions": torch.randn(BATCH, TOKENS, config.act_dim),
        "rewards": torch.randn(BATCH, TOKENS, 1),
        "returns_to_go": torch.randn(BATCH, TOKENS, 1),
        "timesteps": torch.arange(TOKENS).expand(BATCH, -1),
        "attention_mask": torch.ones(BATCH, TOKENS, dtype=torch.long),
    }


def _qformer(model: nn.Module) -> dict[str, object]:
    return {
        "query_embeds": torch.randn(BATCH, 5, model.config.hidden_size),
        "encoder_hidden_states": torch.randn(BATCH, PATCHES, model.config.encoder_hidden_size),
    }


def _decoder_of_states(model: nn.Module) -> dict[str, object]:
    return {
        "input_ids": _tokens(BATCH, TOKENS),
        "encoder_hidden_states": torch.randn(BATCH, PATCHES, model.config.hidden_size),
    }


def _detr_part(model: nn.Module) -> dict[str, object]:
    """Encoder and decoder of SAM 3's detector: a 4 × 4 map of features and a text prompt."""
    width = model.config.hidden_size
    text = {
        "text_features": torch.randn(BATCH, TOKENS, width),
        "text_mask": torch.ones(BATCH, TOKENS, dtype=torch.bool),
    }
    if "Encoder" in type(model).__name__:
        feature_map = torch.randn(BATCH, width, 4, 4)
        return text | {"vision_features": [feature_map], "vision_pos_embeds": [torch.randn_like(feature_map)]}
    return text | {
        "vision_features": torch.randn(BATCH, PATCHES, width),
        "vision_pos_encoding": torch.randn(BATCH, PATCHES, width),
        "spatial_shapes": torch.tensor([[4, 4]]),
    }


def _lxmert(model: nn.Module) -> dict[str, object]:
    config = model.config
    return {
        "input_ids": _tokens(BATCH, TOKENS),
        "visual_feats": torch.randn(BATCH, 6, config.visual_feat_dim),
        "visual_pos": torch.rand(BATCH, 6, config.visual_pos_dim),
    }


def _seggpt(model: nn.Module) -> dict[str, object]:
    size = model.config.image_size
    size = size if isinstance(size, int) else size[0]
    picture = torch.randn(BATCH, 3, size // 2, size)
    return {
        "pixel_values": picture,
        "prompt_pixel_values": torch.randn_like(picture),
        "prompt_masks": torch.randn_like(picture),
    }


def _codebooks(model: nn.Module) -> dict[str, object]:
    """MusicGen: a text prompt and one row of decoder ids per codebook."""
    books = model.config.decoder.num_codebooks
    return {"input_ids": _tokens(BATCH, TOKENS), "decoder_input_ids": _tokens(BATCH * books, 5)}


def _dia(model: nn.Module) -> dict[str, object]:
    channels = model.config.decoder_config.num_channels
    return {"input_ids": _tokens(BATCH, TOKENS), "decoder_input_ids": _tokens(BATCH, 5, channels)}


def _speecht5(model: nn.Module) -> dict[str, object]:
    """The model without its pre-nets takes hidden states on both sides."""
    width = model.config.hidden_size
    return {
        "input_values": torch.randn(BATCH, PATCHES, width),
        "decoder_input_values": torch.randn(BATCH, TOKENS, width),
    }


def _clap(model: nn.Module) -> dict[str, object]:
    audio = getattr(model.config, "audio_config", model.config)
    sound = {
        "input_features": torch.randn(BATCH, 1, 64, audio.num_mel_bins),
        "is_longer": torch.zeros(BATCH, 1, dtype=torch.bool),
    }
    return sound if audio is model.config else sound | {"input_ids": _tokens(BATCH, TOKENS)}


def _packed_audio(model: nn.Module) -> dict[str, object]:
    """Qwen-Omni's audio tower: all sounds of a batch in one row of frames."""
    lengths = torch.tensor([64, 48])
    return {
        "input_features": torch.randn(model.config.num_mel_bins, int(lengths.sum())),
        "feature_lens": lengths,
        "aftercnn_lens": (lengths - 1) // 2 + 1,
    }


def _xmod(model: nn.Module) -> dict[str, object]:
    return {"input_ids": _tokens(BATCH, TOKENS), "lang_ids": torch.zeros(BATCH, dtype=torch.long)}


def _dia_decoder(model: nn.Module) -> dict[str, object]:
    config = model.config
    return {
        "input_ids": _tokens(BATCH, 5, config.num_channels),
        "encoder_hidden_states": torch.randn(BATCH, TOKENS, config.cross_hidden_size),
    }


def _kosmos2(model: nn.Module) -> dict[str, object]:
    """The image's latent queries stand in the text where the mask says so."""
    queries, size = model.config.latent_query_num, model.config.vision_config.image_size
    mask = torch.zeros(BATCH, TOKENS + queries, dtype=torch.bool)
    mask[:, 1 : 1 + queries] = True
    return {
        "pixel_values": torch.randn(BATCH, 3, size, size),
        "input_ids": _tokens(BATCH, TOKENS + queries),
        "image_embeds_position_mask": mask,
    }


def _idefics(model: nn.Module) -> dict[str, object]:
    size = model.config.vision_config.image_size
    return {
        "input_ids": _tokens(BATCH, TOKENS),
        "pixel_values": torch.randn(BATCH, 1, 3, size, size),
        "attention_mask": torch.ones(BATCH, TOKENS, dtype=torch.long),
        "image_attention_mask": torch.ones(BATCH, TOKENS, 1, dtype=torch.long),
    }


def _picture_and_text(model: nn.Module) -> dict[str, object]:
    size = model.config.vlm_config.vision_config.image_size
    return {
        "input_ids": _tokens(BATCH, TOKENS),
        "pixel_values": torch.randn(BATCH, 1, 3, size, size),
        "pixel_attention_mask": torch.ones(BATCH, 1, dtype=torch.bool),
        "attention_mask": torch.ones(BATCH, TOKENS, dtype=torch.long),
    }


SPECIAL_INPUTS: dict[str, Callable[[nn.Module], dict[str, object]]] = {
    "autoformer": _series,
    "informer": _series,
    "time_series_transformer": _series,
    "patchtst": _channels_of_series,
    "patchtsmixer": _channels_of_series,
    "timesfm": _timesfm,
    "timesfm2_5": _timesfm,
    "decision_transformer": _trajectory,
    "blip_2_qformer": _qformer,
    "t5gemma2_decoder": _decoder_of_states,
    "sam3_detr_encoder": _detr_part,
    "sam3_detr_decoder": _detr_part,
    "sam3_lite_text_detr_encoder": _detr_part,
    "sam3_lite_text_detr_decoder": _detr_part,
    "lxmert": _lxmert,
    "seggpt": _seggpt,
    "musicgen": _codebooks,
    "musicgen_melody": _codebooks,
    "dia": _dia,
    "speecht5": _speecht5,
    "clap": _clap,
    "clap_audio_model": _clap,
    "qwen2_5_omni_audio_encoder": _packed_audio,
    "qwen3_omni_moe_audio_encoder": _packed_audio,
    "xmod": _xmod,
    "bridgetower_vision_model": lambda model: {
        "image": torch.randn(BATCH, 3, model.config.image_size, model.config.image_size)
    },
    "idefics2_perceiver": lambda model: {
        "context": torch.randn(BATCH, PATCHES, model.config.hidden_size),
        "attention_mask": torch.ones(BATCH, PATCHES, dtype=torch.long),
    },
    "molmo2_vision": lambda model: {"pixel_values": torch.randn(BATCH, 16, 3 * model.config.patch_size**2)},
    "perceiver": lambda model: {"inputs": torch.randn(BATCH, TOKENS, model.config.d_model)},
    # Random heads that end in a dead ReLU or a saturated sigmoid: only the hidden states tell anything apart.
    "depth_anything": lambda model: {"pixel_values": torch.randn(BATCH, 3, 56, 56), "output_hidden_states": True},
    "prompt_depth_anything": lambda model: {
        "pixel_values": torch.randn(BATCH, 3, 56, 56),
        "output_hidden_states": True,
    },
    "vitmatte": lambda model: {"pixel_values": torch.randn(BATCH, 4, 64, 64), "output_hidden_states": True},
    "kosmos-2": _kosmos2,
    "idefics": _idefics,
    "dia_decoder": _dia_decoder,
    "phi4_multimodal_audio": lambda model: {
        "hidden_states": torch.randn(BATCH, 64, model.config.input_size),
        "mask": torch.ones(BATCH, 64, dtype=torch.bool),
    },
    "pi0": lambda model: _picture_and_text(model) | {"action_embeds": torch.randn(BATCH, 5, 64)},
    "moshi_depth": lambda model: {
        "input_ids": _tokens(BATCH, model.config.num_codebooks),
        "last_hidden_state": torch.randn(BATCH, 1, model.config.input_size),
    },
    "fun_asr_nano_encoder": lambda model: {
        "input_features": torch.randn(BATCH, 32, model.config.num_mel_bins * model.config.num_stacked_frames),
        "input_features_mask": torch.ones(BATCH, 32, dtype=torch.long),
    },
    "xlstm": lambda model: {"input_ids": _tokens(BATCH, 64), "use_cache": False},
}
