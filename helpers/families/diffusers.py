"""Any ModelMixin of the diffusers library (UNets, autoencoders, ControlNets, transformers)."""

import sys

from helpers.families import Parts, library
from helpers.families.torch_module import fill, rehearse
from helpers.families.transformers import readable
from helpers.modules.structure import capture
from helpers.timeline import phase


def owns(model):
    """Whether the object is a model of the diffusers library itself."""
    diffusers = sys.modules.get("diffusers")
    if diffusers is None or not isinstance(model, diffusers.ModelMixin):
        return False
    # a few are made of other models instead of a configuration: they go as torch modules
    return isinstance(model, diffusers.ConfigMixin) and library.name_of(type(model)) is not None


def save(model, folder, trusted):
    """Write config.json and take tensors and structure.

    Raises
    ------
    UnsupportedModel
        The model cannot be built again from its configuration: said now, not at the next start.
    """
    name = library.name_of(type(model))
    model.save_config(folder)
    # JSON knows lists alone; constructors are mostly given tuples, which the configuration keeps
    settings = {"tuples": [key for key, value in model.config.items() if isinstance(value, tuple)]}
    build = lambda: _empty(folder, name, settings)  # noqa: E731
    tensors, structure = capture(model, name, build)
    rehearse(build, tensors, structure, name)
    return Parts(name, ("diffusers", "torch"), tensors, structure, settings, {})


def load(folder, manifest, wanted):
    """Build the class that the manifest names, from config.json, and fill it.

    Raises
    ------
    CorruptFile
        The manifest names no model of the diffusers library, or config.json is unreadable.
    SkeletonMismatch
        The configuration does not build what the file holds.
    """
    build = wanted.skeleton or (lambda: _empty(folder, manifest.class_name, manifest.settings))
    model = fill(build, wanted, lambda *_: manifest.structure, folder)
    model.register_to_config(_name_or_path=wanted.origin)  # as from_pretrained does
    return model


def _empty(folder, class_name, settings):
    with phase("import the model class"):
        cls = library.find(class_name, folder, "diffusers.ModelMixin")
    with readable(folder / "config.json"):
        config = cls.load_config(folder, local_files_only=True)
    for key in settings.get("tuples", ()):
        if isinstance(config.get(key), list):
            config[key] = tuple(config[key])
    return cls.from_config(config)
