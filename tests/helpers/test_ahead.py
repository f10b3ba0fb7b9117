"""Fetching ahead, in a process of its own: the same model, and nothing left, whatever ends."""

import contextlib
import gc
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from equality import assert_same_module
from faulty import serving
from torch import nn

from helpers import deserialise, serialise, verify
from helpers.errors import EncryptionError, ModelError, NotAModel, SkeletonMismatch, StorageError
from helpers.prefetch import read_ahead
from helpers.storage import ahead, atomic, fetcher
from workbook.samples import tiny_stable_diffusion
from workbook.samples.servers import nginx, web_server, weed


def build(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(200, 300), nn.BatchNorm1d(300), nn.Linear(300, 100))


@pytest.fixture
def server(tmp_path):
    serialise(build(), tmp_path / "www" / "m")
    with serving(tmp_path / "www") as state:
        yield state


@contextlib.contextmanager
def begun(source, cache=None):
    fetching = ahead.begin(source, cache)
    try:
        yield fetching
    finally:
        pid = fetching._pid
        fetching.end()
        assert not is_running(pid), "the process outlived the block"


def is_running(pid):
    return Path(f"/proc/{pid}").exists()


def load(source, **options):
    return deserialise(source, **{"skeleton": build, "device": "cpu"} | options)


def wait_until(happened, seconds=60):
    limit = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.01)


def children():
    """The processes that this one has started."""
    return set(Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split())


def open_files(process="self"):
    """What the descriptors of a process stand for."""
    found = []
    for link in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.append(os.readlink(link))
    return found


