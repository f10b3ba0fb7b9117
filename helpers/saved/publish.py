"""Where a new model goes: a directory or a store, whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from helpers.errors import ModelError, StorageError, extra
from helpers.format import manifest
from helpers.saved.sources import check_scheme
from helpers.storage import atomic, is_remote, is_s3, without_secrets
from helpers.storage.names import is_bare


@contextlib.contextmanager
def publication(destination: str | os.PathLike, overwrite: bool) -> Iterator[tuple[Path, str]]:
    """A directory to fill, which becomes the model at ``destination`` when the block ends without an error.

    Parameters
    ----------
    destination : str or path-like
        A directory to be, or ``s3://bucket/prefix``.
    overwrite : bool
        Whether a saved model that is there may be replaced.

    Yields
    ------
    folder : pathlib.Path
        Empty.
    inside : str
        What the manifest shall state as its ``folder``.

    Raises
    ------
    StorageError
        The destination holds a model (without overwrite) or foreign files, or it cannot be written to; or in S3
        it ends in ``.tensors``, as the address of a single file does.
    UnsupportedModel
        It is in S3, and boto3 is not installed.
    """
    check_scheme(destination)
    if not is_remote(destination):
        path = Path(destination).expanduser()
        with atomic.directory(path, overwrite=overwrite, strangers=_strangers) as folder:
            yield folder, ""
    elif is_s3(str(destination)):
        with _s3(destination).publication(str(destination), overwrite) as (folder, inside):
            yield folder, inside
    else:
        raise _is_read_only(destination)


def check_destination(destination: str | os.PathLike, overwrite: bool) -> None:
    """Refuse what `publication` would, as far as it is known before there is a model; arguments and errors are its own.

    Examples
    --------
    >>> check_destination("a/model/to/be", overwrite=False)
    """
    check_scheme(destination)
    if not is_remote(destination):
        path = Path(destination).expanduser()
        atomic.check_destination(path, overwrite=overwrite, strangers=_strangers)
    elif is_s3(str(destination)):
        _s3(destination).check_destination(str(destination), overwrite)
    else:
        raise _is_read_only(destination)


def _s3(destination):
    """`helpers.storage.s3`, for a destination that can be read again as a saved model."""
    if is_bare(str(destination)):
        raise StorageError(
            destination,
            "ends in .tensors, so it would be read as a single file and not as a saved model",
            "Choose another prefix, such as s3://bucket/prefix.",
        )
    with extra(destination, "s3"):
        from helpers.storage import s3  # boto3 takes long to import
    return s3


def _is_read_only(address):
    return StorageError(
        without_secrets(str(address)),
        "cannot be written to: models are read over HTTP, not saved",
        "Save to a directory that the server shows, or to s3://bucket/prefix.",
    )


def _strangers(folder: Path) -> set[str]:
    """Files in a directory that no save has written, which overwriting would destroy."""
    present = {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if not path.is_dir()}
    if manifest.NAME not in present:
        return present
    try:
        record = manifest.read(folder)
    except ModelError:  # damaged: it does not say what was saved
        return present - {manifest.NAME, manifest.TENSORS, "config.json", "generation_config.json"}
    saved = (*record.files, *record.weights)
    return present - {manifest.NAME, *((PurePosixPath(record.folder) / name).as_posix() for name in saved)}
