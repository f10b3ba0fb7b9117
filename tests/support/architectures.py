"""Small random models of many transformers architectures, and an input for each."""

import torch
import transformers as t

_SMALL = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_GPT = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
_GPT |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_ENCODER_DECODER = {
    "vocab_size": 96, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}  # fmt: skip
_T5 = {"vocab_size": 96, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
_T5 |= {"decoder_start_token_id": 0}
_VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_VISION |= {"image_size": 32, "patch_size": 8}

TEXT = {  # model class: arguments of its configuration
    "LlamaForCausalLM": _SMALL | {"tie_word_embeddings": True},
    "LlamaForSequenceClassification": _SMALL | {"num_labels": 3},
    "MistralForCausalLM": _SMALL,
    "MixtralForCausalLM": _SMALL | {"num_local_experts": 4},
    "Qwen2ForCausalLM": _SMALL,
    "Qwen3ForCausalLM": _SMALL | {"head_dim": 8},
    "Qwen2MoeForCausalLM": _SMALL
    | {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    "GemmaForCausalLM": _SMALL | {"head_dim": 8},
    "Gemma2ForCausalLM": _SMALL | {"head_dim": 8},
    "PhiForCausalLM": _SMALL,
    "Phi3ForCausalLM": _SMALL,
    "StableLmForCausalLM": _SMALL,
    "OlmoForCausalLM": _SMALL,
    "CohereForCausalLM": _SMALL,
    "GraniteForCausalLM": _SMALL,
    "SmolLM3ForCausalLM": _SMALL,
    "GPTNeoXForCausalLM": _SMALL,
    "FalconForCausalLM": _SMALL,
    "BloomForCausalLM": {"vocab_size": 96, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "MptForCausalLM": {"vocab_size": 96, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},
    "OPTForCausalLM": _SMALL | {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "GPT2LMHeadModel": _GPT,
    "GPT2DoubleHeadsModel": _GPT,
    "GPTJForCausalLM": _GPT | {"rotary_dim": 4},
    "GPTNeoForCausalLM": _SMALL | {"num_layers": 2, "num_heads": 4, "attention_types": [[["global"], 2]]},
    "GPTBigCodeForCausalLM": _GPT,
    "MambaForCausalLM": {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "BertModel": _SMALL,
    "BertForMaskedLM": _SMALL,
    "BertForSequenceClassification": _SMALL | {"num_labels": 3},
    "RobertaForMaskedLM": _SMALL,
    "DistilBertForMaskedLM": {"vocab_size": 96, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    "AlbertForMaskedLM": _SMALL | {"embedding_size": 16},
    "ElectraForPreTraining": _SMALL | {"embedding_size": 16},
    "DebertaV2ForMaskedLM": _SMALL | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "MPNetForMaskedLM": _SMALL,
    "XLNetLMHeadModel": {"vocab_size": 96, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48},
    "ModernBertForMaskedLM": _SMALL | {"cls_token_id": 1, "sep_token_id": 2},
    "BartForConditionalGeneration": _ENCODER_DECODER,
    "MBartForConditionalGeneration": _ENCODER_DECODER,
    "PegasusForConditionalGeneration": _ENCODER_DECODER,
    "MarianMTModel": _ENCODER_DECODER | {"decoder_vocab_size": 96},
    "T5ForConditionalGeneration": _T5,
    "T5EncoderModel": _T5,
    "MT5ForConditionalGeneration": _T5,
}
IMAGES = {
    "ViTForImageClassification": _VISION,
    "DeiTForImageClassification": _VISION,
    "BeitForImageClassification": _VISION,
    "Dinov2Model": _VISION,
    "CLIPVisionModel": _VISION,
    "SiglipVisionModel": _VISION,
    "ConvNextForImageClassification": {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
    "ResNetForImageClassification": {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "embedding_size": 8},
    "SwinForImageClassification": {
        "image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2],
        "window_size": 4,
    },
}  # fmt: skip
ALL = sorted({**TEXT, **IMAGES})


def build(name, seed=0):
    """A small model with random weights, in eval mode."""
    cls = getattr(t, name)
    arguments = {**TEXT, **IMAGES}[name]
    torch.manual_seed(seed)
    return cls(cls.config_class(**arguments)).eval()


def outputs(model, name):
    """Every tensor that the model returns for a fixed input."""
    if name in IMAGES:
        size = IMAGES[name].get("image_size", 64)
        inputs = {"pixel_values": torch.linspace(-1, 1, 3 * size * size).reshape(1, 3, size, size)}
    else:
        inputs = {"input_ids": torch.arange(5, 21).reshape(2, 8)}
        if model.config.is_encoder_decoder:
            inputs["decoder_input_ids"] = torch.arange(9, 17).reshape(2, 4)
    with torch.no_grad():
        result = model(**inputs, return_dict=True)
    return [value for value in result.values() if isinstance(value, torch.Tensor)]
