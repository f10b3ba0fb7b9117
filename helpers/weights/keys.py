"""Keys and passphrases of encrypted models. They are stored nowhere."""

import os
import threading
import types
from typing import Any

from helpers.errors import EncryptionError

_KEY_BYTES = 32
_PASSES, _MEMORY = 3, 256 << 20  # of Argon2, which makes a key of a passphrase: what libsodium calls moderate
_ARGON2ID = 2  # libsodium's number of it


def kind_of(encryption: object) -> str:
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


def check(path: str | os.PathLike, stored: str, encryption: object) -> None:
    """Check that a key is there exactly if the model needs one, and is of the right kind.

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


def to_write(encryption: object) -> Any:
    """tensorizer's parameters to encrypt with, None for None; a passphrase costs 0.6 s (Argon2).

    Raises
    ------
    EncryptionError
        The key is malformed, libsodium is missing, or Argon2 gets too little memory.
    """
    if not kind_of(encryption):
        return None
    from tensorizer import EncryptionParams

    if isinstance(encryption, str):
        return _made(EncryptionParams.from_string, encryption, opslimit=_PASSES, memlimit=_MEMORY)
    return _made(EncryptionParams, encryption)


def to_read(encryption: object) -> Any:
    """tensorizer's parameters to decrypt with.

    Raises
    ------
    EncryptionError
        libsodium is missing.
    """
    from tensorizer import DecryptionParams

    text = isinstance(encryption, str)
    return _made(DecryptionParams.from_string if text else DecryptionParams.from_key, encryption)


def derive_once(file: Any) -> None:
    """Let the threads of an open file make one key of a passphrase together, and at no other cost than ours.

    Each of tensorizer's readers would make it by itself, with 256 MiB. And a damaged cost in the header of a
    tensor may ask for days that no Ctrl-C ends: such a tensor counts as one that the key does not open.

    Parameters
    ----------
    file : tensorizer.TensorDeserializer
        Its threads do not read yet.
    """
    from tensorizer import CryptographyError

    theirs, lock = file._key_derivation, threading.Lock()

    def key(method: Any) -> bytes:
        if (method.opslimit, method.memlimit, method.alg) != (_PASSES, _MEMORY, _ARGON2ID):
            raise CryptographyError("not what a save writes")
        with lock:
            return _made(theirs.key, method)  # which keeps it for the next one

    if theirs is not None:  # it is a passphrase
        file._key_derivation = types.SimpleNamespace(key=key)


def _made(make, *given, **cost):
    from tensorizer._crypt import CryptographyError  # the root of the one that tensorizer shows

    try:
        return make(*given, **cost)
    except RuntimeError:
        raise EncryptionError(
            "encryption=",
            "needs libsodium, which is not installed",
            "Debian, Ubuntu: apt-get install libsodium23; macOS: brew install libsodium; conda: libsodium.",
        ) from None
    except CryptographyError:  # all that is left to go wrong
        raise EncryptionError(
            "encryption=",
            f"needs {_MEMORY >> 20} MiB of memory to make a key of the passphrase, and does not get them",
            "Free memory or raise its limit, or save the model with a key of bytes instead.",
        ) from None
