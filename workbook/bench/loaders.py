"""One function for each loader: how a careful user of that loader writes it.

Each gets a `workbook.bench.models.Model` and a device, marks its phases and returns the model with
all weights in place. Each runs in a process of its own, so imports stand inside.
"""

from helpers.timeline import phase


def from_pretrained(model, device):
    """``from_pretrained`` of the model's own library, from safetensors."""
    with phase("imports"):
        cls = model.model_class()
    with phase("load"):
        return cls.from_pretrained(model.hf, **as_saved(model)).to(device)


def as_saved(model):
    """What to tell ``from_pretrained`` so that the weights keep their type; not to be asked before the imports."""
    if not model.is_unet:
        return {"dtype": "auto"}
    import torch

    # diffusers knows no "auto", it makes float32 of everything
    return {"torch_dtype": getattr(torch, model.dtype)}


def torch_load(model, device, mmap=False):
    """``torch.load`` of a state dict, then ``load_state_dict``."""
    with phase("imports"):
        import torch

        cls = model.model_class()
    empty = empty_model(model, cls)
    with phase("load"):
        state = torch.load(model.file("torch"), mmap=mmap, weights_only=True, map_location="cpu")
        return fill(empty, state).to(device)


def torch_load_mmap(model, device):
    """``torch.load(mmap=True)``."""
    return torch_load(model, device, mmap=True)


def safetensors_load_file(model, device):
    """``safetensors.torch.load_file``, then ``load_state_dict``."""
    with phase("imports"):
        from safetensors.torch import load_file

        cls = model.model_class()
    empty = empty_model(model, cls)
    with phase("load"):
        return fill(empty, load_file(model.file("hf"), device="cpu")).to(device)


def guide_snippet(model, device):
    """The guide's snippet as it is written, with the device named: it takes a GPU wherever there is one."""
    with phase("imports"):
        from tensorizer import TensorDeserializer
        from tensorizer.utils import no_init_or_tensor

        cls = model.model_class()
    with phase("empty model"), no_init_or_tensor():
        empty = from_config(model, cls)
    with phase("load"):
        deserializer = TensorDeserializer(str(model.file("guide")), plaid_mode=True, device=device)
        deserializer.load_into_module(empty)
        deserializer.close()
    return empty


def tensorizer_best(model, device, readers=None):
    """Stock tensorizer with the settings that were fastest here: one reader for each core, up to eight."""
    import os

    with phase("imports"):
        from tensorizer import TensorDeserializer
        from tensorizer.utils import no_init_or_tensor

        cls = model.model_class()
    with phase("empty model"), no_init_or_tensor():
        empty = from_config(model, cls)
    with phase("load"):
        readers = readers or min(8, os.cpu_count())
        deserializer = TensorDeserializer(
            str(model.file("guide")), device=device, lazy_load=True, num_readers=readers
        )
        deserializer.load_into_module(empty)
        deserializer.close()
    return empty.eval().to(device)  # what was built, not loaded


def helpers_mapped(model, device):
    """``deserialise``, mapped; onto a GPU each tensor is copied from the map."""
    return ours(model, device, mapped=None if device == "cpu" else True)


def helpers_read(model, device):
    """``deserialise(mapped=False)``: into private memory, or onto a GPU, by tensorizer's reader."""
    return ours(model, device, mapped=False)


def runai_streamer(model, device):
    """Run:ai model streamer."""
    with phase("imports"):
        from runai_model_streamer import SafetensorsStreamer

        cls = model.model_class()
    empty = empty_model(model, cls)
    with phase("load"), SafetensorsStreamer() as streamer:
        streamer.stream_file(str(model.file("hf")), device=device)
        # on a CPU its buffer may be used again once the streamer is left, so each tensor is copied out of it
        tensors = streamer.get_tensors()
        state = {name: tensor.clone() if device == "cpu" else tensor for name, tensor in tensors}
        return fill(empty, state).to(device)


def fastsafetensors(model, device):
    """fastsafetensors; with GPU Direct Storage where its own checks find that."""
    with phase("imports"):
        from fastsafetensors import SafeTensorsFileLoader, SingleGroup

        cls = model.model_class()
    empty = empty_model(model, cls)
    with phase("load"):
        place = device if device == "cpu" else f"{device}:0"  # it asks for the number of the GPU
        loader = SafeTensorsFileLoader(SingleGroup(), device=place, nogds=device == "cpu")
        loader.add_filenames({0: [str(model.file("hf"))]})
        buffer = loader.copy_files_to_device()
        state = {name: buffer.get_tensor(name) for name in loader.get_keys()}
        filled = fill(empty, state).to(device)
        filled.buffer_of_fastsafetensors = buffer  # the tensors lie in it
    return filled


def flashpack(model, device):
    """flashpack."""
    with phase("imports"):
        from flashpack import assign_from_file

        cls = model.model_class()
    empty = empty_model(model, cls)
    with phase("load"):
        assign_from_file(empty, str(model.file("flashpack")), device=device)
        return _tied(empty).to(device)


def instanttensor(model, device):
    """InstantTensor."""
    if device == "cpu":
        raise NotImplementedError("runs on CUDA only")
    with phase("imports"):
        from instanttensor import safe_open

        cls = model.model_class()
    empty = empty_model(model, cls)
    path = str(model.file("hf"))
    with phase("load"), safe_open(path, framework="pt", device=f"{device}:0") as file:
        return fill(empty, dict(file.tensors())).to(device)


def tensorizer_from_store(model, uri):
    """Stock tensorizer, as its documentation reads a file from S3 into an empty model; no route of the table."""
    from tensorizer import TensorDeserializer
    from tensorizer.utils import no_init_or_tensor

    cls = model.model_class()
    with no_init_or_tensor():
        loaded = from_config(model, cls)
    deserialiser = TensorDeserializer(uri, device="cpu")
    deserialiser.load_into_module(loaded)
    deserialiser.close()
    return loaded.eval()


def from_config(model, cls):
    """An empty model of a class, from its configuration."""
    if model.is_unet:
        return cls.from_config(cls.load_config(model.hf))
    return cls._from_config(cls.config_class.from_pretrained(model.hf))


def empty_model(model, cls):
    """A model without initialisation, but with its buffers, which are in no checkpoint."""
    from transformers.initialization import no_init_weights

    with phase("empty model"), no_init_weights():
        return from_config(model, cls)


def fill(empty, state):
    """Put tensors by name into an empty model.

    Raises
    ------
    RuntimeError
        They do not fit.
    """
    tied = set(getattr(empty, "all_tied_weights_keys", None) or ())
    missing, unexpected = empty.load_state_dict(state, assign=True, strict=False)
    if unexpected or not set(missing) <= tied:
        raise RuntimeError(f"the checkpoint does not fit: {missing} {unexpected}")
    return _tied(empty)


def _tied(model):
    if hasattr(model, "tie_weights"):
        model.tie_weights()
    return model.eval()


def ours(model, device, way="tensorizer", **options):
    """`helpers.deserialise`, onto a GPU by one of the ways of `helpers.weights.onto_gpu`."""
    with phase("imports"):
        from helpers import deserialise
        from helpers.weights import onto_gpu

        model.model_class()
    onto_gpu.way = way
    with phase("load"):
        return deserialise(model.folder / "helpers", device=device, progress=False, **options)
