"""Load a saved model: checked, mapped or read, equal to what was saved."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from helpers import errors, families, layout, manifest, readahead, storage, tensors
from helpers.errors import ModelError, NotAModel, SkeletonMismatch
from helpers.families.torch_module import fill
from helpers.restore import structure_of
from helpers.timeline import phase


class Options(NamedTuple):
    """The keywords of `deserialise`."""

    device: torch.device
    dtype: torch.dtype | None
    skeleton: Callable | None
    mapped: bool | None
    verify: bool
    readers: int | None
    trusted: Sequence[str]
    progress: bool


def deserialise(
    source,
    *,
    device=None,
    dtype=None,
    skeleton=None,
    mapped=None,
    verify=False,
    readers=None,
    trusted=(),
    progress=True,
):
    """Load a model that `serialise` saved.

    What comes back equals what was saved: class, weights and types bit for bit, tied weights
    tied, buffers plain buffers, frozen parameters frozen, train or eval mode, configuration. No
    network, no pickle, no code from the file.

    On the CPU the file is mapped: no byte is copied or even read before it is used, and processes
    that load the same file share its memory. Writing to a weight (an optimiser step) makes a
    private copy of that page and never touches the file. Do not truncate a file while it is
    mapped: the process would be killed (SIGBUS). `serialise` replaces files, it never does that.

    Parameters
    ----------
    source : str or path-like
        A directory that `serialise` wrote, or a bare ``.tensors`` file, ours or stock
        tensorizer's; then ``skeleton`` is needed, and what the file does not say (ties, frozen
        parameters, modes) is the skeleton's.
    device : str or torch.device, optional
        By default cuda if there is one, else cpu.
    dtype : torch.dtype, optional
        Cast floating-point parameters and persistent buffers while loading. Buffers that are not
        persistent (rotary frequencies) keep their type, as ``from_pretrained`` leaves them.
    skeleton : callable, optional
        Builds the empty model; for a custom torch module. Called with the meta device active.
    mapped : bool, optional
        By default map where the device is not cuda; a file on network storage is read into the page
        cache first, and not mapped if it is larger than the memory. False: read into private
        memory. True with a GPU: map, then copy to it.
    verify : bool
        Compare every tensor and file with its stored hash. Without it all that costs no data read
        is still checked: manifest, index, length, names, shapes, types.
    readers : int, optional
        Threads that read where the file is not mapped; by default tensorizer chooses.
    trusted : sequence of str
        For estimators: full names of types that are not scikit-learn's own and may be made.
    progress : bool
        Show a bar if it takes longer than 1.5 s.

    Returns
    -------
    object
        Of the class that was saved.

    Raises
    ------
    NotAModel
        Nothing there, or no saved model.
    CorruptFile
        Truncated, extended, damaged, of a future format, or parts that do not belong together.
    SkeletonMismatch
        The empty model does not fit the file, or ``skeleton`` is missing.
    UnsupportedModel
        An estimator needs types that are not trusted.
    StorageError
        The storage refuses.

    Examples
    --------
    >>> import tempfile, torch
    >>> from helpers import serialise
    >>> path = tempfile.mkdtemp() + "/linear"
    >>> _ = serialise(torch.nn.Linear(3, 2), path)
    >>> deserialise(path, skeleton=lambda: torch.nn.Linear(3, 2))
    Linear(in_features=3, out_features=2, bias=True)
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    options = Options(device, dtype, skeleton, mapped, verify, readers, trusted, progress)
    while True:
        place, seen = storage.locate(source)
        try:
            model = (_from_bare_file if place.is_file() else _from_directory)(place, options)
        except ModelError:
            if storage.locate(source)[1] == seen:
                raise
        else:
            if storage.locate(source)[1] == seen:
                return model
        # a save has replaced the model meanwhile: what was read may be half of each


