"""`cold_start` reads ahead, pauses the collector, and leaves everything else as it was."""

import gc
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import cold_start, serialise
from helpers.storage import page_cache, recording
from workbook.bench.pagecache import evict, resident

pytestmark = pytest.mark.alone  # it looks at the page cache and at times

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at the page cache as Linux shows it")
START = """
import sys, time
from helpers import cold_start
with cold_start(sys.argv[1]):
    import sqlite3
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty cache directory of the user."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "model" / "model.tensors"
    path.parent.mkdir()
    path.write_bytes(os.urandom(1 << 20) * 32)
    evict(path)
    if resident(path) > 0.1:
        pytest.skip("this filesystem keeps files in memory")
    return path


@pytest.fixture
def unfrozen():
    yield
    gc.unfreeze()


def start(source, seconds=0.0, code=START, **environment):
    """A fresh process that imports sqlite3 in the block; what it wrote to stderr."""
    command = [sys.executable, "-c", code, source, str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    return done.stderr


def recorded(source):
    """The names in the recording of a source; None without a good one."""
    found = recording.files(recording.place(str(source)), recording.header(), recording.roots())
    return found and [name for name, _ in found]


def until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


@linux
def test_the_first_start_records_what_its_imports_read_in_their_order(home, weights):
    start(weights)
    found = recorded(weights)
    package = next(i for i, name in enumerate(found) if "sqlite3/__pycache__/__init__" in name)
    extension = next(i for i, name in enumerate(found) if "_sqlite3.cpython" in name)
    assert package < extension
    assert any("libsqlite3" in name for name in found[extension:]), "the library that the extension needs"


@linux
def test_a_recorded_start_reads_libraries_and_weights_ahead(home, weights):
    start(weights)
    named = [name for name in recorded(weights) if "sqlite3" in name and "lib-dynload" not in name]
    for path in [weights, *named]:
        evict(path)
    cold = [name for name in named if resident(name) == 0]
    assert cold
    code = START.replace("    import sqlite3\n", "")
    with subprocess.Popen([sys.executable, "-c", code, weights, "60"]) as process:
        try:  # looked at while it runs: some systems take pages that nobody uses back within seconds
            until(lambda: all(resident(name) == 1 for name in cold) and resident(weights) > 0.99)
        finally:
            process.kill()


@linux
def test_a_start_of_another_model_uses_the_newest_recording_and_makes_its_own(home, weights, tmp_path):
    start(weights)
    assert recording.usable(str(tmp_path / "next")) == recording.place(str(weights))
    start(tmp_path / "next")
    assert recording.usable(str(tmp_path / "next")) == recording.place(str(tmp_path / "next"))


@linux
def test_a_start_after_a_package_was_installed_records_anew(home, weights, tmp_path):
    packages = tmp_path / "site-packages"
    (packages / "one-1.0.dist-info").mkdir(parents=True)
    place = Path(recording.place(str(weights)))
    path = os.pathsep.join([str(Path.cwd()), str(packages)])
    start(weights, PYTHONPATH=path)
    first = place.read_text()
    start(weights, PYTHONPATH=path)
    assert place.read_text() == first
    (packages / "one-1.0.dist-info").rename(packages / "one-1.1.dist-info")
    start(weights, PYTHONPATH=path)
    assert place.read_text().splitlines()[0] != first.splitlines()[0]


@linux
@pytest.mark.parametrize("damage", ["cut", "empty", "binary", "outside"])
def test_a_damaged_recording_costs_nothing_but_speed_and_is_replaced(home, weights, tmp_path, damage):
    start(weights)
    place, secret = Path(recording.place(str(weights))), tmp_path / "secret"
    secret.write_bytes(os.urandom(1 << 20))
    evict(secret)
    whole = place.read_bytes()
    lines = whole.split(b"\n")
    place.write_bytes(
        {
            "cut": whole[: len(whole) // 2],
            "empty": b"",
            "binary": os.urandom(1000),
            "outside": b"\n".join([lines[0], os.fsencode(secret), *lines[1:]]),
        }[damage]
    )
    assert recorded(weights) is None
    assert start(weights, 0.3) == ""
    assert recorded(weights)
    assert resident(secret) == 0


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=20)))
def test_a_recording_never_names_a_file_outside_the_environment(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("recordings") / "one.txt"
    for prefix in ("", "/env/", "/env/../"):
        recording.write(str(path), "first", [(prefix + line, None) for line in lines])
        found = recording.files(str(path), "first", ("/env/",))
        assert found is None or all(os.path.normpath(name).startswith("/env") for name, _ in found)


@given(
    st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(0, 1 << 40)).map(sorted).map(tuple), min_size=1)
)
def test_a_recording_keeps_which_parts_of_a_file_are_used(tmp_path_factory, spans):
    path = str(tmp_path_factory.mktemp("recordings") / "one.txt")
    recording.write(path, "first", [("/env/a b.so", spans), ("/env/c.py", None)])
    assert recording.files(path, "first", ("/env/",)) == [("/env/a b.so", spans), ("/env/c.py", None)]


@linux
def test_of_a_large_library_the_used_part_alone_is_recorded_and_read(home, weights, tmp_path):
    code = START.replace("import sqlite3", "import numpy.linalg")
    start(weights, code=code)
    found = recording.files(recording.place(str(weights)), recording.header(), recording.roots())
    [(path, spans)] = [each for each in found if "openblas" in each[0]]
    used = sum(stop - first for first, stop in spans)
    assert 0 < used < 0.7 * os.path.getsize(path)
    copy = tmp_path / "library.so"  # the library itself is mapped here and there and cannot be evicted
    copy.write_bytes(Path(path).read_bytes())
    evict(copy)
    page_cache.ask(copy, lambda size: True, spans)
    share = used / os.path.getsize(path)
    until(lambda: abs(resident(copy) - share) < 0.05)


@linux
@pytest.mark.parametrize("parts", ["1-0", "a-b", "1", "1-2-3", "1-2,"])
def test_parts_of_a_file_that_make_no_sense_are_a_damaged_recording(tmp_path, parts):
    path = tmp_path / "one.txt"
    path.write_text(f"first\n/env/a.so\t{parts}\nwhole\n")
    assert recording.files(str(path), "first", ("/env/",)) is None


@linux
def test_a_pipe_in_the_place_of_a_library_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "library.so")
    path = tmp_path / "recording.txt"
    recording.write(str(path), "first", [(str(tmp_path / "library.so"), None)])
    script = Path(recording.__file__).with_name("read_ahead.py")
    command = [sys.executable, "-I", "-S", script, str(os.getpid()), "", path, "first", f"{tmp_path}/"]
    subprocess.run(command, check=True, timeout=10)


def test_a_cache_directory_that_cannot_be_written_is_said_and_stops_nothing(weights, tmp_path):
    (tmp_path / "file").write_text("")
    said = start(weights, XDG_CACHE_HOME=str(tmp_path / "file"))
    assert "cannot read its libraries ahead" in said and "XDG_CACHE_HOME" in said


def test_a_source_that_does_not_exist_raises_nothing(home, tmp_path):
    assert start(tmp_path / "absent") == ""


def test_the_collector_is_paused_and_put_back_and_what_was_imported_is_frozen(home, tmp_path, unfrozen):
    before = gc.get_freeze_count()
    with cold_start(tmp_path):
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > before + 1000


def test_a_collector_that_was_off_stays_off(home, tmp_path, unfrozen):
    gc.disable()
    try:
        with cold_start(tmp_path):
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


@linux
def test_an_exception_leaves_everything_as_it_was(home, tmp_path):
    huge = tmp_path / "huge.tensors"
    with open(huge, "wb") as file:
        file.truncate(1 << 40)  # a terabyte to read ahead
    before = gc.get_freeze_count()
    with pytest.raises(ValueError, match="from the block"), cold_start(huge):
        raise ValueError("from the block")
    assert gc.isenabled()
    assert gc.get_freeze_count() == before
    assert not Path(recording.place(str(huge))).exists()
    until(lambda: not subprocess.run(["pgrep", "-f", str(huge)], capture_output=True, text=True).stdout)


def test_blocks_may_be_nested(home, tmp_path, unfrozen):
    with cold_start(tmp_path):
        with cold_start(tmp_path / "other"):
            pass
        assert not gc.isenabled()
        with pytest.raises(ValueError, match="inner"), cold_start(tmp_path):
            raise ValueError("inner")
        assert not gc.isenabled()
    assert gc.isenabled()


def test_blocks_in_threads_put_the_collector_back_at_the_end_of_the_last(home, tmp_path, unfrozen):
    inside, leave = threading.Barrier(3), threading.Event()

    def work():
        with cold_start(tmp_path):
            inside.wait(10)
            leave.wait(10)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    inside.wait(10)
    assert not gc.isenabled()
    leave.set()
    for thread in threads:
        thread.join()
    assert gc.isenabled()


def test_it_is_light():
    code = """
