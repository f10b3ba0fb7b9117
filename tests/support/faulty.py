"""A real HTTP server that misbehaves on request: it cuts, stalls, lies and forgets."""

import contextlib
import hashlib
import http.server
import re
import threading
import time
from pathlib import Path
from urllib.parse import unquote


class Faulty:
    """Serves a directory with ranges and ETags; `faults` are taken in turn by requests for weights.

    Attributes
    ----------
    faults : list of str
        What befalls the next requests for a file of weights: see `_Handler.do_GET`.
    seen : list of (str, str or None)
        Path and Range header of every request.
    """

    def __init__(self, root):
        self.root, self.faults, self.seen, self.headers = Path(root), [], [], []
        self.etags, self.ranges, self.always, self.on_request = True, True, None, lambda path: None
        self.lengths = True  # or chunks, and no word of how many bytes there are
        self.lock, self.ended = threading.Lock(), threading.Event()

    def next_fault(self, path):
        with self.lock:
            if not path.endswith(".tensors"):
                return None
            return self.always or (self.faults.pop(0) if self.faults else None)


@contextlib.contextmanager
def serving(root, context=None):
    """Run the server on a free loopback port, by TLS with an `ssl` context; yields the `Faulty` with its ``url``."""
    state = Faulty(root)
    handler = type("Handler", (_Handler,), {"state": state})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        state.url = f"https://localhost:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        state.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    state: Faulty

    def log_message(self, *_):
        pass

    def do_GET(self):
        state, path = self.state, unquote(self.path.partition("?")[0])
        wanted = self.headers.get("Range")
        with state.lock:
            state.seen.append((path, wanted))
            state.headers.append(dict(self.headers))
        state.on_request(path)
        fault = state.next_fault(path)
        if fault and fault[0].isdigit():  # a status, and the word that S3 has for it
            status, _, word = fault.partition(" ")
            self.error_message_format = f"<Error><Code>{word}</Code></Error>"
            self.send_error(int(status))
            return
        if fault == "stall":
            time.sleep(3)
            return
        file = state.root / path.lstrip("/")
        if not file.is_file():
            self.send_error(404)
            return
        content = file.read_bytes()
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        if state.etags and self.headers.get("If-Match", etag) != etag:
            self.send_error(412)
            return
        self._answer(content, etag, wanted, fault)

    def _answer(self, content, etag, wanted, fault):
        whole, first = len(content), 0
        if wanted and self.state.ranges and fault != "no ranges":
            first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", wanted).groups())
            if first >= whole:
                self.send_error(416)
                return
            content = content[first : last + 1]
            self.send_response(206)
            shift = 64 if fault == "other range" else 0
            self.send_header(
                "Content-Range", f"bytes {first + shift}-{first + len(content) - 1 + shift}/{whole}"
            )
        else:
            self.send_response(200)
        if fault == "short":  # an honest header, but fewer bytes than asked for
            content = content[: len(content) // 2]
        if self.state.lengths:
            self.send_header("Content-Length", str(len(content)))
        else:
            self.send_header("Transfer-Encoding", "chunked")
            content = b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)
        if self.state.etags:
            self.send_header("ETag", etag)
        if fault == "gzip":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        with contextlib.suppress(OSError):  # the client has given up
            if fault == "cut":
                self.wfile.write(content[: len(content) // 2])
                self.close_connection = True
            elif fault == "crawl":
                for byte in content[:40]:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.1)
            elif fault == "hang":  # after the headers
                self.state.ended.wait(20)
            else:
                self.wfile.write(content)
