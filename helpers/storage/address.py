"""From an address to the store that it names."""

import functools

from helpers.errors import extra
from helpers.storage import http, is_s3
from helpers.storage.names import bucket_of


def open_store(source: str) -> http.Store:
    """The store of an address; nothing is asked of it yet.

    Parameters
    ----------
    source : str
        ``s3://bucket/prefix``, or ``http(s)://host/prefix``: user and password go into a header, a
        query (a signature) is kept for every object.

    Returns
    -------
    helpers.storage.http.Store

    Raises
    ------
    StorageError
        The address is malformed. That there is no boto3, or no credentials, for S3 is said at the first request.

    Examples
    --------
    >>> open_store("https://user:secret@example.org/models/mine").label
    'https://example.org/models/mine'
    """
    if not is_s3(source):
        return http.store(source)

    label = bucket_of(source)[2]

    @functools.cache
    def signed() -> http.Store:
        with extra(label, "s3"):
            from helpers.storage import s3  # here, since boto3 takes 0.3 s and more, and is not always needed

        return s3.store(source)

    return http.Store(label, lambda key: signed().address(key), {})
