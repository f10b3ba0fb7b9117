"""One file for each kind of model. Adding a kind = adding a file here and its name to `ORDER`.

A family is a module with three functions:

- ``owns(model)``: is this object mine? Must not import the family's library.
- ``save(model, folder, trusted)``: write what rebuilds the empty model into ``folder`` and
  return `Parts`. ``trusted`` matters to estimators alone.
- ``load(folder, manifest, wanted)``: rebuild it; ``wanted`` is a `Wanted`.
"""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

from helpers.errors import UnsupportedModel

ORDER = ("diffusion_pipeline", "diffusers", "transformers", "sklearn", "torch_module")


class Parts(NamedTuple):
    """What a family hands over to be stored.

    Attributes
    ----------
    class_name : str
        Full name of the model's class.
    libraries : tuple of str
        Packages whose versions are recorded.
    tensors : dict of str to (str, torch.Tensor)
        Kind and tensor by name.
    structure : dict
        From `helpers.modules.structure.capture`.
    settings : dict
        JSON-able; what the family needs besides.
    children : dict of str to object
        Models inside this one, each saved into a subdirectory of its own.
    """

    class_name: str
    libraries: tuple
    tensors: dict
    structure: dict
    settings: dict
    children: dict


class Wanted(NamedTuple):
    """What the caller of `helpers.deserialise` asked for, and the means to get it.

    Attributes
    ----------
    fetch : callable
        ``fetch()`` gives kind and tensor by name, cast and on the device; ``fetch(device)`` on
        another.
    child : callable
        ``child(name)`` loads the model in a subdirectory.
    device : torch.device
    dtype : torch.dtype or None
    skeleton : callable or None
    trusted : sequence of str
    origin : str
        Where the model came from, for its ``name_or_path``.
    """

    fetch: Callable
    child: Callable
    device: Any
    dtype: Any
    skeleton: Any
    trusted: Any
    origin: str


def of(model):
    """The family that an object belongs to, by name and as a module.

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
        "Pass a torch.nn.Module, a diffusion pipeline or a scikit-learn estimator.",
    )


def by_name(name):
    """The family of this name, as a module. Only names in `ORDER` are ever imported."""
    assert name in ORDER
    return importlib.import_module(f"helpers.families.{name}")
