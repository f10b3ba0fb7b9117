"""What is saved goes to the disk while it is written, and an error of the disk is not lost on the way."""

import errno
import os
import sys
import threading
import time

import pytest
import torch
from torch import nn

from helpers import deserialise, serialise
from helpers.errors import StorageError
from helpers.storage.flushed import flushed


def refusing(real, descriptors):
    """An fsync that fails once and says nothing afterwards, as the system reports an error of the disk."""

    def fsync(descriptor):
        descriptors.append(descriptor)
        if len(descriptors) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(descriptor)

    return fsync


def test_a_growing_file_is_flushed_before_its_writer_is_done(tmp_path, monkeypatch):
    real, seen = os.fsync, threading.Event()
    monkeypatch.setattr(os, "fsync", lambda descriptor: (real(descriptor), seen.set()))
    with open(tmp_path / "file", "wb", buffering=0) as file, flushed(file.fileno()):
        file.write(bytes(1 << 20))
        assert seen.wait(60)


def test_the_last_bytes_are_flushed_too(tmp_path, monkeypatch):
    real, lengths = os.fsync, []
    monkeypatch.setattr(os, "fsync", lambda fd: (lengths.append(os.fstat(fd).st_size), real(fd)))
    with open(tmp_path / "file", "wb", buffering=0) as file, flushed(file.fileno()):
        file.write(b"all of it")
    assert lengths[-1] == len(b"all of it")


def test_an_error_that_the_disk_reports_once_while_writing_is_raised_in_the_end(tmp_path, monkeypatch):
    descriptors = []
    monkeypatch.setattr(os, "fsync", refusing(os.fsync, descriptors))

    def write(file):
        with flushed(file.fileno()):
            end = time.monotonic() + 10
            while not descriptors and time.monotonic() < end:
                file.write(bytes(1 << 20))

    with (
        open(tmp_path / "file", "wb", buffering=0) as file,
        pytest.raises(OSError, match=os.strerror(errno.EIO)),
    ):
        write(file)
    assert len(descriptors) == 1


def test_nothing_flushes_a_descriptor_that_its_writer_has_left(tmp_path, monkeypatch):
    """After an error too: its number may stand for another file by then."""
    used, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (used.append(descriptor), real(descriptor)))
    with pytest.raises(ZeroDivisionError), open(tmp_path / "file", "wb") as file, flushed(file.fileno()):
        raise ZeroDivisionError
    count = len(used)
    time.sleep(0.2)
    assert len(used) == count
    assert "again_and_again" not in {frame.f_code.co_name for frame in sys._current_frames().values()}


@pytest.mark.parametrize("key", [None, bytes(32)])
def test_a_save_that_the_disk_refuses_leaves_nothing(tmp_path, monkeypatch, key):
    monkeypatch.setattr(os, "fsync", refusing(os.fsync, []))
    with pytest.raises(StorageError, match=f"writing the model failed: {os.strerror(errno.EIO)}"):
        serialise(nn.Linear(2000, 2000), tmp_path / "m", encryption=key, progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bytes_beyond", [-1, 0, 1])
def test_a_tensor_that_is_hashed_and_written_in_several_parts_is_whole(tmp_path, bytes_beyond):
    model = nn.Module()
    model.register_buffer("large", torch.randint(0, 256, (3 * (8 << 20) + bytes_beyond,), dtype=torch.uint8))
    serialise(model, tmp_path / "m", progress=False)

    def empty():
        made = nn.Module()
        made.register_buffer("large", torch.empty_like(model.large))
        return made

    assert torch.equal(
        deserialise(tmp_path / "m", skeleton=empty, verify=True, device="cpu").large, model.large
    )
