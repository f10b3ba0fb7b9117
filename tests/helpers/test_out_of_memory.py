"""A device without room: one sentence, and nothing is left. On the CPU here; test_gpu.py has the GPU's own tests."""

import gc
import weakref

import pytest
import torch

from helpers import deserialise, serialise
from helpers.errors import ModelError
from helpers.weights import onto_gpu


class Greedy(torch.nn.Module):
    """Takes memory while it is built, then finds no more, as torch says it of a device."""

    taken: weakref.ref

    def __init__(self):
        super().__init__()
        held = torch.empty(1000)
        Greedy.taken = weakref.ref(held)
        raise torch.OutOfMemoryError("tried to allocate 1 PiB")


@pytest.fixture
def saved(tmp_path):
    serialise(torch.nn.Linear(50, 40), tmp_path / "m")
    return tmp_path / "m"


def refused(saved, **options):
    with pytest.raises(ModelError) as caught:
        deserialise(saved, skeleton=Greedy, device="cpu", **options)
    return caught.value


def test_it_is_said_how_much_is_needed_and_how_much_is_free(saved):
    error = refused(saved)
    assert error.path == str(saved)
    assert "does not fit on cpu: its weights need 8,160 bytes there, " in str(error)
    free = int(error.problem.rpartition("there, ")[2].removesuffix(" are free").replace(",", ""))
    assert free == pytest.approx(onto_gpu.free_bytes(torch.device("cpu")), rel=0.5)
    assert "Free memory there, choose another device, or load a part of it with only=." in str(error)


@pytest.mark.parametrize(("options", "needed"), [
    ({"dtype": torch.float64}, "16,320"),
    ({"dtype": torch.float16}, "8,160"),  # that of the file, which comes first
    ({"only": lambda name: name == "bias"}, "160"),
])  # fmt: skip
def test_what_is_needed_is_what_is_loaded(saved, options, needed):
    assert f"its weights need {needed} bytes there" in str(refused(saved, **options))


def test_nothing_is_held_while_the_error_is_kept(saved):
    error = refused(saved)
    gc.collect()
    assert Greedy.taken() is None
    assert error.__context__ is None and error.__cause__ is None


def find_no_memory(*_):
    """torch's own error; for the CPU it is a plain RuntimeError."""
    torch.empty(1 << 50, dtype=torch.uint8)


def test_memory_that_runs_out_while_a_file_is_read_is_no_damage_of_the_file(saved, monkeypatch):
    monkeypatch.setattr("tensorizer.TensorDeserializer.read_tensors", find_no_memory)
    with pytest.raises(ModelError, match="does not fit on cpu: its weights need 8,160 bytes there"):
        deserialise(saved, skeleton=lambda: torch.nn.Linear(50, 40), device="cpu", mapped=False)


def test_memory_that_runs_out_while_a_wrong_key_is_told_from_damage_is_neither(tmp_path, monkeypatch):
    serialise(torch.nn.Linear(50, 40), tmp_path / "m", encryption=bytes(32))
    monkeypatch.setattr("tensorizer.TensorDeserializer.__getitem__", find_no_memory)
    with pytest.raises(ModelError, match="does not fit on cpu: its weights need 8,160 bytes there"):
        deserialise(
            tmp_path / "m",
            skeleton=lambda: torch.nn.Linear(50, 40),
            device="cpu",
            encryption=bytes(range(32)),
        )