def files_in_memory():
    """Those that this process has open or mapped; other processes have their own."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    return [name for name in [*open_files(), *maps] if "memfd:" in name]


@contextlib.contextmanager
def held_back(server):
    """The server sends no weights before the block ends."""
    released = threading.Event()
    server.on_request = lambda path: path.endswith(".tensors") and released.wait(60)
    try:
        yield
    finally:
        released.set()


@pytest.fixture
def quiet(caplog):
    """Fails the test if a load fell back to fetching by itself."""
    yield
    assert "was not fetched ahead" not in "".join(r.getMessage() for r in caplog.get_records("call"))


@pytest.mark.usefixtures("quiet")
class TestWhatComes:
    def test_it_equals_what_was_saved_and_this_process_asks_the_server_for_nothing(self, server):
        with begun(f"{server.url}/m") as fetching:
            fetching.wait("model.tensors")
            count = len(server.seen)
            loaded = load(f"{server.url}/m")
            again = load(f"{server.url}/m", verify=True)
            assert len(server.seen) == count
        assert_same_module(build(), loaded)
        assert_same_module(build(), again)
        with torch.no_grad():
            loaded[0].weight += 1  # private: the other one is as it was
        assert_same_module(build(), again)
        load(f"{server.url}/m")
        assert len(server.seen) > count, "after the block it is fetched anew"

    @pytest.mark.parametrize(
        "options",
        [{"mapped": False}, {"dtype": "bfloat16"}, {"verify": True, "mapped": False}, {"progress": False}],
    )
    def test_with_options_it_is_the_same_as_without_fetching_ahead(self, server, options):
        plain = load(f"{server.url}/m", **options)
        with begun(f"{server.url}/m"):
            assert_same_module(plain, load(f"{server.url}/m", **options))

    def test_a_part_of_it(self, server):
        with begun(f"{server.url}/m"):
            loaded = load(f"{server.url}/m", only=lambda name: name.startswith("0."))
        assert torch.equal(loaded[0].weight, build()[0].weight)
        assert loaded[2].weight.is_meta

    def test_a_pipeline_with_the_models_inside_it(self, tmp_path):
        pipeline = tiny_stable_diffusion()
        serialise(pipeline, tmp_path / "www" / "m")
        with serving(tmp_path / "www") as state, begun(f"{state.url}/m"):
            loaded = deserialise(f"{state.url}/m", device="cpu", verify=True)
        for name in ("unet", "vae", "text_encoder"):
            assert_same_module(getattr(pipeline, name), getattr(loaded, name))
        assert type(loaded.scheduler) is type(pipeline.scheduler)

    def test_an_encrypted_model(self, server):
        key = bytes(range(32))
        serialise(build(1), server.root / "e", encryption=key)
        with begun(f"{server.url}/e"):
            assert_same_module(build(1), load(f"{server.url}/e", encryption=key))
            with pytest.raises(EncryptionError, match="Pass encryption="):
                load(f"{server.url}/e")

    def test_a_bare_file(self, server):
        url = f"{server.url}/m/model.tensors"
        with begun(url) as fetching:
            fetching.wait("")
            count = len(server.seen)
            assert_same_module(build(), load(url))
            assert len(server.seen) == count

    def test_a_store_without_versions_has_every_hash_compared(self, server):
        server.etags = False
        with begun(f"{server.url}/m") as fetching:
            assert_same_module(build(), load(f"{server.url}/m"))
            assert fetching.wait("model.tensors") is False

    def test_several_threads_may_load_it(self, server):
        found = []
        with begun(f"{server.url}/m"):
            threads = [
                threading.Thread(target=lambda: found.append(load(f"{server.url}/m"))) for _ in range(4)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        for loaded in found:
            assert_same_module(build(), loaded)
        assert len(found) == 4

    def test_the_class_is_built_while_the_weights_arrive(self, server):
        released, built = threading.Event(), []
        server.on_request = lambda path: path.endswith(".tensors") and released.wait(10)

        def skeleton():
            built.append(released.is_set())
            released.set()
            return build()

        with begun(f"{server.url}/m"):
            assert_same_module(build(), load(f"{server.url}/m", skeleton=skeleton))
        assert built[0] is False

    def test_it_can_be_neither_changed_nor_cut(self, server):
        with begun(f"{server.url}/m") as fetching:
            fetching.wait("model.tensors")
            descriptor = fetching.found().weights["model.tensors"]
            with pytest.raises(PermissionError):
                os.ftruncate(descriptor, 0)
            with pytest.raises(PermissionError):
                os.pwrite(descriptor, b"x", 0)

    def test_other_sources_and_other_verbs_go_their_own_way(self, server):
        serialise(build(1), server.root / "other")
        with begun(f"{server.url}/m") as fetching:
            fetching.wait("model.tensors")
            assert_same_module(build(1), load(f"{server.url}/other"))
            count = len(server.seen)
            assert verify(f"{server.url}/m").tensors == 9
            assert len(server.seen) > count, "it is the store that is verified"

    def test_a_process_forked_off_in_the_block_fetches_by_itself(self, server):
        with begun(f"{server.url}/m") as fetching:
            child = os.fork()
            if child == 0:
                os._exit(0 if ahead.find(f"{server.url}/m") is None else 1)
            assert os.waitpid(child, 0)[1] == 0
            assert ahead.find(f"{server.url}/m") is fetching

    def test_a_process_forked_off_in_the_block_holds_no_memory_of_it_and_disturbs_nothing(self, server):
        released = threading.Event()
        server.on_request = lambda path: path.endswith(".tensors") and released.wait(10)
        with begun(f"{server.url}/m") as outer, begun(f"{server.url}/m/model.tensors") as fetching:
            fetching.found()
            outer.found()  # the descriptors are there, the weights are not
            assert len(files_in_memory()) > 2
            if (child := os.fork()) == 0:
                fetching.end()  # as at the end of the block
                os._exit(len(files_in_memory()))
            assert os.waitpid(child, 0)[1] == 0
            released.set()
            assert_same_module(build(), load(f"{server.url}/m"))
            assert_same_module(build(), load(f"{server.url}/m/model.tensors"))

    def test_what_was_mapped_before_the_fork_stays_valid_in_both(self, server):
        expected = build()[2].weight.detach().numpy().tobytes()
        with begun(f"{server.url}/m"):
            loaded = load(f"{server.url}/m")
            if (child := os.fork()) == 0:
                os._exit(0 if loaded[2].weight.detach().numpy().tobytes() == expected else 1)
            assert os.waitpid(child, 0)[1] == 0
        assert_same_module(build(), loaded)


@pytest.mark.usefixtures("quiet")
class TestCache:
    def test_it_fills_the_cache_from_which_the_load_maps(self, server, tmp_path):
        with begun(f"{server.url}/m", tmp_path / "cache") as fetching:
            loaded = load(f"{server.url}/m", cache=tmp_path / "cache")
            assert fetching.found().weights == {}
        weights = [wanted for path, wanted in server.seen if path.endswith(".tensors")]
        assert len(weights) == len(set(weights)), "fetched once"
        assert_same_module(build(), loaded)
        (copy,) = (tmp_path / "cache").glob("*/model.tensors")
        assert str(copy) in Path("/proc/self/maps").read_text()

    def test_a_copy_that_is_there_is_used(self, server, tmp_path):
        load(f"{server.url}/m", cache=tmp_path / "cache")
        server.seen.clear()
        with begun(f"{server.url}/m", tmp_path / "cache"):
            assert_same_module(build(), load(f"{server.url}/m", cache=tmp_path / "cache", mapped=True))
        assert [path for path, _ in server.seen] == ["/m/model.json"]

    def test_a_pipeline_and_an_encrypted_model_are_copied(self, tmp_path):
        key, pipeline = bytes(range(32)), tiny_stable_diffusion()
        serialise(pipeline, tmp_path / "www" / "m")
        serialise(build(), tmp_path / "www" / "e", encryption=key)
        with serving(tmp_path / "www") as state:
            with begun(f"{state.url}/m", tmp_path / "cache"):
                loaded = deserialise(f"{state.url}/m", device="cpu", cache=tmp_path / "cache")
            with begun(f"{state.url}/e", tmp_path / "cache"):
                secret = load(f"{state.url}/e", cache=tmp_path / "cache", encryption=key)
        assert_same_module(pipeline.unet, loaded.unet)
        assert_same_module(build(), secret)

    def test_without_the_cache_in_the_load_it_goes_its_own_way(self, server, tmp_path):
        with begun(f"{server.url}/m", tmp_path / "cache"):
            assert ahead.find(f"{server.url}/m") is None
            assert_same_module(build(), load(f"{server.url}/m"))


def test_an_outdated_or_damaged_copy_is_mended(server, tmp_path):
    cache = tmp_path / "cache"
    load(f"{server.url}/m", cache=cache)
    serialise(build(1), server.root / "m", overwrite=True)
    with begun(f"{server.url}/m", cache):
        assert_same_module(build(1), load(f"{server.url}/m", cache=cache))
    (copy,) = cache.glob("*/model.tensors")
    copy.write_bytes(copy.read_bytes()[:5000])
    with begun(f"{server.url}/m", cache):
        assert_same_module(build(1), load(f"{server.url}/m", cache=cache))


def test_what_is_damaged_at_its_origin_is_never_kept(server, tmp_path, caplog):
    path = server.root / "m" / "model.tensors"
    whole = bytearray(path.read_bytes())
    whole[-5000] ^= 1
    path.write_bytes(whole)
    with (
        begun(f"{server.url}/m", tmp_path / "cache"),
        pytest.raises(Exception, match=r"1 of 9 tensors are damaged: 2\.weight"),
    ):
        load(f"{server.url}/m", cache=tmp_path / "cache")
    assert list((tmp_path / "cache").glob("[!.]*")) == []
    assert "1 of 9 tensors are damaged" in caplog.text


class TestWhatFails:
    @pytest.mark.parametrize("moment", ["at once", "while it is waited for"])
    def test_a_process_that_is_killed(self, server, caplog, moment):
        arrived, released = threading.Event(), threading.Event()

        def hold(path):
            if path.endswith(".tensors") and not released.is_set():
                arrived.set()
                released.wait(10)

        server.on_request = hold
        with begun(f"{server.url}/m") as fetching:
            if moment == "at once":
                os.kill(fetching._pid, signal.SIGKILL)
                released.set()
            else:

                def kill():
                    arrived.wait(10)
                    os.kill(fetching._pid, signal.SIGKILL)
                    released.set()

                threading.Thread(target=kill).start()
            assert_same_module(build(), load(f"{server.url}/m"))
        assert (
            "was not fetched ahead, so it is fetched now: the process that fetches has ended" in caplog.text
        )

    def test_a_server_that_refuses_gives_the_error_of_a_load(self, server, caplog):
        with begun(f"{server.url}/absent"), pytest.raises(NotAModel, match=r"no model\.json"):
            load(f"{server.url}/absent")
        server.always = "403"
        with begun(f"{server.url}/m"), pytest.raises(StorageError, match="answers 403"):
            load(f"{server.url}/m")
        assert "model.tensors: the server answers 403" in caplog.text

    def test_more_than_the_memory_is_not_begun(self, server, caplog, monkeypatch):
        said = []
        monkeypatch.setattr(fetcher.memory, "available_bytes", lambda: 400_000)
        store = fetcher.open_store(f"{server.url}/m")
        with pytest.raises(StorageError, match=r"bytes of weights are more than the 300,000 of memory"):
            fetcher._into_memory(said, store, threading.Event())
        assert not [path for path, _ in server.seen if path.endswith(".tensors")]

    def test_a_model_replaced_while_it_is_fetched(self, server, tmp_path, caplog):
        serialise(build(1), tmp_path / "other")

        def replace(path):
            if path.endswith(".tensors"):
                server.on_request = lambda path: None
                shutil.rmtree(server.root / "m")
                shutil.copytree(tmp_path / "other", server.root / "m")

        server.on_request = replace
        with begun(f"{server.url}/m"):
            assert_same_module(build(1), load(f"{server.url}/m"))
        assert "was not fetched ahead" in caplog.text

    @pytest.mark.usefixtures("quiet")
    @pytest.mark.parametrize(("path", "cached"), [("m", False), ("m", True), ("m/model.tensors", False)])
    def test_an_error_of_the_caller_is_not_hidden_and_the_store_not_asked(
        self, server, tmp_path, path, cached
    ):
        def full():
            raise torch.OutOfMemoryError("no room")

        source, cache = f"{server.url}/{path}", tmp_path / "cache" if cached else None
        with begun(source, cache) as fetching:
            fetching.wait("" if cached or path != "m" else "model.tensors")
            count = len(server.seen)
            with pytest.raises(SkeletonMismatch):
                load(source, cache=cache, skeleton=lambda: nn.Linear(1, 1))
            with pytest.raises(ModelError, match="does not fit on cpu"):
                load(source, cache=cache, skeleton=full)
            assert len(server.seen) == count

    def test_a_system_that_starts_no_process(self, server, caplog, monkeypatch):
        monkeypatch.setattr(sys, "executable", "/absent/python")
        with begun(f"{server.url}/m"):
            assert_same_module(build(), load(f"{server.url}/m"))
        assert "no process could be started (No such file or directory)" in caplog.text

    def test_a_frozen_application_is_not_started_again(self, server, caplog, monkeypatch, tmp_path):
        (tmp_path / "application").write_text(f"#!/bin/sh\necho started >> {tmp_path}/log\n")
        (tmp_path / "application").chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "application"))
        monkeypatch.setattr(sys, "frozen", True, raising=False)
        assert read_ahead(str(server.root / "m")) is None
        with begun(f"{server.url}/m"):
            assert_same_module(build(), load(f"{server.url}/m"))
        assert "this system starts no process in the way that is needed" in caplog.text
        assert not (tmp_path / "log").exists()


def test_blocks_may_be_nested(server):
    with begun(f"{server.url}/m") as outer:
        with begun(f"{server.url}/m"):
            pass
        assert ahead.find(f"{server.url}/m") is outer
        assert_same_module(build(), load(f"{server.url}/m"))


class TestWhatIsLeft:
    def test_an_exception_in_the_block_ends_the_process_in_time(self, server, monkeypatch):
        """It waits neither for the transfer, here a minute, nor for the time that a copy in a cache is given."""
        monkeypatch.setattr(ahead, "_GRACE", 60)
        before = children()  # a tracker of multiprocessing's, say

        def fail():
            with begun(f"{server.url}/m") as fetching:
                fetching.found()
                raise KeyError(time.monotonic())

        with held_back(server):
            with pytest.raises(KeyError) as caught:
                fail()
            assert time.monotonic() - caught.value.args[0] < 5
        assert children() <= before

    @pytest.mark.parametrize("fault", ["crawl", "hang"])
    def test_an_unfinished_copy_is_removed_at_the_end_of_the_block(self, server, tmp_path, fault):
        server.always = fault
        copies = (tmp_path / "cache").glob
        with begun(f"{server.url}/m", tmp_path / "cache") as fetching:
            wait_until(lambda: sum(path.endswith(".tensors") for path, _ in server.seen) == 2)
            assert list(copies(".m-*.partial-*/model.tensors"))
        assert not is_running(fetching._pid)
        assert list(copies(".m-*.partial-*")) == []

    def test_a_copy_that_is_finished_at_the_last_moment_stays(self, tmp_path):
        with atomic.directory(tmp_path / "copy", overwrite=True, strangers=lambda _: ()) as folder:
            (folder / "model.tensors").write_text("whole")
        fetcher._remove(folder)
        assert (tmp_path / "copy" / "model.tensors").read_text() == "whole"

    def test_a_copy_that_is_half_removed_never_gets_its_name(self, tmp_path, monkeypatch):
        def begin_to_remove(path, **_):
            os.unlink(Path(path) / "model.tensors")

        def fill():
            with atomic.directory(tmp_path / "copy", overwrite=True, strangers=lambda _: ()) as folder:
                for name in ("model.json", "model.tensors"):
                    (folder / name).write_text("whole")
                monkeypatch.setattr(fetcher.shutil, "rmtree", begin_to_remove)
                fetcher._remove(folder)

        with pytest.raises(StorageError, match="writing the model failed"):
            fill()
        assert not (tmp_path / "copy").exists()

    @pytest.mark.parametrize("cached", [False, True])
    def test_a_killed_parent_takes_it_along(self, server, tmp_path, cached):
        server.always = "crawl"
        (tmp_path / "tmp").mkdir()
        code = """
