"""Two UNets: a small one that was trained to draw digits, and a large one with random weights."""

import torch

from workbook import paths


def digits_unet():
    """A class-conditioned UNet that draws 8 x 8 digits, and its scheduler.

    Trained on scikit-learn's digits by data/make_digits_unet.py; the weights are in data/digits_unet.

    Returns
    -------
    unet : diffusers.UNet2DModel
    scheduler : diffusers.DDIMScheduler

    Examples
    --------
    >>> unet, scheduler = digits_unet()
    >>> unet.config.num_class_embeds
    10
    """
    from diffusers import DDIMScheduler, UNet2DModel

    path = paths.DATA / "digits_unet"
    return UNet2DModel.from_pretrained(path), DDIMScheduler.from_pretrained(path)


def stable_diffusion_unet(dtype=torch.bfloat16):
    """The UNet of Stable Diffusion 1.5 in shape and size, with random weights: it draws nothing.

    860 M parameters, 1.7 GB in bfloat16. For timing only, since the real weights are not shipped.

    Parameters
    ----------
    dtype : torch.dtype

    Returns
    -------
    diffusers.UNet2DConditionModel
        In eval mode.

    Examples
    --------
    >>> with torch.device("meta"):
    ...     sum(p.numel() for p in stable_diffusion_unet().parameters())
    859520964
    """
    from diffusers import UNet2DConditionModel

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)  # the rest is the default
    finally:
        torch.set_default_dtype(before)
    return unet.eval()
