"""What can go wrong, in words. Every message names the path, what is wrong and what to do."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator


class ModelError(Exception):
    """Root of every error that this package raises on purpose.

    Parameters
    ----------
    path : str or path-like
        The file or directory at fault. Kept as ``error.path``.
    problem : str
        What is wrong, one clause.
    remedy : str
        What the reader can do next, one sentence.

    Examples
    --------
    >>> print(NotAModel("/models/llama", "there is no such directory", "Check the path."))
    /models/llama: there is no such directory. Check the path.
    """

    def __init__(self, path: str | os.PathLike, problem: str, remedy: str):
        self.path = str(path)
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{self.path}: {problem}. {remedy}")

    def __reduce__(self):  # the default would call __init__ with the finished message only
        return type(self), (self.path, self.problem, self.remedy)

    def _render_traceback_(self):  # what a notebook shows: the sentence, not ten frames of this package
        return [f"{type(self).__name__}: {self}"]


class NotAModel(ModelError):
    """The source is no model: no such file, no manifest, not a .tensors file."""


class CorruptFile(ModelError):
    """The source was a model once: it is truncated, extended or damaged, or its parts do not belong together."""


class SkeletonMismatch(ModelError):
    """The empty model and the file do not agree; the first differences of each kind are listed."""


class UnsupportedModel(ModelError):
    """The model holds something that cannot be saved or rebuilt exactly."""


class EncryptionError(ModelError):
    """No key, a wrong one, one for a plain file, or no libsodium or no memory to use it with."""


class StorageError(ModelError):
    """The place where the bytes live refused: no space, no permission, an I/O error."""


def with_article(thing: object) -> str:
    """The name of an object's type, as it stands in a sentence.

    Parameters
    ----------
    thing : object

    Returns
    -------
    str

    Examples
    --------
    >>> with_article(1), with_article({})
    ('an int', 'a dict')
    """
    name = type(thing).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def storage_errors(path: str | os.PathLike, doing: str) -> Iterator[None]:
    """Turn an ``OSError`` inside the block into a `StorageError` that names ``path``.

    Parameters
    ----------
    path : str or path-like
        Named in the message.
    doing : str
        What was being done, such as ``"writing the model"``.

    Raises
    ------
    StorageError
        In place of any ``OSError``.

    Examples
    --------
    >>> with storage_errors("/models/llama", "writing the model"):
    ...     pass
    """
    try:
        yield
    except OSError as error:
        reason = f"{doing} failed: {error.strerror or error}"
        if error.errno in _NO_SPACE:
            raise StorageError(
                path,
                f"no space left while {doing}",
                "The temporary files are removed; free some space or choose another place.",
            ) from error
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            raise StorageError(path, reason, "Check the permissions of this path.") from error
        raise StorageError(path, reason, "Check that the storage is mounted and healthy.") from error


def temporary_directory() -> str:
    """The system's directory for temporary files.

    Raises
    ------
    StorageError
        None can be used.

    Examples
    --------
    >>> os.path.isdir(temporary_directory())
    True
    """
    try:
        return tempfile.gettempdir()
    except OSError:
        raise StorageError(
            os.environ.get("TMPDIR", "/tmp"),
            "no temporary directory can be written to (TMPDIR, /tmp, /var/tmp, the working directory)",
            "Set TMPDIR to a directory with free space that may be written to.",
        ) from None


@contextlib.contextmanager
def extra(path: str | os.PathLike, name: str) -> Iterator[None]:
    """Turn a missing library inside the block into an `UnsupportedModel` that says how to install it.

    Parameters
    ----------
    path : str or path-like
        Named in the message.
    name : str
        The extra of this package that brings the library, such as ``"hf"``.

    Raises
    ------
    UnsupportedModel
        In place of a ``ModuleNotFoundError``.

    Examples
    --------
    >>> with extra("/models/llama", "hf"):
    ...     pass
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise UnsupportedModel(
            path,
            f"needs {error.name}, which is not installed",
            f"Install it: pip install 'model-loading-workbook[{name}]'.",
        ) from None
