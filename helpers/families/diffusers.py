"""Any ModelMixin of the diffusers library (UNets, autoencoders, ControlNets, transformers)."""

import sys
from pathlib import Path
from typing import Any

from helpers.families import Parts, library
from helpers.modules.skeleton import Skeleton, capture_rehearsed, fill
from helpers.options import Options
from helpers.saved.opened import Opened
from helpers.timeline import phase


def owns(model: object) -> bool:
    """Whether the object is a model of the diffusers library itself."""
    diffusers = sys.modules.get("diffusers")
    if diffusers is None or not isinstance(model, diffusers.ModelMixin):
        return False
    # a few are made of other models instead of a configuration: they go as torch modules
    return isinstance(model, diffusers.ConfigMixin) and library.name_of(type(model)) is not None


def save(model: Any, folder: Path, trusted: Any) -> Parts:
    """Write config.json and take tensors and structure.

    Raises
    ------
    UnsupportedModel
        The model is quantised, or it cannot be built again from its configuration: said now, not at the
        next start.
    """
    name = library.name_of(type(model))
    assert name is not None
    library.refuse_quantised(model, name)
    model.save_config(folder)
    # JSON knows lists alone; constructors are mostly given tuples, which the configuration keeps
    config = getattr(model, "config", {})  # a model without settings has none (IFWatermarker)
    settings = {"tuples": [key for key, value in config.items() if isinstance(value, tuple)]}
    tensors, structure = capture_rehearsed(model, name, lambda: _empty(folder, name, name, settings))
    return Parts(name, ("diffusers", "torch"), tensors, structure, settings, {})


def skeleton(opened: Opened, options: Options) -> Skeleton:
    """The empty model of the class that the manifest names, from config.json.

    Raises
    ------
    CorruptFile
        The manifest names no model of the diffusers library, or config.json is unreadable or builds none.
    UnsupportedModel
        A package that it needs is not installed.
    """
    return library.skeleton(opened, options, _empty)


def finish(opened: Opened, skeleton: Skeleton, weights: Any, children: dict, options: Options) -> Any:
    """Put the weights into the skeleton.

    Raises
    ------
    SkeletonMismatch
        The configuration does not build what the file holds.
    """
    model: Any = fill(skeleton, weights, options)
    model.register_to_config(_name_or_path=opened.name())  # as from_pretrained does
    return model


def _empty(folder, label, class_name, settings):
    with phase("import the model class"):
        cls = library.find(class_name, label, "diffusers.ModelMixin")
    config = library.read_json(folder, label, "config.json")
    for key in settings.get("tuples", ()):
        if isinstance(config.get(key), list):
            config[key] = tuple(config[key])
    return cls.from_config(config)
