"""``python -m helpers``: what is done once, beside a service."""

import argparse
import contextlib
import os
import sys

from helpers import errors
from helpers.cold_start import cold_start
from helpers.storage import recording


def record(source: str) -> tuple[str, int]:
    """Load a saved model once, in this process, and record what that reads, as its first start would.

    Parameters
    ----------
    source : str
        A directory that `serialise` wrote, or an address.

    Returns
    -------
    path : str
        Of the recording.
    count : int
        The number of files in it.

    Raises
    ------
    ModelError
        The model cannot be loaded by its source alone, or the recording cannot be kept.

    Examples
    --------
    >>> record("models/mine")  # doctest: +SKIP
    """
    path = recording.place(source)
    with errors.storage_errors(path, "replacing the recording"), contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    try:
        with cold_start(source):
            from helpers.deserialise import deserialise

            deserialise(source, progress=False)
    except (errors.SkeletonMismatch, errors.UnsupportedModel, errors.EncryptionError) as error:
        remedy = "Start your service once with cold_start: its first start records by itself."
        raise errors.ModelError(
            source, f"cannot be loaded by this command: {error.problem}", remedy
        ) from error
    found = recording.files(path, recording.header(), recording.roots())
    if found is None:
        raise errors.StorageError(
            path, "the recording was not kept", "Set XDG_CACHE_HOME to another directory."
        )
    return path, len(found)


def main() -> int:
    """Do what the command line asks for; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m helpers", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    described = "load a saved model once and record what that reads, for cold_start"
    one = commands.add_parser("record", help=described, description=described)
    one.add_argument("source", help="a directory that serialise wrote, s3://… or http(s)://…")
    given = parser.parse_args()
    try:
        path, count = record(given.source)
    except errors.ModelError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{count} files are read ahead from now on at a start of {given.source}: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
