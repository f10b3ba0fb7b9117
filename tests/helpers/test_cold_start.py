"""`cold_start` reads ahead, pauses the collector, and leaves everything else as it was."""

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import cold_start, serialise
from helpers.prefetch import Reader
from helpers.storage import ahead, page_cache, recording
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
    gc.unfreeze()  # what a block in another test has frozen
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


def until(condition, seconds=60):
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
            until(lambda: all(resident(name) == 1 for name in cold) and resident(weights) > 0.95)
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
    subprocess.run(command, check=True, timeout=60)


def test_a_cache_directory_that_cannot_be_written_is_said_and_stops_nothing(weights, tmp_path):
    (tmp_path / "file").write_text("")
    said = start(weights, XDG_CACHE_HOME=str(tmp_path / "file"))
    assert "cannot read its libraries ahead" in said and "XDG_CACHE_HOME" in said


def test_what_a_killed_writer_has_left_is_never_taken_for_a_recording(home, tmp_path):
    place = recording.place(str(tmp_path / "one"))
    recording.write(place, "first", [])
    Path(f"{place}.1234").write_text("first\n/usr/li")
    os.utime(f"{place}.1234", (2e9, 2e9))  # the newest
    assert recording.usable(str(tmp_path / "other")) == place


def test_two_writers_of_one_recording_do_not_meet(tmp_path, monkeypatch):
    path, replace = str(tmp_path / "one.txt"), os.replace

    def late(*names):
        monkeypatch.setattr(os, "replace", replace)
        recording.write(path, "of the other", [])
        replace(*names)

    monkeypatch.setattr(os, "replace", late)
    recording.write(path, "first", [])
    assert recording.files(path, "first", ()) == []
    assert os.listdir(tmp_path) == ["one.txt"]


def test_without_a_home_directory_nothing_is_recorded_and_no_folder_made(
    tmp_path, monkeypatch, caplog, unfrozen
):
    import pwd

    def unknown(number):
        raise KeyError(number)

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.chdir(tmp_path)
    with cold_start("absent"):
        pass
    assert os.listdir(tmp_path) == []
    assert "no absolute path" in caplog.text and "XDG_CACHE_HOME" in caplog.text


def test_a_start_that_changes_the_directory_is_recorded_for_the_source_it_was_given(
    home, tmp_path, monkeypatch, unfrozen
):
    monkeypatch.chdir(tmp_path)
    with cold_start("m"):
        os.chdir(Path(__file__).parent)
    assert recorded(tmp_path / "m")


def test_a_block_that_removes_its_working_directory_ends_and_is_recorded_as_any(home, tmp_path):
    code = """
import os, shutil, sys, tempfile
from helpers import cold_start
folder = tempfile.mkdtemp()
with cold_start(sys.argv[1]):
    os.chdir(folder)
    open("x", "w").close()
    shutil.rmtree(folder)
"""
    (tmp_path / "m").mkdir()
    assert start(tmp_path / "m", code=code) == ""
    assert recorded(tmp_path / "m")


def test_a_thread_that_goes_on_opening_files_disturbs_no_recording(monkeypatch):
    noted, resolve = recording.begin(), os.path.realpath
    Path(os.__file__).read_bytes()
    recording.end(noted)

    def meanwhile(path):
        noted[f"{path} again"] = None
        return resolve(path)

    monkeypatch.setattr(os.path, "realpath", meanwhile)
    assert resolve(os.__file__) in [name for name, _ in recording.listed(noted)]


def test_blocks_in_one_another_record_each_what_was_read_in_it(home, tmp_path, unfrozen):
    with cold_start(tmp_path / "outer"):
        Path(os.__file__).read_bytes()
        with cold_start(tmp_path / "inner"):
            Path(threading.__file__).read_bytes()
    outer, inner = recorded(tmp_path / "outer"), recorded(tmp_path / "inner")
    first, second = os.path.realpath(os.__file__), os.path.realpath(threading.__file__)
    assert {first, second} <= set(outer)
    assert second in inner and first not in inner


