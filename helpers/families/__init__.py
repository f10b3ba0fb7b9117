"""One file for each kind of model. Adding a kind = adding a file here and its name to `ORDER`.

A family is a module with three functions:

- ``owns(model)``: is this object mine? Must not import the family's library.
- ``save(model, folder)``: write what rebuilds the empty model into ``folder`` and return `Parts`.
- ``load(folder, manifest, fetch, skeleton, dtype)``: rebuild it. ``fetch()`` gives the tensors,
  already cast to ``dtype`` where the caller asked for one.
"""

import importlib
from typing import NamedTuple

from helpers.errors import UnsupportedModel

ORDER = ("transformers", "torch_module")


class Parts(NamedTuple):
    """What a family hands over to be stored.

    Attributes
    ----------
    class_name : str
        Full name of the model's class.
    tensors : dict of str to (str, torch.Tensor)
        Kind and tensor by name.
    structure : dict
        From `helpers.structure.capture`.
    settings : dict
        JSON-able; what the family needs besides.
    libraries : tuple of str
        Packages whose versions are recorded.
    """

    class_name: str
    tensors: dict
    structure: dict
    settings: dict
    libraries: tuple


def of(model):
    """The family that an object belongs to.

    Raises
    ------
    UnsupportedModel
        If no family knows it.
    """
    for name in ORDER:
        family = by_name(name)
        if family.owns(model):
            return name, family
    raise UnsupportedModel(
        f"{type(model).__module__}.{type(model).__qualname__}",
        "is no kind of model that this package knows",
        "Pass a torch.nn.Module (a transformers model included).",
    )


def by_name(name):
    """The family of this name, as a module. Only names in `ORDER` are ever imported."""
    assert name in ORDER
    return importlib.import_module(f"helpers.families.{name}")
