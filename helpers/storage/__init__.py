"""Models that live elsewhere: ``s3://bucket/prefix`` and ``http(s)://host/prefix``.

`store` makes one request and says in words what went wrong, `fetch` reads whole objects in
parallel, `s3` signs and uploads, `copies` brings a model's files onto this machine.
"""

SCHEMES = ("s3://", "http://", "https://")


def is_remote(source):
    """Whether a source is the address of a store and not a path.

    Examples
    --------
    >>> is_remote("s3://bucket/model"), is_remote("models/mine")
    (True, False)
    """
    return isinstance(source, str) and source.lower().startswith(SCHEMES)
