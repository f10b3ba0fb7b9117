"""Objects fetched into memory and into files: private, given up in time, and refused in words."""

import os
import threading
import time

import pytest
import torch
from faulty import serving
from torch import nn

from helpers import deserialise, serialise
from helpers.errors import CorruptFile, StorageError
from helpers.storage import cache, fetch, http
from helpers.storage.address import open_store

pytestmark = pytest.mark.alone  # it measures times

CONTENT = os.urandom(300_000)


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "_PIECES", (64 << 10, 64 << 10))
    monkeypatch.setattr(fetch, "_PAUSE", 0.01)
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "some.tensors").write_bytes(CONTENT)
    with serving(tmp_path / "www") as state:
        yield state


@pytest.fixture
def store(server):
    return open_store(server.url)


@pytest.mark.parametrize("ranges", [True, False])
def test_an_object_comes_whole_into_memory_and_into_a_file(server, store, tmp_path, ranges):
    server.ranges = ranges
    for length in (None, len(CONTENT)):
        raw, sure = fetch.into_memory(store, "some.tensors", length, progress=False)
        assert bytes(raw) == CONTENT and sure
    fetch.into_file(store, "some.tensors", tmp_path / "copy", len(CONTENT), readers=2, progress=False)
    assert (tmp_path / "copy").read_bytes() == CONTENT
    server.etags = False
    assert fetch.into_memory(store, "some.tensors")[1] is False


def test_a_part_of_an_object_and_its_digest(store):
    import hashlib

    found = fetch.probe(store, "some.tensors")
    assert fetch.part(store, "some.tensors", 1000, 99_000, found) == CONTENT[1000:99_000]
    assert fetch.digest(store, "some.tensors", found) == hashlib.sha256(CONTENT).hexdigest()
    raw, _ = fetch.into_memory(store, "some.tensors", spans=[(10, 20), (100_000, 200_000)])
    assert raw[10:20] == CONTENT[10:20] and raw[100_000:200_000] == CONTENT[100_000:200_000]
    assert raw[20:100_000] == bytes(99_980)


def test_a_server_without_ranges_sends_no_parts(server, store):
    server.ranges = False
    with pytest.raises(StorageError, match="sends no parts of objects"):
        fetch.part(store, "some.tensors", 1, 2, fetch.probe(store, "some.tensors"))


@pytest.mark.parametrize(("length", "state"), [(len(CONTENT) + 1, "truncated"), (1, "extended")])
def test_an_object_of_another_length_is_refused_before_anything_is_allocated(store, tmp_path, length, state):
    said = f"is {state}: 300,000 bytes instead of {length:,}"
    with pytest.raises(CorruptFile, match=said):
        fetch.into_memory(store, "some.tensors", length)
    with pytest.raises(CorruptFile, match=said):
        fetch.into_file(store, "some.tensors", tmp_path / "copy", length)
    assert not (tmp_path / "copy").exists()


def test_what_is_written_in_a_child_does_not_change_the_parent(store):
    raw, _ = fetch.into_memory(store, "some.tensors", progress=False)
    child = os.fork()
    if child == 0:
        raw[:5] = b"child"
        os._exit(0)
    os.waitpid(child, 0)
    assert raw[:5] == CONTENT[:5]


@pytest.mark.parametrize("ranges", [True, False])
def test_an_empty_object_is_said_to_be_empty(server, store, ranges):
    (server.root / "some.tensors").write_bytes(b"")
    server.ranges = ranges
    with pytest.raises(CorruptFile, match=r"/some\.tensors: is empty"):
        deserialise(f"{server.url}/some.tensors", skeleton=nn.Identity)
    with pytest.raises(CorruptFile, match="is truncated: 0 bytes instead of 7"):
        fetch.probe(store, "some.tensors", 7)


@pytest.mark.parametrize("ranges", [True, False])
def test_weights_of_no_bytes_are_truncated_and_not_replaced(server, ranges):
    serialise(nn.Linear(3, 2), server.root / "m")
    (server.root / "m" / "model.tensors").write_bytes(b"")
    server.ranges = ranges
    with pytest.raises(CorruptFile, match=r"/m/model\.tensors: is truncated: 0 bytes instead of"):
        deserialise(f"{server.url}/m", skeleton=lambda: nn.Linear(3, 2))


def test_a_download_that_fails_says_why_and_leaves_the_cache_empty(server, tmp_path):
    """Not that the map could not be closed."""
    serialise(nn.Linear(300, 300), server.root / "m")
    server.faults = [None, None] + ["cut"] * 200
    with pytest.raises(StorageError, match=r"5 times; the last error was: the body ended \d+ bytes early"):
        deserialise(f"{server.url}/m", skeleton=lambda: nn.Linear(300, 300), cache=tmp_path / "cache")
    assert list((tmp_path / "cache").glob("[!.]*")) == []


