"""The ways to load a model that the benchmark compares, by name.

What helps every loader, `prefetch` and `cold_start`, is put around the loaders in one place, so
that the rows of a table tell what the trick gives apart from what the loader gives.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

from helpers.timeline import phase
from workbook.bench import loaders, loaders_onto_gpu


class Route(NamedTuple):
    """A way to load a model.

    Attributes
    ----------
    load : callable
        Gets a `workbook.bench.models.Model` and a device.
    form : str
        The format that it reads, of `workbook.bench.models.FORMATS`.
    package : str
        What has to be installed.
    device : str
        "cuda" for one that runs there alone, or is another one's equal on a CPU.
    """

    load: Callable
    form: str
    package: str
    device: str = ""


def _prefetched(route):
    """The route with ``prefetch`` of what it reads, before its imports."""

    def load(model, device):
        with phase("prefetch call"):
            from helpers import prefetch

            prefetch(model.source(route.form))
        return route.load(model, device)

    return route._replace(load=load)


def _cold_started(route):
    """The route inside ``cold_start``."""

    def load(model, device):
        from helpers import cold_start

        with cold_start(model.source(route.form)):
            return route.load(model, device)

    return route._replace(load=load)


def _tensorizer(readers):
    load = functools.partial(loaders.tensorizer_best, readers=readers)
    return Route(load, "guide", "tensorizer", "cuda")


_PLAIN = {
    "from_pretrained": Route(loaders.from_pretrained, "hf", "transformers"),
    "torch.load": Route(loaders.torch_load, "torch", "torch"),
    "torch.load mmap": Route(loaders.torch_load_mmap, "torch", "torch"),
    "safetensors load_file": Route(loaders.safetensors_load_file, "hf", "safetensors"),
    "guide's snippet": Route(loaders.guide_snippet, "guide", "tensorizer"),
    "tensorizer best": Route(loaders.tensorizer_best, "guide", "tensorizer"),
    "helpers read": Route(loaders.helpers_read, "helpers", "tensorizer"),
    "helpers mapped": Route(loaders.helpers_mapped, "helpers", "torch"),
    "Run:ai streamer": Route(loaders.runai_streamer, "hf", "runai_model_streamer"),
    "fastsafetensors": Route(loaders.fastsafetensors, "hf", "fastsafetensors"),
    "flashpack": Route(loaders.flashpack, "flashpack", "flashpack"),
    "InstantTensor": Route(loaders.instanttensor, "hf", "instanttensor", "cuda"),
    "from_pretrained device_map": Route(
        loaders_onto_gpu.from_pretrained_device_map, "hf", "transformers", "cuda"
    ),
    "safetensors load_file device": Route(loaders_onto_gpu.safetensors_device, "hf", "safetensors", "cuda"),
    "safetensors pinned": Route(loaders_onto_gpu.safetensors_pinned, "hf", "safetensors", "cuda"),
    "tensorizer 1 reader": _tensorizer(1),
    "tensorizer 4 readers": _tensorizer(4),
    "tensorizer 16 readers": _tensorizer(16),
    "helpers ring": Route(loaders_onto_gpu.helpers_ring, "helpers", "torch", "cuda"),
    "helpers mapped ring": Route(loaders_onto_gpu.helpers_mapped_ring, "helpers", "torch", "cuda"),
    "helpers registered": Route(loaders_onto_gpu.helpers_registered, "helpers", "torch", "cuda"),
    "helpers registered copy": Route(loaders_onto_gpu.helpers_registered_copy, "helpers", "torch", "cuda"),
}
TRICKS = {"prefetch": _prefetched, "cold_start": _cold_started}
_TRICKED = {  # the loaders that map what they read, and their names in front of a trick
    "from_pretrained": "from_pretrained",
    "torch.load mmap": "torch.load mmap",
    "safetensors load_file": "safetensors load_file",
    "helpers mapped": "helpers",
    "flashpack": "flashpack",
}


def _all():
    """The plain routes by name, each with its variants behind it."""
    found = {}
    for name, route in _PLAIN.items():
        found[name] = route
        if name in _TRICKED:
            found |= {f"{_TRICKED[name]} + {trick}": around(route) for trick, around in TRICKS.items()}
    return found


ALL = _all()
# What `--device cpu` measures; the last one is named as a loader that cannot run there.
ON_CPU = (*(name for name, route in ALL.items() if not route.device), "InstantTensor")
# What `--device cuda` measures, the most telling first: a time limit may cut the round short.
ON_CUDA = (
    "from_pretrained",
    "from_pretrained device_map",
    "safetensors load_file device",
    "helpers read",
    "helpers ring",
    "helpers mapped",
    "helpers mapped ring",
    "helpers registered",
    "helpers registered copy",
    "fastsafetensors",
    "InstantTensor",
    "Run:ai streamer",
    "safetensors load_file",
    "safetensors pinned",
    "tensorizer best",
    "tensorizer 1 reader",
    "tensorizer 4 readers",
    "tensorizer 16 readers",
    "flashpack",
    "guide's snippet",
)


def trick_of(name):
    """The trick in a route's name; empty for a plain one.

    Examples
    --------
    >>> trick_of("flashpack + prefetch"), trick_of("flashpack")
    ('prefetch', '')
    """
    return name.partition(" + ")[2]
