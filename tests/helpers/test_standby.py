"""Replicas that begin where the imports have ended: what they have, and how they end."""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import targets

from helpers import Standby, forked, standby
from helpers.errors import ModelError, StorageError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes as Linux shows them")


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def gone(pid):
    """Whether a process has ended; one that nobody has waited for yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def ask(pool, target, *arguments):
    """A replica, and what it says first."""
    answers, said = multiprocessing.Pipe(duplex=False)
    with answers, said:
        process = pool.start(target, said, *arguments)
        assert answers.poll(60), "no answer"
        return process, answers.recv()


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Where temporary folders go, so that one that is left is seen."""
    place = tmp_path / "t"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module that can be preloaded; its name."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(code):
        (tmp_path / "preloaded_here.py").write_text(code)
        return "preloaded_here"

    return write


def test_a_replica_has_what_was_preloaded_and_is_a_child_of_the_server(module):
    name = module("import colorsys")
    with Standby(preload=[name]) as pool:
        process, (found, parent, *_) = ask(pool, targets.tell, name, "colorsys", "wave")
        process.join()
        assert found == [True, True, False]
        assert parent == pool.server.pid and process.exitcode == 0


def test_a_replica_gets_queues_and_locks_and_gives_its_exit_code():
    with Standby(preload=["json"]) as pool:
        queue = multiprocessing.get_context("forkserver").SimpleQueue()
        pool.start(queue.put, "through a queue").join()
        assert queue.get() == "through a queue"
        failed = pool.start(sys.exit, 3)
        failed.join()
        assert failed.exitcode == 3


def test_a_replica_has_the_directory_of_its_start_and_the_environment_of_the_blocks(tmp_path, monkeypatch):
    monkeypatch.setenv("STANDBY_TEST", "at the block")
    with Standby(preload=["json"]) as pool:
        monkeypatch.setenv("STANDBY_TEST", "later")
        monkeypatch.chdir(tmp_path)
        _, (*_, folder, variable) = ask(pool, targets.tell)
    assert (folder, variable) == (str(tmp_path), "at the block")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import surely_not_there", "ModuleNotFoundError: No module named 'surely_not_there'"),
        ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("raise SystemExit('wrong version')", "SystemExit: wrong version"),
        ("import os; os._exit(7)", r"ended while it imported this \(exit code 7\)"),
        ("import threading, time\nthreading.Thread(target=time.sleep, args=(60,), name='poller').start()", "poller"),
    ],
)  # fmt: skip
def test_a_module_that_cannot_be_preloaded_is_an_error_with_its_name(module, folders, code, said):
    name = module(code)
    with pytest.raises(ModelError, match=said) as caught, Standby(preload=["json", name]):
        pass
    assert caught.value.path == name
    assert not [p for p in multiprocessing.active_children() if p.name == "Standby"]
    assert list(folders.iterdir()) == []


def test_the_traceback_of_a_failed_import_is_kept_with_the_error(module):
    with pytest.raises(ModelError) as caught, Standby(preload=[module("1 / 0")]):
        pass
    assert "preloaded_here.py" in caught.value.__notes__[0]


def test_a_name_instead_of_a_list_is_refused():
    with pytest.raises(TypeError, match="list of names"):
        Standby(preload="torch")


def test_outside_of_the_block_there_is_nothing_to_start_from():
    with pytest.raises(ModelError, match="not open"):
        Standby(preload=["json"]).start(time.sleep, 0)


@pytest.mark.slow
def test_a_module_that_computes_with_torch_is_refused(module):
    name = module("import torch\ntorch.set_num_threads(2)\ntorch.ones(700, 700) @ torch.ones(700, 700)")
    with pytest.raises(ModelError, match="left threads behind") as caught, Standby(preload=["torch", name]):
        pass
    assert caught.value.path == name


@pytest.mark.gpu
@pytest.mark.skipif(not Path("/dev/nvidia0").exists(), reason="no CUDA device")
def test_a_module_that_asks_for_cuda_is_refused(module):
    name = module("import torch\ntorch.cuda.is_available() and torch.cuda.device_count()")
    with pytest.raises(ModelError, match="asked for CUDA") as caught, Standby(preload=["torch", name]):
        pass
    assert caught.value.path == name


def test_a_thread_that_the_server_starts_later_is_noticed(module):
    name = module("""
import signal, threading, time
signal.signal(signal.SIGUSR1, lambda *_: threading.Thread(target=time.sleep, args=(60,), daemon=True).start())
""")
    with Standby(preload=[name]) as pool:
        ask(pool, targets.tell)
        os.kill(pool.server.pid, signal.SIGUSR1)
        wait_until(lambda: forked.threads(pool.server.pid) == 2)
        with pytest.raises(ModelError, match=f"has 2 threads.* {name}"):
            pool.start(time.sleep, 0)


