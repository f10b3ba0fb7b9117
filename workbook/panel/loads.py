"""A model loaded by the chosen loader, each step said as it begins. It runs in a process of its own."""

import contextlib
import importlib
import json
import tempfile
from pathlib import Path

from helpers.timeline import phase
from workbook.panel import sources
from workbook.panel.request import MAPPED, OURS, THEIRS
from workbook.panel.say import say


@contextlib.contextmanager
def step(name):
    """A phase that is said when it begins."""
    say(step=name)
    with phase(name):
        yield


def load(request):
    """The model that a request asks for.

    Parameters
    ----------
    request : workbook.panel.request.Request

    Returns
    -------
    object
    """
    model = {OURS: _saved, THEIRS: _checkpoint}.get(request.way, _by_a_peer)(request)
    if request.device != "cpu":
        import torch

        with phase("load"):  # a copy to the device may still be on its way
            torch.cuda.synchronize()
    return model


def _saved(request):
    with step("imports"):
        from helpers import deserialise

        import_classes(request.source)
    with step("load"):
        return deserialise(
            request.source,
            device=request.device,
            dtype=None if request.dtype == "as saved" else request.dtype,
            mapped=MAPPED[request.mapped],
            verify=request.verify,
            readers=request.readers or None,
            cache=request.cache or None,
        )


def import_classes(source):
    """Import what a saved model's class needs, so that the load behind it does not pay for it.

    Raises
    ------
    UnsupportedModel
        Its code is not stored, and the panel has no way to be given a skeleton.
    """
    from helpers import inspect
    from helpers.errors import UnsupportedModel

    found = inspect(source)
    if found.needs_skeleton:
        raise UnsupportedModel(
            sources.without_signature(source),
            "is a module whose code is not stored, so the panel cannot load it",
            "Load it in a cell: helpers.deserialise(…, skeleton=…).",
        )
    if found.family == "diffusion_pipeline":
        for part in {tensor.name.partition("/")[0] for tensor in found.tensors}:
            import_classes(f"{source}/{part}")
    package, _, name = found.class_name.rpartition(".")
    if package.partition(".")[0] in ("transformers", "diffusers", "sklearn", "peft"):
        getattr(importlib.import_module(package), name, None)


def _checkpoint(request):
    source = request.source
    with step("imports"):
        cls = _class_of(source)
    with step("load"):
        if request.dtype == "as saved" and cls.__module__.startswith("diffusers."):
            from helpers.checkpoint import open_checkpoint  # diffusers itself would make float32 of all

            return open_checkpoint(source)[0].to(request.device)
        return cls.from_pretrained(source, dtype=_dtype(request)).to(request.device)


def _class_of(source):
    """The class of a checkpoint, imported, and of a pipeline also those of its parts."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    folder = Path(source)
    if (folder / "model_index.json").exists():
        import diffusers

        index = json.loads((folder / "model_index.json").read_text())
        for library, name in (part for part in index.values() if isinstance(part, list)):
            if library in ("transformers", "diffusers"):
                getattr(importlib.import_module(library), name, None)
        return getattr(diffusers, index["_class_name"])
    if (folder / "config.json").exists():
        from workbook.bench.files import class_of

        return class_of(folder)
    from helpers.checkpoint import files

    files.check_name(source)
    return files.architecture(source, files.config_of(source))


def _dtype(request):
    import torch

    return "auto" if request.dtype == "as saved" else getattr(torch, request.dtype)


def _by_a_peer(request):
    """By a route of the benchmark, which finds the checkpoint in a folder with its formats."""
    from workbook.bench.files import Model
    from workbook.bench.routes import ALL

    say(step="imports")  # and the load: a route marks its phases itself
    with tempfile.TemporaryDirectory(prefix="panel-") as folder:
        (Path(folder) / "hf").symlink_to(Path(request.source).resolve())
        return ALL[request.way].load(Model(request.source, Path(folder)), request.device)


def companions(source):
    """The tokenizer that lies beside a model, to be saved with it."""
    if not (Path(source) / "tokenizer_config.json").exists():
        return []
    from transformers import AutoTokenizer

    return [AutoTokenizer.from_pretrained(source)]


def weights_in(source):
    """Bytes of a model's weights, also where they are at an address; 0 for a name on the hub."""
    if sources.is_address(source):
        from helpers import inspect

        return inspect(source).bytes
    return sources.size_and_share(source)[0] if Path(source).is_dir() else 0
