"""Save a model: one directory with its weights, its manifest, and what rebuilds it."""

import dataclasses
import logging
import os
import platform
import reprlib
import shutil
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from helpers import families
from helpers.errors import ModelError, StorageError
from helpers.format import hashes, manifest
from helpers.modules import structure
from helpers.options import full_names, listed
from helpers.saved.publish import publication
from helpers.saved.sources import check_scheme
from helpers.storage import atomic, is_remote
from helpers.timeline import phase
from helpers.weights import encrypted, keys, write

if TYPE_CHECKING:
    import torch

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
    needs_skeleton : bool
        Whether `deserialise` needs ``skeleton=``: the code of the model's class is not stored.
    """

    path: str
    family: str
    tensors: int
    bytes: int
    seconds: float
    needs_skeleton: bool

    def __repr__(self) -> str:
        hint = ", load it with skeleton=" if self.needs_skeleton else ""
        return (
            f"Saved({self.path!r}, {self.family}, {self.tensors} tensors, "
            f"{self.bytes / 1e6:.1f} MB, {self.seconds:.2f} s{hint})"
        )


def serialise(
    model: Any,
    destination: str | os.PathLike,
    *,
    overwrite: bool = False,
    companions: Iterable[Any] = (),
    trusted: Sequence[str] = (),
    encryption: bytes | str | None = None,
    progress: bool = True,
) -> Saved:
    """Save a model so that `deserialise` gives it back exactly.

    Parameters
    ----------
    model : torch.nn.Module, diffusers.DiffusionPipeline or sklearn.base.BaseEstimator
        A transformers ``PreTrainedModel``, a diffusers ``ModelMixin``, any other torch module, with
        weights that torchao has quantised too; a whole pipeline; a fitted estimator. Of a model with
        adapters of PEFT, whose base was loaded from a saved model, only the adapters are stored, and
        where the base is: its path, seen from the destination too, and its fingerprint.
    destination : str or path-like
        A directory to be (``~`` is expanded), or ``s3://bucket/prefix``. The save is all or nothing: until it is whole
        and on the disk (in the store), whatever was there stays there. For S3 the model is written
        to the system's temporary directory first.
    overwrite : bool
        Replace a saved model that exists there.
    companions : iterable
        Tokenizers, processors, anything with ``save_pretrained``, saved beside the model. None may write a
        ``model.json`` or a ``model.tensors``.
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
        The model holds something that cannot be saved exactly; every such part is named. Or the destination is
        in S3, and boto3 is not installed.
    StorageError
        The destination exists, is a mount point or holds files that no save has written; in S3 it ends in
        ``.tensors``, as the address of a single file does; the base of the adapters is there; a companion writes
        a file that another part writes; or the storage refuses (no space, no permission).
    EncryptionError
        The key is malformed, libsodium is missing, or there is too little memory (256 MiB) for a passphrase.
    ModelError
        A companion has no ``save_pretrained``, or ``trusted`` is no list of full names.

    Examples
    --------
    >>> import tempfile, torch
    >>> saved = serialise(torch.nn.Linear(3, 2), tempfile.mkdtemp() + "/linear")
    >>> saved.family, saved.tensors
    ('torch_module', 2)
    """
    start = time.perf_counter()
    found, beside = families.of(model), _with_save(companions)  # refuse before anything is made
    cipher = keys.to_write(encryption)
    saving = _Saving(destination, full_names(trusted), keys.kind_of(encryption), cipher, progress)
    with publication(destination, overwrite) as (folder, inside):
        record, count, size = _save(model, found, folder, saving, inside, beside)
    needs_skeleton = families.needs_skeleton(record.family, record.settings)
    if needs_skeleton:
        logger.info(
            "%s holds a %s, whose code is not stored: load it with deserialise(..., skeleton=...)",
            destination,
            record.class_name,
        )
    seconds = time.perf_counter() - start
    return Saved(str(destination), record.family, count, size, seconds, needs_skeleton)


class _Saving(NamedTuple):
    """What holds for a model and for those inside it alike."""

    destination: str | os.PathLike
    trusted: tuple
    encryption: str  # what the manifest calls the key
    cipher: Any  # tensorizer's parameters, made once: a passphrase costs 0.6 s
    progress: bool


def _save(model, found, folder, saving, inside="", companions=()):
    """Fill an empty directory with one model of a family; its children fill subdirectories in the same way."""
    family, module = found
    with phase("describe the model"):
        parts = module.save(model, folder, saving.trusted)
        _check_outside(parts.outside, saving.destination)
        _save_companions(companions, folder)
    count = size = 0
    for name, child in parts.children.items():
        (folder / name).mkdir()
        _, below, length = _save(child, families.of(child), folder / name, saving)
        count, size = count + below, size + length
    with phase("write the weights"):
        _check_space(folder, parts.tensors)
        if saving.cipher is None:
            written = write.write(folder / manifest.TENSORS, parts.tensors, progress=saving.progress)
        else:
            written = encrypted.write(
                folder / manifest.TENSORS, parts.tensors, saving.cipher, progress=saving.progress
            )
    record = manifest.Manifest(
        folder=inside,
        family=family,
        class_name=parts.class_name,
        entries=written.entries,
        hashes=written.hashes,
        encryption=saving.encryption,
        length=written.length,
        fingerprint=written.fingerprint,
        structure=parts.structure,
        settings=parts.settings,
        files=_hashes(folder, saving.encryption),
        versions={"python": platform.python_version()} | {name: version(name) for name in parts.libraries},
    )
    (folder / manifest.NAME).write_bytes(record.to_json())
    return record, count + len(written.entries), size + written.length


def _hashes(folder, encryption):
    """The SHA-256 of every file; not of weights, whose tensors have their own, unless they are encrypted."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): hashes.of_file(path)
        for path in files
        if encryption or path.name != manifest.TENSORS
    }


