"""Exceptions to the rules of the zoo, as data: what a model type needs that its field names do not tell."""

# Types without a base model whose most natural class the naming rule misses.
MODEL_CLASSES: dict[str, str] = {
    "musicgen": "MusicgenForConditionalGeneration",
    "musicgen_melody": "MusicgenMelodyForConditionalGeneration",
}

# Convolutional backbones with many lists of widths that must agree; they hold no FFN and are small enough.
UNCHANGED = {"hgnet_v2", "rt_detr_resnet", "textnet", "superpoint", "superglue", "lightglue", "dac"}

# Fields that replace both the default and the rule, by the model type of the configuration they sit in.
CONFIG_FIELDS: dict[str, dict] = {
    "align_vision_model": {"width_coefficient": 1.0, "depth_coefficient": 0.5, "hidden_dim": 1280},
    "efficientnet": {"width_coefficient": 1.0, "depth_coefficient": 0.5, "hidden_dim": 1280},
    "align": {"projection_dim": 320},
    "autoformer": {"prediction_length": 6, "context_length": 12},
    "informer": {"prediction_length": 6, "context_length": 12},
    "time_series_transformer": {"prediction_length": 6, "context_length": 12},
    "clap_audio_model": {"hidden_size": 512},
    "zoedepth": {"bottleneck_features": 64},
    "deepseek_ocr2_sam_vision_model": {"downsample_channels": [112, 64]},
    "unlimited_ocr_sam_vision_model": {"downsample_channels": [112, 64]},
    "slanext": {"post_conv_in_channels": 64},
    "hrm_text": {"num_hidden_layers": 2, "num_layers_per_stack": None},
    "longcat_flash": {"head_dim": 8},
    "phi4_multimodal_audio": {
        "ext_pw_out_channel": 64,
        "depthwise_separable_out_channel": 64,
        "nemo_conv_channels": 64,
    },
    "lw_detr": {"projector_scale_factors": [1.0]},
    "granite4_vision": {"deepstack_layer_map": [[1, 0]], "spatial_target_layers": [1], "downsample_rate": "2/4"},
    "blt": {"encoder_hash_byte_group_vocab": 509, "num_hidden_layers": 2},
    "dbrx": {"attn_config": {"rope_theta": 1e4, "clip_qkv": 8.0, "kv_n_heads": 2}},
    "dory": {
        "num_hidden_layers": 3,
        "n_input_layers": 1,
        "n_recurrent_layers": 1,
        "n_output_layers": 1,
        "layer_types": ["sliding_attention", "full_attention", "full_attention"],
    },
    "fun_asr_nano_adaptor": {"intermediate_size": 16},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2},
    "llama4_vision_model": {
        "intermediate_size": 256,
        "projector_input_dim": 112,
        "projector_output_dim": 112,
        "vision_output_dim": 112,
    },
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "molmo2_adapter": {"vision_feature_layer": [-1]},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
    },
    "seggpt": {"num_hidden_layers": 4, "merge_index": 0, "intermediate_hidden_state_indices": [1, 3]},
    "step3p5": {"sliding_window": 8},
    "vitmatte": {"fusion_hidden_sizes": [64, 48, 32, 16], "convstream_hidden_sizes": [16, 24, 32]},
    "xclip_vision_model": {"num_frames": 2},
    "xlstm": {"mode": "train"},
    "zamba": {
        "num_hidden_layers": 4,
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
    },
    "bit": {"hidden_sizes": [64, 96, 128, 192], "num_groups": 8},
    "blip-2": {"image_token_index": 300},
    "instructblip": {"image_token_index": 300},
    "instructblipvideo": {"video_token_index": 300},
    "bamba": {"attn_layer_indices": [1]},
    "clvp_encoder": {"num_attention_heads": 2},
    "clvp_decoder": {"num_attention_heads": 2},
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense", "sparse"]},
    "donut-swin": {"window_size": 2},
    "swin": {"window_size": 2},
    "ernie4_5_vl_moe_text": {
        "rope_parameters": {"rope_theta": 1e4, "rope_type": "default", "mrope_section": [3, 3, 2]}
    },
    "esm": {"pad_token_id": 1, "mask_token_id": 4},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "lilt": {"hidden_size": 120, "num_attention_heads": 2},
    "moonshine_streaming": {"num_key_value_heads": 4},
    "paddleocr_vl_text": {"rope_parameters": {"rope_theta": 1e4, "rope_type": "default", "mrope_section": [2, 3, 3]}},
    "pix2struct_text_model": {"initializer_range": 0.02},
    "qwen3_omni_moe_talker_text": {"shared_expert_intermediate_size": 80},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {"axial_pos_embds_dim": [24, 40]},
    "sapiens2": {"num_key_value_heads_per_layer": [4, 2]},
    "t5gemma2_encoder": {"dropout_rate": 0.0},
    "t5gemma2_text": {"dropout_rate": 0.0},
    "t5gemma2_decoder": {"dropout_rate": 0.0},
}