def deserialise_saved_model(model_path, model_id, plaid=True):
    """Load a ``.tensors`` file into the model that a configuration describes, as the guide does.

    Parameters
    ----------
    model_path : str or path-like
        A ``.tensors`` file, ours or stock tensorizer's.
    model_id : str or path-like
        Where the configuration is: a local directory, or a name on the hub.
    plaid : bool
        Accepted for the guide's sake; tensorizer ignores it since version 2.8.

    Returns
    -------
    transformers.PreTrainedModel
        In eval mode, ties tied, on cuda if there is one.

    Raises
    ------
    ModelError
        As `deserialise` does.

    Examples
    --------
    >>> deserialise_saved_model("model.tensors", "models/smollm2")  # doctest: +SKIP
    """
    import transformers

    model_id = str(model_id)
    try:
        config = transformers.AutoConfig.from_pretrained(model_id)
    except (OSError, ValueError) as error:
        raise NotAModel(
            model_id, f"holds no configuration ({error})", "Check the name or the path."
        ) from error
    named = getattr(transformers, (config.architectures or ["AutoModelForCausalLM"])[0], None)
    build = getattr(named, "from_config", None) or getattr(named, "_from_config", None)

    def skeleton():
        return (build or transformers.AutoModelForCausalLM.from_config)(config).eval()

    model = deserialise(model_path, skeleton=skeleton)
    if (Path(model_id) / "generation_config.json").is_file():
        model.generation_config = transformers.GenerationConfig.from_pretrained(model_id)
    return model


def _from_directory(path, options):
    with phase("open and check"):
        record, raw = storage.open_model(path, options.verify)
    weights = path / manifest.TENSORS

    def fetch(device=options.device):
        found = _tensors(weights, raw, record.entries, device, options)
        return _cast(found, options.dtype, record.structure["transient"])

    def child(name):
        return _from_directory(path / name, options)

    wanted = families.Wanted(fetch, child, options.device, options.dtype, options.skeleton, options.trusted)
    if options.verify:
        _verify(weights, raw, list(zip(record.entries, layout.starts(record.entries), strict=True)), options)
    return families.by_name(record.family).load(path, record, wanted)


def _from_bare_file(path, options):
    with phase("open and check"):
        raw, records = storage.open_bare(path)
    if options.skeleton is None:
        raise SkeletonMismatch(
            path,
            "is a bare .tensors file, which does not say what model it belongs to",
            "Pass skeleton=, a function that builds the empty model.",
        )

    def fetch():
        return _tensors(path, raw, [entry for entry, _ in records], options.device, options)

    def structure_for(model, found):
        structure = structure_of(model, found, path)
        found.update(_cast(found, options.dtype, structure["transient"]))
        return structure

    wanted = families.Wanted(fetch, None, options.device, options.dtype, options.skeleton, ())
    if options.verify:
        _verify(path, raw, records, options)
    return fill(options.skeleton, wanted, structure_for, path)


def _verify(path, raw, records, options):
    readahead.ready(path)
    with phase("verify"):
        tensors.verify(path, raw, records, progress=options.progress)


def _tensors(path, raw, entries, device, options):
    """Kind and tensor by name: views of the map, or memory of their own."""
    mapped = options.mapped
    if mapped is None:
        mapped = device.type != "cuda" and readahead.may_map(path)
    if mapped:
        readahead.ready(path)
    with phase("map the weights" if mapped else "read the weights"):
        read = {}
        if not mapped:
            with errors.storage(path, "reading the weights"):
                read = tensors.read(path, entries, device, options.readers, options.progress)
        found = {}
        for entry in entries:
            tensor = read.get(entry.name)
            if tensor is None:
                tensor = tensors.view(raw, entry)
                tensor = tensor.to(device) if mapped else tensor.to(device, copy=True)
            found[entry.name] = (entry.kind, tensor)
    return found


def _cast(found, dtype, transient):
    if dtype is None:
        return found
    stay = set(transient)
    return {
        name: (kind, tensor.to(dtype))
        if kind != "attribute" and name not in stay and tensor.is_floating_point()
        else (kind, tensor)
        for name, (kind, tensor) in found.items()
    }
