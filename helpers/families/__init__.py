"""One file for each kind of model. Adding a kind = adding a file here and its name to `ORDER`.

A family is a module with four functions, some with a fifth:

- ``owns(model)``: is this object mine? Must not import the family's library.
- ``save(model, folder, trusted)``: write what rebuilds the empty model into ``folder`` and
  return `Parts`. ``trusted`` matters to estimators alone.
- ``skeleton(opened, options)``: the empty model, or None where there is none; imports the class.
- ``finish(opened, skeleton, weights, children, options)``: the model, from its weights and from
  the models inside it, which are loaded already.
- ``elsewhere(opened, options)``, if it has it: saved models outside of this one that are loaded as if
  they were inside, by name, opened.

`library`, `configuration`, `implementations`, `base_model`, `base_settings`, `peft_layers` and `skops_arrays` are no
families: they serve some.
"""

import importlib
from types import ModuleType
from typing import NamedTuple

from helpers.errors import CorruptFile, UnsupportedModel

ORDER = (
    "diffusion_pipeline",
    "adapters",
    "quantised",
    "diffusers_several",
    "diffusers",
    "transformers",
    "sklearn",
    "torch_module",
)


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
    outside : tuple of str
        Directories that the saved model refers to, so that it cannot take their place.
    """

    class_name: str
    libraries: tuple
    tensors: dict
    structure: dict
    settings: dict
    children: dict
    outside: tuple = ()


def of(model: object) -> tuple[str, ModuleType]:
    """The family that an object belongs to, by name and as a module.

    Raises
    ------
    UnsupportedModel
        If no family knows it.
    """
    for name in ORDER:
        family = by_name(name, "")
        if family.owns(model):
            return name, family
    remedy = "Pass a torch.nn.Module, a diffusion pipeline or a scikit-learn estimator."
    if isinstance(model, dict):
        remedy = "If it is a state dict, load it into its module first (load_state_dict), and save that."
    raise UnsupportedModel(
        f"{type(model).__module__}.{type(model).__qualname__}",
        "is no kind of model that this package knows",
        remedy,
    )


def needs_skeleton(name: str, settings: dict) -> bool:
    """Whether a saved model's code is not stored, so that loading it takes ``skeleton=``.

    Parameters
    ----------
    name : str
        Of its family; "" for a bare file.
    settings : dict
        Of its manifest.

    Returns
    -------
    bool

    Examples
    --------
    >>> needs_skeleton("torch_module", {}), needs_skeleton("transformers", {})
    (True, False)
    """
    if name == "quantised":  # around another family, which a damaged manifest may not say
        said = settings.get("quantised")
        return isinstance(said, dict) and said.get("family") == "torch_module"
    return name in ("", "torch_module")


def by_name(name: str, label: str) -> ModuleType:
    """The family of this name, as a module; of a bare file, which has none, that of torch modules.

    Parameters
    ----------
    name : str
        From a manifest, untrusted: only names in `ORDER` are ever imported.
    label : str
        Of the model, for errors.

    Raises
    ------
    CorruptFile
        There is no such family.
    """
    name = name or "torch_module"
    if name not in ORDER:
        raise CorruptFile(
            f"{label}/model.json", f"is of the unknown family {name!r}", "Save the model again."
        )
    return importlib.import_module(f"helpers.families.{name}")
