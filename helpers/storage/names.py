"""What an address or a name of the hub names. Apart from `helpers.storage.s3`, which imports boto3."""

import os
import re
from urllib.parse import urlsplit

from helpers.errors import StorageError
from helpers.storage import is_s3


def bucket_of(source: str) -> tuple[str, str, str]:
    """Bucket, prefix, and what to call them in messages.

    Parameters
    ----------
    source : str
        ``s3://bucket/prefix``; ``#`` and ``?`` are characters of a prefix like others.

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
    # not by urlsplit: it would take them for the beginning of a fragment and a query, and name another model
    bucket, _, prefix = source.partition("://")[2].partition("/")
    prefix = prefix.strip("/")
    if not bucket or not prefix:
        raise StorageError(source, "names no bucket and prefix", "Write s3://bucket/prefix.")
    return bucket, prefix, f"s3://{bucket}/{prefix}"


def is_bare(source: str) -> bool:
    """Whether an address names a ``.tensors`` file, and not what lies below a prefix.

    Examples
    --------
    >>> is_bare("https://host/m.tensors?signature=7"), is_bare("s3://bucket/m.tensors?"), is_bare("s3://bucket/m")
    (True, False, False)
    """
    path = source if is_s3(source) else urlsplit(source).path
    return path.endswith(".tensors")


def may_be_on_hub(source: str) -> bool:
    """Whether a source that is not here may be a name on the Hugging Face hub, and not a path with a mistake in it.

    Examples
    --------
    >>> may_be_on_hub("org/name"), may_be_on_hub("../org/name"), may_be_on_hub("a/path/of/mine")
    (True, False, False)
    """
    part = r"[\w-][\w.-]{0,95}"
    return bool(re.fullmatch(f"{part}(/{part})?", source)) and not os.path.isdir(source.partition("/")[0])
