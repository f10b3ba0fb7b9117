"""One function for each loader: how a careful user of that loader writes it.

Each gets a `workbook.bench.models.Model` and a device, marks its phases and returns the model with
all weights in place. Each runs in a process of its own, so imports stand inside.

What helps every loader, `prefetch` and `cold_start`, is put around these functions in one place, so
that the rows of a table tell what the trick gives apart from what the loader gives.
"""

from collections.abc import Callable
from typing import NamedTuple

from helpers.timeline import phase


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
    """

    load: Callable
    form: str
    package: str


def from_pretrained(model, device):
    """``from_pretrained`` of the model's own library, from safetensors."""
    with phase("imports"):
        import torch

        cls = model.model_class()
    with phase("load"):
        dtype = {"torch_dtype": torch.bfloat16} if model.is_unet else {"dtype": "auto"}
        return cls.from_pretrained(model.hf, **dtype).to(device)


def torch_load(model, device, mmap=False):
    """``torch.load`` of a state dict, then ``load_state_dict``."""
    with phase("imports"):
        import torch

        cls = model.model_class()
    empty = _empty(model, cls)
    with phase("load"):
        state = torch.load(model.file("torch"), mmap=mmap, weights_only=True, map_location="cpu")
        return _fill(empty, state).to(device)


def torch_load_mmap(model, device):
    """``torch.load(mmap=True)``."""
    return torch_load(model, device, mmap=True)


def safetensors_load_file(model, device):
    """``safetensors.torch.load_file``, then ``load_state_dict``."""
    with phase("imports"):
        from safetensors.torch import load_file

        cls = model.model_class()
    empty = _empty(model, cls)
    with phase("load"):
        return _fill(empty, load_file(model.file("hf"), device="cpu")).to(device)


def guide_snippet(model, device):
    """The guide's snippet as it is written."""
    with phase("imports"):
        from tensorizer import TensorDeserializer
        from tensorizer.utils import no_init_or_tensor

        cls = model.model_class()
    with phase("empty model"), no_init_or_tensor():
        empty = from_config(model, cls)
    with phase("load"):
        deserializer = TensorDeserializer(str(model.file("guide")), plaid_mode=True)
        deserializer.load_into_module(empty)
        deserializer.close()
    return empty


def tensorizer_best(model, device):
    """Stock tensorizer with the settings that were fastest here: one reader for each core."""
    import os

    with phase("imports"):
        from tensorizer import TensorDeserializer
        from tensorizer.utils import no_init_or_tensor

        cls = model.model_class()
    with phase("empty model"), no_init_or_tensor():
        empty = from_config(model, cls)
    with phase("load"):
        readers = min(8, os.cpu_count())
        deserializer = TensorDeserializer(
            str(model.file("guide")), device=device, lazy_load=True, num_readers=readers
        )
        deserializer.load_into_module(empty)
        deserializer.close()
    return empty.eval()


def helpers_mapped(model, device):
    """``deserialise``: mapped on a CPU, tensorizer's reader onto a GPU."""
    return _ours(model, device)


def helpers_read(model, device):
    """``deserialise(mapped=False)``: into private memory."""
    return _ours(model, device, mapped=False)


def runai_streamer(model, device):
    """Run:ai model streamer."""
    with phase("imports"):
        from runai_model_streamer import SafetensorsStreamer

        cls = model.model_class()
    empty = _empty(model, cls)
    with phase("load"), SafetensorsStreamer() as streamer:
        streamer.stream_file(str(model.file("hf")))
        # its buffer is used again once the streamer is left, so each tensor is copied out of it
        state = {name: tensor.clone() for name, tensor in streamer.get_tensors()}
        return _fill(empty, state).to(device)


def fastsafetensors(model, device):
    """fastsafetensors, without GPU Direct Storage."""
    with phase("imports"):
        from fastsafetensors import SafeTensorsFileLoader, SingleGroup

        cls = model.model_class()
    empty = _empty(model, cls)
    with phase("load"):
        loader = SafeTensorsFileLoader(SingleGroup(), device=device, nogds=device == "cpu")
        loader.add_filenames({0: [str(model.file("hf"))]})
        buffer = loader.copy_files_to_device()
        state = {name: buffer.get_tensor(name) for name in loader.get_keys()}
        filled = _fill(empty, state).to(device)
        filled.buffer_of_fastsafetensors = buffer  # the tensors lie in it
    return filled


def flashpack(model, device):
    """flashpack."""
    with phase("imports"):
        from flashpack import assign_from_file

        cls = model.model_class()
    empty = _empty(model, cls)
    with phase("load"):
        assign_from_file(empty, str(model.file("flashpack")), device=device)
        return _tied(empty)


def instanttensor(model, device):
    """InstantTensor."""
    if device == "cpu":
        raise NotImplementedError("runs on CUDA only")
    with phase("imports"):
        from instanttensor import safe_open

        cls = model.model_class()
    empty = _empty(model, cls)
    with phase("load"), safe_open(str(model.file("hf")), framework="pt", device=device) as file:
        return _fill(empty, dict(file.tensors())).to(device)


def from_config(model, cls):
    """An empty model of a class, from its configuration."""
    if model.is_unet:
        return cls.from_config(cls.load_config(model.hf))
    return cls._from_config(cls.config_class.from_pretrained(model.hf))


def _empty(model, cls):
    """A model without initialisation, but with its buffers, which are in no checkpoint."""
    from transformers.initialization import no_init_weights

    with phase("empty model"), no_init_weights():
        return from_config(model, cls)


def _fill(empty, state):
    tied = set(getattr(empty, "all_tied_weights_keys", None) or ())
    missing, unexpected = empty.load_state_dict(state, assign=True, strict=False)
    if unexpected or not set(missing) <= tied:
        raise RuntimeError(f"the checkpoint does not fit: {missing} {unexpected}")
    return _tied(empty)


def _tied(model):
    if hasattr(model, "tie_weights"):
        model.tie_weights()
    return model.eval()


def _ours(model, device, **options):
    with phase("imports"):
        from helpers import deserialise

        model.model_class()
    with phase("load"):
        return deserialise(model.folder / "helpers", device=device, progress=False, **options)


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


_PLAIN = {
    "from_pretrained": Route(from_pretrained, "hf", "transformers"),
    "torch.load": Route(torch_load, "torch", "torch"),
    "torch.load mmap": Route(torch_load_mmap, "torch", "torch"),
    "safetensors load_file": Route(safetensors_load_file, "hf", "safetensors"),
    "guide's snippet": Route(guide_snippet, "guide", "tensorizer"),
    "tensorizer best": Route(tensorizer_best, "guide", "tensorizer"),
    "helpers read": Route(helpers_read, "helpers", "tensorizer"),
    "helpers mapped": Route(helpers_mapped, "helpers", "torch"),
    "Run:ai streamer": Route(runai_streamer, "hf", "runai_model_streamer"),
    "fastsafetensors": Route(fastsafetensors, "hf", "fastsafetensors"),
    "flashpack": Route(flashpack, "flashpack", "flashpack"),
    "InstantTensor": Route(instanttensor, "hf", "instanttensor"),
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


def trick_of(name):
    """The trick in a route's name; empty for a plain one.

    Examples
    --------
    >>> trick_of("flashpack + prefetch"), trick_of("flashpack")
    ('prefetch', '')
    """
    return name.partition(" + ")[2]
