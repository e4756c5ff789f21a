"""What single architectures need beyond the general rules of `architectures`: data, no code."""

from __future__ import annotations

from typing import Any

_SMALL_DOTS3 = {
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 16,
    "index_head_dim": 16,
    "n_routed_experts": 4,
    "swa_num_attention_heads": 2,
    "swa_num_key_value_heads": 2,
    "swa_q_lora_rank": 16,
    "swa_kv_lora_rank": 16,
    "swa_head_dim": 32,
    "swa_qk_nope_head_dim": 16,
    "swa_v_head_dim": 16,
}

# Arguments without which a configuration cannot be made.
CONSTRUCTION: dict[str, dict[str, Any]] = {
    "dots3_note_text": _SMALL_DOTS3,
    "dots3_note": {
        "text_config": _SMALL_DOTS3,
        "vision_config": {"adapter_out_dim": 64},
        "audio_config": {"adapter_out_dim": 64},
    },
}

_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_SECTIONS = {"rope_parameters.mrope_section": [2, 3, 3]}
_TEXT_SECTIONS = {"text_config.rope_parameters.mrope_section": [2, 3, 3]}
_SWIN = {"image_size": 64, "patch_size": 4}
_SHARED_KV = {"num_kv_shared_layers": 0}
_QWEN4_TEXT = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 4,
    "indexer_compress_ratio": 2,
}

