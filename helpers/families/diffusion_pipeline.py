"""A whole DiffusionPipeline: each model in a subdirectory of its own, the rest by its own means."""

import json
import sys
from pathlib import Path
from typing import Any

from helpers.errors import CorruptFile, UnsupportedModel
from helpers.families import Parts, diffusers, diffusers_several, library, transformers
from helpers.modules.structure import blank
from helpers.options import Options
from helpers.saved.opened import Opened

_INDEX = "model_index.json"
# What a pipeline may hold besides models; each saves and loads itself, without weights.
_WEIGHTLESS = (
    "diffusers.SchedulerMixin",
    "diffusers.BaseGuidance",
    "transformers.PreTrainedTokenizerBase",
    "transformers.FeatureExtractionMixin",
    "transformers.ProcessorMixin",
    "transformers.ImageProcessingMixin",
)
_SIDES = ("padding_side", "truncation_side")  # of a tokenizer, which saves them only if it was made with them
_PASSING = ("hf_device_map", "num_inference_steps")  # where a pipeline lay, and what its last run was


def owns(model: object) -> bool:
    """Whether the object is a pipeline of the diffusers library."""
    installed = sys.modules.get("diffusers")
    return installed is not None and isinstance(model, installed.DiffusionPipeline)


def save(pipeline: Any, folder: Path, trusted: Any) -> Parts:
    """Write model_index.json and the components without weights; the models become children.

    Raises
    ------
    UnsupportedModel
        The pipeline or a component is not the library's own; all of them are named.
    """
    name = library.name_of(type(pipeline))
    problems = [] if name else [f"its class {type(pipeline).__qualname__}"]
    children, states, weightless = {}, {}, tuple(map(library.base, _WEIGHTLESS))
    # not pipeline.components, which leaves out those that its constructor can do without
    components = {
        key: getattr(pipeline, key) for key, value in pipeline.config.items() if _is_component(key, value)
    }
    first: dict[int, str] = {}  # a part under several names is one, as the transformer of Wan may be
    same = {
        key: first[id(part)]
        for key, part in components.items()
        if part is not None and first.setdefault(id(part), key) != key
    }
    for key, part in components.items():
        if part is None or key in same:
            continue
        if any(family.owns(part) for family in (diffusers_several, diffusers, transformers)):
            children[key] = part
        elif library.name_of(type(part)) and isinstance(part, weightless):
            states[key] = _state(part)
            _as_it_is(part).save_pretrained(folder / key)
        else:
            problems.append(f"{key} ({type(part).__qualname__})")
    if problems or name is None:
        raise UnsupportedModel(
            name or type(pipeline).__qualname__,
            f"holds what the diffusers and transformers libraries do not offer under its name: {', '.join(problems)}",
            "Save these components one by one.",
        )
    pipeline.save_config(folder)
    _name_parts(folder / _INDEX, components)
    settings = {
        "same": same,
        "state": _state(pipeline),
        "states": {key: state for key, state in states.items() if state},
    }
    return Parts(name, ("diffusers", "transformers", "torch"), {}, blank(), settings, children)


def skeleton(opened: Opened, options: Options) -> None:
    """Nothing: a pipeline has no weights of its own."""


def finish(opened: Opened, skeleton: None, weights: Any, children: dict, options: Options) -> Any:
    """Load what has no weights, and put all components together.

    Raises
    ------
    CorruptFile
        model_index.json is unreadable, does not fit the pipeline's class, or names a class outside
        the two libraries.
    """
    weights.tensors(options.device)  # none; but the file of the pipeline itself must be whole too
    cls = library.find(opened.record.class_name, opened.name(), "diffusers.DiffusionPipeline")
    index = library.read_json(opened.home, opened.name(), _INDEX)
    with library.readable(opened.name("model.json")):
        same = dict(opened.record.settings.get("same", {}))
    parts = {
        key: children[key] if key in children else _weightless(opened, key, value)
        for key, value in index.items()
        if not key.startswith("_") and key not in same
    }
    with library.readable(opened.name(_INDEX)):
        pipeline = cls(**parts, **{key: parts[first] for key, first in same.items()})
        vars(pipeline).update(opened.record.settings.get("state", {}))
    pipeline.register_to_config(_name_or_path=opened.name())  # as from_pretrained does
    return pipeline


def _is_component(key, value):
    """Whether an entry of the index is a component: its package and its class; else it is a setting."""
    return not key.startswith("_") and isinstance(value, (list, tuple)) and len(value) == 2


def _name_parts(index, components):
    """Write what each part is into the index: diffusers leaves a part unnamed that takes the place of None."""
    named = library.base("diffusers.DiffusionPipeline")()
    named.register_modules(**{key: part for key, part in components.items() if part is not None})
    said = json.loads(index.read_text()) | {
        key: named.config[key] for key in components if key in named.config
    }
    index.write_text(json.dumps(said, indent=2, sort_keys=True) + "\n")


def _as_it_is(part):
    """The same part; a guider that was switched on or off says it in its configuration alone when it is made."""
    enabled = getattr(part, "_enabled", None)
    if enabled is None or enabled == part.config.get("enabled", True):
        return part
    return part.new(enabled=enabled)


def _state(held):
    """What an object has besides its configuration, or other than in it, as far as JSON keeps it; not that of a run."""
    said, whole = getattr(held, "config", {}), isinstance(held, library.base("diffusers.DiffusionPipeline"))
    state = {}
    for key, value in vars(held).items():
        name = key.removeprefix("_")
        if whole:
            differs = not key.startswith("_") and key not in said
        elif name in said:  # a setter, such as set_shift of a scheduler, changes the attribute alone
            differs = not (_is_plain(said[name]) and _is_plain(value) and value == said[name])
        else:
            differs = key in _SIDES
        if differs and key not in _PASSING and _is_plain(value):
            state[key] = value
    return state


def _is_plain(value):
    """Whether JSON gives back an equal value."""
    try:
        return json.loads(json.dumps(value)) == value
    except (TypeError, ValueError, RecursionError):
        return False


def _weightless(opened, key, value):
    if not _is_component(key, value):
        return value  # a setting, such as requires_safety_checker
    package, name = value
    if name is None:
        return None
    if not key.isidentifier():  # it becomes the name of a directory
        raise CorruptFile(opened.name(_INDEX), f"has a component {key!r}", "Save the model again.")
    if package not in library.LIBRARIES:
        package = f"diffusers.pipelines.{package}"
    cls = library.find(f"{package}.{name}", opened.name(_INDEX), *_WEIGHTLESS)
    with library.readable(opened.name(key)):
        part = cls.from_pretrained(opened.home / key, local_files_only=True)
        vars(part).update(opened.record.settings.get("states", {}).get(key, {}))
    return part
