"""Where a saved model can be, and what is done when it is replaced while it is read."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from helpers.errors import CorruptFile, ModelError, StorageError, storage_errors
from helpers.format import manifest
from helpers.options import Options
from helpers.saved.fetched import Fetched
from helpers.saved.local import BareFile, Directory
from helpers.saved.opened import Opened
from helpers.saved.remote import Cached, Remote, RemoteFile
from helpers.storage import ahead, is_remote
from helpers.storage.address import open_store
from helpers.storage.http import Changed, Missing
from helpers.storage.names import is_bare

_Result = TypeVar("_Result")
Source = Directory | BareFile | Remote | RemoteFile | Fetched


def open_source(
    source: str | os.PathLike,
    options: Options,
    *,
    cache: str | os.PathLike | None = None,
    manifests_only: bool = False,
) -> Source:
    """What a path or an address names. Nothing is read yet.

    Parameters
    ----------
    source : str or path-like
        As for `helpers.deserialise`.
    options : helpers.options.Options
    cache : str or path-like, optional
        A directory for a copy of what is remote.
    manifests_only : bool
        The other files of a saved model are not needed.

    Returns
    -------
    Directory, BareFile, Remote, RemoteFile or Fetched
        Each tells the ``identity()`` of its model, gives the model ``opened(identity)``, and says whether it
        ``is_still(identity)``.

    Raises
    ------
    StorageError
        The address is malformed or of an unknown kind, or what is asked for is not done with a remote one; or the
        storage refuses.
    """
    check_scheme(source)
    if is_remote(source):
        plain = _remote(str(source), options, cache, manifests_only)
        fetching = None if options.device is None else ahead.find(str(source), cache)  # to load, not to look
        return plain if fetching is None else Fetched(plain, fetching, options)
    path = Path(source).expanduser()
    with storage_errors(path, "looking for the model"):
        if path.name == manifest.TENSORS and (path.parent / manifest.NAME).is_file():
            path = path.parent  # the file alone says less than the directory that it belongs to
        return BareFile(path) if path.is_file() else Directory(path, options, manifests_only)


def check_scheme(source: str | os.PathLike) -> None:
    """Refuse what would be taken for a path: an address of an unknown kind, or one made a `Path`; "", for "."."""
    if str(source) == "":
        raise StorageError("''", "is the empty path, which names nothing", "Pass a path or an address.")
    scheme = re.match(r"(\w[\w+.-]*)://", str(source))
    if scheme and not is_remote(source):
        raise StorageError(
            f"{scheme[1]}://",
            "is no kind of address that is known here",
            "Use a path, s3://bucket/prefix or http(s)://host/prefix.",
        )
    folded = re.match(r"(s3|https?|gs|gcs|az|abfss?|hf|file):/(?!/)", str(source), re.IGNORECASE)
    if folded:  # pathlib makes one slash of two
        raise StorageError(
            folded[0],
            "is no path, but an address that was made a path and has lost a slash",
            "Pass the address as a string, such as 's3://bucket/prefix'.",
        )


def _remote(source, options, cache, manifests_only):
    store = open_store(source)
    is_file = is_bare(source) and not manifests_only
    if is_file and (cache is not None or options.mapped):
        raise StorageError(
            store.label,
            "is a bare file, which is read into memory: no copy of it is kept or mapped",
            "Leave out cache= and mapped=, or upload what serialise() saves.",
        )
    if options.mapped and cache is None:
        raise StorageError(
            store.label, "is not a file that can be mapped", "Pass cache=, a directory for a copy."
        )
    if is_file:
        return RemoteFile(store, options)
    return Remote(store, options, manifests_only) if cache is None else Cached(store, cache, options)


def consistently(source: Source, attempt: Callable[[Opened], _Result]) -> _Result:
    """Open a model and do something with it; again if it was replaced meanwhile, in bounds.

    What was read may be half of the old model and half of the new one, whether that has led to an
    error or not.

    Parameters
    ----------
    source : Source
        From `open_source`.
    attempt : callable
        Called with the opened model.

    Returns
    -------
    object
        What ``attempt`` returned.

    Raises
    ------
    NotAModel
        There is no model.
    CorruptFile
        A part of it is missing or not what was saved.
    StorageError
        The storage refuses, or the model is replaced again and again.
    """
    identity = source.identity()
    for _ in range(source.TURNS):
        try:
            with source.opened(identity) as opened:
                result = attempt(opened)
            if source.is_still(identity):
                return result
            del result  # before another is loaded
            identity = source.identity()
        except (Changed, Missing, ModelError) as error:
            now, before = source.identity(), identity
            if now == before and isinstance(error, ModelError):
                raise
            if now == before and isinstance(error, Missing):
                raise CorruptFile(str(error), "is missing", "Upload the model again.") from None
            identity = now
    raise StorageError(
        source.label,
        f"was replaced {source.TURNS} times while it was read",
        "Try again when nobody writes there; give new versions a name of their own.",
    )