import os, sys, time
from helpers.storage import ahead
fetching = ahead.begin(sys.argv[1], sys.argv[2] or None)
fetching.found()
print(fetching._pid, flush=True)  # what it says further is not read
time.sleep(60)
"""
        cache = str(tmp_path / "cache") if cached else ""
        command = [sys.executable, "-c", code, f"{server.url}/m", cache]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(tmp_path / "tmp")}
        ) as parent:
            pid = int(parent.stdout.readline())
            assert is_running(pid)
            in_memory = [path for path in open_files(pid) if path.startswith("/dev/shm/")]
            parent.kill()
        wait_until(lambda: not is_running(pid))
        assert list((tmp_path / "tmp").iterdir()) == []
        assert not list(filter(os.path.exists, in_memory))

    def test_memory_and_descriptors_are_given_back(self, server):
        serialise(nn.Linear(3000, 3000), server.root / "large")
        gc.collect()  # what other tests left would be given back meanwhile
        before, in_memory = len(open_files()), len(files_in_memory())
        for _ in range(3):
            with begun(f"{server.url}/large") as fetching:
                fetching.wait("model.tensors")
                assert len(files_in_memory()) > in_memory
            assert len(files_in_memory()) <= in_memory
            wait_until(lambda: len(open_files()) <= before)  # the server, in this process too, has its own


def test_no_secret_is_in_a_command_line_or_an_environment(server, monkeypatch, caplog):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "ganzgeheim")
    host = server.url.removeprefix("http://")
    source = f"http://user:geheim@{host}/m?signature=sehrgeheim"
    with begun(source) as fetching:
        with held_back(server):
            fetching.found()
            process = Path(f"/proc/{fetching._pid}")
            seen = b"".join((process / name).read_bytes() for name in ("cmdline", "environ"))
            assert b"PATH=" in seen and b"geheim" not in seen
            os.kill(fetching._pid, signal.SIGKILL)
        assert_same_module(build(), load(source))
    assert "was not fetched ahead" in caplog.text and "geheim" not in caplog.text
    assert all(headers["Authorization"].startswith("Basic ") for headers in server.headers)


def test_importing_it_and_beginning_are_light(server):
    code = """
