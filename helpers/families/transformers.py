"""Any PreTrainedModel of the transformers library: rebuilt from its own config.json."""

import contextlib
import json
import sys

import torch

from helpers.errors import CorruptFile, SkeletonMismatch, UnsupportedModel
from helpers.families import Parts
from helpers.families.torch_module import fill
from helpers.restore import restore
from helpers.structure import capture
from helpers.timeline import phase

_GENERATION = "generation_config.json"
_EVERYWHERE = {"eager", "sdpa"}  # attention code that every machine has; others are chosen anew


def owns(model):
    """Whether the object is a model of the transformers library itself.

    A class of the user's own that inherits from one is not: its code lives elsewhere, so it is
    saved as a torch module and needs ``skeleton=``.
    """
    library = sys.modules.get("transformers")
    if library is None or not isinstance(model, library.PreTrainedModel):
        return False
    return getattr(library, type(model).__name__, None) is type(model)


def save(model, folder):
    """Write config.json (and generation_config.json) and take tensors and structure.

    Raises
    ------
    UnsupportedModel
        The model is quantised, or it cannot be built again from its configuration (adapters or
        layers were added): said now, not at the next cold start.
    """
    name = type(model).__name__
    if getattr(model, "is_quantized", False) or getattr(model, "hf_quantizer", None) is not None:
        raise UnsupportedModel(name, "is quantised", "Call model.dequantize() first, or keep its own format.")
    tensors, structure = capture(model, name)
    model.config.to_json_file(folder / "config.json")
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.to_json_file(folder / _GENERATION)
    settings = {"attention": model.config._attn_implementation}
    parts = Parts(f"transformers.{name}", tensors, structure, settings, ("transformers", "torch"))
    _rehearse(folder, parts)
    return parts


def _rehearse(folder, parts):
    """Build the empty model from what was just written and compare it with what will be stored."""
    try:
        meta = {name: (kind, tensor.to("meta")) for name, (kind, tensor) in parts.tensors.items()}
        with torch.device("meta"):
            restore(_empty(folder, parts.class_name, parts.settings), meta, parts.structure, parts.class_name)
    except SkeletonMismatch as error:
        raise UnsupportedModel(
            parts.class_name,
            f"is not what its configuration builds ({error.problem})",
            "Merge adapters, or make it a part of a torch.nn.Module of your own and load with skeleton=.",
        ) from error


def load(folder, manifest, fetch, skeleton, dtype):
    """Build the class that the manifest names, from config.json, and fill it.

    Raises
    ------
    CorruptFile
        The manifest names no model of the transformers library, or config.json is unreadable.
    SkeletonMismatch
        The configuration does not build what the file holds.
    """
    build = skeleton or (lambda: _empty(folder, manifest.class_name, manifest.settings))
    model = fill(build, fetch, lambda *_: manifest.structure, folder)
    if dtype is not None:  # as from_pretrained records it
        model.config.dtype = dtype
    if (folder / _GENERATION).is_file():
        from transformers import GenerationConfig

        with _readable(folder / _GENERATION):
            model.generation_config = GenerationConfig.from_dict(
                json.loads((folder / _GENERATION).read_text())
            )
    return model


def model_class(class_name, path):
    """The class of this name in the transformers library, and nowhere else.

    Raises
    ------
    CorruptFile
        If the library has no such model.
    """
    library, _, name = class_name.partition(".")
    if library == "transformers" and name.isidentifier() and not name.startswith("_"):
        import transformers

        found = getattr(transformers, name, None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel) and found.config_class:
            return found
    raise CorruptFile(
        path,
        f"names {class_name!r}, which is no model of the installed transformers library",
        "Install the version of transformers that the manifest names, if you trust its origin.",
    )


def _empty(folder, class_name, settings):
    with phase("import the model class"):
        cls = model_class(class_name, folder)
    with _readable(folder / "config.json"):
        config = cls.config_class.from_pretrained(folder, local_files_only=True)
    return build_from_config(cls, config, settings.get("attention"))


def build_from_config(cls, config, attention=None):
    """An empty model of a class, as ``AutoModel.from_config`` builds it, in eval mode."""
    wanted = attention.values() if isinstance(attention, dict) else [attention]
    if set(wanted) <= _EVERYWHERE:
        config._attn_implementation = attention
    return cls._from_config(config).eval()  # what AutoModel.from_config calls for the class it finds


@contextlib.contextmanager
def _readable(path):
    try:
        yield
    except Exception as error:  # transformers raises many types for a bad config file
        raise CorruptFile(
            path, f"cannot be read ({error})", "Restore it, or save the model again."
        ) from error
