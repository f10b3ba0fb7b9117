"""S3: sign addresses for reading, upload for writing. Credentials, region and endpoint are boto3's.

A save goes into a folder of its own below the prefix, and ``model.json``, which names that folder,
is put last. So a reader sees the old model or the new one, whatever is interrupted, and of two
writers one wins whole.
"""

import contextlib
import datetime
import logging
import posixpath
import re
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from helpers.errors import CorruptFile, StorageError, storage
from helpers.format import manifest
from helpers.storage import atomic
from helpers.storage.http import Store
from helpers.timeline import phase

logger = logging.getLogger(__name__)
_SIGNED_FOR = 3600  # seconds: each request is signed anew, so one needs to last only as long as itself
_ABANDONED = datetime.timedelta(days=1)
_FOLDER = re.compile(r"[0-9a-f]{16}/")


def store(source: str) -> Store:
    """The objects below ``s3://bucket/prefix``, read by signed addresses.

    Parameters
    ----------
    source : str

    Returns
    -------
    helpers.storage.http.Store

    Raises
    ------
    StorageError
        The address names no bucket, or boto3 finds no credentials or region.
    """
    bucket, prefix, label = _split(source)
    with _said(label):
        client = _client()

    def address(key):
        place = {"Bucket": bucket, "Key": posixpath.join(prefix, key) if key else prefix}
        with _said(label):
            return client.generate_presigned_url("get_object", Params=place, ExpiresIn=_SIGNED_FOR)

    return Store(label, address, {})


@contextlib.contextmanager
def publication(destination: str, overwrite: bool) -> Iterator[tuple[Path, str]]:
    """A local directory to fill, which is uploaded when the block ends without an error.

    Parameters
    ----------
    destination : str
        ``s3://bucket/prefix``.
    overwrite : bool
        Whether a saved model that exists there may be replaced.

    Yields
    ------
    folder : pathlib.Path
        In the system's temporary directory (``TMPDIR``), which must have room for the model.
    inside : str
        Where below the prefix the files will be: what the manifest at the top of ``folder`` must state.

    Raises
    ------
    StorageError
        The prefix holds a model (without overwrite) or foreign objects, S3 refuses, or the temporary
        directory does.
    """
    bucket, prefix, label = _split(destination)
    with _said(label):
        client = _client()
        _check(client, bucket, prefix, label, overwrite)
    doing, inside = "writing to the temporary directory (TMPDIR)", secrets.token_hex(8)
    with storage(tempfile.gettempdir(), doing), tempfile.TemporaryDirectory(prefix="model-") as scratch:
        yield Path(scratch), inside
        with phase("upload"), _said(label):
            before = _named(client, bucket, prefix)
            _upload(client, bucket, prefix, label, Path(scratch), inside, overwrite)
    _remove(client, bucket, label, _stale(client, bucket, prefix, inside, before))


def _split(source):
    """Bucket, prefix, and what to call them."""
    parts = urlsplit(source)
    bucket, prefix = parts.netloc, parts.path.strip("/")
    if not bucket or not prefix:
        raise StorageError(source, "names no bucket and prefix", "Write s3://bucket/prefix.")
    return bucket, prefix, f"s3://{bucket}/{prefix}"


def _client():
    # addresses signed by the old method hold no region and are refused by newer ones; checksums
    # beyond what an operation demands are not understood by all stores
    config = Config(signature_version="s3v4", request_checksum_calculation="when_required")
    return boto3.session.Session().client("s3", config=config)


@contextlib.contextmanager
def _said(label):
    """Turn what boto3 raises into a `StorageError`, without the request, which may hold secrets."""
    try:
        yield
    except ClientError as error:
        said = f"S3 answers {error.response['Error'].get('Code')} to {error.operation_name}"
        raise StorageError(label, said, "Check bucket, credentials and rights.") from None
    except (Boto3Error, BotoCoreError) as error:
        said = f"S3 cannot be used ({type(error).__name__})"
        remedy = "Set credentials, region and endpoint as for the aws command (AWS_*, ~/.aws)."
        raise StorageError(label, said, remedy) from None


def _check(client, bucket, prefix, label, overwrite):
    """Refuse a prefix that holds a model which may not be replaced, or objects of others."""
    found = {item["Key"].removeprefix(f"{prefix}/") for item in _list(client, bucket, prefix)}
    if manifest.NAME in found and not overwrite:
        raise atomic.exists(label)
    found -= {manifest.NAME, *_named(client, bucket, prefix)}
    atomic.refuse(label, [key for key in found if not _FOLDER.match(key)])


def _list(client, bucket, prefix):
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    return [item for page in pages for item in page.get("Contents", ())]


def _named(client, bucket, prefix):
    """The objects of the model that the manifest there names, relative to the prefix."""
    try:
        record = manifest.parse(_manifest(client, bucket, prefix), prefix)
    except (ClientError, CorruptFile):  # none, or no manifest of ours
        return []
    return [posixpath.join(record.folder, name) for name in (*record.files, *record.weights)]


def _manifest(client, bucket, prefix):
    return client.get_object(Bucket=bucket, Key=f"{prefix}/{manifest.NAME}")["Body"].read()


def _upload(client, bucket, prefix, label, folder, inside, overwrite):
    """Put all files of a model, the manifest last; removed again where it is sure that none names them."""
    top, keys = folder / manifest.NAME, {}
    for path in folder.rglob("*"):
        if path.is_file() and path != top:
            keys[path] = f"{prefix}/{inside}/{path.relative_to(folder).as_posix()}"
    try:
        for path, key in keys.items():
            client.upload_file(str(path), bucket, key)
    except BaseException:
        _remove(client, bucket, label, keys.values())
        raise
    only_if_new = {} if overwrite else {"IfNoneMatch": "*"}
    try:
        client.put_object(Bucket=bucket, Key=f"{prefix}/{top.name}", Body=top.read_bytes(), **only_if_new)
    except (BotoCoreError, ClientError) as error:
        # Its answer may have been lost, and a second try refused because of the first: what stands there counts.
        if _manifest(client, bucket, prefix) == top.read_bytes():
            return
        status = error.response["ResponseMetadata"]["HTTPStatusCode"] if isinstance(error, ClientError) else 0
        if 400 <= status < 500:  # refused; anything else may yet take effect, and needs the objects
            _remove(client, bucket, label, keys.values())
        if status in (409, 412):
            raise atomic.exists(label) from None  # somebody else was faster
        raise


def _stale(client, bucket, prefix, inside, before):
    """The objects that a new model replaces, and those that killed writers left."""
    yield from (f"{prefix}/{name}" for name in before)
    limit = datetime.datetime.now(datetime.UTC) - _ABANDONED
    for item in _list(client, bucket, prefix):
        name = item["Key"].removeprefix(f"{prefix}/")
        if _FOLDER.match(name) and not name.startswith(inside) and item["LastModified"] < limit:
            yield item["Key"]


def _remove(client, bucket, label, keys):
    """Delete objects that no manifest names; where S3 refuses they are left, with a warning."""
    try:
        with _said(label):
            for key in keys:
                client.delete_object(Bucket=bucket, Key=key)
    except StorageError as error:
        logger.warning("Objects that are no longer needed are left. %s", error)
