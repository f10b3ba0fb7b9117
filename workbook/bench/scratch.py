"""The files that one run of a measurement needs, in a folder that goes with it."""

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

import psutil

from helpers.errors import ModelError
from workbook import paths
from workbook.bench import models

_PREFIX = ".bench-"


@contextlib.contextmanager
def prepared(name, forms):
    """A model's files in the wanted formats, for the length of the block; the program ends where there are none.

    Parameters
    ----------
    name : str
        One of `workbook.bench.models.NAMES`, or a Hugging Face directory of the user's own.
    forms : set of str
        Of `workbook.bench.models.FORMATS`.

    Yields
    ------
    model : workbook.bench.models.Model
    scratch : pathlib.Path
        The folder, for what else the run makes.

    Raises
    ------
    SystemExit
        With the sentence that says why the model cannot be measured.

    Examples
    --------
    >>> with prepared("135m", {"hf"}) as (model, scratch):  # doctest: +SKIP
    ...     model.file("hf")
    """
    paths.CACHE.mkdir(parents=True, exist_ok=True)
    _sweep()
    with tempfile.TemporaryDirectory(dir=paths.CACHE, prefix=f"{_PREFIX}{os.getpid()}-") as scratch:
        try:
            model = models.prepare(name, forms, Path(scratch))
        except ModelError as error:
            sys.exit(str(error))
        yield model, Path(scratch)


def _sweep():
    """Remove what runs have left that were killed: gigabytes each."""
    for folder in paths.CACHE.glob(f"{_PREFIX}*-*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)
