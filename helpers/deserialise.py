"""Load a saved model: checked, mapped or read, equal to what was saved."""

import contextlib
import math
import os
import reprlib
from collections.abc import Callable, Sequence
from typing import Any

import torch

from helpers import families
from helpers.errors import ModelError, NotAModel, SkeletonMismatch, extra
from helpers.format.selection import Part, select
from helpers.options import Options, full_names
from helpers.saved.opened import Opened
from helpers.saved.sources import consistently, open_source
from helpers.weights import keys, onto_gpu


def deserialise(
    source: str | os.PathLike,
    *,
    device: str | int | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    skeleton: Callable[[], torch.nn.Module] | None = None,
    mapped: bool | None = None,
    verify: bool = False,
    readers: int | None = None,
    trusted: Sequence[str] = (),
    encryption: bytes | str | None = None,
    only: Callable[[str], bool] | None = None,
    cache: str | os.PathLike | None = None,
    progress: bool = True,
) -> Any:
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
        A directory that `serialise` wrote (``~`` is expanded), ``s3://bucket/prefix`` or
        ``http(s)://host/prefix``; or a bare ``.tensors`` file, ours or stock tensorizer's; then
        ``skeleton`` is needed, and what the file does not say (ties, frozen parameters, modes) is the
        skeleton's. Credentials, region and endpoint of S3 come from where the aws command takes them.
    device : str, int or torch.device, optional
        By default cuda if there is one, else cpu.
    dtype : torch.dtype or str, optional
        Such as ``torch.float16`` or ``"float16"``. Cast floating-point parameters and persistent
        buffers while loading. Buffers that are not persistent (rotary frequencies) keep their type, as
        ``from_pretrained`` leaves them.
    skeleton : callable, optional
        Builds the empty model of a custom torch module. Called with the meta device active; once more
        without it, if the module cannot be built there.
    mapped : bool, optional
        By default map where the device is not cuda; a file on network storage is read into the page
        cache first, and not mapped if it is larger than the memory. False: read into private
        memory. True with a GPU: map, then copy to it.
    verify : bool
        Compare every tensor and file with its stored hash (of an encrypted model every file). Without it,
        all that costs no data read is still checked (manifest, index, length, names, shapes, types), and all
        that is decrypted.
    readers : int, optional
        Threads that read where the file is not mapped; by default tensorizer chooses. Of a remote
        source the requests at a time; by default 8 at first, then as many as make it faster, up to 64.
    trusted : sequence of str
        For estimators: full names of types that are not scikit-learn's own and may be made.
    encryption : bytes or str, optional
        The key or the passphrase of an encrypted model. Such a model is never mapped.
    only : callable, optional
        Called with each tensor's name; what it does not want is not read, from no disk and no
        store, and stays on the meta device in the model that comes back. In a pipeline a tensor's name
        begins with the name of its component, as `helpers.inspect` lists them. A copy in ``cache`` is
        whole all the same. A model with adapters is loaded whole.
    cache : str or path-like, optional
        A directory that keeps a copy of a remote source, which is mapped, now and at the next start; a local
        source needs none, so it is ignored there, and a bare file has none. Of several processes that start
        together one fetches, the others wait. When a copy is made, all of it is compared with its hashes.
        It is fetched again if its manifest is not the one in the store; if a file is missing or cannot be
        read; if the weights have another length, index or fingerprint than the manifest states; if some
        encrypted tensors cannot be decrypted; and with ``verify`` if anything is not what its hash says.
        Without ``verify``, a change in the data of a tensor goes unnoticed, and one in another file after
        which it can still be read. The model's ``name_or_path`` is the copy, where companions (tokenizers)
        are found.
    progress : bool
        Show a bar if it takes longer than 1.5 s.

    Returns
    -------
    object
        Of the class that was saved.

    Raises
    ------
    NotAModel
        Nothing there, or no saved model; or the base of adapters is gone.
    CorruptFile
        Truncated, extended, damaged, of a future format, or parts that do not belong together.
    SkeletonMismatch
        The empty model does not fit the file, or ``skeleton`` is missing; or another model is where
        the base of adapters was.
    UnsupportedModel
        An estimator needs types that are not trusted, or a library is not installed.
    EncryptionError
        The model is encrypted and the key is missing or wrong; or a key, and it is not; or there is too little
        memory (256 MiB) for a passphrase.
    ModelError
        There is no such device here, or it has too little memory (then nothing of the model is left on it); no
        such type; ``only`` is no function, or ``trusted`` no list of full names; or ``dtype`` for a quantised
        model, or where a buffer that keeps its type shares memory with what is cast.
    StorageError
        The storage refuses, a remote one does not answer after five tries, or the model was replaced
        again and again while it was read.

    Examples
    --------
    >>> import tempfile, torch
    >>> from helpers import serialise
    >>> path = tempfile.mkdtemp() + "/linear"
    >>> _ = serialise(torch.nn.Linear(3, 2), path)
    >>> deserialise(path, skeleton=lambda: torch.nn.Linear(3, 2))
    Linear(in_features=3, out_features=2, bias=True)
    """
    options = Options(
        device=_device(device),
        dtype=_dtype(dtype),
        skeleton=skeleton,
        mapped=mapped,
        verify=verify,
        readers=_readers(readers),
        trusted=full_names(trusted),
        encryption=encryption,
        only=_only(only),
        progress=progress,
    )
    origin = open_source(source, options, cache=cache)

    def attempt(opened: Opened) -> Any:
        _check_only(opened, options)
        try:
            return load(opened, options)
        except torch.OutOfMemoryError as error:
            onto_gpu.let_go(error)
        # behind the except clause, so that it does not refer to the other one, which may hold tensors
        raise onto_gpu.does_not_fit(opened.label, options.device, _needed(opened, options))

    return consistently(origin, attempt)


def load(opened: Opened, options: Options) -> Any:
    """Load an opened model: the one way that every load goes.

    Parameters
    ----------
    opened : helpers.saved.opened.Opened
    options : helpers.options.Options

    Returns
    -------
    object

    Raises
    ------
    ModelError
        As `deserialise`.
    helpers.storage.http.Changed, helpers.storage.http.Missing
        An object in a store was replaced or removed meanwhile, or a file changed; `consistently` opens the model
        again.
    """
    record = opened.record
    keys.check(opened.label, record.encryption, options.encryption)
    family = families.by_name(record.family, opened.label)
    part = select(record, options.only)
    with contextlib.closing(opened.weights(options)) as weights:
        weights.begin(part)  # map, or start to stream
        children = {name: load(child, options.below(name)) for name, child in opened.children.items()}
        if hasattr(family, "elsewhere"):
            plain = options._replace(encryption=None)  # a key opens what it was given for, not another model
            for name, child in family.elsewhere(opened, options).items():
                children[name] = load(child, plain.below(name))
        skeleton = family.skeleton(opened, options)  # imports the class while a stream arrives
        return family.finish(opened, skeleton, weights, children, options)


def _check_only(opened: Opened, options: Options) -> None:
    if options.only is None:
        return
    if not opened.record.family:
        raise SkeletonMismatch(
            opened.label, "is a bare .tensors file, which is loaded whole", "Save it with serialise()."
        )
    count = sum(len(part.record.entries) for _, part in opened.walk())
    if count and not any(part.records for part in _parts(opened, options)):
        raise SkeletonMismatch(
            opened.label,
            f"only= chooses none of its {count} tensors",
            "helpers.inspect(source) lists their names.",
        )


def _parts(opened: Opened, options: Options) -> list[Part]:
    """What is loaded of a model and of those inside it."""
    below = [(part.record, options.below(name) if name else options) for name, part in opened.walk()]
    return [select(record, inner.only) for record, inner in below]


def _needed(opened: Opened, options: Options) -> int:
    """Bytes of all that is loaded, each tensor as stored or in the type asked for, whichever is more."""
    total = 0
    for part in _parts(opened, options):
        for entry in part.entries:
            dtype = getattr(torch, entry.dtype)
            cast = options.dtype if options.dtype and dtype.is_floating_point else dtype
            total += math.prod(entry.shape) * max(dtype.itemsize, cast.itemsize)
    family = families.by_name(opened.record.family, opened.label)
    others = family.elsewhere(opened, options) if hasattr(family, "elsewhere") else {}
    return total + sum(_needed(other, options) for other in others.values())


def _device(device: str | int | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(f"cuda:{device}" if isinstance(device, int) else device)
    except (RuntimeError, TypeError):
        found = torch.device("meta")
    if found.type == "meta":
        raise ModelError(f"device={device!r}", "is no device to load to", "Pass 'cpu', 'cuda' or 'cuda:1'.")
    if not _is_here(found):
        raise ModelError(str(found), "is not available here", "Pass device='cpu', or leave it out.")
    return found


def _is_here(device: torch.device) -> bool:
    if device.type == "cuda":
        return (device.index or 0) < torch.cuda.device_count()
    try:
        torch.empty(0, device=device)
    except Exception:  # of many types, as torch's backends say it
        return False
    return True


def _readers(readers: int | None) -> int | None:
    if readers is not None and not (isinstance(readers, int) and readers > 0):
        raise ModelError(
            f"readers={readers!r}", "is no number of readers", "Pass 1 or more, or leave it out."
        )
    return readers


def _only(only: Callable[[str], bool] | None) -> Callable[[str], bool] | None:
    if only is not None and not callable(only):
        raise ModelError(
            f"only={reprlib.repr(only)}",
            "is no function of a tensor's name",
            "Pass one that says what to load, such as only=lambda name: name.startswith('encoder.').",
        )
    return only


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if found is None and dtype is None:
        return None
    if not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ModelError(
            f"dtype={dtype!r}", "is no floating-point type of torch", "Pass torch.bfloat16 or 'bfloat16'."
        )
    return found


def deserialise_saved_model(
    model_path: str | os.PathLike, model_id: str | os.PathLike, plaid: bool = True
) -> Any:
    """Load a ``.tensors`` file into the model that a configuration describes, as the guide does.

    Parameters
    ----------
    model_path : str or path-like
        A ``.tensors`` file, ours or stock tensorizer's.
    model_id : str or path-like
        Where the configuration is, and the settings of generation if it has some: a local directory, or a name
        on the hub.
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
    with extra(model_path, "hf"):
        import transformers
        from transformers.utils import cached_file

    model_id = str(model_id)
    try:
        config = transformers.AutoConfig.from_pretrained(model_id)
        # not every model has one, and it may be on the hub, as the configuration may
        path = cached_file(model_id, "generation_config.json", _raise_exceptions_for_missing_entries=False)
        generation = path and transformers.GenerationConfig.from_pretrained(model_id)
    except (OSError, ValueError) as error:
        raise NotAModel(
            model_id, f"holds no configuration ({error})", "Check the name or the path."
        ) from error
    named = getattr(transformers, (config.architectures or ["AutoModelForCausalLM"])[0], None)
    build = getattr(named, "from_config", None) or getattr(named, "_from_config", None)

    def skeleton():
        return (build or transformers.AutoModelForCausalLM.from_config)(config).eval()

    model = deserialise(model_path, skeleton=skeleton)
    if generation:
        model.generation_config = generation
    return model
