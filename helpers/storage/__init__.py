"""Where files are: a directory, ``s3://bucket/prefix``, ``http(s)://host/prefix``. Knows no model.

Here, on this machine: `atomic` writes all or nothing, `page_cache` reads ahead, `mounts` knows network
storage, `memory` what is free, `cache` where copies go. Elsewhere: `address` opens a store, `http` makes
one request and says in words what went wrong, `fetch` reads whole objects in parallel (`pace`: by how
many requests), `saved_files` those that a manifest names, `s3` publishes; `ahead` lets a process of its
own (`fetcher`) do it while this one imports.
"""

import os
import sys


def is_remote(source: object) -> bool:
    """Whether a source is the address of a store and not a path.

    Examples
    --------
    >>> is_remote("s3://bucket/model"), is_remote("models/mine")
    (True, False)
    """
    return isinstance(source, str) and source.lower().startswith(("s3://", "http://", "https://"))


def is_s3(source: str) -> bool:
    """Whether an address is one of S3, where ``#`` and ``?`` are characters of a key.

    Examples
    --------
    >>> is_s3("S3://bucket/model"), is_s3("https://host/model")
    (True, False)
    """
    return source.lower().startswith("s3://")


def without_secrets(address: str) -> str:
    """The host and the path of an address, for a message: user, password and signature are left out.

    Examples
    --------
    >>> without_secrets("https://user:secret@host/model?signature=7")
    'host/model'
    """
    return address.partition("?")[0].rpartition("@")[2]


def starts_python() -> bool:
    """Whether a second Python can be started, and lightly: not on Windows, nor by a frozen application, which is
    its own interpreter and would be started again.

    Examples
    --------
    >>> starts_python()
    True
    """
    return bool(sys.executable) and hasattr(os, "posix_spawn") and not getattr(sys, "frozen", False)
