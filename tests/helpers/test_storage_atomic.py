"""What stands where a model is saved, and what of the old one the storage does not let go."""

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from anyone import as_anyone

from helpers.errors import StorageError
from helpers.storage import atomic, cache


def save(path, text, overwrite=True):
    with atomic.directory(path, overwrite=overwrite, strangers=lambda _: ()) as folder:
        (folder / "model.json").write_text(text)


@pytest.fixture
def mounted(tmp_path):
    """Mounts onto a new empty directory."""
    place = tmp_path / "models"
    place.mkdir()

    def mount(*options):
        if subprocess.run(["mount", *options, place], capture_output=True).returncode:
            pytest.skip("only root may mount")
        return place

    yield mount
    subprocess.run(["umount", place], capture_output=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_mount_point_is_refused_before_anything_is_written(mounted, overwrite):
    place = mounted("-t", "tmpfs", "none")
    filling = atomic.directory(place, overwrite=overwrite, strangers=lambda _: ())
    with (
        pytest.raises(StorageError, match=r"models: is a mount point\. Save to a directory inside it"),
        filling,
    ):
        pytest.fail("there is something to fill")
    save(place / "m", "new", overwrite)
    assert (place / "m" / "model.json").read_text() == "new"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_directory_bound_to_another_of_its_filesystem_is_said_to_be_a_mount_point(
    mounted, tmp_path, overwrite
):
    (tmp_path / "elsewhere").mkdir()
    place = mounted("--bind", tmp_path / "elsewhere")
    with pytest.raises(StorageError, match=r"is a mount point, .*\. Save to a directory inside it"):
        save(place, "new", overwrite)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "models"]


def test_an_empty_directory_that_cannot_be_replaced_is_not_said_to_be_a_model(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    (tmp_path / "m").mkdir()
    monkeypatch.setattr("os.rename", refuse)
    with pytest.raises(StorageError, match="Operation not permitted"):
        save(tmp_path / "m", "new", overwrite=False)


def test_where_an_old_file_stays_behind_while_it_is_mapped_it_is_overwritten_again_and_again(
    tmp_path, monkeypatch
):
    """As on NFS, which cannot exchange two names and keeps a mapped file as ``.nfs…``."""
    remove, is_mapped = shutil.rmtree, True

    def remove_as_nfs(path, **options):
        held = path.is_dir() and any(path.iterdir())
        remove(path, **options)
        if is_mapped and held:
            path.mkdir()
            (path / ".nfs0001").touch()

    monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    monkeypatch.setattr(shutil, "rmtree", remove_as_nfs)
    for text in "abcd":
        save(tmp_path / "m", text)
        assert (tmp_path / "m" / "model.json").read_text() == text
    is_mapped = False
    save(tmp_path / "m", "e")
    assert list(tmp_path.iterdir()) == [tmp_path / "m"]


def test_a_model_that_was_made_read_only_leaves_nothing_behind_when_it_is_replaced():
    with tempfile.TemporaryDirectory() as place, as_anyone(place):
        path = Path(place) / "m"
        with atomic.directory(path, overwrite=False, strangers=lambda _: ()) as folder:
            (folder / "unet").mkdir()
            (folder / "unet" / "model.json").write_text("old")
        for inside in (path, path / "unet"):
            inside.chmod(0o555)
        save(path, "new")
        assert [(path / "model.json").read_text(), os.listdir(place)] == ["new", ["m"]]


@pytest.fixture
def fork():
    """Forks a child that only lives on, with all that this process has open, to the end of the test."""
    children = []

    def fork():
        child = os.fork()
        if child == 0:
            signal.pause()
        children.append(child)

    yield fork
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def is_locked(path):
    file = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def test_a_child_that_is_forked_while_a_copy_is_made_holds_nobody_up(tmp_path, fork):
    with cache.alone(tmp_path / "copy"):
        fork()
        assert is_locked(tmp_path / ".copy.lock")
    assert not is_locked(tmp_path / ".copy.lock")


def test_a_child_that_is_forked_while_a_save_begins_holds_nobody_up(tmp_path, fork, monkeypatch):
    sweep = atomic._sweep
    monkeypatch.setattr(atomic, "_sweep", lambda final: (fork(), sweep(final)))
    with atomic.directory(tmp_path / "m", overwrite=True, strangers=lambda _: ()) as folder:
        fork()
        assert is_locked(folder) and not is_locked(tmp_path)
    assert not is_locked(tmp_path / "m")
