"""Copies of remote models: what damages one is mended, and of many starters one fetches."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from anyone import as_anyone
from equality import assert_same_module
from faulty import serving
from torch import nn

from helpers import deserialise, serialise
from helpers.errors import CorruptFile, StorageError
from workbook.samples import tiny_stable_diffusion


def build(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(200, 300), nn.BatchNorm1d(300), nn.Linear(300, 100))


@pytest.fixture
def server(tmp_path):
    serialise(build(), tmp_path / "www" / "m")
    with serving(tmp_path / "www") as state:
        yield state


def load(state, tmp_path, **options):
    return deserialise(
        f"{state.url}/m", cache=tmp_path / "cache", **{"skeleton": build, "device": "cpu"} | options
    )


def fetched(state):
    return [path for path, _ in state.seen if path.endswith(".tensors")]


def flipped(state, tmp_path):
    """The weights of a copy, of which one bit is flipped."""
    load(state, tmp_path)
    (copy,) = (tmp_path / "cache").glob("*/model.tensors")
    damaged = bytearray(copy.read_bytes())
    damaged[-5000] ^= 1
    copy.write_bytes(damaged)
    return copy


def meanwhile(action, turns, then=build):
    """What an action of another process comes before, at its first call."""

    def call(*arguments, **options):
        turns.append(1)
        if len(turns) == 1:
            action()
        return then(*arguments, **options)

    return call


def test_a_component_of_a_copied_pipeline_that_is_cut_is_fetched_again(tmp_path):
    pipeline = tiny_stable_diffusion()
    serialise(pipeline, tmp_path / "www" / "m")
    with serving(tmp_path / "www") as server:
        load(server, tmp_path, skeleton=None)
        (copy,) = (tmp_path / "cache").glob("*/unet/model.tensors")
        copy.write_bytes(copy.read_bytes()[:5000])
        loaded = load(server, tmp_path, skeleton=None)
    assert_same_module(pipeline.unet, loaded.unet)


def test_a_flipped_bit_in_a_copy_is_mended_where_hashes_are_compared(server, tmp_path):
    copy = flipped(server, tmp_path)
    assert_same_module(build(), load(server, tmp_path, verify=True))
    assert copy.read_bytes() == (server.root / "m" / "model.tensors").read_bytes()


def test_a_damaged_copy_that_another_process_has_mended_meanwhile_is_used(server, tmp_path, monkeypatch):
    from helpers.storage import mounts

    copy = flipped(server, tmp_path)
    count = len(fetched(server))
    mend = meanwhile(lambda: load(server, tmp_path, verify=True), [], mounts.ready)
    monkeypatch.setattr(
        mounts, "ready", mend
    )  # called when the damaged file is mapped, before it is compared
    assert_same_module(build(), load(server, tmp_path, verify=True))
    assert len(fetched(server)) == 2 * count, "the other one alone has fetched it"
    assert copy.read_bytes() == (server.root / "m" / "model.tensors").read_bytes()


def test_a_copy_that_another_process_has_replaced_by_a_newer_model_is_left_and_used(
    server, tmp_path, monkeypatch
):
    from helpers.saved import local

    load(server, tmp_path)
    count, turns = len(fetched(server)), []

    def update():
        serialise(build(1), server.root / "m", overwrite=True)
        load(server, tmp_path)

    monkeypatch.setattr(local, "open_files", meanwhile(update, turns, local.open_files))
    assert_same_module(build(1), load(server, tmp_path))
    assert len(turns) == 3 and len(fetched(server)) == 2 * count


def test_a_copy_that_vanishes_while_it_is_loaded_is_fetched_again(server, tmp_path):
    load(server, tmp_path)
    (copy,) = (tmp_path / "cache").glob("*/model.tensors")
    turns = []
    vanish = meanwhile(lambda: shutil.rmtree(copy.parent), turns)
    assert_same_module(build(), load(server, tmp_path, skeleton=vanish))
    assert len(turns) == 2 and copy.is_file()


def test_a_damaged_copy_in_a_cache_that_cannot_be_written_is_said_to_be_damaged():
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        serialise(build(), place / "www" / "m")
        with serving(place / "www") as server:
            copy = flipped(server, place)
            for closed in (copy.parent, place / "cache"):
                closed.chmod(0o555)
            said = r"1 of 9 tensors are damaged: .* The cache cannot be written, so remove .*/cache/m-\w+ yourself\."
            with as_anyone(place), pytest.raises(CorruptFile, match=said):
                load(server, place, verify=True)
            assert copy.is_file()


def test_a_copy_that_is_whole_is_not_fetched_again_for_an_error_that_is_not_its_own(server, tmp_path):
    load(server, tmp_path)
    count = len(fetched(server))
    with pytest.raises(Exception, match="do not agree"):
        load(server, tmp_path, skeleton=lambda: nn.Linear(1, 1))
    assert len(fetched(server)) == count


@pytest.mark.slow
def test_of_several_that_start_together_one_fetches(server, tmp_path):
    alone = tmp_path / "alone"
    deserialise(f"{server.url}/m", cache=alone, skeleton=build, device="cpu")
    needed = len(fetched(server))
    code = """
