"""Save a model once, load it exactly, and as fast as the hardware allows.

>>> from helpers import serialise, deserialise
>>> serialise(model, "models/mine")         # doctest: +SKIP
>>> model = deserialise("models/mine")      # doctest: +SKIP

Importing this package imports neither torch nor transformers, so that `prefetch` can start
reading the weights before those imports begin: each public name is looked up on first use.
"""

import importlib
import sys
import types

_HOME = {
    "Saved": "serialise",
    "Timeline": "timeline",
    "deserialise": "deserialise",
    "deserialise_saved_model": "deserialise",
    "inspect": "inspect",
    "phase": "timeline",
    "prefetch": "prefetch",
    "serialise": "serialise",
    "serialise_model": "serialise",
    "verify": "verify",
}
__all__ = list(_HOME)


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    setattr(sys.modules[__name__], name, value)
    return value


def __dir__():
    return sorted({*globals(), *__all__})


class _Package(types.ModuleType):
    """Keeps ``helpers.serialise`` the function: importing the file of that name would set it to the file."""

    def __setattr__(self, name, value):
        if name in _HOME and isinstance(value, types.ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
