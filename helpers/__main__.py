"""``python -m helpers``: what is done once, beside a service; from a shell, a CI job or an image's build."""

import argparse
import contextlib
import json
import os
import re
import sys
from typing import Any

from helpers import errors
from helpers.cold_start import cold_start
from helpers.storage import is_remote, recording

_EXAMPLES = """examples:
  python -m helpers serialise checkpoints/llama models/llama
  python -m helpers serialise checkpoints/llama s3://bucket/llama
  python -m helpers inspect models/llama
  python -m helpers verify --json s3://bucket/llama
  python -m helpers record models/llama       # while an image is built

exit status: 0 done, 1 it could not be done (one sentence on stderr says why, unless a pipe was closed), 2 a wrong call
"""
_IN_A_SHELL = {
    r"overwrite=True": "--overwrite",
    r"load it with from_pretrained and serialise\(\) it": "save it with python -m helpers serialise",
    r"with serialise\(model, .*\)\.": "with python -m helpers serialise.",
}


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
    path, found = recording.place(source), None
    aside = f"{path}.old"  # what is there is kept until there is a new one
    with errors.storage_errors(path, "replacing the recording"), contextlib.suppress(FileNotFoundError):
        os.replace(path, aside)
    try:
        with cold_start(source):
            from helpers.deserialise import deserialise

            deserialise(source, progress=False)
        found = recording.files(path, recording.header(), recording.roots())
    except (errors.SkeletonMismatch, errors.UnsupportedModel, errors.EncryptionError) as error:
        if isinstance(error.__context__, ModuleNotFoundError):  # it says how to install what is missing
            raise
        remedy = "Start your service once with cold_start: its first start records by itself."
        raise errors.ModelError(
            _label(source), f"cannot be loaded by this command: {error.problem}", remedy
        ) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.replace(aside, path) if found is None else os.unlink(aside)
    if found is None:
        raise errors.StorageError(
            path, "the recording was not kept", "Set XDG_CACHE_HOME to another directory."
        )
    return path, len(found)


def _label(source):
    """What a source is called in messages: an address without its secrets."""
    if not is_remote(source):
        return source
    from helpers.storage.address import open_store  # here, so that what it imports is a part of a recording

    return open_store(source).label


def _in_a_shell(error):
    """The sentence of an error, with its advice in Python put into the words of this command."""
    remedy = error.remedy
    for python, command in _IN_A_SHELL.items():
        remedy = re.sub(python, command, remedy)
    return f"{error.path}: {error.problem}. {remedy}"


def _serialise(given):
    from helpers.checkpoint import open_checkpoint
    from helpers.saved.publish import check_destination
    from helpers.serialise import serialise

    check_destination(given.destination, given.overwrite)  # before a load that may take minutes
    model, companions = open_checkpoint(given.checkpoint)
    saved = serialise(model, given.destination, overwrite=given.overwrite, companions=companions)
    return vars(saved), saved


def _inspect(given):
    from helpers.inspect import inspect

    found = inspect(given.source)
    tensors = [tensor._asdict() for tensor in found.tensors]
    return vars(found) | {"tensors": tensors}, found


def _verify(given):
    from helpers.verify import verify

    found = verify(given.source)
    return vars(found), found


def _record(given):
    (path, count), label = record(given.source), _label(given.source)
    said = f"{count} files are read ahead from now on at a start of {label}: {path}"
    return {"source": label, "path": path, "files": count}, said


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m helpers",
        description="Make, inspect and check saved models, from a shell, a CI job or an image's build.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name, do, said):
        one = commands.add_parser(name, help=said, description=said)
        one.add_argument("--json", action="store_true", help="print the result as JSON")
        one.set_defaults(do=do)
        return one

    saved = "a directory that serialise wrote, s3://… or http(s)://…"
    one = command("serialise", _serialise, "make a saved model of a checkpoint")
    one.add_argument(
        "checkpoint",
        help="a Hugging Face directory or name (transformers, diffusers, a pipeline), or a .tensors file of "
        "stock tensorizer with its config.json beside it",
    )
    one.add_argument("destination", help="a directory to be, or s3://bucket/prefix")
    one.add_argument("--overwrite", action="store_true", help="replace a saved model that is there")
    one = command("inspect", _inspect, "list the tensors of a saved model, from its manifest alone")
    one.add_argument("source", help=f"{saved}, or a .tensors file")
    one = command("verify", _verify, "compare every file and tensor of a saved model with its hash")
    one.add_argument("source", help=saved)
    one = command("record", _record, "load a saved model once and record what that reads, for cold_start")
    one.add_argument("source", help=saved)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line asks for.

    Parameters
    ----------
    arguments : list of str, optional
        By default those of this process.

    Returns
    -------
    int
        The exit status.

    Examples
    --------
    >>> main(["verify", "absent"])
    1
    """
    with contextlib.suppress(AttributeError):  # it may be closed, or a notebook's
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names may be Greek
    given: Any = _parser().parse_args(arguments)
    try:
        found, said = given.do(given)
    except errors.ModelError as error:
        print(_in_a_shell(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    try:
        print(json.dumps(found) if given.json else said)
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError):  # else whoever reads has seen enough, as `head` does
            remedy = f"What {given.command} does is done; let its output go where there is room."
            told = errors.StorageError("standard output", f"takes no result ({error.strerror})", remedy)
            print(told, file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more as it ends
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
