"""A file that holds a record of another version: whole in itself, so only the manifest's hashes can tell."""

import pytest
import torch
from equality import assert_same_module
from faulty import serving
from torch import nn

import helpers
from helpers import deserialise, serialise
from helpers.errors import CorruptFile
from helpers.format import manifest
from helpers.storage import fetcher


def build(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(20, 30), nn.BatchNorm1d(30))


@pytest.fixture
def other(tmp_path):
    serialise(build(1), tmp_path / "www" / "other")
    return tmp_path / "www" / "other"


@pytest.fixture
def saved(tmp_path):
    serialise(build(), tmp_path / "www" / "m")
    return tmp_path / "www" / "m"


def mix(file, other):
    """Put the second record of another model of the same shape into a file of weights."""
    entry, start = manifest.read(other).records[1]
    content, record = bytearray(file.read_bytes()), slice(start, entry.offset + entry.nbytes)
    content[record] = (other / "model.tensors").read_bytes()[record]
    file.write_bytes(content)


def load(source, **options):
    return deserialise(source, skeleton=build, device="cpu", **options)


def is_refused(action, *arguments, **options):
    with pytest.raises(CorruptFile, match=r"1 of 7 tensors are damaged: 0\.bias"):
        action(*arguments, **options)


def test_it_is_found_in_a_directory(saved, other):
    mix(saved / "model.tensors", other)
    is_refused(helpers.verify, saved)
    for mapped in (True, False):
        is_refused(load, saved, verify=True, mapped=mapped)


@pytest.mark.parametrize("ranges", [True, False])
def test_it_is_found_in_a_store(saved, other, tmp_path, ranges):
    mix(saved / "model.tensors", other)
    with serving(saved.parent) as server:
        server.ranges = ranges
        is_refused(helpers.verify, f"{server.url}/m")
        is_refused(load, f"{server.url}/m", verify=True)
        is_refused(load, f"{server.url}/m", cache=tmp_path / "cache")
        server.etags = False  # parts of two versions may have come, so hashes are compared in any case
        is_refused(load, f"{server.url}/m")


def test_it_is_never_kept_by_the_process_that_fetches_ahead(saved, other):
    mix(saved / "model.tensors", other)
    is_refused(fetcher._check, saved / "model.tensors", "m", manifest.read(saved))


def test_it_is_mended_in_a_copy_where_hashes_are_compared(saved, other, tmp_path):
    with serving(saved.parent) as server:
        load(f"{server.url}/m", cache=tmp_path / "cache")
        (copy,) = (tmp_path / "cache").glob("*/model.tensors")
        mix(copy, other)
        assert_same_module(build(), load(f"{server.url}/m", cache=tmp_path / "cache", verify=True))
