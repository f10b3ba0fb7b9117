"""Save a model once, load it exactly, and as fast as the hardware allows.

>>> from helpers import serialise, deserialise
>>> serialise(model, "models/mine")         # doctest: +SKIP
>>> model = deserialise("models/mine")      # doctest: +SKIP

Importing this package imports neither torch nor transformers, so that `prefetch` can start
reading the weights before those imports begin: each public name is looked up on first use.
``__init__.pyi`` tells type checkers and editors the same names.
"""

import importlib
import sys
import types

_PUBLIC = {
    "cold_start": ("cold_start",),
    "deserialise": ("deserialise", "deserialise_saved_model"),
    "errors": (
        *("CorruptFile", "EncryptionError", "ModelError", "NotAModel"),
        *("SkeletonMismatch", "StorageError", "UnsupportedModel"),
    ),
    "inspect": ("inspect",),
    "prefetch": ("prefetch",),
    "serialise": ("Saved", "serialise", "serialise_model"),
    "standby": ("Standby",),
    "timeline": ("Timeline", "phase"),
    "verify": ("verify",),
}
_HOME = {name: home for home, names in _PUBLIC.items() for name in names}
_BRITISH = {"deserialize": "deserialise", "serialize": "serialise", "serialize_model": "serialise_model"}
__all__ = list(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        hint = f". Did you mean: {_BRITISH[name]!r}?" if name in _BRITISH else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    setattr(sys.modules[__name__], name, value)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(types.ModuleType):
    """Keeps ``helpers.serialise`` the function: importing the file of that name would set it to the file."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _HOME and isinstance(value, types.ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
