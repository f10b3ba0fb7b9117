"""What an address of S3 names. Apart from `helpers.storage.s3`, which imports boto3."""

from urllib.parse import urlsplit

from helpers.errors import StorageError


def bucket_of(source: str) -> tuple[str, str, str]:
    """Bucket, prefix, and what to call them in messages.

    Parameters
    ----------
    source : str
        ``s3://bucket/prefix``.

    Returns
    -------
    tuple of (str, str, str)

    Raises
    ------
    StorageError
        It names no bucket or no prefix.

    Examples
    --------
    >>> bucket_of("s3://bucket/models/mine/")
    ('bucket', 'models/mine', 's3://bucket/models/mine')
    """
    parts = urlsplit(source)
    bucket, prefix = parts.netloc, parts.path.strip("/")
    if not bucket or not prefix:
        raise StorageError(source, "names no bucket and prefix", "Write s3://bucket/prefix.")
    return bucket, prefix, f"s3://{bucket}/{prefix}"
