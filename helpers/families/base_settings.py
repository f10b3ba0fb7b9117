"""What was set anew in a base since it was loaded, such as its attention: told while saving, set again while loading.

The base itself is built from what its own folder says.
"""

import json
from typing import Any

import torch

from helpers.errors import UnsupportedModel
from helpers.families import configuration, implementations, library
from helpers.options import Options
from helpers.saved.opened import Opened


def changes(base: Any, built: Any, name: str) -> dict:
    """What the settings of a base say that those of the saved one do not, as JSON for `set_again`.

    Parameters
    ----------
    base : transformers.PreTrainedModel or diffusers.ModelMixin
    built : transformers.PreTrainedModel or diffusers.ModelMixin
        The saved base, empty, with the same adapters: PEFT changes some settings by itself.
    name : str
        Named in errors.

    Raises
    ------
    UnsupportedModel
        A setting was changed to what JSON does not keep.
    """
    saved, changed, lost = _settings(built), {}, []
    for place, settings in _settings(base).items():
        before = saved.get(place, {})
        for key, value in settings.items():
            if not configuration.is_setting(key, value) or (
                key in before and _text(before[key]) == _text(value)
            ):
                continue
            kept = changed.setdefault(place, {})[key] = json.loads(_text(value))
            if configuration.from_json(key, kept) != value:
                lost.append(f"{key} = {value!r}")
    if lost:
        raise UnsupportedModel(
            name,
            f"has a base whose settings were changed to what JSON does not keep: {', '.join(lost)}",
            "Save the base with these settings, load it and put the adapters on that.",
        )
    return {"changed": changed, "implementations": implementations.read(base)}


def set_again(base: Any, opened: Opened, options: Options) -> None:
    """Set in a loaded base what `changes` told; adapters of an earlier version tell nothing.

    Raises
    ------
    CorruptFile
        What the manifest says of it cannot be true.
    """
    said = opened.record.settings.get("base", {"changed": {}, "implementations": {}})
    with library.readable(f"{opened.label}/model.json"):
        settings = _settings(base)
        leave = () if options.dtype is None else ("dtype",)
        configuration.set_again(settings, said["changed"], leave=leave)
        if _is_of_diffusers(base):
            base.register_to_config(**settings[""])
        implementations.set_after(base, said["implementations"])


def _settings(base):
    """The settings of each configuration within a model, by its place; those of transformers can be set."""
    if _is_of_diffusers(base):
        return {"": dict(base.config)}
    return {place: vars(config) for place, config in implementations.configurations(base)}


def _is_of_diffusers(base):
    return hasattr(base, "register_to_config")


def _text(value):
    """A setting as JSON; an object by its type alone, since not all can be compared."""

    def said(held):
        return str(held) if isinstance(held, torch.dtype) else type(held).__name__

    return json.dumps(value, default=said, skipkeys=True)
