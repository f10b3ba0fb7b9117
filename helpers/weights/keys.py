"""Keys and passphrases of encrypted models. They are stored nowhere."""

import os
from typing import Any

from helpers.errors import EncryptionError

_KEY_BYTES = 32


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
        The key is malformed, or libsodium is missing.
    """
    if not kind_of(encryption):
        return None
    from tensorizer import EncryptionParams

    return _made(
        EncryptionParams.from_string if isinstance(encryption, str) else EncryptionParams, encryption
    )


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


def _made(make, encryption):
    try:
        return make(encryption)
    except RuntimeError:
        raise EncryptionError(
            "encryption=",
            "needs libsodium, which is not installed",
            "Debian, Ubuntu: apt-get install libsodium23; macOS: brew install libsodium; conda: libsodium.",
        ) from None
