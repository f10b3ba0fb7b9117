"""Any PreTrainedModel of the transformers library: rebuilt from its own config.json."""

import contextlib
import json
import sys

from helpers.errors import CorruptFile, UnsupportedModel
from helpers.families import Parts, implementations, library
from helpers.families.torch_module import fill, rehearse
from helpers.modules.structure import capture
from helpers.timeline import phase

_GENERATION = "generation_config.json"


def owns(model):
    """Whether the object is a model of the transformers (or diffusers) library itself.

    A class of the user's own that inherits from one is not: its code lives elsewhere, so it is
    saved as a torch module and needs ``skeleton=``.
    """
    transformers = sys.modules.get("transformers")
    if transformers is None or not isinstance(model, transformers.PreTrainedModel):
        return False
    return library.name_of(type(model)) is not None


def save(model, folder, trusted):
    """Write config.json (and generation_config.json) and take tensors and structure.

    Raises
    ------
    UnsupportedModel
        The model is quantised, or it cannot be built again from its configuration (adapters or
        layers were added): said now, not at the next cold start.
    """
    name = library.name_of(type(model))
    if getattr(model, "is_quantized", False) or getattr(model, "hf_quantizer", None) is not None:
        raise UnsupportedModel(name, "is quantised", "Call model.dequantize() first, or keep its own format.")
    model.config.to_json_file(folder / "config.json")
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.to_json_file(folder / _GENERATION)
    settings = {"implementations": implementations.read(model)}
    build = lambda: _empty(folder, name, settings)  # noqa: E731
    tensors, structure = capture(model, name, build)
    rehearse(build, tensors, structure, name)
    return Parts(name, ("transformers", "torch"), tensors, structure, settings, {})


def load(folder, manifest, wanted):
    """Build the class that the manifest names, from config.json, and fill it.

    Raises
    ------
    CorruptFile
        The manifest names no model of the transformers library, or config.json is unreadable.
    SkeletonMismatch
        The configuration does not build what the file holds.
    """
    build = wanted.skeleton or (lambda: _empty(folder, manifest.class_name, manifest.settings))
    model = fill(build, wanted, lambda *_: manifest.structure, folder)
    model.name_or_path = wanted.origin  # as from_pretrained does
    for part in (*model.modules(), *model.parameters(), *model.buffers()):
        vars(part)["_is_hf_initialized"] = True  # so too: a larger model that takes it in leaves it as it is
    if wanted.dtype is not None:  # as from_pretrained records it
        model.config.dtype = wanted.dtype
    if (folder / _GENERATION).is_file():
        from transformers import GenerationConfig

        with readable(folder / _GENERATION):
            model.generation_config = GenerationConfig.from_dict(
                json.loads((folder / _GENERATION).read_text())
            )
    return model


def _empty(folder, class_name, settings):
    with phase("import the model class"):
        cls = library.find(class_name, folder, "transformers.PreTrainedModel")
    with readable(folder / "config.json"):
        config = cls.config_class.from_pretrained(folder, local_files_only=True)
    return build_from_config(cls, config, settings)


def build_from_config(cls, config, settings):
    """An empty model of a class, as ``AutoModel.from_config`` builds it, in eval mode."""
    attention = settings.get("attention")  # of a model saved when all parts had the same
    if set(attention.values() if isinstance(attention, dict) else [attention]) <= {"eager", "sdpa"}:
        config._attn_implementation = attention
    saved = settings.get("implementations", {})
    implementations.set_before(config, saved)
    model = cls._from_config(config).eval()  # what AutoModel.from_config calls for the class it finds
    implementations.set_after(model, saved)
    return model


@contextlib.contextmanager
def readable(path):
    """Turn whatever a library raises over a configuration file into a `CorruptFile`."""
    try:
        yield
    except Exception as error:  # of many types
        raise CorruptFile(
            path, f"cannot be read ({error})", "Restore it, or save the model again."
        ) from error
