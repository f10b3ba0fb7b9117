"""A whole DiffusionPipeline: each model in a subdirectory of its own, the rest by its own means."""

import sys

from helpers.errors import UnsupportedModel
from helpers.families import Parts, diffusers, library, transformers
from helpers.families.transformers import readable
from helpers.modules.structure import blank

# What a pipeline may hold besides models; each saves and loads itself, without weights.
_WEIGHTLESS = (
    "diffusers.SchedulerMixin",
    "transformers.PreTrainedTokenizerBase",
    "transformers.FeatureExtractionMixin",
    "transformers.ProcessorMixin",
    "transformers.ImageProcessingMixin",
)


def owns(model):
    """Whether the object is a pipeline of the diffusers library."""
    installed = sys.modules.get("diffusers")
    return installed is not None and isinstance(model, installed.DiffusionPipeline)


def _weightless():
    return tuple(map(library.base, _WEIGHTLESS))


def save(pipeline, folder, trusted):
    """Write model_index.json and the components without weights; the models become children.

    Raises
    ------
    UnsupportedModel
        The pipeline or a component is not the library's own; all of them are named.
    """
    name = library.name_of(type(pipeline))
    problems = [] if name else [f"its class {type(pipeline).__qualname__}"]
    children = {}
    for key, part in pipeline.components.items():
        if part is None:
            continue
        if transformers.owns(part) or diffusers.owns(part):
            children[key] = part
        elif isinstance(part, _weightless()) and library.name_of(type(part)):
            part.save_pretrained(folder / key)
        else:
            problems.append(f"{key} ({type(part).__qualname__})")
    if problems:
        raise UnsupportedModel(
            name or type(pipeline).__qualname__,
            f"holds what is not of the diffusers or transformers library: {', '.join(problems)}",
            "Save these components one by one.",
        )
    pipeline.save_config(folder)
    return Parts(name, ("diffusers", "transformers", "torch"), {}, blank(), {}, children)


def load(folder, manifest, wanted):
    """Load every component and put them together.

    Raises
    ------
    CorruptFile
        model_index.json is unreadable or names a class outside the two libraries.
    """
    cls = library.find(manifest.class_name, folder, "diffusers.DiffusionPipeline")
    with readable(folder / "model_index.json"):
        index = cls.load_config(folder, local_files_only=True)
    parts = {
        key: _component(folder, key, value, wanted) for key, value in index.items() if not key.startswith("_")
    }
    pipeline = cls(**parts)
    pipeline.register_to_config(_name_or_path=wanted.origin)  # as from_pretrained does
    return pipeline


def _component(folder, key, value, wanted):
    if not (isinstance(value, (list, tuple)) and len(value) == 2):
        return value  # a setting, such as requires_safety_checker
    package, name = value
    if name is None:
        return None
    if (folder / key / "model.json").is_file():
        return wanted.child(key)
    if package not in library.LIBRARIES:
        package = f"diffusers.pipelines.{package}"
    cls = library.find(f"{package}.{name}", folder / "model_index.json", *_WEIGHTLESS)
    with readable(folder / key):
        return cls.from_pretrained(folder / key, local_files_only=True)
