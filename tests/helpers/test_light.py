"""What runs before the imports must be light: ``import helpers``, prefetch, phases."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import helpers
from helpers import Timeline, phase
from workbook.bench.pagecache import evict, resident

pytestmark = pytest.mark.alone  # it measures times


def python(code, *arguments):
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_takes_under_50_ms_of_work_and_brings_in_no_heavy_library():
    code = """
import sys, time
start = time.process_time()  # its work, whatever else the machine does
import helpers
from helpers import prefetch, phase
print(time.process_time() - start, *({"torch", "transformers", "tensorizer", "numpy"} & set(sys.modules)))
"""
    runs = [python(code).split() for _ in range(5)]
    assert all(len(run) == 1 for run in runs), f"heavy: {runs[0][1:]}"
    assert min(float(run[0]) for run in runs) < 0.05


def test_a_mapped_load_imports_no_tensorizer(tmp_path):
    code = """
import sys, torch
from helpers import serialise, deserialise
serialise(torch.nn.Linear(2, 2), sys.argv[1])
deserialise(sys.argv[1], skeleton=lambda: torch.nn.Linear(2, 2), device="cpu", verify=True)
print(*({"tensorizer", "boto3", "transformers"} & set(sys.modules)))
"""
    assert python(code, tmp_path / "m") == ""


def test_public_names_are_functions_whatever_is_imported_first():
    code = """
import helpers.serialise, helpers.deserialise, helpers.prefetch
from helpers import serialise, deserialise, prefetch
print(all(map(callable, (serialise, deserialise, prefetch, helpers.serialise))))
"""
    assert python(code) == "True"
    assert set(helpers.__all__) <= set(dir(helpers))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = helpers.nonsense


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def children():
    found = []
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the thread has ended meanwhile
            found += (task / "children").read_text().split()
    return found


def is_there(path):
    """Nearly: a step is passed by where it seems to be there, asked every 512 KB, and may lack some pages."""
    return resident(path) > 0.95


@pytest.mark.skipif(
    sys.platform != "linux", reason="looks at the page cache and at processes as Linux shows them"
)
class TestPrefetch:
    @pytest.fixture
    def big(self, tmp_path):
        path = tmp_path / "m" / "model.tensors"
        path.parent.mkdir()
        path.write_bytes(os.urandom(1 << 20) * 64)
        evict(path)
        if resident(path) > 0.1:
            pytest.skip("this filesystem keeps files in memory")
        return path

    def test_it_fills_the_page_cache_and_leaves_no_process(self, big):
        before, shares = set(children()), []
        for _ in range(5):
            evict(big)
            start = time.perf_counter()
            helpers.prefetch(big.parent)
            called = time.perf_counter() - start
            wait_until(lambda: is_there(big))
            shares.append(called / (time.perf_counter() - start))
            wait_until(lambda: set(children()) <= before)
        assert min(shares) < 0.5, "it returns long before they are there"

    def test_it_works_from_a_bare_interpreter_with_under_10_ms_of_work(self, big):
        code = """
import sys, time
from helpers import prefetch
start = time.process_time()
prefetch(sys.argv[1])
print(time.process_time() - start, "torch" in sys.modules, flush=True)
sys.stdin.read()
"""
        pipes, runs = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}, []
        for _ in range(5):
            evict(big)
            with subprocess.Popen([sys.executable, "-c", code, big], **pipes) as bare:
                runs.append(bare.stdout.readline().split())
                wait_until(lambda: is_there(big))
                bare.stdin.close()
        assert min(float(seconds) for seconds, _ in runs) < 0.01, runs
        assert {heavy for _, heavy in runs} == {"False"}

    def test_the_process_ends_with_the_interpreter(self, tmp_path):
        huge = tmp_path / "huge.tensors"
        with open(huge, "wb") as file:
            file.truncate(1 << 40)  # sparse: a terabyte to read ahead
        code = "import sys, os; from helpers import prefetch; prefetch(sys.argv[1]); print(os.getpid())"
        python(code, huge)

        def gone():
            listing = subprocess.run(["pgrep", "-f", str(huge)], capture_output=True, text=True).stdout
            return not listing.split()

        wait_until(gone)

    def test_a_path_that_is_gone_costs_nothing_and_is_said(self, tmp_path, caplog):
        before = set(children())  # a tracker of multiprocessing's, say
        helpers.prefetch(tmp_path / "absent")
        assert f"{tmp_path / 'absent'}: there is no such file or directory" in caplog.text
        helpers.prefetch("https://user:geheim@host/m?signature=geheim")
        assert "host/m: there is no such" in caplog.text and "geheim" not in caplog.text
        (tmp_path / "dangling").symlink_to("nowhere")
        helpers.prefetch(tmp_path)
        wait_until(lambda: set(children()) <= before)


def test_phases_are_recorded_with_start_and_length_and_cost_nothing_outside():
    with phase("outside"):
        pass
    with Timeline() as timeline:
        with phase("outer"), phase("inner"):
            time.sleep(0.02)
        with pytest.raises(ValueError, match="recorded all the same"), phase("failed"):
            raise ValueError("recorded all the same")
    assert [p.name for p in timeline.phases] == ["inner", "outer", "failed"]
    inner, outer, _ = timeline.phases
    assert 0.02 <= inner.seconds <= outer.seconds <= timeline.seconds
    assert "total" in repr(timeline) and "inner" in repr(timeline)
