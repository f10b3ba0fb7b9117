"""One request to a store: bytes of an object, or what went wrong.

Everything is read by plain HTTP requests of the standard library, S3 too (by signed addresses):
one code path for all faults, and no library that logs addresses, which may hold signatures.
"""

import base64
import contextlib
import functools
import http.client
import os
import posixpath
import re
import ssl
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from urllib.request import HTTPError, HTTPSHandler, Request, build_opener

from helpers.errors import StorageError

TIMEOUT = 10  # seconds in which the next bytes must arrive
_AGAIN = {408, 429, 500, 502, 503, 504}  # the server's own trouble: worth another try
_EXPIRED = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired"}  # S3's words, beside status 400
_PROXIES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY")
# variables that are read when an opener is made
_SETTINGS = ("AWS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", *_PROXIES)


class Interrupted(Exception):
    """The request failed in a way that may pass: cut, stalled, a server's error."""


class Missing(Exception):
    """There is no such object."""


class Changed(Exception):
    """The object, or the file, is not the one whose first bytes were read."""


class Store:
    """The objects under one prefix.

    Parameters
    ----------
    label : str
        The address without user, password and query, for messages.
    address : callable
        Gives the address to read for the name of an object; may hold secrets.
    headers : dict of str to str
        Sent with every request; may hold secrets.
    """

    def __init__(self, label: str, address: Callable[[str], str], headers: Mapping[str, str]) -> None:
        self.label, self.address, self.headers = label, address, headers

    def name(self, key: str) -> str:
        """What an object is called in messages."""
        return f"{self.label}/{key}" if key else self.label

    def under(self, folder: str) -> "Store":
        """The objects in a folder of this store; "" for the store itself."""
        return Store(self.name(folder), lambda key: self.address(posixpath.join(folder, key)), self.headers)


def store(source: str) -> Store:
    """The objects below ``http(s)://host/prefix``; arguments and errors as for `address.open_store`."""
    try:
        parts = urlsplit(source)
        _ = parts.port
    except ValueError:  # its words may hold secrets
        said = "is malformed: host or port cannot be read"
        raise StorageError(
            source.partition(":")[0] + "://", said, "Write http(s)://host:port/prefix."
        ) from None
    if not parts.hostname:
        raise StorageError(f"{parts.scheme}://", "names no host", "Write http(s)://host/prefix.")
    host, path, headers = parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), {}
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()

    def address(key):
        whole = path + ("/" + quote(key) if key else "")
        return urlunsplit((parts.scheme, host, _quoted(whole), _quoted(parts.query), ""))

    return Store(f"{parts.scheme}://{host}{path}", address, headers)


def _quoted(text):
    """What no request may hold (spaces, what is not ASCII) quoted; what is quoted already stays as it is."""
    return re.sub(r"[^!-~]+", lambda found: quote(found[0]), text)


class Body(NamedTuple):
    """An answer: the open stream, the length of the whole object and its version.

    ``length`` and ``version`` are None where the server does not say. ``partial`` tells whether
    it is a part that was asked for: the server can send parts.
    """

    stream: Any  # http.client.HTTPResponse, whose file (`fp`) no annotation names
    length: int | None
    version: str | None
    partial: bool