def test_a_model_replaced_while_it_is_copied_is_copied_again(server, tmp_path):
    def build(seed):
        torch.manual_seed(seed)
        return nn.Linear(300, 300)

    serialise(build(0), server.root / "m")
    turns = []

    def replace(path):
        if path.endswith(".tensors"):
            turns.append(path)
            if len(turns) == 3:
                serialise(build(1), server.root / "m", overwrite=True)

    server.on_request = replace
    loaded = deserialise(f"{server.url}/m", skeleton=lambda: nn.Linear(300, 300), cache=tmp_path / "cache")
    assert torch.equal(loaded.weight.cpu(), build(1).weight)


def test_a_file_that_cannot_be_written_is_named(store, tmp_path):
    with pytest.raises(StorageError, match=r"absent/copy: writing a copy failed: No such file"):
        fetch.into_file(store, "some.tensors", tmp_path / "absent" / "copy", len(CONTENT))
    (tmp_path / "there").write_bytes(b"mine")
    with pytest.raises(StorageError, match="File exists"):
        fetch.into_file(store, "some.tensors", tmp_path / "there", len(CONTENT))
    assert (tmp_path / "there").read_bytes() == b"mine"


def test_an_error_elsewhere_ends_the_tries(server, store, monkeypatch):
    monkeypatch.setattr(fetch, "_PAUSE", 20)
    server.always, stopping = "503", threading.Event()
    server.on_request = lambda path: threading.Timer(0.3, stopping.set).start()
    start = time.monotonic()
    with pytest.raises(StorageError, match="failed 2 times; the last error was: the server answers 503"):
        fetch.into_memory(store, "some.tensors", stopping=stopping)
    assert time.monotonic() - start < 10
    with pytest.raises(StorageError, match="nobody waits"):
        fetch.into_memory(store, "some.tensors", stopping=stopping)


def test_an_error_in_the_skeleton_does_not_wait_for_the_network(server, monkeypatch):
    monkeypatch.setattr(http, "TIMEOUT", 0.5)
    monkeypatch.setattr(fetch, "_PAUSE", 20)
    serialise(nn.Linear(3, 2), server.root / "m")
    server.always = "stall"

    def broken():
        raise RuntimeError("the skeleton is broken")

    start = time.monotonic()
    with pytest.raises(RuntimeError, match="the skeleton is broken"):
        deserialise(f"{server.url}/m", skeleton=broken)
    assert time.monotonic() - start < 10


def test_a_transfer_that_is_no_longer_wanted_ends_in_the_middle(server, store):
    stopping = threading.Event()
    server.on_request = lambda path: stopping.set() if len(server.seen) == 3 else None
    with pytest.raises(StorageError, match="nobody waits for it any longer"):
        fetch.into_memory(store, "some.tensors", stopping=stopping, readers=1)
    assert len(server.seen) == 3


def test_small_objects_have_a_limit(server, store):
    assert fetch.small(store, "some.tensors") == CONTENT
    with pytest.raises(StorageError, match=r"/some\.tensors: is larger than 1,000 bytes"):
        fetch.small(store, "some.tensors", 1000)
    with pytest.raises(http.Missing):
        fetch.small(store, "absent")


class TestCache:
    def test_each_source_has_a_directory_and_home_is_expanded(self, monkeypatch):
        monkeypatch.setenv("HOME", "/home/reader")
        one, other = (cache.directory_for(f"s3://{name}/llama", "~/models") for name in "ab")
        assert one != other and one.name.startswith("llama-")
        assert str(one.parent) == "/home/reader/models"

    def test_one_at_a_time(self, tmp_path):
        inside, most = [], []

        def work():
            with cache.alone(tmp_path / "cache" / "copy"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.02)
                inside.pop()

        threads = [threading.Thread(target=work) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most == [1] * 5

    def test_a_process_that_is_killed_gives_its_turn_up(self, tmp_path):
        child = os.fork()
        if child == 0:
            with cache.alone(tmp_path / "copy"):
                os.kill(os.getpid(), 9)
        os.waitpid(child, 0)
        with cache.alone(tmp_path / "copy"):
            pass

    def test_where_nothing_can_be_locked_all_go_on(self):
        with (
            cache.alone(cache.Path("/proc/no-directory/copy")),
            cache.alone(cache.Path("/proc/no-directory/copy")),
        ):
            pass

    def test_an_error_inside_is_not_swallowed(self, tmp_path):
        with pytest.raises(OSError, match="mine"), cache.alone(tmp_path / "copy"):
            raise OSError("mine")

    def test_replicas_that_start_together_fetch_once(self, server, tmp_path):
        serialise(nn.Linear(300, 300), server.root / "m")
        loaded = []

        def replica():
            source = f"{server.url}/m"
            build = lambda: nn.Linear(300, 300)  # noqa: E731
            loaded.append(deserialise(source, skeleton=build, cache=tmp_path / "cache", progress=False))

        threads = [threading.Thread(target=replica) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(loaded) == 4
        ranges = [wanted for path, wanted in server.seen if path.endswith(".tensors")]
        assert len(ranges) == len(set(ranges)), "no part was asked for twice"
