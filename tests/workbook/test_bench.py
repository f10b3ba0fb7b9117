"""The benchmark: honest rows, one clear line for what cannot run, nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import namedtuple

import architectures
import pytest

from helpers.errors import ModelError, NotAModel, StorageError
from workbook import paths
from workbook.bench import __main__ as bench_main
from workbook.bench import memory, models, pagecache, report, run
from workbook.bench.routes import ALL

pytestmark = pytest.mark.slow  # every measurement is a fresh process


QUICK = "from_pretrained,helpers mapped,torch.load"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A Hugging Face directory of the user's own."""
    path = tmp_path_factory.mktemp("hf") / "tiny"
    architectures.build("LlamaForCausalLM").save_pretrained(path)
    return path


def bench(*arguments, **options):
    command = [sys.executable, "-m", "workbook.bench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def scratch_left():
    return list(paths.CACHE.glob(".bench-*"))


def test_a_users_own_model_is_measured_by_several_routes(tiny, tmp_path):
    done = bench(
        "--model",
        tiny,
        "--rounds",
        1,
        "--routes",
        QUICK,
        "--json",
        tmp_path / "r.json",
        "--png",
        tmp_path / "p.png",
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "r.json").read_text())
    runs = result["runs"]
    assert {(r["state"], r["route"]) for r in runs} == {
        (s, n) for s in ("warm", "cold") for n in QUICK.split(",")
    }
    for entry in runs:
        assert "failed" not in entry or entry["failed"].startswith("not cold"), entry
        assert {"imports", "load", "first token"} <= entry["phases"].keys()
        assert 0 < entry["phases"]["load"] < entry["total"]
        assert entry["peak_rss"] > entry["private"] > 0
    assert {r["token"] for r in runs} == {runs[0]["token"]}
    assert len(result["saving"]["serialise"]) == 1
    assert "process to token" in done.stdout and "plain cold read" in done.stdout
    assert (tmp_path / "p.png").stat().st_size > 5000
    assert scratch_left() == []


def test_a_route_that_fails_does_not_stop_the_others(tiny, tmp_path):
    model = models.prepare(str(tiny), {"hf", "torch"}, tmp_path)
    model.file("torch").write_bytes(b"no checkpoint")
    result = run.measure(
        model, ["from_pretrained", "torch.load"], 1, "cpu", states=["warm"], report=lambda _: None
    )
    good, bad = result["runs"]
    assert "failed" not in good
    assert bad["failed"]
    assert bad["failed"] in report.table(result)


def test_a_wrong_first_token_gets_no_time():
    runs = [
        {"route": "from_pretrained", "state": "warm", "round": 0, "token": 5, "score": 1.0, "total": 3.0},
        {"route": "a", "state": "warm", "round": 0, "token": 5, "score": 1.001, "total": 1.0},
        {"route": "b", "state": "warm", "round": 0, "token": 6, "score": 1.0, "total": 0.1},
        {"route": "c", "state": "warm", "round": 0, "token": 5, "score": 2.0, "total": 0.1},
    ]
    run._judge(runs)
    assert [r.get("failed") for r in runs] == [None, None, "wrong result", "wrong result"]
    assert report.ratio({"runs": runs}, "warm", "a", "fresh process to first token") == pytest.approx(1 / 3)
    assert report.ratio({"runs": runs}, "warm", "b", "fresh process to first token") is None


def test_break_even_is_counted_in_whole_starts():
    def entry(route, total):
        return {"route": route, "state": "cold", "round": 0, "total": total}

    result = {"runs": [entry("from_pretrained", 10.0), entry("helpers + prefetch", 8.0)]}
    result["saving"] = {"serialise": [5.0], "write_module": [5.0]}
    assert report.break_even(result, "cold") == 3
    result["runs"][1]["total"] = 11.0
    assert report.break_even(result, "cold") is None


