"""Any torch.nn.Module. Its code is not stored, so the reader builds the skeleton."""

import inspect
import sys
from pathlib import Path
from typing import Any

import torch

from helpers.errors import SkeletonMismatch, with_article
from helpers.families import Parts
from helpers.modules.skeleton import Skeleton, by_caller, fill
from helpers.modules.structure import capture
from helpers.options import Options
from helpers.saved.opened import Opened


def owns(model: object) -> bool:
    """Whether the object is a torch module."""
    return isinstance(model, torch.nn.Module)


def save(model: torch.nn.Module, folder: Path, trusted: Any) -> Parts:
    """Take the tensors and the structure; nothing else is written into ``folder``."""
    name = f"{type(model).__module__}.{type(model).__qualname__}"
    tensors, structure = capture(model, name)
    return Parts(name, ("torch",), tensors, structure, {}, {})


def skeleton(opened: Opened, options: Options) -> Skeleton:
    """The empty model that the caller's function builds.

    Raises
    ------
    SkeletonMismatch
        No function was passed, or it builds no module.
    """
    build, name = options.skeleton, opened.record.class_name
    if build is None and not opened.record.family:
        raise SkeletonMismatch(
            opened.label,
            "is a bare .tensors file, which does not say what model it belongs to",
            "Pass skeleton=, a function that builds the empty model.",
        )
    if build is None:
        hint = f"deserialise(..., skeleton={_built(name)})"
        if name.startswith("peft."):  # its classes wrap a model that must be built first
            hint = "a function that loads the base model and wraps it as it was, with get_peft_model"
        raise SkeletonMismatch(
            opened.label,
            f"holds a {name}, whose code is not stored",
            f"Pass skeleton=, a function that builds it: {hint}.",
        )
    if isinstance(build, torch.nn.Module) or not callable(build):
        raise SkeletonMismatch(
            opened.label,
            f"needs a function as skeleton=, not {with_article(build)}",
            "Pass skeleton=lambda: …, which builds the empty model.",
        )
    return Skeleton(by_caller(opened.label)(build), opened.label)


def _built(name):
    """How a class is passed as a skeleton: by itself where it is imported already and takes no arguments."""
    module, _, cls = name.rpartition(".")
    try:
        inspect.signature(vars(sys.modules[module])[cls]).bind()
    except (KeyError, TypeError, ValueError):
        return f"lambda: {name}(...)"
    return name


def finish(opened: Opened, skeleton: Skeleton, weights: Any, children: dict, options: Options) -> Any:
    """Put the weights into the skeleton.

    Raises
    ------
    SkeletonMismatch
        It does not fit.
    """
    return fill(skeleton, weights, options)