def get(store: Store, key: str, span: tuple[int, int] | None = None, version: str | None = None) -> Body:
    """Ask for an object, or for a part of it.

    Parameters
    ----------
    store : Store
    key : str
        The object's name below the store's prefix; "" for the prefix itself.
    span : (int, int), optional
        Where the part begins and where it has ended.
    version : str, optional
        What an earlier `Body` said; the object must still be that one.

    Returns
    -------
    Body
        The caller closes its stream.

    Raises
    ------
    Interrupted, Missing, Changed
        For the caller to act on; Changed also where the object has no byte where the part begins.
    StorageError
        The server refuses for good.
    """
    request = Request(store.address(key))
    for name, value in store.headers.items():
        request.add_unredirected_header(name, value)  # not to another host
    if span:
        request.add_header("Range", f"bytes={span[0]}-{span[1] - 1}")
    if version and version.startswith('"'):  # a strong ETag; a weak one is only compared
        request.add_header("If-Match", version)
    try:
        opener = _opener()
    except OSError as error:
        bundle, said = (
            os.environ.get("AWS_CA_BUNDLE", store.label),
            f"certificates cannot be read ({_words(error)})",
        )
        raise StorageError(
            bundle, said, "Set AWS_CA_BUNDLE to a file of certificates, or unset it."
        ) from None
    try:
        stream = opener.open(request, timeout=TIMEOUT)
    except HTTPError as error:
        with error:
            raise _refusal(store.name(key), error) from None
    except (http.client.InvalidURL, UnicodeError):  # of a host: path and query are quoted
        raise StorageError(
            store.name(key), "is no address that can be asked for", "Check the host."
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise _failure(store.name(key), error) from None
    return _checked(store.name(key), stream, span, version)


def receive(stream: Any, view: memoryview) -> int:
    """Receive what is there into a buffer, as soon as something is.

    Parameters
    ----------
    stream : http.client.HTTPResponse
        Of a `Body`.
    view : memoryview
        Writable.

    Returns
    -------
    int
        How many bytes came; 0 at the end.

    Raises
    ------
    Interrupted
        The connection was cut or has stalled.
    """
    try:
        # Not stream.readinto: it waits until the buffer is full, so a server that sends a byte now
        # and then would hold it for ever. Not stream.read1, but for chunks: it copies once more,
        # a sixth of the time of a load on loopback.
        if not stream.chunked:
            return stream.fp.readinto1(view)
        data = stream.read1(len(view))
        view[: len(data)] = data
        return len(data)
    except (OSError, http.client.HTTPException) as error:
        raise Interrupted(_words(error)) from None


def _opener():
    """What opens addresses; kept, since reading the certificates takes 0.05 s, until one of its settings changes."""
    return _opener_for(*[os.environ.get(name) for name in _SETTINGS])


@functools.lru_cache(maxsize=4)
def _opener_for(bundle, *_):
    context = ssl.create_default_context()  # what SSL_CERT_FILE and SSL_CERT_DIR name, or the system's own
    if bundle:
        context.load_verify_locations(bundle)
    return build_opener(HTTPSHandler(context=context))


def _checked(name, stream, span, version):
    """The answer as a `Body`, if it is what was asked for."""
    headers = stream.headers
    if headers.get("Content-Encoding", "identity") != "identity":
        raise StorageError(name, "is sent compressed", "Turn compression off in the server.")
    found = headers.get("ETag") or headers.get("Last-Modified")
    if version is not None and found != version:
        raise Changed
    if stream.status == 200:
        length = headers.get("Content-Length")
        return Body(stream, int(length) if length else None, found, False)
    where = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", headers.get("Content-Range", ""))
    if not where or not span or int(where[1]) != span[0]:
        raise StorageError(name, "answers another range than asked for", "Check the server.")
    return Body(stream, int(where[3]), found, True)


def _refusal(name, error):
    """What to raise for an answer that is an error."""
    word = error.reason
    with contextlib.suppress(OSError, http.client.HTTPException):
        said = re.search(rb"<Code>(\w+)</Code>", error.read(4096))
        word = said[1].decode() if said else word  # S3's own word for it
    code, region = error.code, error.headers.get("x-amz-bucket-region")
    what, is_expired = f"the server answers {code} {word}", word in _EXPIRED
    if region and code in (301, 307, 400) and not is_expired:
        return StorageError(name, f"the bucket is in {region}", f"Set AWS_REGION={region}.")
    meant = {404: Missing(name), 410: Missing(name), 412: Changed(), 416: Changed()}
    if code in meant or code in _AGAIN:
        return meant.get(code, Interrupted(what))
    remedy = "Check the address and the server."
    if is_expired:
        remedy = "Check credentials: they have expired or are not valid, so get new ones."
    elif code in (401, 403):
        remedy = "Check credentials and rights; some stores answer so where there is nothing."
    return StorageError(name, what, remedy)


def _failure(name, error):
    """What to raise where no answer came."""
    reason = getattr(error, "reason", error)
    if not isinstance(reason, ssl.SSLCertVerificationError):
        return Interrupted(_words(reason))
    remedy = "Set SSL_CERT_FILE (for S3 also AWS_CA_BUNDLE) to your authority's certificates."
    return StorageError(name, f"its certificate is not trusted ({reason.verify_message})", remedy)


def _words(error):
    """An error without its address."""
    if isinstance(error, TimeoutError):
        return f"nothing arrived for {TIMEOUT} seconds"
    return getattr(error, "strerror", None) or type(error).__name__