def test_what_an_import_prints_is_not_printed_again_by_replicas(tmp_path):
    (tmp_path / "talkative.py").write_text("print('imported')")
    script = tmp_path / "program.py"
    script.write_text("""
import time
from helpers import Standby
if __name__ == "__main__":
    with Standby(preload=["talkative"]) as pool:
        for _ in range(3):
            pool.start(time.sleep, 0).join()
""")
    assert run(script).splitlines() == ["imported"]


def test_the_programs_own_file_is_imported_by_the_server_and_not_by_replicas(tmp_path):
    script = tmp_path / "program.py"
    script.write_text("""
import os
from helpers import Standby
print("imported by", os.getpid(), flush=True)
def target():
    print("a replica", flush=True)
if __name__ == "__main__":
    with Standby(preload=["json"]) as pool:
        for _ in range(2):
            pool.start(target).join()
""")
    said = run(script).splitlines()
    assert sum(line.startswith("imported by") for line in said) == 2 and said.count("a replica") == 2


def test_a_script_without_a_guard_is_told_about_it(tmp_path):
    script = tmp_path / "program.py"
    script.write_text("from helpers import Standby\nwith Standby(preload=['json']):\n    pass\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment(tmp_path))
    assert "under if __name__ == '__main__'" in done.stderr and done.returncode == 1
    assert [path.name for path in tmp_path.iterdir()] == ["program.py"]


def environment(folder):
    root = Path(__file__).parents[2]
    return os.environ | {"PYTHONPATH": str(root), "TMPDIR": str(folder)}


def run(script):
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env=environment(script.parent)
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_it_brings_in_no_heavy_library():
    code = (
        "import sys; from helpers import Standby; print(*({'torch', 'numpy', 'psutil'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == ""


def test_a_fork_server_that_the_program_has_already_is_left_alone(tmp_path):
    script = tmp_path / "program.py"  # a program of its own, since that server stays until its end
    script.write_text("""
import multiprocessing, os
from helpers import Standby

def say_server(said):
    said.send(os.getppid())

def server_of_the_program():
    answers, said = multiprocessing.Pipe(duplex=False)
    multiprocessing.get_context("forkserver").Process(target=say_server, args=(said,)).start()
    return answers.recv()

if __name__ == "__main__":
    before = server_of_the_program()
    with Standby(preload=["json"]) as pool:
        print(server_of_the_program() == before != pool.server.pid)
    print(server_of_the_program() == before)
""")
    assert run(script).split() == ["True", "True"]


class TestEnds:
    def test_the_end_of_the_block_ends_everything(self, folders, monkeypatch):
        monkeypatch.setattr(standby, "_GRACE", 1)

        def once():
            with Standby(preload=["json"]) as pool:
                willing, _ = ask(pool, targets.sleep)
                stubborn, _ = ask(pool, targets.sleep, True)
                pids = [willing.pid, stubborn.pid, pool.server.pid]
            assert (willing.exitcode, stubborn.exitcode) == (-signal.SIGTERM, -signal.SIGKILL)
            assert all(gone(pid) for pid in pids)
            assert list(folders.iterdir()) == []

        once()
        before = len(os.listdir("/proc/self/fd"))
        once()
        assert len(os.listdir("/proc/self/fd")) <= before

    def test_a_crash_of_the_server_ends_its_replicas_and_the_next_start_says_so(self, folders):
        with Standby(preload=["json"]) as pool:
            process, _ = ask(pool, targets.sleep)
            os.kill(pool.server.pid, signal.SIGKILL)
            process.join()
            assert process.exitcode == 255
            wait_until(lambda: gone(process.pid))
            with pytest.raises(ModelError, match="has ended with exit code -9"):
                pool.start(time.sleep, 0)
        assert list(folders.iterdir()) == []

    def test_a_crash_of_the_server_that_no_start_has_met_is_said_at_the_end(self):
        def crashes():
            with Standby(preload=["json"]) as pool:
                os.kill(pool.server.pid, signal.SIGKILL)
                pool.server.join()

        with pytest.raises(ModelError, match="has ended with exit code -9"):
            crashes()

    def test_a_crash_during_a_start_is_said_as_one(self):
        with Standby(preload=["json"]) as pool:
            os.kill(pool.server.pid, signal.SIGSTOP)
            killer = subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -9 {pool.server.pid}"])
            with pytest.raises(ModelError, match="has ended with exit code -9"):
                pool.start(time.sleep, 0)
            killer.wait()

    def test_a_process_that_is_forked_off_in_the_block_ends_nothing_of_its_parents(self, tmp_path):
        script = tmp_path / "program.py"
        script.write_text("""
import os, sys, time
from helpers import Standby
if __name__ == "__main__":
    with Standby(preload=["json"]) as pool:
        process = pool.start(time.sleep, 60)
        pid = os.fork()
        if pid == 0:
            sys.exit()
        left = os.waitpid(pid, 0)[1]
        time.sleep(0.5)
        print(left, process.exitcode, pool.server.exitcode)
""")
        done = subprocess.run(
            [sys.executable, script], capture_output=True, text=True, env=environment(tmp_path)
        )
        assert (done.stdout.split(), done.stderr) == (["0", "None", "None"], "")

    def test_a_temporary_directory_with_too_long_a_path_is_said_and_nothing_is_left(
        self, folders, monkeypatch
    ):
        long = folders / ("long" * 30)
        long.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(long))
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(ModelError, match="too long.*Set TMPDIR"), Standby(preload=["json"]):
            pass
        assert list(long.iterdir()) == []
        assert len(os.listdir("/proc/self/fd")) <= before

    def test_without_any_temporary_directory_it_is_said_and_nothing_is_left(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tempfile, "tempdir", None)
        monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "absent")])
        before = len(os.listdir("/proc/self/fd"))
        with (
            pytest.raises(StorageError, match="no temporary directory.*Set TMPDIR"),
            Standby(preload=["json"]),
        ):
            pass
        assert len(os.listdir("/proc/self/fd")) <= before

    def test_a_killed_parent_takes_server_and_replicas_with_it(self, tmp_path):
        """Even where a process that the parent has forked keeps the parent's ends of all pipes open."""
        script = tmp_path / "program.py"
        script.write_text("""
import os, multiprocessing, time
import targets
from helpers import Standby
if __name__ == "__main__":
    answers, said = multiprocessing.Pipe(duplex=False)
    with Standby(preload=["json"]) as pool:
        replicas = [pool.start(targets.sleep, said) for _ in range(2)]
        answers.recv(), answers.recv()
        forked = os.fork()
        if not forked:
            time.sleep(100)
        print(forked, pool.server.pid, *(r.pid for r in replicas), flush=True)
        time.sleep(100)
""")
        variables = environment(tmp_path)
        variables["PYTHONPATH"] += os.pathsep + os.path.dirname(targets.__file__)
        with subprocess.Popen(
            [sys.executable, script], stdout=subprocess.PIPE, text=True, env=variables
        ) as parent:
            other, *pids = map(int, parent.stdout.readline().split())
            try:
                assert not any(map(gone, [other, *pids]))
                parent.kill()
                wait_until(lambda: all(gone(pid) for pid in pids[1:]))
                assert not gone(other)
            finally:
                os.kill(other, signal.SIGKILL)
        wait_until(lambda: gone(pids[0]))
        assert [path.name for path in tmp_path.iterdir()] == ["program.py"]


