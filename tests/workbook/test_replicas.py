"""Replicas and stages on a real Ray, started and ended here."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import architectures
import psutil
import pytest
import torch
from faulty import serving

from helpers import deserialise, serialise
from helpers.errors import ModelError, StorageError
from helpers.storage import memory
from workbook import replicas as scale

pytestmark = pytest.mark.alone  # Ray takes both cores and much memory

TOKENS = [[5, 6, 7, 8]]
LLAMA = "transformers.models.llama.modeling_llama"


def llama(seed=0):
    model = architectures.build("LlamaForCausalLM", seed)
    scores = torch.randn(model.lm_head.weight.shape, generator=torch.Generator().manual_seed(seed))
    model.lm_head.weight = torch.nn.Parameter(scores)  # not the embedding, which repeats its input
    model.config.tie_word_embeddings = False
    return model


def next_token(model):
    with torch.inference_mode():
        return model(input_ids=torch.tensor(TOKENS)).logits[:, -1].argmax(-1).tolist()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("scale") / "m"
    serialise(llama(), path)
    return path


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'ray[serve]')")
    pytest.importorskip("ray.serve")
    folder = tempfile.mkdtemp(prefix="ray-")  # short: Ray's sockets lie there
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    before = processes_of(folder)  # of another Ray, say
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
    yield ray
    ray.shutdown()  # ends Serve too, without the complaints of its controller
    shutil.rmtree(folder, ignore_errors=True)
    end = time.monotonic() + 60
    while (left := processes_of(folder).keys() - before.keys()) and time.monotonic() < end:
        time.sleep(0.2)
    assert not left, processes_of(folder)


def processes_of(folder):
    found = {}
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if folder in line or line.startswith("ray::"):
            found[process.pid] = line[:80]
    return found


@pytest.fixture
def serve(cluster):
    from ray import serve

    yield serve
    serve.delete("test")


def run(serve, source, **options):
    return serve.run(scale.application(str(source), device="cpu", **options), name="test", route_prefix=None)


def ask(handle):
    tokens, pid = handle.remote(TOKENS).result(timeout_s=180)
    return tokens, pid


def wait_for(condition, seconds=180):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.2)


@pytest.mark.slow
def test_a_killed_replica_is_replaced_with_the_new_weights_while_the_other_keeps_the_old(serve, tmp_path):
    old, new = next_token(llama(0)), next_token(llama(1))
    assert old != new
    serialise(llama(0), tmp_path / "m")
    handle, pids = run(serve, tmp_path / "m", replicas=2), set()

    def both():
        tokens, pid = ask(handle)
        assert tokens == old
        pids.add(pid)
        return len(pids) == 2

    wait_for(both)
    serialise(llama(1), tmp_path / "m", overwrite=True)
    assert ask(handle)[0] == old, "replicas that run keep what they have mapped"
    answers, failures, stop = [], [], threading.Event()

    def load():
        while not stop.is_set():
            try:
                answers.append(ask(handle))
            except Exception as error:  # a request that was on its way to the killed one may fail
                failures.append(type(error).__name__)

    thread = threading.Thread(target=load)
    thread.start()
    killed = min(pids)
    os.kill(killed, signal.SIGKILL)
    count = len(answers)
    wait_for(lambda: len({pid for _, pid in answers[count:]} - {killed}) == 2)
    stop.set()
    thread.join()
    assert {(pid in pids, tuple(tokens)) for tokens, pid in answers} == {
        (True, tuple(old)),
        (False, tuple(new)),
    }
    assert len(failures) <= 5, failures


@pytest.mark.slow
def test_two_stages_give_the_tokens_of_one_model(cluster, saved):
    stage = cluster.remote(num_cpus=0.25)(scale.Stage)
    count = llama().config.num_hidden_layers
    first, second = stage.remote(str(saved), 0, 1), stage.remote(str(saved), 1, count)
    tokens = torch.tensor(TOKENS)
    scores = cluster.get(second.__call__.remote(first.__call__.remote(tokens)))
    with torch.inference_mode():
        assert torch.equal(scores, deserialise(saved, device="cpu")(input_ids=tokens).logits)
    held = cluster.get([first.bytes.remote(), second.bytes.remote()])
    whole = sum(p.nbytes for p in llama().parameters())
    assert all(0 < part < whole for part in held) and sum(held) == whole


def test_autoscaling_bounds_are_rays_own(saved):
    pytest.importorskip("ray.serve")
    built = scale.application(str(saved), replicas=1, most=3, device="cpu")
    config = built._bound_deployment._deployment_config.autoscaling_config
    assert (config.min_replicas, config.max_replicas) == (1, 3)


def test_too_many_replicas_are_refused_before_anything_starts(saved):
    pytest.importorskip("ray.serve")
    with pytest.raises(StorageError, match=r"10000 replicas need about [\d,]+ bytes, [\d,]+ are available"):
        scale.application(str(saved), replicas=10_000)


@pytest.mark.parametrize(
    ("options", "encryption", "copies"),
    [
        ({}, None, 1),
        ({"mapped": False}, None, 3),
        ({}, "a passphrase", 3),
        ({"address": True}, None, 3),
        ({"address": True, "cache": "copies"}, None, 1),
    ],
)
def test_the_estimate_counts_the_weights_as_often_as_they_are_held(
    tmp_path, monkeypatch, options, encryption, copies
):
    serialise(llama(), tmp_path / "m", encryption=encryption)
    monkeypatch.setattr(memory, "available_bytes", lambda: 0)
    weights = (tmp_path / "m" / "model.tensors").stat().st_size
    with serving(tmp_path) as state:
        source = f"{state.url}/m" if options.pop("address", False) else tmp_path / "m"
        with pytest.raises(StorageError, match="3 replicas need about") as caught:
            scale.check_memory(source, 3, **options)
    needed = int(re.search(r"about ([\d,]+)", str(caught.value))[1].replace(",", ""))
    assert needed == 3 * scale._PROCESS + copies * weights


def early():
    """A replica that tells which modules were there when it began."""

    class Early(scale.Replica):  # in a function, so that workers need not import this file
        def __init__(self, source):
            self.before = [name for name in ("torch", LLAMA) if name in sys.modules]
            super().__init__(source)

        def found(self, tokens):
            return self.before, self(tokens)[0], sys.modules["torch"].get_num_threads()

    return Early


@pytest.mark.slow
def test_a_replica_on_ray_as_it_comes_pays_its_imports(cluster, saved):
    replica = cluster.remote(num_cpus=0.25)(early()).remote(str(saved))
    assert cluster.get(replica.found.remote(TOKENS), timeout=180) == ([], next_token(llama()), 1)


PRELOADED = """
import json, os, sys
import ray, test_replicas
from workbook import replicas

