"""Every part of a transformers model computes attention and experts as the saved one did."""

import json

import architectures
import pytest
import torch
import transformers as t
from equality import assert_same_module, assert_same_tensor

from helpers import deserialise, serialise

_TEXT = {**architectures._SMALL, "image_token_id": 3}
_RESNET = {"model_type": "resnet", "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "embedding_size": 8,
           "out_features": ["stage4"]}  # fmt: skip
_SMALL_DETR = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
               "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_queries": 5}  # fmt: skip
_VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}


def detr():
    config = t.DetrConfig(use_timm_backbone=False, backbone=None, backbone_config=_RESNET, **_SMALL_DETR)
    return t.DetrForObjectDetection(config)


def llava(**text):
    vision = t.CLIPVisionConfig(**_VIT, intermediate_size=48)
    config = t.LlavaConfig(vision_config=vision, text_config=t.LlamaConfig(**architectures._SMALL),
                           image_token_index=3, image_seq_length=16)  # fmt: skip
    config._attn_implementation = text
    return t.LlavaForConditionalGeneration(config)


def depth_anything():
    backbone = t.Dinov2Config(**_VIT, out_features=["stage1", "stage2"], reshape_hidden_states=False)
    config = t.DepthAnythingConfig(
        backbone_config=backbone, patch_size=8, reassemble_hidden_size=32, reassemble_factors=[2, 1],
        neck_hidden_sizes=[8, 8], fusion_hidden_size=8, head_hidden_size=8,
    )  # fmt: skip
    return t.DepthAnythingForDepthEstimation(config)


def mask2former():
    swin = t.SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1],
                        window_size=4, out_features=["stage1", "stage2", "stage3", "stage4"])  # fmt: skip
    config = t.Mask2FormerConfig(
        backbone_config=swin, feature_size=32, mask_feature_size=32, hidden_dim=32, num_queries=4, decoder_layers=2,
        encoder_layers=1, dim_feedforward=32, encoder_feedforward_dim=32, num_attention_heads=4,
    )  # fmt: skip
    return t.Mask2FormerForUniversalSegmentation(config)


def with_experts(name, implementation):
    model = architectures.build(name)
    model.set_experts_implementation(implementation)
    return model


def eager(name):
    model = architectures.build(name)
    model.set_attn_implementation("eager")
    return model


_PIXELS = {"pixel_values": torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)}
_TOKENS = {"input_ids": torch.arange(5, 21).reshape(2, 8)}
MODELS = {
    "detr": (detr, _PIXELS),
    "llava, text eager": (lambda: llava(text_config="eager"), _TOKENS),
    "llava, vision eager": (lambda: llava(vision_config="eager"), _TOKENS),
    "depth anything": (depth_anything, {"pixel_values": _PIXELS["pixel_values"][..., :32, :32]}),
    "mask2former": (mask2former, _PIXELS),
    "mixtral, experts eager": (lambda: with_experts("MixtralForCausalLM", "eager"), _TOKENS),
    "qwen, experts batched": (lambda: with_experts("Qwen2MoeForCausalLM", "batched_mm"), _TOKENS),
    "t5, whose stacks copy the configuration": (
        lambda: eager("T5ForConditionalGeneration"),
        _TOKENS | {"decoder_input_ids": torch.arange(9, 17).reshape(2, 4)},
    ),
    "bart": (
        lambda: eager("BartForConditionalGeneration"),
        _TOKENS | {"decoder_input_ids": torch.arange(9, 17).reshape(2, 4)},
    ),
}


def implementations(model):
    """Of every configuration that a module has, and of those inside it."""
    found = []
    for name, module in model.named_modules():
        if isinstance(config := getattr(module, "config", None), t.PreTrainedConfig):
            inner = [part for part in vars(config).values() if isinstance(part, t.PreTrainedConfig)]
            found += [(name, c._attn_implementation, c._experts_implementation) for c in (config, *inner)]
    return found


def outputs(model, inputs):
    with torch.no_grad():
        return [value for value in model(**inputs).values() if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("pretrained", [False, True])
def test_each_part_keeps_its_implementation(tmp_path, name, pretrained):
    build, inputs = MODELS[name]
    torch.manual_seed(0)
    model = build().eval()
    if pretrained:
        model.save_pretrained(tmp_path / "hf")
        model = type(model).from_pretrained(tmp_path / "hf")
    serialise(model, tmp_path / "m")
    loaded = deserialise(tmp_path / "m")
    assert_same_module(model, loaded)
    assert implementations(loaded) == implementations(model)
    before, after = outputs(model, inputs), outputs(loaded, inputs)
    assert before and len(before) == len(after)
    for one, other in zip(before, after, strict=True):
        assert_same_tensor(name, one, other)


def test_a_part_whose_implementation_is_changed_afterwards_keeps_it(tmp_path):
    model = llava()
    model.set_attn_implementation({"": "sdpa", "text_config": "sdpa", "vision_config": "eager"})
    assert {attention for _, attention, _ in implementations(model)} == {"eager", "sdpa"}
    serialise(model, tmp_path / "m")
    assert implementations(deserialise(tmp_path / "m")) == implementations(model)


@pytest.mark.parametrize("attention", ["eager", "sdpa", None, {"": "eager"}])
def test_a_model_saved_with_one_implementation_for_all_is_loaded(tmp_path, attention):
    model = architectures.build("LlamaForCausalLM")
    serialise(model, tmp_path / "m")
    path = tmp_path / "m" / "model.json"
    record = json.loads(path.read_text())
    record["settings"] = {"attention": attention}
    path.write_text(json.dumps(record))
    expected = attention[""] if isinstance(attention, dict) else attention or "sdpa"
    assert deserialise(tmp_path / "m").config._attn_implementation == expected


def test_what_another_machine_may_lack_is_chosen_anew(tmp_path):
    model = architectures.build("LlamaForCausalLM")
    model.config._attn_implementation = "flash_attention_2"
    serialise(model, tmp_path / "m")
    assert deserialise(tmp_path / "m").config._attn_implementation == "sdpa"


def test_a_larger_model_leaves_a_loaded_one_as_it_is(tmp_path):
    model = architectures.build("LlamaModel" if "LlamaModel" in architectures.ALL else "LlamaForCausalLM")
    serialise(model, tmp_path / "m")
    loaded = deserialise(tmp_path / "m")

    class Larger(t.LlamaPreTrainedModel):
        def __init__(self, config):
            super().__init__(config)
            self.inner = loaded
            self.head = torch.nn.Linear(4, 4)
            self.post_init()

    assert_same_module(model, Larger(loaded.config).inner)
