"""The transformers of the zoo, one row an architecture: its class, the task it is exported for, and small sizes.

Whatever a row leaves out is as transformers has it. Names of files that a row does not keep are deleted: of encoders
with decoders the merged decoder is kept, which holds the other two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

VOCABULARY = 4096  # of the tokenizer that lies beside opt-4m
MERGED = ("encoder_model.onnx", "decoder_model_merged.onnx")


@dataclass(frozen=True, slots=True)
class Architecture:
    """One row.

    Attributes:
        model: class of transformers.
        task: optimum's name for what it is exported for; "" exports the bare model with torch's own exporter.
        config: what differs from the class's configuration.
        preprocessor: what preprocessor_config.json says; empty where there is none.
        keep: files that stay; empty keeps all.
        parts: classes of an encoder and a decoder in one, each with its configuration.
        dynamo: export with torch's new exporter.
        half: in float16.
        fixed: the length of the traced example is the only one that it takes.
        shapes: sizes of the example that optimum traces.
        text: it has a tokenizer.
    """

    model: str
    task: str
    config: Mapping[str, Any] = field(default_factory=dict)
    preprocessor: Mapping[str, Any] = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    parts: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    dynamo: bool = False
    half: bool = False
    fixed: bool = False
    shapes: Mapping[str, int] = field(default_factory=dict)
    text: bool = True


def _bert(**changes: Any) -> dict[str, Any]:
    """The sizes that most encoders of text name alike."""
    return {
        "vocab_size": VOCABULARY, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 256, "max_position_embeddings": 130, **changes,
    }  # fmt: skip


def _llama(**changes: Any) -> dict[str, Any]:
    """The sizes that most decoders name alike."""
    return _bert(num_key_value_heads=2, max_position_embeddings=256, **changes)


def _vit(**changes: Any) -> dict[str, Any]:
    """The sizes that most transformers over patches name alike."""
    return {
        "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256,
        "image_size": 32, "patch_size": 4, **changes,
    }  # fmt: skip


def _images(size: int, **changes: Any) -> dict[str, Any]:
    """Pictures of one size."""
    mean = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    return {"do_resize": True, "do_normalize": True, "size": {"height": size, "width": size}, **mean, **changes}


_BART = {
    "vocab_size": VOCABULARY, "d_model": 128, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 256, "decoder_ffn_dim": 256, "max_position_embeddings": 128,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2,
}  # fmt: skip
_WAVES = {
    "vocab_size": 32, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256,
    "conv_dim": (64, 64, 64), "conv_stride": (5, 4, 4), "conv_kernel": (10, 8, 8), "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip
_SOUND = {
    "feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1, "sampling_rate": 16000,
    "do_normalize": True, "padding_value": 0.0, "return_attention_mask": False,
}  # fmt: skip
_MELS = {
    "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 80, "sampling_rate": 16000, "n_fft": 400,
    "hop_length": 160, "chunk_length": 2, "n_samples": 32000, "nb_max_frames": 200, "padding_value": 0.0,
}  # fmt: skip
_CLIP_TEXT = _bert(max_position_embeddings=77, eos_token_id=2, bos_token_id=0, pad_token_id=1)
_MAMBA = {"vocab_size": VOCABULARY, "hidden_size": 128, "num_hidden_layers": 2, "state_size": 8}

ARCHITECTURES: dict[str, Architecture] = {
    # encoders of text
    "bert": Architecture("BertForSequenceClassification", "text-classification", _bert()),
    "distilbert": Architecture(
        "DistilBertModel", "feature-extraction",
        {"vocab_size": VOCABULARY, "dim": 128, "n_layers": 2, "n_heads": 4, "hidden_dim": 256},
    ),
    "roberta": Architecture("RobertaForTokenClassification", "token-classification", _bert(pad_token_id=1)),
    "albert": Architecture(
        "AlbertModel", "feature-extraction", _bert(num_hidden_layers=4, embedding_size=64, num_hidden_groups=1)
    ),
    "deberta": Architecture(
        "DebertaV2Model", "feature-extraction",
        _bert(relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=32, type_vocab_size=0),
    ),
    "electra": Architecture(
        "ElectraForQuestionAnswering", "question-answering", _bert(embedding_size=64)
    ),
    "mpnet": Architecture("MPNetModel", "feature-extraction", _bert()),
    "layoutlm": Architecture(
        "LayoutLMForTokenClassification", "token-classification", _bert(max_2d_position_embeddings=1024)
    ),
    # decoders of text
    "gpt2": Architecture(
        "GPT2LMHeadModel", "text-generation-with-past",
        {"vocab_size": VOCABULARY, "n_embd": 128, "n_layer": 2, "n_head": 4, "n_positions": 256},
    ),
    "opt": Architecture(
        "OPTForCausalLM", "text-generation-with-past",
        {"vocab_size": VOCABULARY, "hidden_size": 128, "word_embed_proj_dim": 64, "ffn_dim": 256,
         "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 256},
    ),
    "llama": Architecture("LlamaForCausalLM", "text-generation-with-past", _llama()),
    "llama-fp16": Architecture("LlamaForCausalLM", "text-generation-with-past", _llama(), half=True),
    "qwen2": Architecture("Qwen2ForCausalLM", "text-generation-with-past", _llama(tie_word_embeddings=True)),
    "gemma": Architecture("GemmaForCausalLM", "text-generation-with-past", _llama(head_dim=32)),
    "phi": Architecture("PhiForCausalLM", "text-generation-with-past", _bert(max_position_embeddings=256)),
    # routed experts
    "qwen2-moe": Architecture(
        "Qwen2MoeForCausalLM", "",
        _llama(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=128, shared_expert_intermediate_size=128),
    ),
    "olmoe": Architecture("OlmoeForCausalLM", "", _llama(num_experts=4, num_experts_per_tok=2)),
    "gpt-oss": Architecture(
        "GptOssForCausalLM", "text-generation-with-past",
        _llama(num_local_experts=4, num_experts_per_tok=2, head_dim=32, sliding_window=64),
    ),
    "mamba": Architecture("MambaForCausalLM", "", _MAMBA, fixed=True),
    # encoder and decoder
    "t5": Architecture(
        "T5ForConditionalGeneration", "text2text-generation-with-past",
        {"vocab_size": VOCABULARY, "d_model": 128, "d_kv": 32, "d_ff": 256, "num_layers": 2, "num_heads": 4,
         "decoder_start_token_id": 0},
    ),
    "bart": Architecture("BartForConditionalGeneration", "text2text-generation-with-past", _BART, keep=MERGED),
    "marian": Architecture("MarianMTModel", "text2text-generation-with-past", _BART, keep=MERGED),
    "whisper": Architecture(
        "WhisperForConditionalGeneration", "automatic-speech-recognition-with-past",
        {**_BART, "num_mel_bins": 80, "max_source_positions": 100, "max_target_positions": 64},
        preprocessor=_MELS, keep=MERGED, shapes={"nb_max_frames": 200},
    ),
    "trocr": Architecture(
        "VisionEncoderDecoderModel", "image-to-text-with-past", preprocessor=_images(32), keep=MERGED,
        parts=(
            ("ViTModel", _vit()),
            ("TrOCRForCausalLM", {
                "vocab_size": VOCABULARY, "d_model": 128, "decoder_layers": 2, "decoder_attention_heads": 4,
                "decoder_ffn_dim": 256, "max_position_embeddings": 64, "cross_attention_hidden_size": 128,
            }),
        ),
    ),
    # sound
    "wav2vec2": Architecture("Wav2Vec2ForCTC", "automatic-speech-recognition", _WAVES, preprocessor=_SOUND, text=False),
    "hubert": Architecture(
        "HubertForSequenceClassification", "audio-classification", {**_WAVES, "classifier_proj_size": 64},
        preprocessor=_SOUND, text=False,
    ),
    # pictures
    "vit": Architecture("ViTForImageClassification", "image-classification", _vit(), _images(32), text=False),
    "deit": Architecture("DeiTForImageClassification", "image-classification", _vit(), _images(32), text=False),
    "swin": Architecture(
        "SwinForImageClassification", "image-classification",
        {"image_size": 32, "patch_size": 2, "embed_dim": 64, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
        _images(32), text=False,
    ),
    "convnext": Architecture(
        "ConvNextForImageClassification", "image-classification",
        {"hidden_sizes": [64, 128], "depths": [2, 2], "num_stages": 2}, _images(32), text=False,
    ),
    "segformer": Architecture(
        "SegformerForSemanticSegmentation", "semantic-segmentation",
        {"hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 3, 4],
         "decoder_hidden_size": 128},
        _images(64), text=False,
    ),
    "yolos": Architecture(
        "YolosForObjectDetection", "object-detection", _vit(image_size=[32, 32], num_detection_tokens=10),
        {**_images(32), "size": {"shortest_edge": 32, "longest_edge": 32}}, text=False,
    ),
    "detr": Architecture(
        "DetrForObjectDetection", "object-detection",
        {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None,
         "backbone_config": {"model_type": "resnet", "embedding_size": 32, "hidden_sizes": [32, 64],
                             "depths": [1, 1], "out_features": ["stage2"]},
         "d_model": 128, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
         "decoder_attention_heads": 4, "encoder_ffn_dim": 256, "decoder_ffn_dim": 256, "num_queries": 10},
        {**_images(64), "size": {"shortest_edge": 64, "longest_edge": 64}}, text=False,
    ),
    "clip": Architecture(
        "CLIPModel", "zero-shot-image-classification",
        {"text_config": _CLIP_TEXT, "vision_config": _vit(), "projection_dim": 64}, _images(32),
    ),
    "sam": Architecture(
        "SamModel", "feature-extraction",
        {"vision_config": {**_vit(image_size=64), "mlp_dim": 256, "output_channels": 64, "window_size": 4,
                           "global_attn_indexes": [1], "num_pos_feats": 32},
         "prompt_encoder_config": {"hidden_size": 64, "image_size": 64, "patch_size": 4, "mask_input_channels": 4},
         "mask_decoder_config": {"hidden_size": 64, "mlp_dim": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
                                 "iou_head_hidden_dim": 64}},
        {**_images(64), "size": {"longest_edge": 64}, "pad_size": {"height": 64, "width": 64}}, text=False,
    ),
    # torch's new exporter
    "bert-dynamo": Architecture("BertModel", "", _bert(), dynamo=True),
    "llama-dynamo": Architecture("LlamaForCausalLM", "", _llama(), dynamo=True),
}  # fmt: skip
