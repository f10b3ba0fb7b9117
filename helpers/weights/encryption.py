"""Encrypted .tensors files, in tensorizer's format: XSalsa20-Poly1305 by libsodium.

Encrypted is the data of every tensor. Not encrypted are the names, types and shapes, a SHA-256 of
each tensor's plain data (tensorizer writes it: whoever has the same weights can recognise them),
and all other files: configuration, tokenizer, the structure of an estimator. The key is stored
nowhere; of a passphrase the file holds the salt and the cost of Argon2.
"""

import hashlib
import os

import torch

from helpers.errors import CorruptFile, EncryptionError
from helpers.format import layout
from helpers.weights.tensors import Written, dtype_name, progress_bar

_KEY_BYTES = 32
_FEW = 8  # tensors tried, to tell a wrong key from damage


def kind_of(encryption):
    """What a manifest calls this key: "", "key" or "passphrase".

    Raises
    ------
    EncryptionError
        It is neither 32 bytes nor a passphrase.
    """
    if encryption is None:
        return ""
    if isinstance(encryption, str) and encryption:
        return "passphrase"
    if isinstance(encryption, bytes) and len(encryption) == _KEY_BYTES:
        return "key"
    raise EncryptionError(
        "encryption=",
        f"takes a key of {_KEY_BYTES} bytes or a passphrase",
        f"Make a key with os.urandom({_KEY_BYTES}) and keep it apart from the model.",
    )


def check(path, stored, encryption):
    """Whether a key is there exactly if the model needs one, and is of the right kind.

    Parameters
    ----------
    path : str or path-like
        Named in errors.
    stored : str
        What the manifest says.
    encryption : bytes, str or None

    Raises
    ------
    EncryptionError
    """
    given = kind_of(encryption)
    if stored and not given:
        raise EncryptionError(path, "is encrypted", f"Pass encryption=, the {stored} it was saved with.")
    if given and not stored:
        raise EncryptionError(path, "is not encrypted", "Load it without encryption=.")
    if given == "passphrase" and stored == "key":
        raise EncryptionError(path, "was encrypted with a key of bytes", "Pass that key, not a passphrase.")


def to_write(encryption):
    """tensorizer's parameters to encrypt with; a passphrase costs half a second (Argon2).

    Raises
    ------
    EncryptionError
        libsodium is missing.
    """
    from tensorizer import EncryptionParams

    make = EncryptionParams if isinstance(encryption, bytes) else EncryptionParams.from_string
    return _made(make, encryption)


def to_read(encryption):
    """tensorizer's parameters to decrypt with; None for None.

    Raises
    ------
    EncryptionError
        libsodium is missing.
    """
    if encryption is None:
        return None
    from tensorizer import DecryptionParams

    make = DecryptionParams.from_key if isinstance(encryption, bytes) else DecryptionParams.from_string
    return _made(make, encryption)


def _made(make, encryption):
    try:
        return make(encryption)
    except RuntimeError:
        raise EncryptionError(
            "encryption=",
            "needs libsodium, which is not installed",
            "Debian, Ubuntu: apt-get install libsodium23; macOS: brew install libsodium; conda: libsodium.",
        ) from None


def write(path, tensors, encryption, *, progress=True):
    """Write tensors to a new encrypted file and flush it to the disk.

    One after the other, each from a copy: tensorizer encrypts in place, and a model that serves
    meanwhile would compute with noise. Empty tensors have no data, so they are not in the file.

    Parameters
    ----------
    path : str or path-like
        Must not exist.
    tensors : dict of str to (str, torch.Tensor)
        As for `helpers.weights.tensors.write`.
    encryption : bytes or str

    Returns
    -------
    helpers.weights.tensors.Written
        With offsets and hashes of nothing.

    Raises
    ------
    EncryptionError
        libsodium is missing.
    OSError
        The storage refuses.
    """
    from tensorizer import TensorSerializer
    from tensorizer.serialization import TensorType

    types = {"parameter": TensorType.PARAM, "state_dict": TensorType.STATE_DICT}
    total = sum(tensor.numel() * tensor.element_size() for _, tensor in tensors.values())
    parameters = to_write(encryption)
    with open(path, "xb+", buffering=0) as file, progress_bar(total, "encrypt", progress) as bar:
        writer = TensorSerializer(file, encryption=parameters)
        for name, (kind, tensor) in tensors.items():
            if tensor.numel():
                copy = (
                    tensor.detach()
                    .resolve_conj()
                    .resolve_neg()
                    .cpu()
                    .clone(memory_format=torch.contiguous_format)
                )
                stored = name if "." in name else f".{name}"
                writer.write_tensor(0, stored, types.get(kind, TensorType.BUFFER), copy)
                bar.update(copy.numel() * copy.element_size())
        writer.close()
    mark = os.urandom(8)
    with open(path, "rb+", buffering=0) as file:
        file.seek(layout.MARK_AT)
        file.write(mark)
        os.fsync(file.fileno())
        length = os.fstat(file.fileno()).st_size
    entries = [
        layout.Entry(name, kind, dtype_name(tensor.dtype), tuple(tensor.shape), 0)
        for name, (kind, tensor) in tensors.items()
    ]
    return Written(entries, [""] * len(entries), length, mark.hex())


def digest(path):
    """The SHA-256 of a whole file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def explain(path, entries, encryption):
    """The error for a file that cannot be decrypted: a wrong key, or damage, tensor by tensor.

    A wrong key opens none of the smallest tensors, damage leaves some of them whole.

    Parameters
    ----------
    path : str or path-like
    entries : list of helpers.format.layout.Entry
        What the file should hold.
    encryption : bytes or str

    Returns
    -------
    EncryptionError or CorruptFile
    """
    entries = sorted((entry for entry in entries if entry.nbytes), key=lambda entry: entry.nbytes)
    few = closed(path, entries[:_FEW], encryption)
    if len(few) == len(entries[:_FEW]):
        return EncryptionError(
            path, "cannot be decrypted", "Pass the key it was saved with; if that is the one, it is damaged."
        )
    bad = sorted([*few, *closed(path, entries[_FEW:], encryption)])
    return CorruptFile(
        path,
        f"{len(bad)} of {len(entries)} tensors are damaged: {', '.join(bad)}",
        "Fetch or save the model again.",
    )


def closed(path, entries, encryption):
    """Names of the tensors that a key does not open."""
    from tensorizer import CryptographyError, TensorDeserializer

    names = {entry.name if "." in entry.name else f".{entry.name}" for entry in entries}
    bad = []
    if not names:
        return bad
    with TensorDeserializer(
        str(path),
        device="cpu",
        lazy_load=True,
        encryption=to_read(encryption),
        filter_func=lambda name: str(name) in names,
    ) as file:
        for name in list(file.keys()):
            try:
                file[name]
            except CryptographyError:
                bad.append(str(name).removeprefix("."))
    return bad