import sys, time
start = time.process_time()  # its work, whatever else the machine does
from helpers.storage import ahead
seconds = time.process_time() - start
heavy = {"torch", "boto3", "socket", "subprocess", "logging", "json"} & set(sys.modules)
start = time.perf_counter()
fetching = ahead.begin(sys.argv[1])
began = time.perf_counter() - start
fetching.end()
print(seconds, began, *heavy, *({"torch"} & set(sys.modules)))
"""
    command = [sys.executable, "-c", code, f"{server.url}/m"]
    runs = [subprocess.check_output(command, text=True).split() for _ in range(5)]
    assert all(len(run) == 2 for run in runs), f"heavy: {runs[0][2:]}"
    assert min(float(run[0]) for run in runs) < 0.02
    assert min(float(run[1]) for run in runs) < 0.2


def test_the_process_imports_no_torch():
    code = "import sys, helpers.storage.fetcher; print({'torch', 'boto3', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.skipif(nginx() is None, reason="nginx is not installed")
@pytest.mark.usefixtures("quiet")
def test_from_nginx(tmp_path):
    serialise(build(), tmp_path / "m")
    with web_server(tmp_path) as url, begun(f"{url}/m"):
        assert_same_module(build(), load(f"{url}/m", verify=True))


@pytest.mark.slow
@pytest.mark.skipif(weed() is None, reason="SeaweedFS is not installed")
class TestS3:
    @pytest.fixture
    def bucket(self, store):
        return f"s3://{store.bucket}"

    def test_it_equals_what_was_saved_and_this_process_imports_no_boto3(self, bucket, tmp_path):
        serialise(build(), f"{bucket}/m")
        code = """
