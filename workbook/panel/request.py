"""What the panel is asked to do, and why that may be impossible."""

import os
from typing import NamedTuple

from workbook.bench import run
from workbook.bench.routes import ALL, trick_of
from workbook.panel import sources

OURS, THEIRS = "deserialise", "from_pretrained"
# Those of the benchmark that read a checkpoint as it is; the others need a file of their own.
PEERS = tuple(name for name, route in ALL.items() if route.form == "hf" and not trick_of(name))
TYPES = ("as saved", "float32", "bfloat16", "float16")
MAPPED = {"by itself": None, "yes": True, "no": False}


def loaders(devices):
    """The loaders that can be chosen where these devices are.

    Examples
    --------
    >>> loaders(("cpu",))[:3]
    ('by itself', 'deserialise', 'from_pretrained')
    """
    return ("by itself", OURS, *(name for name in PEERS if ALL[name].device in ("", *devices)))


class Request(NamedTuple):
    """What to do: the settings of the panel.

    Attributes
    ----------
    action : str
        ``"load"``, ``"serialise"`` or ``"verify"``.
    source : str
        A saved model (path or address), a Hugging Face directory or name, or `sources.SAMPLE`.
    destination : str
        Where ``"serialise"`` saves.
    device, dtype : str
        ``"cpu"`` or ``"cuda"``; of `TYPES`.
    mapped : str
        Of `MAPPED`.
    readers : int
        0: by itself.
    verify, cold : bool
    cold_start : bool
        All of it in a `helpers.cold_start`.
    loader : str
        Of `loaders`. By itself: `deserialise` for a saved model, ``from_pretrained`` for any other.
    cache : str
        A directory that keeps copies of what is loaded from an address; "" for none.
    """

    action: str
    source: str
    destination: str = ""
    device: str = "cpu"
    dtype: str = "as saved"
    mapped: str = "by itself"
    readers: int = 0
    verify: bool = False
    cold: bool = False
    cold_start: bool = False
    loader: str = "by itself"
    cache: str = ""

    @property
    def way(self):
        """The loader that is used, "" where nothing is loaded."""
        if self.action == "verify":
            return ""
        if self.loader != "by itself":
            return self.loader
        return OURS if sources.kind(self.source) == "saved" else THEIRS


def problem_with(request, results=()):
    """Why a request cannot be started, in words; "" if it can.

    Parameters
    ----------
    request : Request
        Its source as `sources.located` gives it.
    results : sequence of workbook.panel.runs.Result
        Of this sitting: what it saved from the same source may be saved again.

    Returns
    -------
    str

    Examples
    --------
    >>> problem_with(Request("load", ""))
    'Choose a model first.'
    """
    source, kind = request.source, sources.kind(request.source)
    if not source:
        return "Choose a model first."
    if kind == "missing":
        return f"{source}: there is no such directory. Check the path."
    if kind == "none":
        return f"{source}: holds no saved model (model.json) and no checkpoint (config.json). Check the path."
    if request.action == "serialise" and kind == "saved":
        return f"{source} is saved already: press Load."
    if request.action == "verify" and kind != "saved":
        return f"{source} has no hashes to verify: press Serialise first, and verify what that makes."
    return _problem_with_loader(request, kind) or _problem_with_destination(request, results)


def _problem_with_destination(request, results):
    place, source = request.destination, request.source
    saved = {(r.request.source, r.request.destination) for r in results if not r.error}
    if not os.path.lexists(place) or source == sources.SAMPLE or (source, place) in saved:
        return ""
    return (
        f"{place} exists already, and was not saved from {source} in this sitting: "
        "choose it as the model and press Load, or move it away and press Serialise again."
    )


def _problem_with_loader(request, kind):
    way, source = request.way, request.source
    if way == OURS and kind != "saved":
        return f"{source} is no saved model, which deserialise reads: press Serialise first, or choose another loader."
    if way in PEERS and kind == "saved":
        return f"{way} reads a checkpoint, and {source} is a saved model: choose deserialise."
    if way in PEERS and way != THEIRS:
        if reason := run.usable([way], request.device)[1].get(way):
            return f"{way}: {reason}. Choose another loader."
        if request.dtype != "as saved":
            return f"{way} keeps the types of the file: choose the type as saved."
        count = sources.safetensors_in(source)
        takes_all = ALL[way].package == "transformers" and kind == "checkpoint"
        if source != sources.SAMPLE and count != 1 and not takes_all:
            return f"{way} reads one file of weights, a .safetensors, and {source} has {count}: choose another loader."
    return ""
