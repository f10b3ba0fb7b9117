"""S3: sign addresses for reading, upload for writing. Credentials, region and endpoint are boto3's.

A save goes into a folder of its own below the prefix, and ``model.json``, which names that folder,
is put last. So a reader sees the old model or the new one, whatever is interrupted, and of two
writers one wins whole.
"""

import contextlib
import datetime
import functools
import logging
import os
import posixpath
import re
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from helpers.errors import CorruptFile, StorageError, storage_errors, temporary_directory
from helpers.format import manifest
from helpers.storage import atomic
from helpers.storage.http import Store
from helpers.storage.names import bucket_of
from helpers.timeline import phase

logger = logging.getLogger(__name__)
_ABANDONED = datetime.timedelta(days=1)
_REMEDY = "Check bucket, rights, credentials, region and endpoint, as for the aws command (AWS_*, ~/.aws)."
_FOLDER = re.compile(r"serialised-[0-9a-f]{16}/")  # a name of nobody else's: what bears it may be deleted


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
    bucket, prefix, label = bucket_of(source)
    with _said(label):
        client = _client()

    def address(key):
        wanted = {"Bucket": bucket, "Key": posixpath.join(prefix, key) if key else prefix}
        with _said(label):  # signed anew for each request, so it needs to last only as long as that
            return client.generate_presigned_url("get_object", Params=wanted, ExpiresIn=3600)

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
    bucket, prefix, label = bucket_of(destination)
    client = check_destination(destination, overwrite)
    doing, inside = "writing to the temporary directory (TMPDIR)", f"serialised-{secrets.token_hex(8)}"
    with (
        storage_errors(temporary_directory(), doing),
        tempfile.TemporaryDirectory(prefix="model-") as scratch,
    ):
        yield Path(scratch), inside
        with phase("upload"), _said(label):
            before = _named(client, bucket, prefix) if overwrite else []
            _upload(client, bucket, prefix, label, Path(scratch), inside, overwrite)
    _remove(client, bucket, label, _stale(client, bucket, prefix, inside, before))


def check_destination(destination: str, overwrite: bool) -> Any:
    """Refuse what `publication` refuses before it begins; arguments and errors are its own.

    Returns
    -------
    object
        The client that has asked.
    """
    bucket, prefix, label = bucket_of(destination)
    with _said(label):
        client = _client()
        _check(client, bucket, prefix, label, overwrite)
    return client


def _client():
    """boto3's client for S3; kept, since making one takes it 0.1 to 0.5 s (it parses its API's JSON)."""
    said = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "HOME"))}
    credentials = said.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")
    config = said.get("AWS_CONFIG_FILE", "~/.aws/config")
    return _client_for(tuple(sorted(said.items())), _state(credentials), _state(config))


def _state(path):
    """What tells the content of a file from an earlier one: credentials that expire are written anew."""
    try:
        found = os.stat(os.path.expanduser(os.path.expandvars(path)))
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


@functools.lru_cache(maxsize=4)
def _client_for(environment, credentials, config):
    session = boto3.session.Session()
    if session.get_credentials() is None:  # not kept: they may be set up later
        raise NoCredentialsError
    # addresses signed by the old method hold no region and are refused by newer ones; checksums
    # beyond what an operation demands are not understood by all stores
    options = Config(signature_version="s3v4", request_checksum_calculation="when_required")
    return session.client("s3", config=options)


@contextlib.contextmanager
def _said(label):
    """Turn what boto3 raises into a `StorageError`, without the request, which may hold secrets."""
    try:
        yield
    except (boto3.exceptions.Boto3Error, BotoCoreError, ClientError) as error:
        said = f"S3 cannot be used ({type(error).__name__})"
        if isinstance(error, ClientError):
            said = f"S3 answers {error.response['Error'].get('Code')} to {error.operation_name}"
        raise StorageError(label, said, _REMEDY) from None


def _check(client, bucket, prefix, label, overwrite):
    """Refuse a prefix that holds a model which may not be replaced, or objects of others."""
    # without the empty objects ending in "/" that the AWS console makes to show a folder
    keys = [item["Key"] for item in _list(client, bucket, prefix) if item["Size"] or item["Key"][-1] != "/"]
    found = {key.removeprefix(f"{prefix}/") for key in keys}
    if manifest.NAME in found and not overwrite:
        raise atomic.exists(label)
    if overwrite:
        found -= {manifest.NAME, *_named(client, bucket, prefix)}
    atomic.refuse(label, [key for key in found if not _FOLDER.match(key)])


def _list(client, bucket, prefix):
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    return [item for page in pages for item in page.get("Contents", ())]


def _named(client, bucket, prefix):
    """The objects of the model that the manifest there names, relative to the prefix; none if there is none."""
    try:
        text = client.get_object(Bucket=bucket, Key=f"{prefix}/{manifest.NAME}")["Body"].read()
        record = manifest.parse(text, prefix)
    except (client.exceptions.NoSuchKey, CorruptFile):
        return []
    return [posixpath.join(record.folder, name) for name in (*record.files, *record.weights)]


def _upload(client, bucket, prefix, label, folder, inside, overwrite):
    """Put all files of a model, the manifest last."""
    top, only_if_new, sent = folder / manifest.NAME, {} if overwrite else {"IfNoneMatch": "*"}, False
    files = [path for path in folder.rglob("*") if path.is_file() and path != top]
    keys = [f"{prefix}/{inside}/{path.relative_to(folder).as_posix()}" for path in files]
    try:
        for path, key in zip(files, keys, strict=True):
            client.upload_file(str(path), bucket, key)
        sent = True
        client.put_object(Bucket=bucket, Key=f"{prefix}/{top.name}", Body=top.read_bytes(), **only_if_new)
    except BaseException as error:
        # The manifest's answer may be lost on its way, and a second try refused because of the first:
        # what stands there counts. Where it cannot be read that is said, and nothing is removed.
        stands = _named(client, bucket, prefix) if sent and isinstance(error, Exception) else []
        if stands and stands[0].startswith(inside):
            return
        status = getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if not sent or 400 <= status < 500:  # refused; anything else may yet take effect
            _remove(client, bucket, label, keys)
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
