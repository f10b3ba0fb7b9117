"""A bar for work that takes long, silence for everything else."""

import time

import pytest
from torch import nn

from helpers import deserialise, serialise
from helpers.weights import write as writing


def build():
    return nn.Sequential(*[nn.Linear(8, 8) for _ in range(5)])


def test_quick_work_prints_nothing(tmp_path, capfd):
    serialise(build(), tmp_path / "m")
    deserialise(tmp_path / "m", skeleton=build, verify=True, device="cpu")
    deserialise(tmp_path / "m", skeleton=build, mapped=False, device="cpu")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("progress", [True, False])
def test_slow_work_shows_a_bar_unless_told_not_to(tmp_path, capfd, monkeypatch, progress):
    write = writing._write_record

    def slowly(*arguments):
        time.sleep(0.5)
        return write(*arguments)

    monkeypatch.setattr(writing, "_write_record", slowly)
    serialise(build(), tmp_path / "m", progress=progress)
    out, err = capfd.readouterr()
    assert out == ""
    assert ("serialise" in err) == progress
