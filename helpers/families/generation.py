"""The settings of generation of a transformers model: generation_config.json, beside its config.json."""

import json
from pathlib import Path
from typing import Any

from helpers.errors import UnsupportedModel
from helpers.families import library
from helpers.saved.opened import Opened

_NAME = "generation_config.json"
_COMPILATION = "compile_config"  # of one machine


def write(model: Any, folder: Path) -> None:
    """Write generation_config.json, if the model has such settings; how to compile is left out, as by the library.

    Raises
    ------
    UnsupportedModel
        They would not be read again, or not as they are.
    """
    given = getattr(model, "generation_config", None)
    if given is None:
        return
    name, path = str(library.name_of(type(model))), folder / _NAME
    remedy = "Change that in model.generation_config, and pass it to generate() instead."
    try:  # read now as at every load: the library checks settings when it reads them
        given.to_json_file(path, keys_to_pop=[_COMPILATION])
        again = _read(model, json.loads(path.read_text()))
    except Exception as error:  # of many types
        raise UnsupportedModel(
            name, f"has settings of generation that its library does not read again ({error})", remedy
        ) from error
    if lost := library.differing(given.to_dict(), again.to_dict()) - {_COMPILATION}:
        raise UnsupportedModel(
            name,
            f"has settings of generation that JSON does not keep as they are: {', '.join(sorted(lost))}",
            remedy,
        )


def read(model: Any, opened: Opened) -> None:
    """Give a model the settings of generation_config.json, if it is there.

    Raises
    ------
    CorruptFile
        It is unreadable.
    """
    if (opened.home / _NAME).is_file():
        fields = library.read_json(opened.home, opened.name(), _NAME)
        with library.readable(opened.name(_NAME)):
            model.generation_config = _read(model, fields)


def _read(model, fields):
    """The settings of a file; a few models have a class of their own for them."""
    # with its mark the library would leave out what was set since under a name that it does not know
    mark = fields.pop("_from_model_config", None)
    settings = model.generation_config_class.from_dict(fields)
    settings._from_model_config = mark
    return settings
