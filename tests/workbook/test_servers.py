"""The unreliable network that notebook 09 loads through: its faults are real, and it carries the rest unchanged."""

import socket
import threading
import time
import urllib.request

import pytest

from workbook.samples import servers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(servers.nginx() is None, reason="nginx is not installed"),
]


@pytest.fixture
def content(tmp_path):
    data = bytes(range(256)) * (1 << 14)  # 4 MB
    (tmp_path / "large").write_bytes(data)
    (tmp_path / "small").write_bytes(b"whole")
    return data


@pytest.fixture
def net(tmp_path, content):
    with servers.web_server(tmp_path) as address, servers.network(address) as found:
        yield found


def read(net, name, timeout=60):
    with urllib.request.urlopen(f"{net.address}/{name}", timeout=timeout) as answer:
        return answer.read()


def test_without_faults_everything_comes_through_and_is_counted(net, content):
    assert read(net, "large") == content
    assert read(net, "small") == b"whole"
    assert net.met == []
    assert net.carried > len(content) + 5


def test_a_cut_befalls_one_connection_that_carries_much(net, content):
    net.faults = ["cut"]
    assert read(net, "small") == b"whole"
    with pytest.raises((OSError, urllib.request.http.client.IncompleteRead)):
        read(net, "large")
    assert net.met == ["cut"]
    assert read(net, "large") == content


def test_a_stalled_connection_brings_nothing_until_the_reader_gives_up(net, content):
    net.faults = ["stall"]
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        read(net, "large", timeout=1)
    assert 1 <= time.monotonic() - start < 10
    assert net.met == ["stall"]


def test_free_ports_differ_and_are_none_that_the_system_gives_away_meanwhile():
    found = servers.free_ports(100)
    assert len(set(found)) == 100
    for port in found:
        with socket.socket() as one:
            one.bind(("127.0.0.1", port))
    assert max(found) < 32_768, "the first that Linux gives to whoever asks for any"


def test_nothing_is_left_behind_even_where_a_connection_stalls(tmp_path, content):
    before = set(threading.enumerate())
    with servers.web_server(tmp_path) as address, servers.network(address) as net:
        net.faults = ["stall"]
        stalled = urllib.request.urlopen(f"{net.address}/large", timeout=60)
        time.sleep(0.3)
    stalled.close()
    assert set(threading.enumerate()) <= before
