"""The saved model that adapters were put on: found while saving, noted in base.json, found again while loading."""

import os
from pathlib import Path
from typing import Any

from helpers.errors import CorruptFile, NotAModel, SkeletonMismatch, UnsupportedModel
from helpers.families import library
from helpers.options import Options
from helpers.saved.local import Directory
from helpers.saved.opened import Opened

NAME = "base.json"  # `helpers.prefetch` reads it too
_FIELDS = ("path", "relative", "fingerprint", "config")
_FAMILIES = ("transformers", "diffusers")  # none that has a base itself: a file could name itself


def saved(base: Any, name: str) -> Opened:
    """The saved model that a base in memory was loaded from, opened.

    Raises
    ------
    UnsupportedModel
        There is none, or it is encrypted or itself adapters; ``name`` says whose base it is.
    """
    place = str(getattr(base, "name_or_path", None) or getattr(base.config, "_name_or_path", ""))
    try:
        opened = _open(Path(place).absolute(), Options())
        if opened.record.family not in _FAMILIES or opened.record.encryption:
            raise NotAModel(place, "is no plain model of these libraries", "")
    except NotAModel as error:
        raise UnsupportedModel(
            name,
            f"has a base that was not loaded from a saved model ({error.path}: {error.problem})",
            "Save the base with serialise(), load it with deserialise() and put the adapters on that "
            "(PeftModel.from_pretrained(base, …)); or save what merge_and_unload() gives.",
        ) from error
    return opened


def _open(place, options):
    source = Directory(place, options)
    with source.opened(source.identity()) as opened:
        return opened


def _marks(opened):
    """What tells a base from another: its weights and its configuration."""
    return {"fingerprint": opened.record.fingerprint, "config": opened.record.files.get("config.json", "")}


def reference(opened: Opened, folder: Path) -> dict:
    """What base.json says of a base; the relative path too, so that it can move together with its adapters."""
    # the folder of the adapters is not yet where it will be, but at the same depth
    relative = os.path.relpath(opened.label, folder)
    return {"path": opened.label, "relative": relative} | _marks(opened)


def find(opened: Opened, options: Options) -> Opened:
    """The base of saved adapters, opened.

    Raises
    ------
    NotAModel
        It is neither where it was, seen from the adapters, nor under its old path.
    SkeletonMismatch
        Another model is there.
    CorruptFile
        The reference cannot be read.
    """
    said = library.read_json(opened.home, opened.name(), NAME)
    if {key: type(held) for key, held in said.items()} != dict.fromkeys(_FIELDS, str):
        raise CorruptFile(opened.name(NAME), "is no reference to a saved model", "Save the adapters again.")
    changed = None
    for place in (opened.home / said["relative"], Path(said["path"])):
        try:
            base = _open(place, options)
        except NotAModel:
            continue
        if base.record.family in _FAMILIES and _marks(base).items() <= said.items():
            return base
        changed = place
    if changed is not None:
        raise SkeletonMismatch(
            changed,
            f"is not the base that {opened.label} was saved with: another model took its place",
            "Put the right one back, or save the adapters again on the new one.",
        )
    raise NotAModel(
        said["path"], f"is gone: it is the base of {opened.label}", "Put it back there, or save both anew."
    )
