"""Small models of Hugging Face's classes, from their own configs, with an example each: `small("LlamaForCausalLM")`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_TOKENS = 96
_SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
_TEXT = {**_SIZES, "vocab_size": _TOKENS, "max_position_embeddings": 64, "pad_token_id": 0}
_DECODER = {**_TEXT, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
_SEQ2SEQ = {"vocab_size": _TOKENS, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}  # fmt: skip
_IMAGE = {**_SIZES, "image_size": 32, "patch_size": 8, "num_labels": 3}
_AUDIO = {**_SIZES, "vocab_size": 20, "conv_dim": [32, 32, 32], "conv_stride": [5, 2, 2], "conv_kernel": [10, 3, 3], "num_feat_extract_layers": 3, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}  # fmt: skip
_TOWERS = {"text_config": {**_TEXT, "max_position_embeddings": 7, "eos_token_id": 2}, "vision_config": {k: v for k, v in _IMAGE.items() if k != "num_labels"}}  # fmt: skip
_RESNET = {"embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}
_MOE = {**_DECODER, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}


def _ids(length: int = 7, batch: int = 2) -> torch.Tensor:
    return torch.randint(3, _TOKENS, (batch, length))


def _text() -> dict[str, torch.Tensor]:
    return {"input_ids": _ids()}


def _both() -> dict[str, torch.Tensor]:
    return {"input_ids": _ids(), "decoder_input_ids": _ids(5)}


def _image(size: int = 32) -> Callable[[], dict[str, torch.Tensor]]:
    return lambda: {"pixel_values": torch.rand(1, 3, size, size)}


def _wave() -> dict[str, torch.Tensor]:
    return {"input_values": torch.randn(1, 800)}


# class of the model -> class of its config, sizes, example
MODELS: dict[str, tuple[str, dict[str, Any], Callable[[], dict[str, torch.Tensor]]]] = {
    # language models
    "LlamaForCausalLM": ("LlamaConfig", _DECODER, _text),
    "MistralForCausalLM": ("MistralConfig", _DECODER, _text),
    "Qwen2ForCausalLM": ("Qwen2Config", _DECODER, _text),
    "Qwen3ForCausalLM": ("Qwen3Config", {**_DECODER, "head_dim": 16}, _text),
    "GemmaForCausalLM": ("GemmaConfig", {**_DECODER, "head_dim": 16}, _text),
    "Gemma2ForCausalLM": ("Gemma2Config", {**_DECODER, "head_dim": 16, "sliding_window": 16}, _text),
    "Gemma3ForCausalLM": ("Gemma3TextConfig", {**_DECODER, "head_dim": 16, "sliding_window": 16}, _text),
    "PhiForCausalLM": ("PhiConfig", _DECODER, _text),
    "Phi3ForCausalLM": ("Phi3Config", _DECODER, _text),
    "GPTNeoXForCausalLM": ("GPTNeoXConfig", _DECODER, _text),
    "StableLmForCausalLM": ("StableLmConfig", _DECODER, _text),
    "OlmoForCausalLM": ("OlmoConfig", _DECODER, _text),
    "Olmo2ForCausalLM": ("Olmo2Config", _DECODER, _text),
    "CohereForCausalLM": ("CohereConfig", _DECODER, _text),
    "GraniteForCausalLM": ("GraniteConfig", _DECODER, _text),
    "Starcoder2ForCausalLM": ("Starcoder2Config", _DECODER, _text),
    "FalconForCausalLM": ("FalconConfig", {**_DECODER, "num_kv_heads": 2}, _text),
    "GPT2LMHeadModel": ("GPT2Config", {"vocab_size": _TOKENS, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 1, "eos_token_id": 2}, _text),
    "OPTForCausalLM": ("OPTConfig", {**_TEXT, "ffn_dim": 96, "word_embed_proj_dim": 64}, _text),
    "BloomForCausalLM": ("BloomConfig", {"vocab_size": _TOKENS, "hidden_size": 64, "n_layer": 2, "n_head": 4}, _text),
    "MambaForCausalLM": ("MambaConfig", {"vocab_size": _TOKENS, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8}, _text),
    "Mamba2ForCausalLM": ("Mamba2Config", {"vocab_size": _TOKENS, "hidden_size": 64, "num_hidden_layers": 2, "num_heads": 8, "head_dim": 16, "state_size": 8, "n_groups": 2}, _text),
    "RwkvForCausalLM": ("RwkvConfig", {"vocab_size": _TOKENS, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96}, _text),
    # mixtures of experts
    "MixtralForCausalLM": ("MixtralConfig", {**_DECODER, "num_local_experts": 4}, _text),
    "Qwen2MoeForCausalLM": ("Qwen2MoeConfig", {**_MOE, "shared_expert_intermediate_size": 48, "decoder_sparse_step": 1}, _text),
    "Qwen3MoeForCausalLM": ("Qwen3MoeConfig", {**_MOE, "head_dim": 16}, _text),
    "DeepseekV3ForCausalLM": ("DeepseekV3Config", {**_MOE, "num_key_value_heads": 4, "n_routed_experts": 8, "n_group": 2, "topk_group": 1, "kv_lora_rank": 16, "q_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16, "first_k_dense_replace": 1}, _text),
    "GptOssForCausalLM": ("GptOssConfig", {**_DECODER, "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16, "sliding_window": 16}, _text),
    # encoders
    "BertForSequenceClassification": ("BertConfig", {**_TEXT, "num_labels": 3}, _text),
    "BertForMaskedLM": ("BertConfig", _TEXT, _text),
    "BertForQuestionAnswering": ("BertConfig", _TEXT, _text),
    "RobertaForTokenClassification": ("RobertaConfig", {**_TEXT, "num_labels": 3}, _text),
    "ElectraForSequenceClassification": ("ElectraConfig", {**_TEXT, "embedding_size": 32, "num_labels": 3}, _text),
    "AlbertForSequenceClassification": ("AlbertConfig", {**_TEXT, "embedding_size": 32, "num_labels": 3}, _text),
    "DebertaV2ForSequenceClassification": ("DebertaV2Config", {**_TEXT, "relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0, "num_labels": 3}, _text),
    "ModernBertForMaskedLM": ("ModernBertConfig", {**_TEXT, "global_attn_every_n_layers": 2, "local_attention": 8}, _text),
    "MPNetForSequenceClassification": ("MPNetConfig", {**_TEXT, "num_labels": 3}, _text),
    "XLMRobertaForMaskedLM": ("XLMRobertaConfig", _TEXT, _text),
    "DistilBertForSequenceClassification": ("DistilBertConfig", {"vocab_size": _TOKENS, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 96, "num_labels": 3}, _text),
    # encoders with decoders
    "T5ForConditionalGeneration": ("T5Config", {"vocab_size": _TOKENS, "d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}, _both),
    "BartForConditionalGeneration": ("BartConfig", {**_SEQ2SEQ, "max_position_embeddings": 64}, _both),
    "MarianMTModel": ("MarianConfig", {**_SEQ2SEQ, "max_position_embeddings": 64}, _both),
    "WhisperForConditionalGeneration": ("WhisperConfig", {**_SEQ2SEQ, "num_mel_bins": 16, "max_source_positions": 20, "max_target_positions": 32}, lambda: {"input_features": torch.randn(1, 16, 40), "decoder_input_ids": _ids(5, 1)}),
    # images
    "ViTForImageClassification": ("ViTConfig", _IMAGE, _image()),
    "ViTModel": ("ViTConfig", _IMAGE, _image()),
    "DeiTForImageClassification": ("DeiTConfig", _IMAGE, _image()),
    "BeitForImageClassification": ("BeitConfig", _IMAGE, _image()),
    "Dinov2ForImageClassification": ("Dinov2Config", {**_IMAGE, "mlp_ratio": 2}, _image()),
    "DINOv3ViTModel": ("DINOv3ViTConfig", _IMAGE, _image()),
    "SwinForImageClassification": ("SwinConfig", {"image_size": 32, "patch_size": 2, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "num_labels": 3}, _image()),
    "ConvNextForImageClassification": ("ConvNextConfig", {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1], "num_labels": 3}, _image(64)),
    "ResNetForImageClassification": ("ResNetConfig", {**_RESNET, "num_labels": 3}, _image(64)),
    "SegformerForSemanticSegmentation": ("SegformerConfig", {"hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 4, 4], "decoder_hidden_size": 32, "num_labels": 3}, _image(64)),
    "DetrForObjectDetection": ("DetrConfig", {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "num_queries": 5, "num_labels": 3, "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}, _image(64)),
    "VideoMAEForVideoClassification": ("VideoMAEConfig", {**_IMAGE, "num_frames": 4, "tubelet_size": 2}, lambda: {"pixel_values": torch.rand(1, 4, 3, 32, 32)}),
    # images with text, and sound
    "CLIPModel": ("CLIPConfig", {**_TOWERS, "projection_dim": 48}, lambda: _text() | _image()()),
    "SiglipModel": ("SiglipConfig", _TOWERS, lambda: _text() | _image()()),
    "Wav2Vec2ForCTC": ("Wav2Vec2Config", _AUDIO, _wave),
    "HubertForCTC": ("HubertConfig", _AUDIO, _wave),
    "ASTForAudioClassification": ("ASTConfig", {**_SIZES, "max_length": 64, "num_mel_bins": 32, "num_labels": 3}, lambda: {"input_values": torch.randn(1, 64, 32)}),
}  # fmt: skip


def small(name: str) -> tuple[Any, dict[str, torch.Tensor]]:
    """A model of this class in evaluation mode, and inputs for it."""
    import transformers

    torch.manual_seed(0)
    config_name, sizes, example = MODELS[name]
    if name == "DetrForObjectDetection":
        sizes = {**sizes, "backbone_config": transformers.ResNetConfig(**_RESNET, out_features=["stage4"])}
    config = getattr(transformers, config_name)(**sizes)
    return getattr(transformers, name)(config).eval(), example()