def test_a_step_that_fails_loses_nothing_of_the_steps_before_it(tiny, tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(run, "saving", fails)
    arguments = ["--model", str(tiny), "--rounds", "1", "--routes", "from_pretrained,helpers mapped"]
    monkeypatch.setattr(sys, "argv", ["bench", *arguments, "--json", str(tmp_path / "r.json")])
    with pytest.raises(RuntimeError, match="the disk is full"):
        bench_main.main()
    assert len(json.loads((tmp_path / "r.json").read_text())["runs"]) == 4
    assert list(tmp_path.iterdir()) == [tmp_path / "r.json"]


@pytest.fixture
def tiny_files(tiny, tmp_path):
    return models.prepare(str(tiny), {"hf", "helpers"}, tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone counts shared pages apart")
def test_replicas_that_map_are_counted_together(tiny_files):
    one, two = memory.measure(tiny_files, ways=["helpers mapped"], counts=(1, 2))
    assert 0 < one["private"] <= one["pss"] < two["pss"]


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone counts shared pages apart")
def test_no_replica_is_left_when_one_fails(tiny_files, monkeypatch):
    started, start = [], subprocess.Popen

    def record(command, **options):
        if started:  # the second one finds no model
            command = [*command[:-1], "/nowhere/at/all"]
        started.append(start(command, **options))
        return started[-1]

    monkeypatch.setattr(memory.subprocess, "Popen", record)
    with pytest.raises(ModelError, match="a replica ended without an answer"):
        memory.measure(tiny_files, ways=["helpers mapped"], counts=(2,))
    assert len(started) == 2
    assert all(process.returncode is not None for process in started)


def test_memory_is_measured_on_a_fresh_checkout(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CACHE", tmp_path / "data" / "cache")
    monkeypatch.setattr(memory, "measure", lambda model: [])
    memory.main(str(tiny), tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["memory"] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--routes", "teleport"], "unknown route: teleport. Known: from_pretrained"),
        (["--model", "/nowhere/at/all"], "/nowhere/at/all: is no model of the benchmark. Choose smollm2"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--routes", "InstantTensor"], "runs on CUDA only"),
    ],
)
def test_what_cannot_run_gets_one_clear_line(arguments, said):
    done = bench(*arguments)
    assert done.returncode != 0
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_peer_is_listed_with_the_reason(monkeypatch):
    find = run.importlib.util.find_spec
    monkeypatch.setattr(
        run.importlib.util, "find_spec", lambda name: None if name == "flashpack" else find(name)
    )
    good, reasons = run.usable(list(ALL), "cpu")
    assert "flashpack" not in good
    assert reasons["flashpack"] == "not installed (pip install flashpack)"


def test_too_little_disk_is_said_before_anything_is_written(tiny, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(models.shutil, "disk_usage", lambda _: usage(10, 10, 1000))
    with pytest.raises(StorageError, match=r"needs [\d,]+ bytes of disk for hf, torch, 1,000 are free"):
        models.prepare(str(tiny), {"hf", "torch"}, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_too_little_memory_is_said_before_anything_is_written(tiny, tmp_path, monkeypatch):
    memory = namedtuple("memory", "available")
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory(1000))
    with pytest.raises(StorageError, match=r"needs [\d,]+ bytes of memory, 1,000 are available"):
        models.prepare(str(tiny), {"hf"}, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_unknown_model_is_refused(tmp_path):
    with pytest.raises(NotAModel, match="Choose smollm2, 135m"):
        models.prepare("gpt-17", {"hf"}, tmp_path)


def test_ctrl_c_keeps_the_finished_rounds_and_leaves_nothing(tiny, tmp_path):
    command = [sys.executable, "-m", "workbook.bench", "--model", tiny, "--rounds", "50"]
    command += ["--routes", "from_pretrained", "--json", tmp_path / "r.json", "--png", tmp_path / "p.png"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # a shell lets its background jobs ignore Ctrl-C, and what they start inherits that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        seen = ""
        while "round 2/50" not in seen:
            seen += process.stdout.readline()
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)  # as the terminal does: to all of them
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "the rounds that are finished are kept" in out
    result = json.loads((tmp_path / "r.json").read_text())
    assert {entry["round"] for entry in result["runs"]} == {0}
    assert "process to token" in out
    assert scratch_left() == []
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="the page cache can be asked and emptied on Linux alone")
def test_a_file_is_made_cold_and_warm(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(os.urandom(1 << 20) * 20)
    pagecache.evict(path)
    if pagecache.resident(path) > 0.02:
        pytest.skip("this filesystem keeps files in memory")
    assert pagecache.read_through(path) > 0
    assert pagecache.resident(path) == 1


def test_every_format_of_the_table_is_one_that_can_be_made():
    assert {form for _, form, _ in ALL.values()} == set(models.FORMATS)


def test_the_figures_in_the_readme_are_those_of_the_recorded_run():
    from workbook.bench import chart

    readme = (paths.DATA.parent / "README.md").read_text()
    shown = readme.partition("1.7b-cpu.json -->\n")[2].partition("<!-- /figures -->")[0]
    recorded = json.loads((paths.DATA / "results" / "1.7b-cpu.json").read_text())
    assert shown.strip() == "\n".join(chart.lines(recorded)).strip()
    rounds = {(entry["route"], entry["state"]): 0 for entry in recorded["runs"]}
    for entry in recorded["runs"]:
        rounds[entry["route"], entry["state"]] += 1
    assert set(rounds.values()) == {5}
    assert {"versions", "machine", "date"} <= recorded.keys()
