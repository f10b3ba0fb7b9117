"""The tools of the Makefile, where something goes wrong: what fails is named, and nothing is lost."""

import nbformat
import pytest

from tools import workbook


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
        return client(*given, timeout=3, **named)

    monkeypatch.setattr(workbook, "NotebookClient", impatient)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    nbformat.write(notebook, tmp_path / "07_it.ipynb")
    with pytest.raises(SystemExit, match=rf"(?s)07_it\.ipynb failed:.*{said}"):
        workbook.execute(tmp_path / "07_it.ipynb")
