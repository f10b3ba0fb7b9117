"""One damaged byte beside the data: the tensors are what was saved, or an error says that the file is at fault."""

import resource

import pytest
import torch
from equality import assert_same_tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers import deserialise, serialise
from helpers.errors import CorruptFile, EncryptionError, ModelError, StorageError
from helpers.format import layout, manifest
from helpers.weights.private import unreadable

KEY = bytes(range(32))


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4).bfloat16())


@pytest.fixture(scope="module", params=[None, KEY])
def kept(request, tmp_path_factory):
    """A saved model, the bytes of its weights, and the places in it where no data stands."""
    path, key = tmp_path_factory.mktemp("kept") / "m", request.param
    serialise(build(), path, encryption=key, progress=False)
    whole = (path / "model.tensors").read_bytes()
    record = manifest.read(path)
    if key is None:
        data = {at for e in record.entries for at in range(e.offset, e.offset + e.nbytes)}
        beside = [at for at in range(len(whole)) if at not in data]
    else:  # the index and the headers; between them zeros to the end of what tensorizer sets aside
        beside = [*range(400), *range(len(whole) - 700, len(whole))]
    return path, key, whole, beside


@pytest.fixture(autouse=True)
def bounded_memory():
    """A header that states gigabytes shall not get them."""
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + (1 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def load(path, key, whole, at, bit):
    """Load it with one bit of the weights' file flipped."""
    damaged = bytearray(whole)
    damaged[at] ^= 1 << bit
    (path / "model.tensors").write_bytes(damaged)
    return deserialise(path, skeleton=build, device="cpu", mapped=False if key is None else None, encryption=key,
                       readers=1, progress=False)  # fmt: skip


def check(path, key, whole, at, bit):
    """That a load of the damaged file gives what was saved, or names the file; returns the error."""
    try:
        model = load(path, key, whole, at, bit)
    except (CorruptFile, EncryptionError, StorageError) as error:
        return error
    for (name, tensor), other in zip(build().state_dict().items(), model.state_dict().values(), strict=True):
        assert_same_tensor(name, tensor, other)
    return None


@settings(max_examples=150)
@given(st.data())
def test_a_flipped_bit_changes_nothing_or_is_an_error_of_the_file(kept, data):
    path, key, whole, beside = kept
    check(path, key, whole, data.draw(st.sampled_from(beside)), data.draw(st.integers(0, 7)))


def test_the_name_of_a_type_that_numpy_parses_as_python_is_an_error_of_the_file(kept):
    path, key, whole, _ = kept
    places = [at for at in range(len(whole)) if whole[at : at + 3] == b"<f4"]  # becomes ",f4"
    assert CorruptFile in {type(check(path, key, whole, at, 4)) for at in places}


@pytest.mark.parametrize("bit", [0, 1])
def test_a_version_that_knew_no_encryption_is_an_error_of_the_file(kept, bit):
    assert isinstance(check(*kept[:3], len(layout.MAGIC), bit), CorruptFile)


def test_no_readers_are_a_wrong_argument(kept):
    path, key, *_ = kept
    for readers in (0, -1, 1.5):
        with pytest.raises(ModelError, match=f"readers={readers}: is no number of readers") as caught:
            deserialise(path, skeleton=build, device="cpu", encryption=key, readers=readers)
        assert type(caught.value) is ModelError


def test_a_lack_of_memory_is_told_from_a_header_that_states_an_absurd_length():
    assert isinstance(unreadable("m", MemoryError(), 1 << 60), torch.OutOfMemoryError)
    assert isinstance(unreadable("m", MemoryError(), 1000), CorruptFile)
