"""The configuration of a transformers model: as JSON, and what its class would not read again of that.

Some classes set a setting anew whatever config.json says, such as T5, which ties its head. What would come back
otherwise than it was is told while saving, and set again once the empty model is built.
"""

import json
from typing import Any

import torch

from helpers.errors import UnsupportedModel
from helpers.families import implementations, library


def text(config: Any, name: str) -> str:
    """A configuration as JSON; ``name`` is that of the model, for errors.

    Raises
    ------
    UnsupportedModel
        It holds what JSON does not.
    """
    try:
        return config.to_json_string()
    except Exception as error:  # a TypeError mostly, of JSON or of a copy
        strange = [key for key, value in vars(config).items() if key != "dtype" and not _is_json(value)]
        raise UnsupportedModel(
            name,
            f"has settings that JSON does not hold: {', '.join(strange)} ({error})",
            "Change them in model.config to plain numbers, texts, lists and dictionaries of these.",
        ) from error


def changes(config: Any, built: Any, name: str) -> dict:
    """What a configuration says that the one of the empty model does not, as JSON for `set_again`.

    Parameters
    ----------
    config : transformers.PreTrainedConfig
    built : transformers.PreTrainedConfig
        Of the empty model, which was built of the same configuration as JSON.
    name : str
        Of the model, for errors.

    Returns
    -------
    dict of str to dict
        Settings by the place of the part that has them, as `helpers.families.implementations` names it.

    Raises
    ------
    UnsupportedModel
        JSON does not keep such a setting either: names it.
    """
    again, changed, renamed, lost = dict(implementations.parts(built)), {}, [], []
    for place, part in implementations.parts(config):
        path, held = place.removeprefix(":"), vars(part)
        if place not in again:
            lost.append(path.removeprefix("."))
            continue
        for key in sorted(library.differing(part.to_dict(), again[place].to_dict()) & held.keys()):
            if not is_setting(key, held[key]):
                continue
            kept = json.loads(json.dumps(held[key], default=str, skipkeys=True))
            if library.differing({key: held[key]}, {key: from_json(key, kept)}):
                (renamed if _has_other_keys(held[key]) else lost).append(f"{path}.{key}".removeprefix("."))
            else:
                changed.setdefault(place, {})[key] = kept
    if renamed:
        raise UnsupportedModel(
            name,
            f"has settings whose keys JSON does not keep as they are: {', '.join(renamed)}",
            "Let their keys be texts in model.config.",
        )
    if lost:
        raise UnsupportedModel(
            name,
            f"has settings that its class does not read again as they are: {', '.join(lost)}",
            "Undo what was changed there in model.config.",
        )
    return changed


def set_again(settings: dict, changed: dict, *, leave: tuple = ()) -> None:
    """Set in a model's configurations what a save has noted of their settings.

    Parameters
    ----------
    settings : dict of str to dict
        Of each configuration, by its place: its attributes themselves, past the checks of its class.
    changed : dict of str to dict
        As from `changes`.
    leave : tuple of str
        Settings that stay as they are.

    Raises
    ------
    Exception
        Of many types, where ``changed`` comes from a damaged manifest.
    """
    for place, values in changed.items():
        for key, value in values.items():
            if key not in leave and is_setting(key, value):
                settings[place][key] = from_json(key, value)


def is_setting(key: str, value: Any) -> bool:
    """Whether it is neither a library's own note, such as a path, nor a configuration with a place of its own."""
    is_note = key.startswith("_") and key != "_output_attentions"
    return not is_note and not hasattr(value, "_attn_implementation_internal")


def from_json(key: str, value: Any) -> Any:
    """The value of a setting that was JSON: of the one that holds a type, the type."""
    return getattr(torch, str(value).removeprefix("torch."), value) if key == "dtype" else value


def _is_json(value):
    try:
        return bool(json.dumps(value, sort_keys=True, default=lambda part: part.to_dict()))
    except Exception:  # as above
        return False


def _has_other_keys(value):
    if not isinstance(value, dict):
        return False
    return not all(isinstance(key, str) for key in value) or any(map(_has_other_keys, value.values()))
