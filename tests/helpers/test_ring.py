"""The ring of buffers, on the CPU: the same threads, pieces and buffers as for a GPU, in memory that is not pinned."""

import os
import threading

import architectures
import odd_modules
import pytest
import torch
from equality import assert_same_module, assert_same_tensor
from normed import build

from helpers import deserialise, serialise
from helpers.errors import CorruptFile, StorageError
from helpers.format import manifest
from helpers.weights import mapped, onto_gpu, ring

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Pieces so small that a tensor takes many turns, and the last one is not full."""
    monkeypatch.setattr(ring, "_SIZE", 1000)


@pytest.fixture
def by_ring(monkeypatch):
    """What is not mapped is read by the ring, as it would be onto a GPU."""
    monkeypatch.setattr(onto_gpu, "way", "ring")
    read = ring.from_file
    seen = []
    monkeypatch.setattr(ring, "from_file", lambda *given: seen.append(given) or read(*given))
    yield
    assert seen, "the ring was not used"


@pytest.fixture
def saved(tmp_path):
    serialise(build(), tmp_path / "m")
    return tmp_path / "m"


def load(path, **options):
    return deserialise(path, **{"skeleton": build, "device": "cpu", "mapped": False} | options)


@pytest.mark.parametrize("name", sorted(odd_modules.ALL))
def test_odd_modules_come_back_equal(tmp_path, name, monkeypatch):
    monkeypatch.setattr(onto_gpu, "way", "ring")
    torch.manual_seed(0)
    model = odd_modules.ALL[name]()
    serialise(model, tmp_path / "m")
    assert_same_module(model, load(tmp_path / "m", skeleton=odd_modules.ALL[name]))


def test_a_language_model_comes_back_equal(tmp_path, by_ring):
    model = architectures.build("LlamaForCausalLM")
    serialise(model, tmp_path / "m")
    assert_same_module(model, deserialise(tmp_path / "m", device="cpu", mapped=False))


def test_a_part_and_a_cast_and_a_check_are_as_by_tensorizer(saved, by_ring):
    part = load(saved, only=lambda name: name.startswith("2."))
    assert part[0].weight.is_meta
    assert_same_tensor("2.weight", build()[2].weight, part[2].weight)
    assert_same_module(build().half(), load(saved, dtype="float16"))
    assert_same_module(build(), load(saved, verify=True))


def test_every_type_of_tensor_comes_through_file_and_memory(tmp_path):
    kinds = [torch.bool, torch.int8, torch.uint64, torch.bfloat16, torch.float8_e4m3fn, torch.complex128]
    model = torch.nn.Module()
    for number, kind in enumerate(kinds):
        model.register_buffer(f"t{number}", torch.arange(1500).reshape(3, 500).to(kind))
    model.register_buffer("one", torch.tensor(7.0))
    model.register_buffer("none", torch.empty(0, 4))
    serialise(model, tmp_path / "m")
    path, entries = tmp_path / "m" / "model.tensors", manifest.read(tmp_path / "m").entries
    for found in (
        ring.from_file(path, "m", entries, CPU),
        ring.from_memory(mapped.open_map(path, "m"), entries, CPU),
    ):
        for name, tensor in model.state_dict().items():
            assert_same_tensor(name, tensor, found[name])


def test_a_file_that_is_cut_meanwhile_is_noticed_and_no_thread_is_left(saved):
    entries, threads = manifest.read(saved).entries, set(threading.enumerate())
    path = saved / "model.tensors"
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(CorruptFile, match=r"m: is truncated. Save the model again."):
        ring.from_file(path, "m", entries, CPU, progress=False)
    assert set(threading.enumerate()) <= threads


def test_a_file_that_cannot_be_read_is_a_storage_error(saved):
    with pytest.raises(StorageError, match="reading the weights failed"):
        ring.from_file(saved, "m", manifest.read(saved).entries, CPU)


def test_an_error_ends_the_other_threads_soon(saved):
    entries, filled = manifest.read(saved).entries, []

    def fill(buffer, offset):
        filled.append(offset)
        raise KeyError("no such thing")

    with pytest.raises(KeyError):
        ring._bring(fill, entries, CPU)
    assert len(filled) <= ring._THREADS < sum(entry.nbytes for entry in entries) // 1000


def test_no_thread_fills_a_buffer_that_is_still_on_its_way(saved):
    """On the CPU a copy is done when it returns; that each buffer is filled by one thread alone holds everywhere."""
    owners = {}

    def fill(buffer, offset):
        owners.setdefault(buffer.data_ptr(), set()).add(threading.get_ident())
        buffer.zero_()

    ring._bring(fill, manifest.read(saved).entries, CPU)
    assert all(len(threads) == 1 for threads in owners.values())
    assert len(owners) <= ring._THREADS * ring._TURNS