import sys, time
start = time.perf_counter()
from helpers import cold_start
print(time.perf_counter() - start, *{"torch", "subprocess", "ctypes", "logging", "hashlib"} & set(sys.modules))
"""
    runs = [subprocess.check_output([sys.executable, "-c", code], text=True).split() for _ in range(3)]
    assert all(len(run) == 1 for run in runs), runs
    assert min(float(run[0]) for run in runs) < 0.02


@linux
def test_a_model_is_recorded_by_the_command_line_and_loads_in_the_block(home, tmp_path):
    from sklearn.preprocessing import StandardScaler

    serialise(StandardScaler().fit([[1.0], [2.0]]), tmp_path / "m", progress=False)
    command = [sys.executable, "-m", "helpers", "record", str(tmp_path / "m")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert any("sklearn" in name for name in recorded(tmp_path / "m"))
    assert str(len(recorded(tmp_path / "m"))) in done.stdout


def test_the_command_line_says_in_a_sentence_why_it_cannot_record(home, tmp_path):
    import torch

    command = [sys.executable, "-m", "helpers", "record", str(tmp_path / "m")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{tmp_path / 'm'}: does not exist")
    serialise(torch.nn.Linear(2, 2), tmp_path / "m", progress=False)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "its first start records by itself" in done.stderr
    assert done.stderr.count("\n") == 1