@pytest.fixture(scope="module")
def pool():
    with Standby(preload=["torch", "numpy", "helpers.deserialise"]) as pool:
        yield pool


@pytest.mark.slow
class TestWithTorch:
    def test_random_numbers_are_other_ones_in_each_replica(self, pool):
        drawn = [ask(pool, targets.draw)[1] for _ in range(2)]
        assert all(one != other for one, other in zip(*drawn, strict=True)), drawn

    def test_several_replicas_at_once_compute_with_several_threads(self, pool):
        answers, said = multiprocessing.Pipe(duplex=False)
        with answers, said:
            replicas = [pool.start(targets.multiply, said) for _ in range(3)]
            assert [answers.poll(60) and answers.recv() for _ in replicas] == [([700], [700])] * 3
        for process in replicas:
            process.join()
            assert process.exitcode == 0

    def test_replicas_of_one_saved_model_answer_equally_and_share_its_memory(self, pool, tmp_path):
        import torch

        from helpers import serialise

        width = 4096  # 64 MB
        serialise(torch.nn.Linear(width, width), tmp_path / "m", progress=False)
        replicas, said = zip(*[ask(pool, targets.load, tmp_path / "m", width) for _ in range(3)], strict=True)
        memory = pool.memory()
        assert len(set(said)) == 1
        assert set(memory) == {pool.server.pid, *(process.pid for process in replicas)}
        for process in replicas:
            assert memory[process.pid].private < 40e6, "weights or what was imported are not shared"
            assert memory[process.pid].proportional > width * width * 4 / 3
            process.kill()
            process.join()
        assert set(pool.memory()) == {pool.server.pid}


@pytest.mark.slow
def test_a_language_model_answers_as_in_a_process_of_its_own(pretrained):
    with Standby(preload=["transformers.models.llama.modeling_llama", "helpers.deserialise"]) as pool:
        said = [ask(pool, targets.next_token, pretrained)[1] for _ in range(2)]
    alone = multiprocessing.get_context("spawn")
    answers, to = alone.Pipe(duplex=False)
    alone.Process(target=targets.next_token, args=(to, pretrained)).start()
    assert said == [answers.recv()] * 2


@pytest.fixture
def pretrained(tmp_path):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from helpers import serialise

    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    serialise(LlamaForCausalLM(LlamaConfig(vocab_size=128, **shape)).eval(), tmp_path / "m", progress=False)
    return tmp_path / "m"
