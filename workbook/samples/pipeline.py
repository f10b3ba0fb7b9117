"""A text-to-image pipeline of tiny random components: whole in structure, it draws nothing."""

import torch


def tiny_stable_diffusion():
    """A StableDiffusionPipeline with every part of the real one, none larger than 0.1 M parameters.

    The weights are random, so the pictures are noise. No safety checker: that component is None.

    Returns
    -------
    diffusers.StableDiffusionPipeline

    Examples
    --------
    >>> sorted(name for name, part in tiny_stable_diffusion().components.items() if part is None)
    ['feature_extractor', 'image_encoder', 'safety_checker']
    """
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    small = {"block_out_channels": (8, 16), "norm_num_groups": 4}
    text = CLIPTextConfig(
        vocab_size=8,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            sample_size=16,
            **small,
        ).eval(),
        text_encoder=CLIPTextModel(text).eval(),
        tokenizer=_tokenizer(),
        unet=diffusers.UNet2DConditionModel(
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=16,
            attention_head_dim=4,
            sample_size=8,
            **small,
        ).eval(),
        scheduler=diffusers.PNDMScheduler(skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2, "seven": 3, "?": 4}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="?",
        pad_token="</s>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=8,
    )
