"""Check a saved model in place: every file and every tensor against its hash."""

import dataclasses
import os
import time

from helpers.options import Options
from helpers.saved.opened import Opened, check_weights
from helpers.saved.sources import consistently, open_source
from helpers.timeline import phase
from helpers.weights import keys


@dataclasses.dataclass(frozen=True, repr=False)
class Verified:
    """What `verify` found whole.

    Attributes
    ----------
    source : str
        Without user, password and query, where it is an address.
    tensors : int
    bytes : int
        Of the files of weights.
    seconds : float
    """

    source: str
    tensors: int
    bytes: int
    seconds: float

    def __repr__(self) -> str:
        size = f"{self.tensors} tensors, {self.bytes / 1e6:.1f} MB"
        return f"Verified({self.source!r}, {size}, {self.seconds:.2f} s)"


def verify(
    source: str | os.PathLike, *, encryption: bytes | str | None = None, progress: bool = True
) -> Verified:
    """Check a saved model in place, without loading it.

    Of a model with adapters only these are checked: its base is a saved model of its own. A remote model
    is read once through and kept nowhere (a server that sends no parts fills memory with the whole file). Of
    an encrypted one the files are checked without a key; with it, damaged tensors are named.

    The manifest, model.json, holds the hashes of all other files, and none holds its own: what is damaged
    there and still makes sense passes. Who has to know keeps its SHA-256 elsewhere and compares it.

    Parameters
    ----------
    source : str or path-like
        As for `deserialise`.
    encryption : bytes or str, optional
        The key or the passphrase of an encrypted model.
    progress : bool
        Show a bar if it takes longer than 1.5 s.

    Returns
    -------
    Verified

    Raises
    ------
    NotAModel
        Nothing there, or no saved model.
    CorruptFile
        Names every damaged tensor, or the file that is missing, cut or not what was saved.
    EncryptionError
        A wrong key, or one for a plain model; or there is too little memory (256 MiB) for a passphrase.
    UnsupportedModel
        It is in S3, and boto3 is not installed.
    StorageError
        The storage refuses, or the model was replaced again and again while it was read.
    torch.OutOfMemoryError
        The memory does not suffice to decrypt a tensor.

    Examples
    --------
    >>> import tempfile, torch
    >>> from helpers import serialise
    >>> path = tempfile.mkdtemp() + "/linear"
    >>> _ = serialise(torch.nn.Linear(3, 2), path)
    >>> verify(path).tensors
    2
    """
    start = time.perf_counter()
    options = Options(verify=True, encryption=encryption, progress=progress)
    origin = open_source(source, options)

    def attempt(opened: Opened) -> tuple[int, int]:
        if encryption is not None:
            keys.check(opened.label, opened.record.encryption, encryption)
        check_weights(opened, options)
        records = [part.record for _, part in opened.walk()]
        return sum(len(record.entries) for record in records), sum(record.length for record in records)

    with phase("verify"):
        count, size = consistently(origin, attempt)
    return Verified(origin.label, count, size, time.perf_counter() - start)