# Fields to set after the general rules, by dotted path.
OVERRIDES: dict[str, dict[str, Any]] = {
    "blt": {
        "global_config.hidden_size": 128,
        "global_config.head_dim": 32,
        "encoder_config.hidden_size_global": 128,
        "decoder_config.hidden_size_global": 128,
        "encoder_hash_byte_group_vocab": 300,
    },
    "cohere_compass_text": {"rope_parameters": {"full_attention": _ROPE}},
    "align": {"vision_config.hidden_dim": 2560, "projection_dim": 640},
    "blip-2": {"num_query_tokens": 2, "image_token_index": 110},
    "chameleon": {"vocabulary_map": {"<image>": 110, "IMGIMGBA": 111}},
    "cohere_compass": {"text_config.rope_parameters": {"full_attention": _ROPE}},
    "convnext": {"image_size": 64},
    "convnextv2": {"image_size": 64},
    "dbrx": {"attn_config.rope_theta": 10000.0, "attn_config.clip_qkv": 8.0},
    "deepseek_v2": {"num_experts_per_tok": 2, "n_routed_experts": 4},
    "deepseek_ocr2": {
        "text_config.num_experts_per_tok": 2,
        "text_config.mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
    },
    "diffusion_gemma": {
        "text_config.num_experts": 4,
        "text_config.top_k_experts": 2,
        "text_config.moe_intermediate_size": 96,
        "canvas_length": 8,
    },
    "donut-swin": _SWIN,
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note_text": {"head_dim": 32},
    "dots3_note": {"text_config.head_dim": 32},
    "efficientnet": {"hidden_dim": 2560},
    "emu3": {"vocabulary_map": {"<image>": 110, "<|extra_200|>": 111}},
    "ernie4_5_vl_moe": {"text_config.rope_parameters.mrope_section": [3, 3, 2]},
    "esm": {"pad_token_id": 1, "mask_token_id": 110},
    "esmc": {"num_key_value_heads": 4},
    "exaone4_5_vision": {"window_size": 32},
    "fastspeech2_conformer_with_hifigan": {"vocoder_config.model_in_dim": 80},
    "gemma3n_text": _SHARED_KV,
    "gemma4_unified_assistant": _SHARED_KV,
    "glm46v": _TEXT_SECTIONS,
    "glm4v": _TEXT_SECTIONS,
    "glm4v_moe": {"text_config.rope_parameters.mrope_section": [1, 1, 2]},
    "glm4v_text": _SECTIONS,
    "glm4v_moe_text": {"rope_parameters.mrope_section": [1, 1, 2]},
    "glm_image": _TEXT_SECTIONS,
    "glm_image_text": _SECTIONS,
    "glm_ocr": _TEXT_SECTIONS,
    "glm_ocr_text": _SECTIONS,
    "glmga": _TEXT_SECTIONS,
    "granite4_vision": {
        "downsample_rate": "1/2",
        "deepstack_layer_map": [[-2, 1], [-1, 2]],
        "spatial_target_layers": [0, 1, 2, 3],
    },
    "granitemoehybrid": {
        "layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"]
    },
    "grounding-dino": {"num_queries": 10},
    "hunyuan_vl_text": {"rope_parameters.mrope_section": [2, 2, 2, 2]},
    "hunyuan_vl": {"text_config.rope_parameters.mrope_section": [2, 2, 2, 2]},
    "instructblip": {"num_query_tokens": 2, "image_token_index": 110},
    "instructblipvideo": {"num_query_tokens": 2, "video_token_index": 110},
    "kosmos-2": {"latent_query_num": 4},
    "layoutlmv3": {"coordinate_size": 8, "shape_size": 16},
    "lilt": {"hidden_size": 96},
    "lxmert": {"visual_feat_dim": 64},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention", "conv"]},
    "mamba2": {"num_heads": 8},
    "maskformer-swin": _SWIN,
    "mm-grounding-dino": {"num_queries": 10},
    "moonshine": {"encoder_num_key_value_heads": 4, "decoder_num_key_value_heads": 4},
    "mistral4": {"head_dim": 32},
    "mobilebert": {"intra_bottleneck_size": 32, "true_hidden_size": 32},
    "paddleocr_vl": _TEXT_SECTIONS,
    "perceiver": {
        "d_latents": 64,
        "num_latents": 16,
        "num_self_attends_per_block": 4,
        "qk_channels": 64,
        "v_channels": 64,
        "num_blocks": 1,
    },
    "qwen2_vl": _TEXT_SECTIONS,
    "qwen2_vl_text": _SECTIONS,
    "qwen2_5_vl": _TEXT_SECTIONS,
    "qwen2_5_vl_text": _SECTIONS,
    "qwen2_5_vl_vision": {"window_size": 32},
    "qwen2_5_omni_thinker": _TEXT_SECTIONS | {"vision_start_token_id": 120},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 120},
    "qwen4_exp": {f"text_config.{name}": value for name, value in _QWEN4_TEXT.items()},
    "qwen4_exp_text": _QWEN4_TEXT,
    "swin": _SWIN,
    "swinv2": _SWIN,
    "t5gemma2_encoder": {"text_config.dropout_rate": 0.0},
    "reformer": {
        "axial_pos_shape": (8, 8),
        "axial_pos_embds_dim": (32, 32),
        "local_attn_chunk_length": 4,
        "lsh_attn_chunk_length": 4,
        "num_buckets": 2,
        "hash_seed": 0,
        "attn_layers": ["local", "lsh", "local", "lsh"],
    },
    "step3p7": {"text_config.sliding_window": 4},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
    },
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
        "hybrid_layer_ids": [1, 3],
    },
}

_IMAGE = {"pixel_values": ("floats", (2, 3, 32, 32))}
_NO = ("none", None)
_SPEECH_128 = {"input_features": ("floats", (2, 64, 128)), "decoder_input_ids": ("tokens", (2, 5))}
_MASKED_SPECTRA = {"input_features": ("floats", (2, 128, 128)), "input_features_mask": ("ones", (2, 128))}
_PACKED_IMAGES = {
    "pixel_values": ("floats", (2, 16, 192)),
    "pixel_attention_mask": ("ones", (2, 16)),
    "spatial_shapes": ("table", [[4, 4], [4, 4]]),
}
# Audio waves with a channel axis; spectra with time last and first; videos.
_MONO = (
    *(
        "dac",
        "encodec",
        "mimi",
        "mimi_encoder",
        "neucodec",
        "xcodec",
        "xcodec2",
        "pe_audio",
        "pe_audio_encoder",
    ),
    *("pocket_tts_audio_tokenizer", "pocket_tts_audio_tokenizer_encoder", "vibevoice_acoustic_tokenizer"),
)
_SPECTRA = ("qwen2_audio_encoder", "voxtral_encoder")
_TIME_FIRST_80 = ("parakeet_ctc", "parakeet_encoder", "nemotron_asr_streaming_encoder")
_TIME_FIRST_128 = (
    *("gemma4_audio", "lasr_ctc", "lasr_encoder"),
    *("nemotron3_5_transcribe_asr_audio", "nemotron3_5_transcribe_audio", "nemotron3_diarization"),
    *("nemotron3_diarization_audio"),
)
_VIDEO = ("timesformer", "videomae", "vivit", "xclip")
# Text and images, both mandatory.
_WITH_IMAGE = (
    *("aimv2", "align", "altclip", "bridgetower", "chinese_clip", "clip", "clipseg", "flava", "groupvit"),
    *("grounding-dino", "metaclip_2", "mm-grounding-dino", "owlv2", "owlvit", "siglip", "tipsv2", "vilt"),
    *("vision-text-dual-encoder", "sam3", "sam3_lite_text"),
)


