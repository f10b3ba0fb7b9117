"""Storage on this machine: mounts of any name, what is in the page cache, modes of what is saved."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch import nn

from helpers import serialise
from helpers.storage import atomic, memory, mounts, page_cache
from workbook.bench.pagecache import evict

linux = pytest.mark.skipif(sys.platform != "linux", reason="as Linux shows it")


@linux
@pytest.mark.parametrize(
    "name", [b"plain", b"a space\tand a tab", "Modèle-模型".encode(), b"not text \xff\xfe"]
)
def test_a_mount_point_may_have_any_name(tmp_path, name):
    point = os.path.join(os.fsencode(tmp_path), name)
    os.mkdir(point)
    if subprocess.run(["mount", "-t", "tmpfs", "none", point], check=False).returncode:
        pytest.skip("only root may mount")
    try:
        inside = Path(os.fsdecode(point)) / "file"
        inside.write_bytes(b"here")
        assert mounts.filesystem(inside) == "tmpfs" != mounts.filesystem(tmp_path)
        assert not mounts.on_network(inside) and mounts.may_map(inside)
    finally:
        subprocess.run(["umount", point], check=True)


@linux
def test_a_network_mount_of_any_name_is_one(tmp_path):
    """A filesystem that is not known to be local counts as one."""
    point = tmp_path / "Netz-模型"
    point.mkdir()
    if subprocess.run(["mount", "-t", "proc", "none", point], check=False).returncode:
        pytest.skip("only root may mount")
    try:
        assert mounts.on_network(point / "version")
    finally:
        subprocess.run(["umount", point], check=True)


@linux
def test_the_pages_of_a_large_file_are_counted_in_no_time(tmp_path):
    """A sum in Python takes 2 s here, mincore itself 0.3 s."""
    with open(tmp_path / "large", "wb") as file:
        file.truncate(80 << 30)  # sparse
    times = []
    for _ in range(3):
        start = time.perf_counter()
        assert page_cache.resident(tmp_path / "large") == 0
        times.append(time.perf_counter() - start)
    assert min(times) < 0.8, times


@linux
def test_a_share_of_the_pages_is_counted(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(8 << 20))
    evict(path)
    if page_cache.resident(path) > 0.1:
        pytest.skip("this filesystem keeps files in memory")
    page_cache.pull(path, spans=[(0, 2 << 20)])
    assert page_cache.resident(path) == pytest.approx(0.25, abs=0.02)
    page_cache.pull(path)
    assert page_cache.resident(path) == 1 and page_cache.cached(path)


@linux
def test_no_more_is_read_ahead_than_there_is_room_for(tmp_path):
    for name in "ab":
        (tmp_path / name).write_bytes(os.urandom(64 << 20))
        evict(tmp_path / name)
    if page_cache.resident(tmp_path / "a") > 0.1:
        pytest.skip("this filesystem keeps files in memory")
    room = page_cache.within(lambda: 100 << 20)  # of which three quarters may be filled
    for name in "ab":
        page_cache.pull(tmp_path / name, room)
    assert page_cache.resident(tmp_path / "a") == 1
    assert 10 / 64 <= page_cache.resident(tmp_path / "b") <= 40 / 64  # the system reads some MB on


@linux
def test_reading_ahead_stops_when_others_take_the_memory(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(64 << 20))
    evict(path)
    if page_cache.resident(path) > 0.1:
        pytest.skip("this filesystem keeps files in memory")
    free = iter([100 << 20] * 4)
    page_cache.pull(path, page_cache.within(lambda: next(free, 0)))
    assert 0 < page_cache.resident(path) <= 0.5


@linux
def test_the_script_is_of_the_standard_library_alone(tmp_path):
    path = tmp_path / "m.tensors"
    path.write_bytes(os.urandom(1 << 20))
    evict(path)
    command = [sys.executable, "-I", "-S", page_cache.__file__, path, str(os.getpid())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert page_cache.resident(path) == 1


def test_prefetch_is_light():
    code = """
import sys, time
import helpers
start = time.perf_counter()
import helpers.prefetch
print(time.perf_counter() - start, *{"torch", "subprocess", "mmap", "ctypes"} & set(sys.modules))
"""
    runs = [subprocess.check_output([sys.executable, "-c", code], text=True).split() for _ in range(3)]
    assert all(len(run) == 1 for run in runs), runs
    assert min(float(run[0]) for run in runs) < 0.01


def test_memory_needs_no_library_on_linux():
    code = "import sys; from helpers.storage import memory; memory.available_bytes(); print('psutil' in sys.modules)"
    said = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert said == f"{sys.platform != 'linux'}\n"
    psutil = pytest.importorskip("psutil")
    assert memory.available_bytes() <= psutil.virtual_memory().total


@linux
def test_the_umask_of_the_process_is_never_changed(tmp_path):
    """It holds for all threads: a file that another makes meanwhile would be open to the world."""
    seen = set()

    def look(frame, event, _):
        if "helpers" not in frame.f_code.co_filename:
            return None
        seen.add(umask())
        return look

    before = umask()
    sys.settrace(look)
    try:
        serialise(nn.Linear(2, 2), tmp_path / "m", progress=False)
        with atomic.file(tmp_path / "f") as partial:
            partial.write_bytes(b"")
    finally:
        sys.settrace(None)
    assert seen == {before}


def umask():
    """By the system's own account: ``os.umask`` can only be read by setting it."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if "Umask" in line]
    return line.split()[1]


@pytest.mark.parametrize("mask", [0o002, 0o022, 0o077])
def test_what_is_saved_has_the_mode_that_the_umask_leaves(tmp_path, mask):
    before = os.umask(mask)
    try:
        serialise(nn.Linear(2, 2), tmp_path / "m")
    finally:
        os.umask(before)
    assert (tmp_path / "m").stat().st_mode & 0o777 == 0o777 & ~mask
    assert (tmp_path / "m" / "model.json").stat().st_mode & 0o777 == 0o666 & ~mask
