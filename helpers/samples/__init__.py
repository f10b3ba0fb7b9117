"""The workbook's own models: small, real where that is possible, and said to be random where not."""

from helpers.samples.classifier import DigitClassifier, accuracy, digits, train_classifier
from helpers.samples.language_model import smollm2
from helpers.samples.pipeline import tiny_stable_diffusion
from helpers.samples.unets import digits_unet, draw_digits, stable_diffusion_unet

__all__ = [
    "DigitClassifier",
    "accuracy",
    "digits",
    "digits_unet",
    "draw_digits",
    "smollm2",
    "stable_diffusion_unet",
    "tiny_stable_diffusion",
    "train_classifier",
]
