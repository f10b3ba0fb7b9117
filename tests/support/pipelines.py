"""Small random diffusers models and pipelines, and an input for each."""

import inspect

import diffusers
import torch
from diffusers import ModelMixin

from workbook.samples import tiny_stable_diffusion

_UNET = {
    "sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4,
    "attention_head_dim": 8,
}  # fmt: skip
_PLAIN = {
    **_UNET, "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "in_channels": 3, "out_channels": 3,
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip
_CONDITIONED = {
    **_UNET, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "cross_attention_dim": 16,
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "in_channels": 4, "attention_head_dim": 4,
}  # fmt: skip
_VAE = {
    "block_out_channels": (8, 16), "down_block_types": ("DownEncoderBlock2D",) * 2, "norm_num_groups": 4,
    "up_block_types": ("UpDecoderBlock2D",) * 2, "latent_channels": 4, "sample_size": 16,
}  # fmt: skip
_FLAT = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "num_layers": 1,
    "sample_size": 8,
    "patch_size": 2,
}


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


STEP = torch.tensor([3])
WITH_OUTPUTS = {  # class: arguments, and what it is called with
    "UNet2DModel": (_PLAIN, lambda m: m(noise(1, 3, 8, 8), STEP)),
    "UNet2DConditionModel": (_CONDITIONED, lambda m: m(noise(1, 4, 8, 8), STEP, noise(1, 5, 16))),
    "UNet1DModel": ({"block_out_channels": (32, 32, 64), "extra_in_channels": 64}, lambda m: m(noise(1, 2, 64), STEP)),
    "UNet3DConditionModel": (
        {
            "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "cross_attention_dim": 16,
            "attention_head_dim": 4, "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
            "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
        },
        lambda m: m(noise(1, 4, 2, 8, 8), STEP, noise(1, 5, 16)),
    ),
    "AutoencoderKL": (_VAE, lambda m: m(noise(1, 3, 16, 16))),
    "AutoencoderTiny": (
        {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8),
         "num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)},
        lambda m: m(noise(1, 3, 16, 16)),
    ),
    "VQModel": (
        {"block_out_channels": (8, 16), "down_block_types": ("DownEncoderBlock2D",) * 2, "norm_num_groups": 4,
         "up_block_types": ("UpDecoderBlock2D",) * 2, "num_vq_embeddings": 16},
        lambda m: m(noise(1, 3, 16, 16)),
    ),
    "ControlNetModel": (
        {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "cross_attention_dim": 16,
         "attention_head_dim": 4, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
         "conditioning_embedding_out_channels": (8, 8)},
        lambda m: m(noise(1, 4, 8, 8), STEP, noise(1, 5, 16), noise(1, 3, 16, 16)),
    ),
    "DiTTransformer2DModel": (
        {**_FLAT, "in_channels": 4, "num_embeds_ada_norm": 10, "norm_num_groups": 4},
        lambda m: m(noise(1, 4, 8, 8), STEP, torch.tensor([1])),
    ),
    "Transformer2DModel": (
        {"num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 8, "norm_num_groups": 4,
         "cross_attention_dim": 16},
        lambda m: m(noise(1, 8, 4, 4), noise(1, 5, 16)),
    ),
    "PriorTransformer": (
        {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "embedding_dim": 16, "num_embeddings": 5},
        lambda m: m(noise(1, 16), STEP, noise(1, 16), noise(1, 5, 16)),
    ),
    "SD3Transformer2DModel": (
        {**_FLAT, "in_channels": 4, "joint_attention_dim": 16, "caption_projection_dim": 16,
         "pooled_projection_dim": 16, "pos_embed_max_size": 8, "out_channels": 4},
        lambda m: m(noise(1, 4, 8, 8), noise(1, 5, 16), noise(1, 16), STEP),
    ),
    "T2IAdapter": (
        {"channels": (8, 16), "num_res_blocks": 1, "downscale_factor": 2}, lambda m: m(noise(1, 3, 16, 16)),
    ),
}  # fmt: skip


