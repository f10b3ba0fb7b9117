"""S3: sign addresses for reading, upload for writing. Credentials, region and endpoint are boto3's.

A save goes into a folder of its own below the prefix, and ``model.json``, which names that folder,
is put last. So a reader sees the old model or the new one, whatever is interrupted, and of two
writers one wins whole.
"""

import contextlib
import datetime
import functools
import json
import os
import re
import secrets
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from helpers.errors import StorageError
from helpers.format import manifest
from helpers.storage.http import Store
from helpers.timeline import phase

_SIGNED_FOR = 3600  # seconds: each request is signed anew, so one needs to last only as long as itself
_ABANDONED = datetime.timedelta(days=1)
_FOLDER = re.compile(r"[0-9a-f]{16}/")


def store(source):
    """The objects below ``s3://bucket/prefix``, read by signed addresses.

    Raises
    ------
    StorageError
        The address names no bucket, or boto3 finds no credentials or region.
    """
    bucket, prefix = _split(source)
    label = f"s3://{bucket}/{prefix}".rstrip("/")
    with _said(label):
        client = _client()

    def address(key):
        with _said(label):
            return client.generate_presigned_url(
                "get_object",
                Params={"Bucket": bucket, "Key": "/".join(filter(None, (prefix, key)))},
                ExpiresIn=_SIGNED_FOR,
            )

    return Store(label, address)


@contextlib.contextmanager
def publication(destination, overwrite):
    """A local directory to fill, which is uploaded when the block ends without an error.

    Parameters
    ----------
    destination : str
        ``s3://bucket/prefix``.
    overwrite : bool
        Whether a saved model that exists there may be replaced.

    Yields
    ------
    pathlib.Path
        In the system's temporary directory (``TMPDIR``), which must have room for the model.

    Raises
    ------
    StorageError
        The prefix holds a model (without overwrite) or foreign objects, or S3 refuses.
    """
    bucket, prefix = _split(destination)
    label = f"s3://{bucket}/{prefix}"
    with _said(label):
        client = _client()
        _check(client, bucket, prefix, label, overwrite)
    with tempfile.TemporaryDirectory(prefix="model-") as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        yield folder
        with phase("upload"), _said(label):
            _upload(client, bucket, prefix, folder, overwrite)


def _split(source):
    parts = urlsplit(source)
    if not parts.netloc or not parts.path.strip("/"):
        raise StorageError(source, "names no bucket and prefix", "Write s3://bucket/prefix.")
    return parts.netloc, parts.path.strip("/")


def _client():
    """boto3's client for S3; kept, since making one takes it 0.1 to 0.5 s (it parses its API's JSON)."""
    return _client_for(
        tuple(sorted(item for item in os.environ.items() if item[0].startswith(("AWS_", "HOME"))))
    )


@functools.lru_cache(maxsize=4)
def _client_for(environment):
    import boto3
    from botocore.config import Config

    # addresses signed by the old method hold no region and are refused by newer ones; checksums
    # beyond what an operation demands are not understood by all stores
    config = Config(signature_version="s3v4", request_checksum_calculation="when_required")
    client = boto3.session.Session().client("s3", config=config)
    if client._request_signer._credentials is None:
        from botocore.exceptions import NoCredentialsError

        raise NoCredentialsError
    return client


@contextlib.contextmanager
def _said(label):
    """Turn what boto3 raises into a `StorageError`, without the request, which may hold secrets."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "?")
        raise StorageError(
            label, f"S3 answers {code} to {error.operation_name}", "Check bucket, credentials and rights."
        ) from None
    except (BotoCoreError, Boto3Error) as error:
        named = type(error).__name__
        raise StorageError(
            label,
            f"S3 cannot be used ({named})",
            "Set credentials, region and endpoint as for the aws command (AWS_*, ~/.aws).",
        ) from None


def _check(client, bucket, prefix, label, overwrite):
    found = [item["Key"].removeprefix(f"{prefix}/") for item in _list(client, bucket, prefix)]
    if manifest.NAME in found and not overwrite:
        raise _exists(label)
    if manifest.NAME in found:
        known = {manifest.NAME, *_old(client, bucket, prefix)}
        found = [key for key in found if key not in known]
    if foreign := [key for key in found if not _FOLDER.match(key)]:
        raise StorageError(
            label,
            f"holds what no save has written: {', '.join(sorted(foreign)[:10])}",
            "Move these away or choose another prefix; overwrite=True replaces saved models only.",
        )


def _exists(label):
    return StorageError(
        label, "exists already", "Pass overwrite=True to replace it, or choose another destination."
    )


def _list(client, bucket, prefix):
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    return [item for page in pages for item in page.get("Contents", ())]


def _old(client, bucket, prefix):
    """The objects of the model that the manifest there names, relative to the prefix."""
    from botocore.exceptions import ClientError

    try:
        text = client.get_object(Bucket=bucket, Key=f"{prefix}/{manifest.NAME}")["Body"].read()
        fields = json.loads(text)
        folder, files = fields["folder"], fields["files"]
    except (ClientError, ValueError, KeyError, TypeError):  # none, or no manifest of ours
        return []
    inside = f"{folder}/" if folder else ""
    weights = [
        str(Path(name).with_name(manifest.TENSORS)) for name in files if Path(name).name == manifest.NAME
    ]
    return [inside + name for name in (*files, *weights, manifest.TENSORS)]


def _upload(client, bucket, prefix, folder, overwrite):
    name = secrets.token_hex(8)
    before = _old(client, bucket, prefix)
    text = manifest.moved((folder / manifest.NAME).read_text(), name)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / manifest.NAME]
    try:
        for path in files:
            client.upload_file(str(path), bucket, f"{prefix}/{name}/{path.relative_to(folder).as_posix()}")
        _put_manifest(client, bucket, prefix, text, overwrite)
    except BaseException:
        _remove(client, bucket, [item["Key"] for item in _list(client, bucket, f"{prefix}/{name}")])
        raise
    stale = [f"{prefix}/{key}" for key in before]
    limit = datetime.datetime.now(datetime.UTC) - _ABANDONED
    for item in _list(client, bucket, prefix):  # what killed writers have left
        inside = item["Key"].removeprefix(f"{prefix}/")
        if _FOLDER.match(inside) and not inside.startswith(name) and item["LastModified"] < limit:
            stale.append(item["Key"])
    _remove(client, bucket, stale)


def _put_manifest(client, bucket, prefix, text, overwrite):
    from botocore.exceptions import ClientError

    only_if_new = {} if overwrite else {"IfNoneMatch": "*"}
    try:
        client.put_object(Bucket=bucket, Key=f"{prefix}/{manifest.NAME}", Body=text.encode(), **only_if_new)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412):
            raise _exists(f"s3://{bucket}/{prefix}") from None  # somebody else was faster
        raise


def _remove(client, bucket, keys):
    for key in dict.fromkeys(keys):
        client.delete_object(Bucket=bucket, Key=key)