import sys, torch
from torch import nn
from helpers import deserialise
build = lambda: nn.Sequential(nn.Linear(200, 300), nn.BatchNorm1d(300), nn.Linear(300, 100))
print("ready", flush=True)
sys.stdin.readline()
deserialise(sys.argv[1], skeleton=build, cache=sys.argv[2], device="cpu")
"""
    command = [sys.executable, "-c", code, f"{server.url}/m", str(tmp_path / "cache")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, **pipes) for _ in range(4)]
    for process in running:
        assert process.stdout.readline() == "ready\n"
    for process in running:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in running:
        process.communicate()
    assert [process.returncode for process in running] == [0] * 4
    assert len(fetched(server)) == 2 * needed


def test_a_bare_file_has_no_copy_and_that_is_said(server, tmp_path):
    shutil.copy(server.root / "m" / "model.tensors", server.root / "bare.tensors")
    for options in ({"cache": tmp_path / "cache"}, {"mapped": True}, {"cache": tmp_path, "mapped": True}):
        with pytest.raises(StorageError, match="is a bare file, which is read into memory"):
            deserialise(f"{server.url}/bare.tensors", skeleton=build, **options)


def test_a_full_temporary_directory_is_said(server, tmp_path, monkeypatch):
    place = tmp_path / "gone"
    monkeypatch.setattr("tempfile.tempdir", str(place))
    with pytest.raises(StorageError, match="gone"):
        deserialise(f"{server.url}/m", skeleton=build, device="cpu")


def test_a_cache_that_is_too_small_is_said_with_how_much_is_needed_before_anything_comes(server, tmp_path):
    place = tmp_path / "cache"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tiny", place], check=False).returncode:
        pytest.skip("only root may mount")
    try:
        needed = (server.root / "m" / "model.tensors").stat().st_size
        said = rf"^{place}: no space left: {needed:,} bytes are needed, \d+,\d+ are free\. Free some space"
        with pytest.raises(StorageError, match=said):
            load(server, tmp_path)
    finally:
        subprocess.run(["umount", place], check=True)
    assert fetched(server) == []


def test_an_error_that_is_no_damage_of_the_copy_does_not_fetch_it_again(server, tmp_path, monkeypatch):
    from helpers.families import torch_module

    load(server, tmp_path)
    count = len(fetched(server))

    def refuse(*_):
        raise CorruptFile("the model", "names a class that is not installed", "Install it.")

    monkeypatch.setattr(torch_module, "skeleton", refuse)
    with pytest.raises(CorruptFile, match="names a class that is not installed"):
        load(server, tmp_path)
    assert len(fetched(server)) == count
