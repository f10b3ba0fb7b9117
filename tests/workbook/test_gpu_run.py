"""`make gpu`, rehearsed on a CPU: the same script and the same parts, with a tiny model."""

import argparse
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import architectures
import pytest
import torch
from equality import assert_same_tensor

from tools import gpu_session, gpu_wheels
from workbook.bench import bus, files, loaders, loaders_onto_gpu, models, report
from workbook.bench.routes import ALL, ON_CPU, ON_CUDA

ROOT = Path(__file__).resolve().parents[2]

ROUTES = "from_pretrained,helpers read,InstantTensor"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("hf") / "tiny"
    architectures.build("LlamaForCausalLM").to(torch.bfloat16).save_pretrained(path)
    return path


@pytest.mark.slow
def test_one_command_runs_tests_and_benchmark_and_writes_what_it_found(tiny, tmp_path):
    command = [sys.executable, "tools/gpu.py", "--device", "cpu", "--parts", f"tests,bus,{tiny}"]
    command += ["--routes", ROUTES, "--states", "warm", "--rounds", "1", "--limit", "900"]
    own = os.environ | {"OUT": str(tmp_path / "out")}
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert sorted(os.listdir(tmp_path / "out")) == ["gpu.json", "gpu.log"]
    # what is skipped is no success: without a GPU nothing passes
    if not torch.cuda.is_available():
        assert found["tests"]["passed"] == found["tests"]["failed"] == 0 < found["tests"]["skipped"]
        assert "no CUDA device" in str(found["tests"]["what"])
        assert "tests: 0 passed, 0 failed," in done.stdout
    (result,) = found["bench"].values()
    assert [run["route"] for run in result["runs"]] == ["from_pretrained", "helpers read"]
    assert all("failed" not in run for run in result["runs"])
    assert "InstantTensor was skipped: runs on CUDA only" in done.stdout
    assert found["bus"]["pageable"] > 0 and found["versions"]["torch"]
    assert found["failed"] == {} and found["cut"] == []
    assert {"tests", "bus", str(tiny)} == found["seconds"].keys()
    assert "== bus" in (tmp_path / "out" / "gpu.log").read_text()


@pytest.mark.slow
def test_without_time_left_it_says_so_and_writes_what_it_has(tmp_path):
    command = [sys.executable, "tools/gpu.py", "--device", "cpu", "--parts", "tests,7b", "--limit", "1"]
    own = os.environ | {"OUT": str(tmp_path / "out")}
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, timeout=300)
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert "tests" not in found and "bench" not in found
    assert "check" in found["cut"] or found["skipped"] == {
        "tests": "no time was left",
        "7b": "no time was left",
    }
    assert "gpu.json and gpu.log are written" in done.stdout


@pytest.fixture
def session(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_session, "GRACE", 8)
    with_limit = argparse.Namespace(device="cpu", limit=60)
    made = gpu_session.Session(with_limit, tmp_path)
    yield made
    made.log.close()


@pytest.mark.slow
def test_a_part_is_asked_to_end_at_its_limit_and_what_it_said_is_kept(session):
    code = """
import time
try:
    print("begun", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("kept", flush=True)
"""
    assert session.run("part", ["-c", code], 4) == "begun\nkept\n"
    assert session.result["cut"] == ["part"] and session.result["failed"] == {}


@pytest.mark.slow
def test_a_part_that_does_not_end_is_ended_with_all_that_it_started(session):
    code = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""
    said = session.run("part", ["-c", code], 4)
    end = time.monotonic() + 60
    while time.monotonic() < end and is_there(int(said)):
        time.sleep(0.1)
    assert not is_there(int(said))


def is_there(pid):
    """Whether a process runs; one that has ended and that nobody has asked about yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_part_that_fails_is_named_with_its_last_line(session):
    session.run("part", ["-c", "raise SystemExit('the disk is full')"], 30)
    session.keep()
    assert session.result["failed"] == {"part": "the disk is full"}
    assert json.loads((session.out / "gpu.json").read_text())["failed"] == {"part": "the disk is full"}


@pytest.mark.slow
@pytest.mark.parametrize("load", [
    loaders_onto_gpu.from_pretrained_device_map, loaders_onto_gpu.safetensors_device,
    loaders_onto_gpu.helpers_ring, loaders_onto_gpu.helpers_mapped_ring,
    loaders_onto_gpu.helpers_registered, loaders_onto_gpu.helpers_registered_copy,
], ids=lambda load: load.__name__)  # fmt: skip
def test_a_loader_for_a_gpu_gives_the_same_model(load, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("helpers.weights.onto_gpu.way", "tensorizer")  # put back what a loader sets
    model = files.Model(str(tiny), tmp_path)
    models.make(model, ["hf", "helpers"])
    expected, loaded = loaders.from_pretrained(model, "cpu").state_dict(), load(model, "cpu").state_dict()
    assert list(expected) == list(loaded)
    for name, tensor in expected.items():
        assert_same_tensor(name, tensor, loaded[name])


def test_every_route_for_a_gpu_is_known_and_none_that_needs_one_runs_on_a_cpu():
    assert set(ON_CUDA) <= set(ALL)
    assert {name for name in ON_CPU if ALL[name].device} == {"InstantTensor"}
    assert {name for name, route in ALL.items() if route.device} <= set(ON_CUDA)


def test_a_load_is_compared_with_what_one_copy_from_pinned_memory_reaches():
    phases = {"interpreter": 0.1, "imports": 1.0, "load": 0.5, "first token": 0.2}
    run = {"route": "helpers ring", "state": "warm", "round": 0, "total": 2.0, "phases": phases}
    result = {
        "runs": [run],
        "bytes": {"helpers ring": 10_000_000_000},
        "bus": {"pinned": 40e9, "pageable": 5e9},
    }
    assert report.of_the_bus(result, "warm", "helpers ring") == (20e9, 0.5)
    assert report.of_the_bus(result, "weights cold", "helpers ring") is None
    assert report.of_the_bus(result | {"bus": {}}, "warm", "helpers ring") is None


def test_what_a_wheel_needs_is_read_for_the_python_there(tmp_path):
    lines = [
        "Metadata-Version: 2.1",
        "Requires-Dist: Foo.Bar>=1",
        'Requires-Dist: old; python_version < "3.12"',
        'Requires-Dist: new; python_version >= "3.12" and sys_platform == "linux"',
        "Requires-Dist: rich; extra == 'all'",
    ]
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as wheel:
        wheel.writestr("w-1.dist-info/METADATA", "\n".join(lines) + "\n\nText.\n")
    assert gpu_wheels.needs(tmp_path / "w.whl", "3.12") == {"foo-bar", "new"}
    assert gpu_wheels.needs(tmp_path / "w.whl", "3.11") == {"foo-bar", "old"}


def test_the_copy_is_measured():
    assert bus.measure("cpu", size=1 << 22, turns=2)["pageable"] > 1e6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_pinned_memory_is_copied_no_slower_than_ordinary():
    found = bus.measure("cuda", size=1 << 28)
    assert found["pinned"] >= 0.9 * found["pageable"]
