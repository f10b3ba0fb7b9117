"""Load a saved model: checked, mapped or read, equal to what was saved."""

from pathlib import Path

import torch

from helpers.errors import ModelError, NotAModel
from helpers.saved import directory as storage
from helpers.saved import loading
from helpers.storage import is_remote
from helpers.timeline import phase


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
    encryption=None,
    only=None,
    cache=None,
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
        A directory that `serialise` wrote, ``s3://bucket/prefix`` or ``http(s)://host/prefix``; or a
        bare ``.tensors`` file, ours or stock tensorizer's; then ``skeleton`` is needed, and what
        the file does not say (ties, frozen parameters, modes) is the skeleton's. Credentials,
        region and endpoint of S3 come from where the aws command takes them.
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
        Threads that read where the file is not mapped; by default tensorizer chooses. Of a remote
        source the requests at a time, by default 8.
    trusted : sequence of str
        For estimators: full names of types that are not scikit-learn's own and may be made.
    encryption : bytes or str, optional
        The key or the passphrase of an encrypted model. Such a model is never mapped.
    only : callable, optional
        Called with each tensor's name; what it does not want is not read, from no disk and no
        store, and stays on the meta device in the model that comes back. Of a pipeline the names
        begin with the part's, as `helpers.inspect` lists them. A copy in ``cache`` is whole.
    cache : str or path-like, optional
        For a remote source: a directory that keeps a verified copy, which is mapped, now and at the
        next start. A copy that is outdated or damaged is fetched again. The model's
        ``name_or_path`` is then the copy, where companions (tokenizers) are found.
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
    EncryptionError
        The model is encrypted and the key is missing or wrong; or a key, and it is not.
    ModelError
        There is no such device here.
    StorageError
        The storage refuses, or a remote one does not answer after five tries.

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
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(device, "is not available here", "Pass device='cpu', or leave it out.")
    options = loading.Options(
        device, dtype, skeleton, mapped, verify, readers, trusted, encryption, only, progress
    )
    if not is_remote(source):
        return _from_path(source, options)
    from helpers.saved import remote

    if cache is None or remote.is_bare(source):
        return remote.load(source, options)
    from helpers.saved.copies import local_copy

    return _from_path(local_copy(source, cache, readers=readers, progress=progress), options)


def _from_path(source, options):
    while True:
        place, seen = storage.locate(source)
        try:
            model = _load(place, options)
        except ModelError:
            if storage.locate(source)[1] == seen:
                raise
        else:
            if storage.locate(source)[1] == seen:
                return model
        # a save has replaced the model meanwhile: what was read may be half of each


def _load(path, options):
    if not path.is_file():
        return loading.from_directory(loading.Place(path, str(path), None), options)
    with phase("open and check"):
        raw, records = storage.open_bare(path)
    return loading.from_bare_file(path, raw, records, options)


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
