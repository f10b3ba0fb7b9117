"""Several ControlNets or adapters of diffusers in the wrapper that a pipeline puts around them: each a model inside it.

Such a wrapper has no configuration and no weights of its own.
"""

import sys
from pathlib import Path
from typing import Any

from helpers.errors import CorruptFile, UnsupportedModel, extra
from helpers.families import Parts, diffusers, library
from helpers.modules.structure import blank
from helpers.options import Options
from helpers.saved.opened import Opened

_LISTS = {  # the wrappers, and where each keeps its models
    "FluxMultiControlNetModel": "nets",
    "HunyuanDiT2DMultiControlNetModel": "nets",
    "MultiAdapter": "adapters",
    "MultiControlNetModel": "nets",
    "MultiControlNetUnionModel": "nets",
    "QwenImageMultiControlNetModel": "nets",
    "SD3MultiControlNetModel": "nets",
}


def owns(model: object) -> bool:
    """Whether the object is such a wrapper, of the diffusers library itself."""
    name, models = type(model).__name__, sys.modules.get("diffusers.models")
    return name in _LISTS and getattr(models, name, None) is type(model)


def save(model: Any, folder: Path, trusted: Any) -> Parts:
    """Nothing is written; the models become children, one that is there twice a single one.

    Raises
    ------
    UnsupportedModel
        One of them is not the library's own.
    """
    name = f"diffusers.{type(model).__name__}"
    held = getattr(model, _LISTS[type(model).__name__])
    strangers = [f"{i} ({type(net).__qualname__})" for i, net in enumerate(held) if not diffusers.owns(net)]
    if strangers:
        raise UnsupportedModel(
            name,
            f"holds what is not of the diffusers library: {', '.join(strangers)}",
            "Save these one by one.",
        )
    first = {id(net): str(i) for i, net in reversed(list(enumerate(held)))}
    settings = {"order": [first[id(net)] for net in held], "modes": [model.training, held.training]}
    children = {first[id(net)]: net for net in held}
    return Parts(name, ("diffusers", "torch"), {}, blank(), settings, children)


def skeleton(opened: Opened, options: Options) -> None:
    """Nothing: the wrapper has no weights of its own."""
    with extra(opened.name(), "hf"):
        import diffusers.models  # noqa: F401


def finish(opened: Opened, skeleton: None, weights: Any, children: dict, options: Options) -> Any:
    """Put the wrapper around the models.

    Raises
    ------
    CorruptFile
        The manifest names no such wrapper, or not the models that are there.
    """
    weights.tensors(options.device)  # none; but the file of the wrapper itself must be whole too
    name = opened.record.class_name.removeprefix("diffusers.")
    if name not in _LISTS:
        raise CorruptFile(
            opened.label, f"names {name!r}, which wraps no models of diffusers", "Save the model again."
        )
    with library.readable(opened.name("model.json")):
        model = getattr(sys.modules["diffusers.models"], name)(
            [children[key] for key in opened.record.settings["order"]]
        )
        model.training, getattr(model, _LISTS[name]).training = map(bool, opened.record.settings["modes"])
    return model