def _image_tokens(count: int) -> dict[str, Any]:
    """7 tokens, some of which (110) stand for an image."""
    return {
        "input_ids": ("table", [[110] * count + list(range(20 + row, 27 + row - count)) for row in range(2)])
    }


_CODEBOOKS = {"input_ids": ("tokens", (8, 7))}

# Inputs other than 2 x 7 tokens, by model type: (what they hold, shape), or ("table", the
# numbers), or ("none", None) for an input that is left out.
INPUTS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(_WITH_IMAGE, _IMAGE),
    **{name: {"input_values": ("floats", (2, 1, 3840))} for name in _MONO},
    **{name: {"input_features": ("floats", (2, 128, 128))} for name in _SPECTRA},
    **{name: {"input_features": ("floats", (2, 64, 80))} for name in _TIME_FIRST_80},
    **{name: {"input_features": ("floats", (2, 64, 128))} for name in _TIME_FIRST_128},
    **{name: {"pixel_values": ("floats", (2, 4, 3, 32, 32))} for name in _VIDEO},
    "audio-spectrogram-transformer": {"input_values": ("floats", (2, 64, 128))},
    "audioflamingo3_encoder": _MASKED_SPECTRA,
    "blip_2_qformer": {
        "query_embeds": ("floats", (2, 5, 64)),
        "encoder_hidden_states": ("floats", (2, 9, 64)),
    },
    "bros": {"bbox": ("uniform", (2, 7, 8))},
    "clap": {"input_features": ("floats", (2, 1, 64, 64))},
    "clvp": {"input_features": ("floats", (2, 80, 64))},
    "decision_transformer": {
        "input_ids": _NO,
        "states": ("floats", (2, 7, 64)),
        "actions": ("floats", (2, 7, 64)),
        "rewards": ("floats", (2, 7, 1)),
        "returns_to_go": ("floats", (2, 7, 1)),
        "timesteps": ("tokens", (2, 7)),
        "attention_mask": ("ones", (2, 7)),
    },
    "dia": {"decoder_input_ids": ("tokens", (2, 5, 9))},
    "fun_asr_nano_encoder": {
        "input_features": ("floats", (2, 64, 560)),
        "input_features_mask": ("ones", (2, 64)),
    },
    "gemma3n_audio": {
        "audio_mel": ("floats", (2, 64, 128)),
        "audio_mel_mask": ("table", [[False] * 64] * 2),
    },
    "gemma4_vision": {
        "pixel_values": ("floats", (2, 16, 192)),
        "pixel_position_ids": ("table", [[[i % 4, i // 4] for i in range(16)]] * 2),
    },
    "inkling2_vision": {"image_grid_thw": ("table", [[1, 4, 4], [1, 4, 4]])},
    "kimi_k25_vision": {"pixel_values": ("floats", (32, 3, 8, 8))},
    "kyutai_speech_to_text": {"input_ids": ("tokens", (2, 7, 33))},
    "lxmert": {"visual_feats": ("floats", (2, 5, 64)), "visual_pos": ("uniform", (2, 5, 64))},
    "canary": _SPEECH_128,
    "cohere_asr": _SPEECH_128,
    "moonshine": {"decoder_input_ids": ("tokens", (2, 5))},
    "moss_transcribe_diarize_audio": {"input_features": ("floats", (2, 80, 128))},
    "muse_spark_audio": {"input_values": ("floats", (2, 3840))},
    "muse_glimmer_vision": {"pixel_values": ("floats", (32, 384))},
    "muse_spark_vision": {"pixel_values": ("floats", (32, 384))},
    "patchtst": {"past_values": ("floats", (2, 64, 1))},
    "patchtsmixer": {"past_values": ("floats", (2, 64, 1))},
    "qwen3_asr_encoder": {
        "input_features": ("floats", (2, 128, 200)),
        "input_features_mask": ("ones", (2, 200)),
    },
    "speech_to_text": {
        "input_features": ("floats", (2, 64, 80)),
        "decoder_input_ids": ("tokens", (2, 5)),
    },
    "speecht5": {"input_values": ("floats", (2, 7, 64)), "decoder_input_values": ("floats", (2, 5, 64))},
    "siglip2": _PACKED_IMAGES,
    "siglip2_vision_model": _PACKED_IMAGES,
    "video_llama_3_vision": {"merge_sizes": ("table", [2, 2])},
    "videoprism": {"pixel_values_videos": ("floats", (2, 4, 3, 32, 32))},
    "blip": _IMAGE,
    "blip-2": _IMAGE | _image_tokens(2),
    "idefics": {"pixel_values": ("floats", (2, 1, 3, 32, 32)), "image_attention_mask": ("ones", (2, 7, 1))},
    "instructblip": _IMAGE | _image_tokens(2) | {"qformer_input_ids": ("tokens", (2, 7))},
    "instructblipvideo": _image_tokens(4)
    | {
        "pixel_values": ("floats", (2, 2, 3, 32, 32)),
        "qformer_input_ids": ("tokens", (2, 7)),
    },
    "kosmos-2": _IMAGE | {"image_embeds_position_mask": ("table", [[0, 1, 1, 1, 1, 0, 0]] * 2)},
    "musicgen": _CODEBOOKS,
    "musicgen_melody": _CODEBOOKS,
    "pix2struct": {
        "input_ids": _NO,
        "attention_mask": ("ones", (2, 9)),
        "flattened_patches": ("uniform", (2, 9, 66)),
        "decoder_input_ids": ("tokens", (2, 5)),
    },
    "pp_formulanet": _IMAGE | {"decoder_input_ids": ("tokens", (2, 5))},
    "udop": {"bbox": ("uniform", (2, 7, 4))},
    "vision-encoder-decoder": _IMAGE | {"decoder_input_ids": ("tokens", (2, 5))},
}

# What is not built and run here, and why.
_TIMM = "its vision tower needs timm"
_UNRUN_BASE: dict[str, tuple[str, ...]] = {
    "needs timm": (
        *("conditional_detr", "dab-detr", "deformable_detr", "detr", "edgetam", "edgetam_vision_model"),
        *("gemma3n_vision", "omdet-turbo", "pe_audio_video", "pe_audio_video_encoder", "pe_video"),
        *("pe_video_encoder", "table-transformer", "timm_backbone", "timm_wrapper"),
    ),
    "needs natten, torchaudio or detectron2": ("dinat", "higgs_audio_v2_tokenizer", "layoutlmv2"),
    "has no forward, or no model class": ("bark", "glm_image_vqmodel", "voxtral_realtime_text"),
    "runs on a video session": ("edgetam_video", "sam2_video", "sam3_tracker_video", "sam3_video"),
    "a detector or matcher: sizes tied together beyond the general rules": (
        *("d_fine", "deimv2", "depth_pro", "efficientloftr", "grounding-dino", "lightglue", "lw_detr"),
        *("mm-grounding-dino", "oneformer", "pp_doclayout_v3", "pp_doclayout_v4", "rf_detr", "rt_detr"),
        *("rt_detr_v2", "sam", "sam2", "sam2_hiera_det_model", "sam2_vision_model", "sam3_tracker", "sam_hq"),
    ),
    "a convolutional or pyramid network: sizes tied together beyond the general rules": (
        *("hgnet_v2", "levit", "mobilevitv2", "pp_ocrv5_mobile_rec", "pp_ocrv5_server_rec"),
        *("pp_ocrv6_medium_det", "pp_ocrv6_small_det", "pp_ocrv6_small_rec", "pp_ocrv6_tiny_rec"),
        *("swin2sr", "univnet", "uvdoc"),
    ),
    "takes a time series": (
        *("autoformer", "informer", "patchtsmixer", "time_series_transformer", "timesfm", "timesfm2_5"),
    ),
    "an audio codec or transducer with inputs of its own": (
        *("mimi", "mimi_decoder", "neucodec", "parakeet_rnnt", "parakeet_tdt"),
        *("pocket_tts_audio_tokenizer_decoder", "vibevoice_acoustic_tokenizer_decoder"),
        *("vibevoice_acoustic_tokenizer_encoder", "xcodec", "xcodec2"),
    ),
    "mandatory inputs or sizes that the general rules do not make": (
        *("bros", "clap", "clvp", "fun_asr_nano_encoder", "granite_speech5_ctc", "granite_speech5_encoder"),
        *("inkling2_vision", "minicpm_ocr_vision", "minicpmv4_7_vision", "moonshine_streaming"),
        *("muse_glimmer_assistant", "nemotron3_5_asr", "nemotron3_5_transcribe_word_timestamp"),
        *("nemotron3_diarization_audio", "nemotron_asr_streaming", "radio", "sapiens2", "seggpt"),
        *("speech_to_text", "tvp"),
    ),
}
NOT_BUILT: dict[tuple[str, str], str] = {
    ("causal", "gemma3n"): _TIMM,
    ("causal", "gemma4_assistant"): "a draft head: needs the keys and values of a target model",
    ("causal", "gemma4_unified_assistant"): "a draft head: needs the keys and values of a target model",
    ("seq2seq", "voxtral_realtime"): "audio is mandatory and runs in step with the text",
    ("image_text", "fast_vlm"): _TIMM,
    ("image_text", "gemma3n"): _TIMM,
    ("image_text", "perception_lm"): _TIMM,
    ("image_text", "pi0"): "a robot policy: needs states and actions",
    **{("base", name): reason for reason, names in _UNRUN_BASE.items() for name in names},
}

_STAGES: dict[int, tuple[str, ...]] = {
    2: (
        *("bit", "donut-swin", "focalnet", "glpn", "hiera", "maskformer-swin", "mobilenet_v1"),
        *("mobilenet_v2", "muse_spark_audio", "poolformer", "pvt", "pvt_v2", "resnet", "segformer"),
        *("swin", "swinv2"),
    ),
    3: (
        *("convnext", "convnextv2", "dac", "dinov3_convnext", "efficientnet", "mobilevit", "swiftformer"),
        *("textnet", "vibevoice_acoustic_tokenizer"),
    ),
}
# Block calls in one forward where they are not 4.
BLOCKS: dict[tuple[str, str], int] = {
    ("causal", "blt"): 8,  # Blocks of the local decoder and cross-attention alternate.
    ("causal", "hrm_text"): 32,  # Two stacks of 4: (3 times one, then the other), twice.
    ("causal", "mllama"): 3,  # The fourth attends to an image, and there is none.
    ("image_text", "idefics"): 8,  # Gated cross-attention and blocks alternate.
    ("image_text", "mllama"): 3,
    # The last stage: its blocks after the one that changes the width.
    **{("base", name): count for count, names in _STAGES.items() for name in names},
    ("base", "canine"): 1,  # The stack over characters that follows the deep one.
    ("base", "lxmert"): 8,  # Blocks of the language alone, then those with both.
}

# Decoders of all kinds, an encoder, encoder-decoders, a vision and an image-text model.
REPRESENTATIVE = [
    ("causal", "gpt2"),
    ("causal", "llama"),
    ("causal", "gemma3_text"),
    ("causal", "mixtral"),
    ("causal", "qwen3_moe"),
    ("causal", "bloom"),
    ("causal", "opt"),
    ("causal", "mamba"),
    ("causal", "rwkv"),
    ("causal", "falcon_h1"),
    ("masked", "bert"),
    ("seq2seq", "t5"),
    ("seq2seq", "bart"),
    ("base", "vit"),
    ("image_text", "qwen2_vl"),
]