def test_all_blocks_of_a_process_share_one_audit_hook(tmp_path, monkeypatch, unfrozen):
    """Of which none can be removed; without a place for recordings every block records."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(recording, "_is_hooked", False, raising=False)
    added = []
    monkeypatch.setattr(sys, "addaudithook", added.append)
    for _ in range(3):
        with cold_start(tmp_path / "absent"):
            pass
    assert len(added) == 1


ADDRESS = "http://127.0.0.1:9/absent"  # nothing answers there


def test_a_recording_that_fails_is_said_and_neither_raises_nor_hides_an_error(
    home, monkeypatch, caplog, unfrozen
):
    def broken(*_):
        raise RuntimeError("from the recording")

    monkeypatch.setattr(recording, "listed", broken)
    with cold_start(ADDRESS):
        [fetching] = ahead._running
        pid = fetching._pid
    assert "from the recording" in caplog.text
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(ValueError, match="from the block"), cold_start(ADDRESS):
        raise ValueError("from the block")
    assert ahead._running == []
    assert recording._noting == {}


def test_a_block_that_cannot_be_entered_leaves_no_process_that_fetches(home, monkeypatch):
    pids = []

    def interrupted():
        pids.extend(one._pid for one in ahead._running)
        raise KeyboardInterrupt

    monkeypatch.setattr(recording, "header", interrupted)
    with pytest.raises(KeyboardInterrupt), cold_start(ADDRESS):
        pass
    [pid] = pids
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert gc.isenabled()


def test_a_source_that_does_not_exist_raises_nothing_and_is_said_once(home, tmp_path):
    said = start(tmp_path / "absent")
    assert said.startswith(
        f"{tmp_path / 'absent'}: there is no such file or directory, so no weights are read"
    )
    assert "for a name on the hub give its directory" in said and said.count("\n") == 1
    (tmp_path / "present").mkdir()
    assert start(tmp_path / "present") == ""


def test_a_block_that_fails_says_nothing_of_a_source_that_does_not_exist(home, tmp_path, caplog):
    with pytest.raises(ValueError, match="from the load"), cold_start(tmp_path / "absent"):
        raise ValueError("from the load")
    assert caplog.text == ""


def test_the_collector_is_paused_and_put_back_and_what_was_imported_is_frozen(home, tmp_path, unfrozen):
    before = gc.get_freeze_count()
    with cold_start(tmp_path):
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > before + 1000


class Cyclic:
    def __init__(self):
        self.itself = self


def test_what_a_second_block_leaves_is_collected_as_usual(home, tmp_path, unfrozen):
    with cold_start(tmp_path):
        pass
    frozen = gc.get_freeze_count()
    with cold_start(tmp_path):
        model = Cyclic()
    assert 0 < gc.get_freeze_count() <= frozen
    left = weakref.ref(model)
    del model
    gc.collect()
    assert left() is None


def test_a_collector_that_was_off_stays_off(home, tmp_path, unfrozen):
    gc.disable()
    try:
        with cold_start(tmp_path):
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_collector_that_was_off_is_off_again_whatever_the_block_does(home, tmp_path, unfrozen):
    gc.disable()
    try:
        with cold_start(tmp_path):
            gc.enable()
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


@linux
def test_a_process_that_is_forked_off_in_the_block_ends_nothing_of_its_parents(home, tmp_path):
    with open(tmp_path / "huge.tensors", "wb") as file:
        file.truncate(1 << 40)
    code = """
import gc, os, sys, time
from helpers import cold_start
block = cold_start(sys.argv[1])
try:
    with block:
        pid = os.fork()
        if pid == 0:
            sys.exit()
        left = os.waitpid(pid, 0)[1]
        time.sleep(0.3)
        print(left, os.waitid(os.P_PID, block._reader._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT), flush=True)
        os._exit(0)
except SystemExit:
    os._exit(0 if gc.isenabled() else 1)
"""
    command = [sys.executable, "-c", code, tmp_path / "huge.tensors"]
    assert subprocess.check_output(command, text=True).split() == ["0", "None"]


def test_a_reader_that_somebody_else_has_waited_for_can_be_stopped():
    pid = os.posix_spawn(sys.executable, [sys.executable, "-I", "-S", "-c", ""], os.environ)
    os.waitpid(pid, 0)
    report, held = os.pipe()  # while it is open the reader waits for its report
    try:
        Reader(pid, report, "").stop()
    finally:
        os.close(held)


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
            inside.wait(60)
            leave.wait(60)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    inside.wait(60)
    assert not gc.isenabled()
    leave.set()
    for thread in threads:
        thread.join()
    assert gc.isenabled()


def test_it_is_light():
    code = """
import sys, time
start = time.process_time()  # its work, whatever else the machine does
from helpers import cold_start
print(time.process_time() - start, *{"torch", "subprocess", "ctypes", "logging", "hashlib"} & set(sys.modules))
"""
    runs = [subprocess.check_output([sys.executable, "-c", code], text=True).split() for _ in range(5)]
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
