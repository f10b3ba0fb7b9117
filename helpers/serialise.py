"""Save a model: one directory with its weights, its manifest, and what rebuilds it."""

import contextlib
import dataclasses
import logging
import platform
import shutil
import time
from importlib.metadata import version
from pathlib import Path, PurePosixPath

from helpers import families
from helpers.errors import ModelError, StorageError
from helpers.format import manifest
from helpers.modules import structure
from helpers.storage import atomic as commit
from helpers.storage import is_remote
from helpers.timeline import phase
from helpers.weights import encryption as keys
from helpers.weights import tensors

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, repr=False)
class Saved:
    """What `serialise` did.

    Attributes
    ----------
    path : str
        The directory.
    family : str
        Which kind of model it is.
    tensors : int
        How many were stored, each once.
    bytes : int
        Size of model.tensors.
    seconds : float
        Wall-clock time, flushed to the disk.
    """

    path: str
    family: str
    tensors: int
    bytes: int
    seconds: float

    def __repr__(self):
        return (
            f"Saved({self.path!r}, {self.family}, {self.tensors} tensors, "
            f"{self.bytes / 1e6:.1f} MB, {self.seconds:.2f} s)"
        )


def serialise(
    model, destination, *, overwrite=False, companions=(), trusted=(), encryption=None, progress=True
):
    """Save a model so that `deserialise` gives it back exactly.

    Parameters
    ----------
    model : torch.nn.Module, diffusers.DiffusionPipeline or sklearn.base.BaseEstimator
        A transformers ``PreTrainedModel``, a diffusers ``ModelMixin``, any other torch module; a
        whole pipeline; a fitted estimator.
    destination : str or path-like
        A directory to be, or ``s3://bucket/prefix``. The save is all or nothing: until it is whole
        and on the disk (in the store), whatever was there stays there. For S3 the model is written
        to the system's temporary directory first.
    overwrite : bool
        Replace a saved model that exists there.
    companions : iterable
        Tokenizers, processors, anything with ``save_pretrained``, saved beside the model.
    trusted : sequence of str
        For estimators: full names of types that are not scikit-learn's own and may be saved.
    encryption : bytes or str, optional
        A key of 32 bytes, or a passphrase, to encrypt the data of the tensors with. Their names,
        types, shapes and hashes, and all other files, are not encrypted. It is stored nowhere.
    progress : bool
        Show a bar if it takes longer than 1.5 s.

    Returns
    -------
    Saved

    Raises
    ------
    UnsupportedModel
        The model holds something that cannot be saved exactly; every such part is named.
    StorageError
        The destination exists, or the storage refuses (no space, no permission).
    EncryptionError
        The key is malformed, or libsodium is missing.

    Examples
    --------
    >>> import tempfile, torch
    >>> saved = serialise(torch.nn.Linear(3, 2), tempfile.mkdtemp() + "/linear")
    >>> saved.family, saved.tensors
    ('torch_module', 2)
    """
    start = time.perf_counter()
    families.of(model)  # refuse before anything is made
    if keys.kind_of(encryption):
        keys.to_write(encryption)
    with _place(destination, overwrite) as folder:
        name, count, size = _save_into(folder, model, companions, trusted, encryption, progress)
    return Saved(str(destination), name, count, size, time.perf_counter() - start)


def _place(destination, overwrite):
    if not is_remote(destination):
        return commit.directory(destination, overwrite=overwrite, strangers=_strangers)
    if not destination.lower().startswith("s3://"):
        raise StorageError(
            destination.partition("?")[0].rpartition("@")[2],
            "cannot be written to: models are read over HTTP, not saved",
            "Save to a directory that the server shows, or to s3://bucket/prefix.",
        )
    from helpers.storage import s3

    return s3.publication(destination, overwrite)


def _save_into(folder, model, companions, trusted, encryption, progress):
    """Fill an empty directory with one model; its children fill subdirectories in the same way."""
    name, family = families.of(model)
    with phase("describe the model"):
        parts = family.save(model, folder, trusted)
        _save_companions(companions, folder)
    below = []
    for key, child in parts.children.items():
        (folder / key).mkdir()
        below.append(_save_into(folder / key, child, (), trusted, encryption, progress))
    with phase("write the weights"):
        _check_space(folder, parts.tensors)
        weights = folder / manifest.TENSORS
        if encryption is None:
            written = tensors.write(weights, parts.tensors, progress=progress)
        else:
            written = keys.write(weights, parts.tensors, encryption, progress=progress)
    record = manifest.Manifest(
        folder="",
        family=name,
        class_name=parts.class_name,
        entries=written.entries,
        hashes=written.hashes,
        encryption=keys.kind_of(encryption),
        length=written.length,
        fingerprint=written.fingerprint,
        structure=parts.structure,
        settings=parts.settings,
        files={
            path.relative_to(folder).as_posix(): keys.digest(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and (encryption is not None or path.name != manifest.TENSORS)
        },
        versions=_versions(parts.libraries),
    )
    (folder / manifest.NAME).write_text(record.to_json())
    count = len(written.entries) + sum(child[1] for child in below)
    return name, count, written.length + sum(child[2] for child in below)


def serialise_model(model, save_path):
    """Save a torch module's weights to one ``.tensors`` file, as the guide's function does.

    The file alone does not say which class the model is, which parameters are frozen or what is
    tied; `serialise` keeps all that.

    Parameters
    ----------
    model : torch.nn.Module
    save_path : str or path-like
        Replaced if it exists.

    Returns
    -------
    bool
        True if the file is whole and on the disk. Errors are logged, False is returned and
        whatever was there before is unharmed.

    Examples
    --------
    >>> import tempfile, torch
    >>> serialise_model(torch.nn.Linear(3, 2), tempfile.mkdtemp() + "/linear.tensors")
    True
    """
    start = time.perf_counter()
    try:
        held, _ = structure.capture(model, save_path)
        with commit.file(save_path) as partial:
            _check_space(partial.parent, held)
            tensors.write(partial, held)
    except Exception:
        logger.exception("Serialisation failed")
        return False
    logger.info("Serialising model took %.2f seconds", time.perf_counter() - start)
    return True


def _save_companions(companions, folder):
    for companion in companions:
        aside = folder / ".companion"
        companion.save_pretrained(str(aside))
        for path in sorted(aside.rglob("*")):
            target = folder / path.relative_to(aside)
            if path.is_dir():
                target.mkdir(exist_ok=True)
            elif target.exists() and target.read_bytes() != path.read_bytes():
                raise StorageError(
                    target.name,
                    f"is written by the {type(companion).__name__} and by another part of the model",
                    "Save one of them to a directory of its own.",
                )
            else:
                path.replace(target)
        shutil.rmtree(aside)


def _check_space(folder, held):
    needed = sum(tensor.numel() * tensor.element_size() for _, tensor in held.values())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StorageError(
            folder.parent,
            f"no space left: {needed:,} bytes are needed, {free:,} are free",
            "Free some space or choose another place.",
        )


def _strangers(folder):
    """Files in a directory that no save has written, which overwriting would destroy."""
    present = {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if not path.is_dir()}
    ours = {manifest.NAME, manifest.TENSORS, "config.json", "generation_config.json"}
    with contextlib.suppress(ModelError):  # a damaged manifest does not say what else was saved
        record = manifest.read(folder)
        ours |= {(PurePosixPath(record.folder) / name).as_posix() for name in record.files}
    weights = {name for name in present if name.split("/")[-1] == manifest.TENSORS}
    return present - ours - weights if manifest.NAME in present else present


def _versions(libraries):
    return {"python": platform.python_version()} | {name: version(name) for name in libraries}
