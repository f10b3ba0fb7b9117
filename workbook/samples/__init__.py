"""The workbook's own models: small, real where that is possible, and said to be random where not."""

from workbook.samples.classifier import accuracy, digits, train_classifier
from workbook.samples.language_model import smollm2
from workbook.samples.pipeline import tiny_stable_diffusion
from workbook.samples.unets import digits_unet, stable_diffusion_unet

__all__ = [
    "accuracy",
    "digits",
    "digits_unet",
    "smollm2",
    "stable_diffusion_unet",
    "tiny_stable_diffusion",
    "train_classifier",
]
