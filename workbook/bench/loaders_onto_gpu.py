"""Loaders of `workbook.bench.loaders`, used in ways that only a GPU tells apart."""

from helpers.timeline import phase
from workbook.bench.loaders import as_saved, empty_model, fill, ours


def from_pretrained_device_map(model, device):
    """``from_pretrained(device_map=…)``: each tensor goes to the device as it is read."""
    with phase("imports"):
        cls = model.model_class()
    with phase("load"):
        return cls.from_pretrained(model.hf, device_map=device, **as_saved(model))


def safetensors_device(model, device):
    """``load_file(device=…)``."""
    return _safetensors(model, device, device, lambda tensor: tensor)


def safetensors_pinned(model, device):
    """``load_file``, then ``pin_memory().to(device, non_blocking=True)`` for each tensor."""
    return _safetensors(
        model, device, "cpu", lambda tensor: tensor.pin_memory().to(device, non_blocking=True)
    )


def _safetensors(model, device, place, moved):
    with phase("imports"):
        from safetensors.torch import load_file

        cls = model.model_class()
    empty = empty_model(model, cls)
    with phase("load"):
        state = load_file(model.file("hf"), device=place)
        return fill(empty, {name: moved(tensor) for name, tensor in state.items()}).to(device)


def helpers_ring(model, device):
    """``deserialise(mapped=False)`` that reads into a few pinned buffers (`helpers.weights.ring`)."""
    return ours(model, device, way="ring", mapped=False)


def helpers_mapped_ring(model, device):
    """``deserialise(mapped=True)``: from the map through a few pinned buffers."""
    return ours(model, device, way="ring", mapped=True)


def helpers_registered(model, device, shared=True):
    """The mapped file registered with the driver (`workbook.bench.registered`)."""
    with phase("imports"):
        from workbook.bench import registered

        cls = model.model_class()
    empty = empty_model(model, cls)
    with phase("load"):
        found = registered.tensors(model, device, shared)
        wanted = found.keys() & empty.state_dict().keys()  # what else is stored are buffers, which were built
        return fill(empty, {name: found[name] for name in wanted}).to(device)


def helpers_registered_copy(model, device):
    """The same with a map that is copy-on-write, of which the kernel copies every page first."""
    return helpers_registered(model, device, shared=False)
