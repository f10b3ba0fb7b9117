"""A writer killed at any moment leaves the old model or the new one, never a half."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time

import pytest
import targets
from torch import nn

from helpers import Standby, deserialise, serialise, serialise_model
from helpers.errors import NotAModel, StorageError
from helpers.storage import atomic as commit

pytestmark = pytest.mark.slow  # it kills a writer at every line


def build():
    return nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))


def with_value(value):
    module = build()
    for parameter in module.parameters():
        nn.init.constant_(parameter, value)
    return module


def value_of(path):
    loaded = deserialise(path, skeleton=build, verify=True, device="cpu")
    (value,) = {v for p in loaded.parameters() for v in p.unique().tolist()}
    return value


def run_and_kill_at_line(action, line):
    """Fork; in the child count the lines of the package as they run and SIGKILL at one of them."""
    pid = os.fork()
    if pid == 0:
        count = 0

        def trace(frame, event, _):
            nonlocal count
            if f"{os.sep}helpers{os.sep}" not in frame.f_code.co_filename:
                return None
            if event == "line":
                count += 1
                if count == line:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        threading.settrace(trace)
        sys.settrace(trace)
        status = 1
        with contextlib.suppress(BaseException):
            action()
            status = 0
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_everywhere(action, check, step):
    """Kill the action at every ``step``-th line until it runs through; check after each."""
    line, kills = 1, 0
    while True:
        code = run_and_kill_at_line(action, line)
        check()
        if code == 0:
            return kills
        assert code == -signal.SIGKILL, "the writer failed instead of being killed"
        kills += 1
        line += step


def test_a_killed_overwrite_leaves_the_old_or_the_new_model(tmp_path):
    path = tmp_path / "m"
    serialise(with_value(1), path)
    seen = set()

    def check():
        seen.add(value_of(path))
        loadable = [p.parent for p in tmp_path.rglob("model.json") if p.parent != path]
        for partial in loadable:  # a partial directory has a manifest only once it is whole
            assert value_of(partial) in (1, 2)

    kills = kill_everywhere(
        lambda: serialise(with_value(2), path, overwrite=True, progress=False), check, step=11
    )
    assert kills > 50 and seen == {1, 2}
    serialise(with_value(3), path, overwrite=True)
    assert value_of(path) == 3
    assert list(tmp_path.iterdir()) == [path], "what killed writers left is swept by the next save"


def test_a_killed_first_save_leaves_nothing_that_loads(tmp_path):
    path = tmp_path / "m"

    def check():
        if path.exists():
            assert value_of(path) == 1
        else:
            with pytest.raises(NotAModel):
                value_of(path)

    kills = kill_everywhere(lambda: serialise(with_value(1), path, overwrite=True), check, step=17)
    assert kills > 30 and value_of(path) == 1


def test_a_killed_save_of_a_single_file_leaves_the_old_or_the_new(tmp_path):
    path = tmp_path / "m.tensors"
    assert serialise_model(with_value(1), path)

    def save():
        assert serialise_model(with_value(2), path)

    kills = kill_everywhere(save, lambda: value_of(path), step=23)
    assert kills > 15 and value_of(path) == 2
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture(scope="module")
def pool():
    """Where writers are forked from, so that not each of them imports torch."""
    with Standby(preload=["torch", "helpers.serialise"]) as pool:
        yield pool


def start(pool, place, sizes, values, turns):
    """A process that saves again and again, and the connection on which it counts."""
    heard, said = multiprocessing.Pipe(duplex=False)
    process = pool.start(targets.save_again_and_again, said, place, sizes, values, turns)
    said.close()
    assert heard.recv() == "ready"
    return process, heard


def test_a_writer_killed_in_the_middle_of_a_large_write(tmp_path, pool):
    """The same with real time instead of lines: SIGKILL while megabytes are under way."""
    path = tmp_path / "m"
    serialise(with_value(1), path)
    for delay in (0.02, 0.05, 0.1, 0.3):
        writer, _ = start(pool, tmp_path / "big", [4000], [1], 10**6)
        writer.join(delay)
        writer.kill()
        writer.join()
        if (tmp_path / "big").exists():
            deserialise(tmp_path / "big", skeleton=lambda: nn.Sequential(nn.Linear(4000, 4000)), verify=True)
    assert value_of(path) == 1


def test_an_interrupt_removes_the_temporary_files(tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("helpers.weights.write.layout.header", interrupt)
    with pytest.raises(KeyboardInterrupt):
        serialise(build(), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_where_two_names_cannot_be_exchanged_an_instant_without_a_model_is_bridged(tmp_path, monkeypatch):
    path = tmp_path / "m"
    serialise(with_value(1), path)
    monkeypatch.setattr(commit, "_exchange", lambda *_: False)  # some filesystems cannot
    seen = set()
    kill_everywhere(
        lambda: serialise(with_value(2), path, overwrite=True, progress=False),
        lambda: seen.add(value_of(path)),
        step=13,
    )
    assert seen == {1, 2}
    path.rename(commit.previous_of(path))  # killed between the two renames
    assert value_of(path) == 2
    serialise(with_value(3), path, overwrite=True)
    assert value_of(path) == 3 and list(tmp_path.iterdir()) == [path]


def test_where_an_overwrite_was_interrupted_the_previous_model_is_found_through_a_link_too(tmp_path):
    path, link = tmp_path / "m", tmp_path / "links" / "current"
    link.parent.mkdir()
    link.symlink_to(path)
    serialise(with_value(1), link)
    path.rename(commit.previous_of(path))  # killed between the two renames
    assert value_of(path) == value_of(link) == 1


def test_two_writers_leave_one_whole_model(tmp_path, pool):
    path = tmp_path / "m"
    running = [start(pool, path, [64, 64], [value], 20) for value in (1, 2)]
    for writer, _ in running:
        writer.join()
    assert [writer.exitcode for writer, _ in running] == [0, 0]
    assert value_of(path) in (1, 2)
    assert list(tmp_path.iterdir()) == [path]


def test_of_two_first_savers_without_overwrite_one_is_told(tmp_path, monkeypatch):
    path = tmp_path / "m"
    check = commit._check_destination

    def somebody_is_faster(*arguments):
        check(*arguments)
        monkeypatch.setattr(commit, "_check_destination", check)
        serialise(with_value(1), path)

    monkeypatch.setattr(commit, "_check_destination", somebody_is_faster)
    with pytest.raises(StorageError, match="exists already"):
        serialise(with_value(2), path)
    assert value_of(path) == 1


def test_a_reader_beside_an_overwriting_writer_always_gets_one_whole_model(tmp_path, pool):
    path = tmp_path / "m"
    serialise(with_value(1), path)
    writer, heard = start(pool, path, [64, 64], [1, 2], 10**6)
    try:
        assert heard.recv() == 0
        end, seen = time.monotonic() + 60, []
        while len(seen) < 150 or (len(set(seen)) < 2 and time.monotonic() < end):
            seen.append(value_of(path))
        assert set(seen) == {1, 2}
    finally:
        writer.kill()
        writer.join()
