"""A directory, or a name on the hub, of a whole diffusers pipeline."""

import json
import os
from pathlib import Path

from helpers.checkpoint import files

INDEX = "model_index.json"


def load(name):
    """The pipeline, its models checked for tensors that the files lack, each in the type that most of its files has."""
    import diffusers

    if not Path(name).is_dir():
        with files.as_errors(name):
            name = diffusers.DiffusionPipeline.download(name)
    folders = [path for path in Path(name).iterdir() if path.is_dir()]
    types = {path.name: found for path in folders if (found := files.dtype_of(path))}
    ready, missing = {}, []
    for part, cls, may_be_given in _models(name):
        folder = os.path.join(name, part)
        if os.path.isdir(folder):
            model, lacking = files.loaded(cls, folder, dtype=types.get(part))
        else:  # as diffusers looks for it
            model, lacking = files.loaded(cls, name, dtype=files.dtype_of(name))
        missing += [f"{part}.{key}" for key in lacking]
        if may_be_given:
            ready[part] = model
    files.refuse(name, missing)
    with files.as_errors(name):
        return diffusers.DiffusionPipeline.from_pretrained(name, dtype=types, **ready)


def _models(name):
    """The models that a pipeline's index names: part, class, and whether diffusers takes one without a warning."""
    import diffusers
    import transformers

    libraries = {"diffusers": diffusers, "transformers": transformers}
    bases = (diffusers.ModelMixin, transformers.PreTrainedModel)
    path = Path(name) / INDEX
    with files.as_errors(path):
        parts = dict(json.loads(path.read_text()))
    for part, value in parts.items():
        match value:
            case [str(library), str(class_name)]:
                # any other library is a folder of diffusers, such as that of the safety checker
                home = libraries.get(library) or getattr(diffusers.pipelines, library, None)
                cls = getattr(home, class_name, None)
                # what is around several ControlNets loads each itself, and does not say what they lack
                if isinstance(cls, type) and issubclass(cls, bases) and "from_pretrained" not in vars(cls):
                    yield part, cls, library in libraries
