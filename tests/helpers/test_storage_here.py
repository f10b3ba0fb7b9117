"""Storage on this machine: mounts of any name, what is in the page cache, modes of what is saved."""

import mmap
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faulty import serving
from torch import nn

from helpers import serialise
from helpers.errors import StorageError
from helpers.storage import atomic, fetch, filesystems, memory, mounts, page_cache
from helpers.storage.address import open_store
from helpers.weights import mapped
from workbook.bench.pagecache import evict

pytestmark = pytest.mark.alone  # it looks at the page cache and at times

linux = pytest.mark.skipif(sys.platform != "linux", reason="as Linux shows it")


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


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
        assert filesystems.filesystem(inside) == "tmpfs" != filesystems.filesystem(tmp_path)
        assert not filesystems.on_network(inside) and mounts.may_map(inside)
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
        assert filesystems.on_network(point / "version")
    finally:
        subprocess.run(["umount", point], check=True)


@linux
def test_the_pages_of_a_large_file_are_counted_in_no_time(tmp_path):
    """Of the process's own time: a sum in Python takes 0.7 to 2 s; the kernel's share (mincore) is not ours."""
    with open(tmp_path / "large", "wb") as file:
        file.truncate(80 << 30)  # sparse
    times = []
    for _ in range(3):
        start = os.times().user
        assert page_cache.resident(tmp_path / "large") == 0
        times.append(os.times().user - start)
    assert min(times) < 0.2, times


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
def test_a_file_that_is_used_whole_is_read_in_large_pages_where_the_system_has_them(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(1 << 20) * 32)
    evict(path)
    if page_cache.resident(path) > 0.1:
        pytest.skip("this filesystem keeps files in memory")
    assert page_cache.pull(path, spans=[(8 << 20, 12 << 20)], whole=True) == 4 << 20
    assert 4 / 32 <= page_cache.resident(path) < 1
    assert page_cache.pull(path, whole=True) == 32 << 20
    assert page_cache.resident(path) == 1
    path.write_bytes(b"")
    assert page_cache.pull(path, whole=True) == 0


@linux
def test_what_is_in_the_page_cache_already_is_passed_by(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(1 << 20) * 16)
    read = []
    monkeypatch.setattr(page_cache, "_in_large_pages", lambda raw: False)
    monkeypatch.setattr(page_cache, "_read", lambda _, fd, at, size: read.append(at) or size)
    assert page_cache.pull(path, whole=True) == 16 << 20
    assert read == []
    evict(path)
    if page_cache.resident(path) > 0.1:
        pytest.skip("this filesystem keeps files in memory")
    page_cache.pull(path, whole=True)
    assert read == [0, 4 << 20, 8 << 20, 12 << 20]


def test_a_file_that_cannot_be_looked_at_is_said(tmp_path):
    with pytest.raises(StorageError, match="reading the weights failed"):
        mounts.ready(tmp_path / ("x" * 5000))


def test_a_file_is_asked_for_and_what_is_none_is_passed_by(tmp_path):
    (tmp_path / "file").write_bytes(os.urandom(1 << 20))
    evict(tmp_path / "file")
    page_cache.ask(tmp_path / "file", lambda size: size == 1 << 20)
    wait_until(lambda: page_cache.resident(tmp_path / "file") == 1)
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ""):
        page_cache.ask(tmp_path / name, lambda size: pytest.fail("was asked for"))
    with pytest.raises(FileNotFoundError):
        page_cache.ask(tmp_path / "absent", lambda size: True)


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
    assert 7 / 64 <= page_cache.resident(tmp_path / "b") <= 11 / 64  # the rest, in whole steps


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