def build(name):
    """A small model with random weights, in eval mode."""
    torch.manual_seed(0)
    return getattr(diffusers, name)(**WITH_OUTPUTS[name][0]).eval()


def flatten(result):
    """Every tensor of an output, whatever it is made of."""
    if isinstance(result, torch.Tensor):
        return [result]
    if hasattr(result, "mean") and hasattr(result, "std"):  # a distribution
        return [result.mean, result.std]
    values = (
        result.values() if isinstance(result, dict) else result if isinstance(result, (list, tuple)) else []
    )
    return [tensor for value in values for tensor in flatten(value)]


def outputs(model, name):
    with torch.no_grad():
        return flatten(WITH_OUTPUTS[name][1](model))


# Arguments that make most of the library's classes small: all of them are tried first, at last none, which takes
# the longest where a model is large.
_SMALLER = {
    "num_layers": 1, "num_single_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16, "depth": 1,
    "num_hidden_layers": 1, "num_refiner_layers": 1, "n_layer": 1, "num_mmdit_layers": 1, "num_heads": 2,
    "num_single_dit_layers": 1, "num_key_value_heads": 2, "num_kv_heads": 2, "num_blocks": 1, "hidden_size": 32,
    "inner_dim": 32, "embedding_dim": 32, "joint_attention_dim": 32, "pooled_projection_dim": 32,
    "cross_attention_dim": 32, "caption_channels": 32, "caption_projection_dim": 32, "ffn_dim": 32,
    "intermediate_size": 32, "mlp_dim": 32, "layers_per_block": 1, "text_dim": 32, "text_embed_dim": 32,
    "sample_size": 8, "dim": 32, "d_model": 32, "vocab_size": 64, "text_embed_dim_t5": 32,
}  # fmt: skip
_LARGEST = 6_000_000  # parameters


def small(cls):
    """A model of the class with at most `_LARGEST` parameters and random weights, or None."""
    arguments = {}
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        default = parameter.default
        if name in _SMALLER and isinstance(default, int) and default > _SMALLER[name]:
            arguments[name] = _SMALLER[name]
        elif name == "block_out_channels" and isinstance(default, tuple):
            arguments[name] = tuple(min(channels, 32) for channels in default)
    counts = ("num_", "n_", "layers", "depth")
    few = {name: value for name, value in arguments.items() if name.startswith(counts)}
    fewest = {name: value for name, value in few.items() if "layers" in name or name == "depth"}
    for attempt in (arguments, few, fewest, {}):
        try:
            with torch.device("meta"):
                size = sum(p.numel() for p in cls(**attempt).parameters())
        except Exception:
            continue
        if size <= _LARGEST:
            torch.manual_seed(0)
            return cls(**attempt)
        if attempt is arguments:  # with fewer of them it is larger
            return None
    return None


def model_classes():
    """Every model class that the library shows."""
    found = [getattr(diffusers, name, None) for name in dir(diffusers) if name[0].isupper()]
    return [
        cls
        for cls in found
        if isinstance(cls, type) and issubclass(cls, ModelMixin) and cls is not ModelMixin
    ]


PIPELINES = {
    "ddpm": lambda: diffusers.DDPMPipeline(build("UNet2DModel"), diffusers.DDPMScheduler(beta_end=0.03)),
    "ddim": lambda: diffusers.DDIMPipeline(build("UNet2DModel"), diffusers.DDIMScheduler(clip_sample=False)),
    "stable_diffusion": tiny_stable_diffusion,
}


def draw(pipeline):
    """What a pipeline draws with a fixed seed, as an array."""
    pipeline.set_progress_bar_config(disable=True)
    arguments = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(3), "output_type": "np"}
    if "prompt" in inspect.signature(pipeline.__call__).parameters:
        arguments |= {"prompt": "a seven", "height": 16, "width": 16}
    return pipeline(**arguments).images
