"""Where a model's files are, by format. It imports little, since every measured process begins with it."""

import json
from pathlib import Path
from typing import NamedTuple

FORMATS = ("hf", "torch", "guide", "helpers", "flashpack")


class Model(NamedTuple):
    """Where a model's files are, by format; what a route gets.

    Attributes
    ----------
    name : str
    folder : pathlib.Path
        With a subfolder for each format.
    """

    name: str
    folder: Path

    @property
    def hf(self):
        return self.folder / "hf"

    def file(self, form):
        """The one file of weights of a format."""
        name = {
            "torch": "model.pt",
            "guide": "model.tensors",
            "helpers": "model.tensors",
            "flashpack": "model.flashpack",
            "hf": self._safetensors(),
        }[form]
        return self.folder / form / name

    def source(self, form):
        """What a loader of a format is given: the directory, where it takes one, or else the file."""
        return self.folder / form if form in ("hf", "helpers") else self.file(form)

    def _safetensors(self):
        found = sorted(self.hf.glob("*.safetensors"))
        return found[0].name if found else "model.safetensors"

    @property
    def is_unet(self):
        return json.loads((self.hf / "config.json").read_text()).get("_class_name") is not None

    @property
    def dtype(self):
        """The name of the type that most tensors have, noted when the files were made: no load has to count."""
        return (self.hf / "dtype").read_text()

    def model_class(self):
        """The model's class, imported from its library."""
        return class_of(self.hf)


def class_of(folder):
    """The class that a Hugging Face directory's config.json names."""
    config = json.loads((folder / "config.json").read_text())
    if "_class_name" in config:
        import diffusers

        return getattr(diffusers, config["_class_name"])
    import transformers

    return getattr(transformers, config["architectures"][0])