def serialise_model(model: "torch.nn.Module", save_path: str | os.PathLike) -> bool:
    """Save a torch module's weights to one ``.tensors`` file, as the guide's function does.

    The file alone does not say which class the model is, which parameters are frozen or what is
    tied; `serialise` keeps all that. A tied weight is stored once, what else lies in the memory of
    another tensor by itself.

    Parameters
    ----------
    model : torch.nn.Module
    save_path : str or path-like
        Replaced if it exists. No address: `serialise` takes these.

    Returns
    -------
    bool
        True if the file is whole and on the disk. Errors are logged, False is returned and
        whatever was there before is unharmed. Tensors that the module has not registered are not in
        the file, since no reader of it would find them: a warning in the log names them.

    Examples
    --------
    >>> import tempfile, torch
    >>> serialise_model(torch.nn.Linear(3, 2), tempfile.mkdtemp() + "/linear.tensors")
    True
    """
    start = time.perf_counter()
    try:
        check_scheme(save_path)
        if is_remote(save_path):
            raise StorageError(
                "serialise_model", "saves to a path alone", "Use serialise() for s3://bucket/prefix."
            )
        held = _registered(model, save_path)
        with atomic.file(Path(save_path).expanduser()) as partial:
            _check_space(partial.parent, held)
            write.write(partial, held)
    except Exception:
        logger.exception("Serialisation failed")
        return False
    logger.info("Serialising model took %.2f seconds", time.perf_counter() - start)
    return True


def _registered(model, path):
    """The tensors that a file without a structure has to hold, and nothing that only a structure would bring back."""
    captured, found = structure.capture(model, path)
    if left := [name for name in found["attributes"] if name not in found["aliases"]]:
        said = "%s leaves out tensors that are not registered: %s. A load gets what the constructor makes of them; %s"
        logger.warning(said, path, ", ".join(left), "register them as buffers, or save with serialise().")
    held = {name: part for name, part in captured.items() if part[0] != "attribute"}
    for name, owner, key, kind in structure.slots(model):
        if name in found["shared"]:
            held[name] = (kind, structure.value(owner, key, kind))
    return held


def _with_save(companions):
    """All companions, each of which can be saved."""
    found = listed(companions)
    if found is not None and all(hasattr(each, "save_pretrained") for each in found):
        return found
    raise ModelError(
        f"companions={reprlib.repr(companions)}",
        "is no list of objects that have save_pretrained",
        "Pass the tokenizers or processors themselves, such as companions=[tokenizer].",
    )


def _save_companions(companions, folder):
    for companion in companions:
        aside = folder / ".companion"
        companion.save_pretrained(str(aside))
        for path in sorted(aside.rglob("*")):
            target = folder / path.relative_to(aside)
            if path.name in (manifest.NAME, manifest.TENSORS):  # in a subdirectory it would be a model inside
                raise StorageError(
                    path.relative_to(aside).as_posix(),
                    f"is written by the {type(companion).__name__}, and a saved model has a file of that name",
                    "Save it to a directory of its own.",
                )
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


def _check_outside(places, destination):
    """Refuse to replace what the model refers to."""
    final = Path(os.path.realpath(Path(destination).expanduser()))
    for place in places:
        real = Path(os.path.realpath(place))
        if final in (real, *real.parents):
            raise StorageError(
                final,
                f"cannot be replaced by a model that refers to what is saved in {real}",
                "Choose another destination, and leave the one that it refers to where it is.",
            )


def _check_space(folder, held):
    needed = sum(tensor.numel() * tensor.element_size() for _, tensor in held.values())
    atomic.check_space(folder, needed)