import sys
from helpers.storage import ahead
fetching = ahead.begin(sys.argv[1], sys.argv[2] or None)
import torch
from torch import nn
from helpers import deserialise
build = lambda: nn.Sequential(nn.Linear(200, 300), nn.BatchNorm1d(300), nn.Linear(300, 100))
model = deserialise(sys.argv[1], skeleton=build, cache=sys.argv[2] or None, device="cpu")
fetching.end()
print(model[0].weight.sum().item(), "boto3" in sys.modules)
"""
        for cache in ("", str(tmp_path), str(tmp_path)):
            command = [sys.executable, "-c", code, f"{bucket}/m", cache]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.stdout == f"{build()[0].weight.sum().item()} False\n", done.stderr
            assert "was not fetched ahead" not in done.stderr

    def test_missing_credentials_are_said(self, bucket, monkeypatch, tmp_path):
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        with begun(f"{bucket}/m"), pytest.raises(StorageError, match="NoCredentialsError"):
            load(f"{bucket}/m")


def test_the_reason_is_logged_once(server, caplog):
    caplog.set_level(logging.DEBUG)
    with begun(f"{server.url}/m") as fetching:
        with held_back(server):  # or it may have come already
            os.kill(fetching._pid, signal.SIGKILL)
        load(f"{server.url}/m")
    assert caplog.text.count("was not fetched ahead") == 1


START = """
import sys
from helpers import cold_start
source, cache, target = sys.argv[1], sys.argv[2] or None, sys.argv[3]
with cold_start(source, cache=cache):
    from torch import nn
    from helpers import deserialise, serialise
    from helpers.storage import ahead
    build = lambda: nn.Sequential(nn.Linear(200, 300), nn.BatchNorm1d(300), nn.Linear(300, 100))
    model = deserialise(source, skeleton=build, device="cpu", cache=cache)
    is_begun = ahead.find(source, cache) is not None
serialise(model, target)
print(is_begun, ahead.find(source, cache))
"""


@pytest.mark.parametrize("cached", [False, True])
def test_a_start_with_cold_start_loads_what_was_fetched_ahead(server, tmp_path, cached):
    cache, target = str(tmp_path / "cache") if cached else "", tmp_path / "target"
    command = [sys.executable, "-c", START, f"{server.url}/m", cache, target]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout == "True None\n", done.stderr
    assert "was not fetched ahead" not in done.stderr
    assert_same_module(build(), load(target))
    weights = [wanted for path, wanted in server.seen if path.endswith(".tensors")]
    assert len(weights) == len(set(weights)), "fetched once"
    assert len(list((tmp_path / "cache").glob("*/model.tensors"))) == cached
