"""From an address to the store that it names."""

from urllib.parse import urlsplit

from helpers.storage import http


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
        The address is malformed, or there are no credentials for S3.

    Examples
    --------
    >>> open_store("https://user:secret@example.org/models/mine").label
    'https://example.org/models/mine'
    """
    if urlsplit(source).scheme.lower() != "s3":
        return http.store(source)
    from helpers.storage import s3  # here, since boto3 takes 0.1 s and more to import

    return s3.store(source)
