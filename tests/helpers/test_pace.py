"""How many requests at a time: what a store gives decides."""

import http.server
import re
import threading
import time

import pytest

from helpers.storage import fetch, memory, pace
from helpers.storage.address import open_store

pytestmark = pytest.mark.alone  # it measures times

CONTENT = bytes(range(256)) * (120 << 10)  # 31 MB
BITE = 16 << 10
SPEED = 1.6e6  # bytes a second, for each connection; ten times as much for all together


class TestDecision:
    @pytest.mark.parametrize(
        ("tried", "most", "expected"),
        [
            ([(8, 100)], 64, 32),
            ([(8, 100), (32, 390)], 64, 64),
            ([(8, 100), (32, 125)], 64, 64),
            ([(8, 100), (32, 110)], 64, 8),
            ([(8, 100), (32, 50)], 64, 8),
            ([(8, 100), (32, 390), (64, 410)], 64, 32),
            ([(8, 100), (32, 390)], 40, 40),
            ([(32, 100), (64, 200)], 64, 64),
            ([(8, 100)], 8, 8),
        ],
    )
    def test_it_grows_as_long_as_that_pays(self, tried, most, expected):
        assert pace.wanted(tried, most) == expected

    @pytest.mark.parametrize(("free", "expected"), [(1 << 40, 64), (1 << 30, 16), (1 << 20, pace.FIRST)])
    def test_memory_bounds_it(self, monkeypatch, free, expected):
        monkeypatch.setattr(memory, "available_bytes", lambda: free)
        assert pace.most() == expected


class TestPieces:
    @pytest.mark.parametrize("requests", [1, 8, 64])
    def test_they_cover_everything_once_and_become_smaller(self, requests):
        pieces = pace.Pieces([(100, 5000), (6000, 6001), (7000, 20_000)], (64, 512))
        found = list(iter(lambda: pieces.take(requests), None))
        covered = [byte for start, stop in found for byte in range(start, stop)]
        assert covered == [*range(100, 5000), 6000, *range(7000, 20_000)]
        sizes = [stop - start for start, stop in found]
        assert max(sizes) <= 512 and max(sizes[-3:]) <= 64 * max(1, 512 // 64 // requests) + 64
        assert pieces.left == 0

    def test_without_sizes_each_span_is_one(self):
        pieces = pace.Pieces([(0, 10_000)], None)
        assert [pieces.take(8), pieces.take(8)] == [(0, 10_000), None]


class Limited:
    """A server on which each connection gets so many bytes a second, or all of them together."""

    def __init__(self, each):
        self.each, self.now, self.most = each, 0, 0
        self.lock, self.due, self.first = threading.Lock(), 0.0, 0.0

    def wait(self, begun, sent):
        """Sleep until the next bite is due; by the clock, so that a machine that is busy changes little."""
        due = begun + sent / SPEED
        if not self.each:
            with self.lock:
                self.first = self.first or begun
                due = self.due = max(self.due, self.first) + BITE / SPEED / 10
        time.sleep(max(0, due - time.monotonic()))

    def count(self, change):
        with self.lock:
            self.now += change
            self.most = max(self.most, self.now)


class Handler(http.server.BaseHTTPRequestHandler):
    state: Limited

    def log_message(self, *_):
        pass

    def do_GET(self):
        first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups())
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(CONTENT)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("ETag", '"one"')
        self.end_headers()
        self.state.count(1)
        begun = time.monotonic()
        for at in range(first, last + 1, BITE):
            self.state.wait(begun, at - first)
            self.wfile.write(CONTENT[at : min(at + BITE, last + 1)])
        self.state.count(-1)


@pytest.fixture(params=[True, False], ids=["each connection is limited", "all together are limited"])
def limited(request, monkeypatch):
    monkeypatch.setattr(fetch, "_PIECES", (64 << 10, 128 << 10))
    monkeypatch.setattr(pace, "_WINDOW", 0.15 if request.param else 0.3)  # on a busy machine too
    state = Limited(request.param)
    handler = type("Handler", (Handler,), {"state": state})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}/x"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_number_of_requests_follows_what_the_store_gives(limited, monkeypatch):
    tried, real = [], pace.wanted
    monkeypatch.setattr(pace, "wanted", lambda seen, most: tried.append(real(seen, most)) or tried[-1])
    raw, _ = fetch.into_memory(open_store(limited.url), "", progress=False)
    assert bytes(raw) == CONTENT
    if limited.each:
        assert limited.most > 13, tried
    else:
        assert tried[-1] == pace.FIRST and limited.most <= 40, tried


@pytest.mark.parametrize("limited", [True], indirect=True)
def test_a_number_that_is_asked_for_stays(limited):
    raw, _ = fetch.into_memory(open_store(limited.url), "", progress=False, readers=3, spans=[(0, 2 << 20)])
    assert raw[: 2 << 20] == CONTENT[: 2 << 20]
    assert limited.most <= 5  # the server may count one that has just ended
