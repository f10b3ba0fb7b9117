"""Where files are: a directory, ``s3://bucket/prefix``, ``http(s)://host/prefix``. Knows no model.

Here, on this machine: `atomic` writes all or nothing, `page_cache` reads ahead, `mounts` knows network
storage, `memory` what is free, `cache` where copies go. Elsewhere: `address` opens a store, `http` makes
one request and says in words what went wrong, `fetch` reads whole objects in parallel (`pace`: by how
many requests), `saved_files` those that a manifest names, `s3` publishes; `ahead` lets a process of its
own (`fetcher`) do it while this one imports.
"""


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
