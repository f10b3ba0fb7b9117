"""Any PreTrainedModel of the transformers library: rebuilt from its own config.json."""

import functools
import inspect
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from helpers.errors import CorruptFile
from helpers.families import Parts, configuration, generation, implementations, library
from helpers.modules.skeleton import Skeleton, capture_rehearsed, fill
from helpers.options import Options
from helpers.saved.opened import Opened
from helpers.timeline import phase


def owns(model: object) -> bool:
    """Whether the object is a model of the transformers (or diffusers) library itself.

    A class of the user's own that inherits from one is not: its code lives elsewhere, so it is
    saved as a torch module and needs ``skeleton=``.
    """
    transformers = sys.modules.get("transformers")
    if transformers is None or not isinstance(model, transformers.PreTrainedModel):
        return False
    name = library.name_of(type(model))
    return name is not None and (library.is_shown(name) or _is_built_by_its_configuration(model, name))


def save(model: Any, folder: Path, trusted: Any) -> Parts:
    """Write config.json (and generation_config.json) and take tensors and structure.

    Raises
    ------
    UnsupportedModel
        The model is quantised, or it cannot be built again from its configuration (adapters or
        layers were added), or its settings are not kept: said now, not at the next cold start.
    """
    name = library.name_of(type(model))
    assert name is not None
    library.refuse_quantised(model, name)
    (folder / "config.json").write_text(configuration.text(model.config, name))
    generation.write(model, folder)
    settings = {"implementations": implementations.read(model)}
    ready, built = [], []
    if not library.is_shown(name):
        ready = [_built(name, *_described(model, name))]  # as `owns` has built it a moment ago
        _built.cache_clear()

    def build():
        # without the meta device a real one is asked for, to see what a constructor computes
        is_ready = ready and torch.empty(0).is_meta
        try:
            built.append(ready.pop() if is_ready else _empty(folder, name, name, settings))
        except CorruptFile as error:  # of config.json, which says what the configuration in memory does
            raise error.__cause__ or error from None
        return built[-1]

    tensors, structure = capture_rehearsed(model, name, build)
    settings["changed"] = configuration.changes(model.config, built[-1].config, name)
    return Parts(name, ("transformers", "torch"), tensors, structure, settings, {})


def skeleton(opened: Opened, options: Options) -> Skeleton:
    """The empty model of the class that the manifest names, from config.json.

    Raises
    ------
    CorruptFile
        The manifest names no model of the transformers library, or config.json is unreadable or builds none.
    UnsupportedModel
        A package that it needs is not installed.
    """
    return library.skeleton(opened, options, _empty)


def finish(opened: Opened, skeleton: Skeleton, weights: Any, children: dict, options: Options) -> Any:
    """Put the weights into the skeleton, and the generation settings beside them.

    Raises
    ------
    SkeletonMismatch
        The configuration does not build what the file holds.
    CorruptFile
        generation_config.json is unreadable.
    """
    model: Any = fill(skeleton, weights, options)
    model.name_or_path = opened.name()  # as from_pretrained does
    for module in model.modules():
        # as it marks them too: a larger model that takes them in leaves them as they are
        for part in (module, *module._parameters.values(), *module._buffers.values()):
            if part is not None:
                vars(part)["_is_hf_initialized"] = True
    if options.dtype is not None:  # as from_pretrained records it, for the parts too
        for _, config in implementations.configurations(model):
            config.dtype = options.dtype
    generation.read(model, opened)
    return model


def _is_built_by_its_configuration(model, name):
    """Whether a class that its library does not show needs nothing else to be built; a larger one may give it more."""
    cls = type(model)
    if list(inspect.signature(cls).parameters) != ["config"] or type(model.config) is not cls.config_class:
        return False
    again = _built(name, *_described(model, name))
    if again is not None and _shapes(again) == _shapes(model):
        return True
    _built.cache_clear()
    return False


def _described(model, name):
    """All that says how an empty model of the same class is built, as text."""
    return configuration.text(model.config, name), json.dumps(
        {"implementations": implementations.read(model)}
    )


# `owns` is asked several times about a model, and `save` needs the last answer
@functools.lru_cache(maxsize=1)
def _built(name, config, settings):
    """The empty model of a configuration, None if it builds none."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(config)
        try:
            return Skeleton(lambda: _empty(Path(folder), name, name, json.loads(settings)), name).model
        except Exception:  # whatever it lacks
            return None


def _shapes(model):
    return {key: tensor.shape for key, tensor in model.state_dict().items()}


def _empty(folder, label, class_name, settings):
    with phase("import the model class"):
        cls = library.find(class_name, label, "transformers.PreTrainedModel")
    library.read_json(folder, label, "config.json")  # whose error names the model, not a temporary folder
    with library.readable(f"{label}/config.json"):
        config = cls.config_class.from_pretrained(folder, local_files_only=True)
    attention = settings.get("attention")  # of a model saved when all parts had the same
    if set(attention.values() if isinstance(attention, dict) else [attention]) <= {"eager", "sdpa"}:
        config._attn_implementation = attention
    saved = settings.get("implementations", {})
    implementations.set_before(config, saved)
    model = cls._from_config(config).eval()  # what AutoModel.from_config calls for the class it finds
    implementations.set_after(model, saved)
    with library.readable(f"{label}/model.json"):
        parts = {place: vars(part) for place, part in implementations.parts(model.config)}
        configuration.set_again(parts, settings.get("changed", {}))
    return model
