"""The tools of the Makefile, where something goes wrong: what fails is named, and nothing is lost."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tools import setup, workbook

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import os; os.kill(os.getpid(), 9)", "Kernel died"),
        ("import time; time.sleep(60)", "timed out"),
    ],
)
def test_a_notebook_that_does_not_end_well_is_named(tmp_path, monkeypatch, cell, said):
    client = workbook.NotebookClient

    def impatient(*given, timeout, **named):
        return client(*given, timeout=3 if said == "timed out" else 60, **named)

    monkeypatch.setattr(workbook, "NotebookClient", impatient)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    nbformat.write(notebook, tmp_path / "07_it.ipynb")
    with pytest.raises(SystemExit, match=rf"(?s)07_it\.ipynb failed:.*{said}"):
        workbook.execute(tmp_path / "07_it.ipynb")


@pytest.mark.parametrize(("user", "allowed"), [(0, True), (1000, False)])
def test_jupyterlab_starts_as_root_too(tmp_path, user, allowed):
    (tmp_path / "id").write_text(f"#!/bin/sh\necho {user}\n")
    (tmp_path / "id").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["make", "-n", "lab"],
        cwd=ROOT,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "/jupyter lab " in done.stdout
    assert ("--allow-root" in done.stdout) == allowed


@pytest.fixture
def outdated(tmp_path, monkeypatch):
    """A folder with an environment that was made from another list of dependencies."""
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("ROOT", "VENV", "PYTHON", "READY", "BEFORE"):
        monkeypatch.setattr(setup, name, tmp_path / getattr(setup, name).relative_to(ROOT))
    monkeypatch.setattr(setup, "SPACE", 0)
    monkeypatch.setattr(setup, "EXTRAS", "test")
    monkeypatch.setattr(setup, "system_packages", lambda: None)
    setup.VENV.mkdir()
    (setup.VENV / "ready").write_text("what was asked for before")
    (setup.VENV / "old").touch()
    return setup.VENV


@pytest.mark.slow
def test_an_environment_is_kept_where_no_index_can_be_reached_for_the_next_one(outdated, monkeypatch):
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(SystemExit, match="pip could not install the packages"):
        setup.main()
    assert sorted(path.name for path in outdated.iterdir()) == ["old", "ready"]
    assert not setup.BEFORE.exists()


def test_a_set_up_that_was_killed_loses_no_environment_and_one_that_ends_keeps_no_second(
    outdated, monkeypatch
):
    setup._put_aside()
    (outdated / "bin").mkdir(parents=True)  # and then it was killed

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(setup, "_make", interrupted)
    with pytest.raises(KeyboardInterrupt):
        setup.main()
    assert (outdated / "old").exists()
    monkeypatch.setattr(setup, "_make", outdated.mkdir)
    setup.main()
    assert not setup.BEFORE.exists() and not (outdated / "old").exists()


def test_an_active_environment_is_made_anew_by_the_python_that_it_was_made_of(monkeypatch):
    monkeypatch.setattr(setup, "VENV", Path(sys.prefix))
    said = subprocess.run(
        [setup._interpreter(), "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True
    )
    assert said.stdout.strip() == sys.base_prefix