source, folder = sys.argv[1:]
settings = replicas.preloaded(source)
ray.init(address="local", include_dashboard=False, log_to_driver=False, _temp_dir=folder, **settings)
replica = ray.remote(num_cpus=0.25)(test_replicas.early()).remote(source)
print(json.dumps(ray.get(replica.found.remote(test_replicas.TOKENS), timeout=180)))
ray.shutdown()
"""


@pytest.mark.slow
def test_a_replica_finds_its_imports_done_where_the_workers_preload_them(saved):
    pytest.importorskip("ray.serve")
    here = os.path.dirname(__file__)
    path = [
        os.path.dirname(os.path.dirname(scale.__file__)),
        os.path.join(os.path.dirname(here), "support"),
        here,
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path), "RAY_USAGE_STATS_ENABLED": "0"}
    environment.pop("OMP_NUM_THREADS", None)
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-c", PRELOADED, str(saved), folder]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    before, tokens, threads = json.loads(done.stdout.splitlines()[-1])
    assert before == ["torch", LLAMA]
    assert tokens == next_token(llama())
    assert threads == 1, "as many as Ray reserves, although torch was imported before it said so"


def test_what_is_preloaded_comes_from_the_saved_model(saved):
    found = scale.preloaded(saved, idle=3)["_system_config"]
    modules = found["preload_python_modules"]
    assert {"torch", "helpers.deserialise", LLAMA} <= set(modules)
    assert found["num_workers_soft_limit"] == found["worker_maximum_startup_concurrency"] == 3 + 2


@pytest.mark.parametrize("name", ["no_such_module", "no_such_package.module", "helpers.no_such_file", ""])
def test_a_module_that_is_not_there_is_an_error_that_names_it(saved, name):
    with pytest.raises(ModelError, match=rf"{name}: is no module that is found here"):
        scale.preloaded(saved, modules=[name])


def test_without_ray_one_line_says_how_to_get_it():
    code = """
import sys
sys.modules["ray"] = None
from workbook import replicas as scale
try:
    scale.require_ray()
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "ModelError ray: is not installed. pip install 'ray[serve]'"
    assert issubclass(ModelError, Exception)


def test_ray_is_not_imported_unless_asked():
    code = (
        "import sys, workbook.replicas, helpers.serialise, helpers.deserialise; print('ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False"