def test_the_script_is_of_the_standard_library_alone(tmp_path):
    path = tmp_path / "m.tensors"
    path.write_bytes(os.urandom(1 << 20))
    evict(path)
    script = Path(page_cache.__file__).with_name("read_ahead.py")
    command = [sys.executable, "-I", "-S", script, str(os.getpid()), path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[:2] == ["1048576", "1048576"]
    if sys.platform == "linux":
        assert page_cache.resident(path) == 1


def read_ahead(path, before=""):
    """What the script that reads ahead prints, in a process of the standard library alone; some code runs first."""
    script = Path(page_cache.__file__).with_name("read_ahead.py")
    code = f"import runpy, sys; sys.path.append({str(script.parent)!r})\n{before}\n"
    code += f"runpy.run_path({str(script)!r}, run_name='__main__')"
    command = [sys.executable, "-I", "-S", "-c", code, str(os.getpid()), path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_where_no_file_says_how_much_memory_is_free_it_is_read_ahead_all_the_same(tmp_path):
    """As on macOS, which takes no advice on reading either."""
    (tmp_path / "m.tensors").write_bytes(os.urandom(1 << 20))
    elsewhere = """
import builtins, mmap, os
for home, start in ((os, "posix_fadvise"), (os, "POSIX_FADV"), (os, "RWF_"), (mmap, "MADV_HUGEPAGE")):
    for name in [name for name in dir(home) if name.startswith(start)]:
        delattr(home, name)
plain = builtins.open
def opened(path, *arguments, **options):
    return plain(f"/absent{path}" if str(path).startswith("/proc/") else path, *arguments, **options)
builtins.open = opened
"""
    assert read_ahead(tmp_path, elsewhere)[:2] == ["1048576", "1048576"]


def test_a_file_that_is_too_large_for_the_memory_keeps_no_other_from_being_read(tmp_path):
    room = page_cache.within(lambda: 1000)
    assert (room(5000), room(10)) == (False, True)
    for name, size in (("a", 16), ("b", 1), ("c", 1)):  # MB
        (tmp_path / f"{name}.tensors").write_bytes(bytes(size << 20))
    done, whole, _, short = read_ahead(tmp_path, "import memory; memory.available_bytes = lambda: 8 << 20")
    assert (int(done), int(whole), short) == (2 << 20, 18 << 20, "1")


def test_prefetch_is_light():
    code = """
import sys, time
import helpers
start = time.process_time()  # its work, whatever else the machine does
import helpers.prefetch
print(time.process_time() - start, *{"torch", "subprocess", "mmap", "ctypes"} & set(sys.modules))
"""
    runs = [subprocess.check_output([sys.executable, "-c", code], text=True).split() for _ in range(5)]
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


@pytest.fixture
def group():
    """A control group with a limit of 256 MB that a test may put a process into."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    inside = [line.split(":", 2) for line in lines]
    root, limit = Path("/sys/fs/cgroup"), "memory.max"
    path = next((path for _, controllers, path in inside if controllers == "memory"), None)
    if path is not None:
        root, limit = root / "memory", "memory.limit_in_bytes"
    else:
        path = next(path for _, controllers, path in inside if not controllers)
    folder = root / path.lstrip("/") / f"limited-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("only root may make a control group")
    try:
        (folder / limit).write_text(str(256 << 20))
        yield folder
    except OSError:
        pytest.skip("the memory controller is not on here")
    finally:
        wait_until(lambda: not (folder / "cgroup.procs").read_text())
        folder.rmdir()


IN_GROUP = """
import logging, os, sys, time
open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
held = bytearray(os.urandom(1 << 20)) * int(sys.argv[3])
from helpers import prefetch
prefetch(sys.argv[2])
while len(__import__("threading").enumerate()) > 1:
    time.sleep(0.01)
"""


@linux
@pytest.mark.parametrize(("held", "least", "most"), [(0, 0.28, 0.38), (160, 0.05, 0.14)])
def test_in_a_container_prefetch_fills_three_quarters_of_what_its_limit_leaves(
    tmp_path, group, held, least, most
):
    """The file has 512 MB, the limit is 256 MB, of which the process holds some MB itself."""
    path = tmp_path / "model.tensors"
    with open(path, "wb") as file:
        for _ in range(512):
            file.write(os.urandom(1 << 20))
    evict(path)
    if page_cache.resident(path) > 0.1:
        pytest.skip("this filesystem keeps files in memory")
    command = [sys.executable, "-c", IN_GROUP, group, path, str(held)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("WARNING read ahead ") and "memory runs short" in done.stderr
    assert least <= page_cache.resident(path) <= most


@linux
def test_prefetch_says_in_the_log_what_it_read(tmp_path):
    path = tmp_path / "model.tensors"
    path.write_bytes(os.urandom(1 << 20))
    code = IN_GROUP.replace('open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))', "")
    command = [sys.executable, "-c", code, "", path, "0"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert said.startswith(f"INFO read ahead 1,048,576 of 1,048,576 bytes of {path} in ")


@pytest.mark.parametrize(("system", "flag"), [("linux", 0x4000), ("darwin", 0)])
def test_a_flag_that_only_linux_has_is_given_only_there(monkeypatch, system, flag):
    """Before Python 3.13 it has no name; for macOS the same number is another flag."""
    monkeypatch.delattr(mmap, "MAP_NORESERVE", raising=False)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", system)
        assert runpy.run_path(page_cache.__file__)["NORESERVE"] == flag


def test_whether_a_map_takes_memory_from_others_is_said_in_one_place(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(bytes(5000))
    seen, make = [], mmap.mmap
    monkeypatch.setattr(page_cache, "NORESERVE", 0)
    monkeypatch.setattr(mmap, "mmap", lambda *sizes, **how: seen.append(how["flags"]) or make(*sizes, **how))
    mapped.open_map(tmp_path / "file", "file")
    page_cache.resident(tmp_path / "file")
    with serving(tmp_path) as server:
        fetch.into_memory(open_store(server.url), "file", progress=False)
    assert seen == [mmap.MAP_PRIVATE, mmap.MAP_PRIVATE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS]
