"""A model that is replaced while it is read: one of the two, whole, or an error in bounded time."""

import os
import shutil
import threading

import pytest
import torch
from equality import assert_same_module
from torch import nn

import helpers
from helpers import deserialise, serialise
from helpers.errors import StorageError


def build(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(20, 30), nn.BatchNorm1d(30))


@pytest.fixture
def replaced(tmp_path):
    """A saved model that another thread replaces all the time, as a trainer does."""
    place, done = tmp_path / "m", threading.Event()
    serialise(build(), place)

    def keep_replacing():
        seed = 0
        while not done.is_set():
            seed += 1
            serialise(build(seed), place, overwrite=True, progress=False)

    thread = threading.Thread(target=keep_replacing)
    thread.start()
    yield place
    done.set()
    thread.join()


def _tries(action, count):
    """How often it was done, and how often the model was replaced too often for it."""
    done = given_up = 0
    for _ in range(count):
        try:
            action()
        except StorageError as error:
            if "was replaced 30 times while it was read" not in str(error):
                raise
            given_up += 1
        else:
            done += 1
    return done, given_up


def test_an_intact_model_beside_its_writer_is_never_called_damaged(replaced):
    for action in (
        lambda: helpers.verify(replaced, progress=False),
        lambda: helpers.inspect(replaced),
        lambda: deserialise(replaced, skeleton=build, verify=True, device="cpu"),
    ):
        done, given_up = _tries(action, 150)
        assert given_up == 0 and done == 150


def test_small_files_and_weights_are_of_one_model(tmp_path, monkeypatch):
    """Small files are not hashed unless asked for, so the manifest is compared again at the end."""
    from helpers.families import torch_module

    place = tmp_path / "m"
    serialise(build(1), place)
    turns, finish = [], torch_module.finish

    def replace_meanwhile(*arguments):
        turns.append(1)
        if len(turns) == 1:
            serialise(build(2), place, overwrite=True)
        return finish(*arguments)

    monkeypatch.setattr(torch_module, "finish", replace_meanwhile)
    assert_same_module(build(2), deserialise(place, skeleton=build, device="cpu"))
    assert len(turns) == 2


def test_a_place_that_is_another_at_each_look_is_given_up(tmp_path, monkeypatch):
    """As on a mount whose inode numbers are unstable: a bound, not a loop without an end."""
    serialise(build(), tmp_path / "m")
    shutil.copy(tmp_path / "m" / "model.tensors", tmp_path / "bare.tensors")
    real, looks = os.stat, []

    def unstable(*arguments, **options):
        found = real(*arguments, **options)
        if str(arguments[0]).endswith("bare.tensors"):
            looks.append(1)
            fields = list(found)
            fields[1] = len(looks)  # st_ino
            return os.stat_result(fields)
        return found

    monkeypatch.setattr(os, "stat", unstable)
    with pytest.raises(StorageError, match="was replaced 30 times"):
        deserialise(tmp_path / "bare.tensors", skeleton=build, device="cpu")
    assert_same_module(build(), deserialise(tmp_path / "m", skeleton=build, device="cpu"))


def test_a_file_that_is_cut_while_it_is_read_and_put_back_is_read_again(tmp_path, monkeypatch):
    """As a copy over it does; tensorizer leaves memory unfilled where the file ends too early."""
    from helpers.weights import private

    serialise(build(), tmp_path / "m")
    path, turns, read = tmp_path / "m" / "model.tensors", [], private.read
    whole = path.read_bytes()
    os.utime(path, ns=(0, 0))

    def read_beside_a_copy(*arguments):
        turns.append(1)
        if len(turns) == 1:
            os.truncate(path, len(whole) - 12)
        try:
            return read(*arguments)
        finally:
            path.write_bytes(whole)
            os.utime(path, ns=(0, 1))

    monkeypatch.setattr(private, "read", read_beside_a_copy)
    assert_same_module(build(), deserialise(tmp_path / "m", skeleton=build, device="cpu", mapped=False))
    assert len(turns) == 2
