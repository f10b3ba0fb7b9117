"""What is typed as a model: where it is, what kind of thing it is, and what it is called in a table."""

import os
import subprocess
import sys
from pathlib import Path

from helpers.storage import is_s3, names, page_cache, recording
from workbook import paths

SAMPLE = "sample: SmolLM2"
NOT_COLD = "not cold"  # begins the note of a run whose weights stayed in the page cache
_WEIGHTS = (".tensors", ".safetensors", ".bin")


def models_in(folder):
    """The saved models in a directory, with `SAMPLE` before them.

    Parameters
    ----------
    folder : str or path-like

    Returns
    -------
    list of str
    """
    return [SAMPLE, *sorted(str(path.parent) for path in Path(folder).glob("*/model.json"))]


def located(source):
    """A source as a loader gets it.

    A path may begin at the working directory or at the workbook's own folder, with ``~`` and with a slash at
    its end.

    Examples
    --------
    >>> located(" s3://bucket/m/ "), located("org/name")
    ('s3://bucket/m', 'org/name')
    """
    source = source.strip()
    if is_address(source) or source in ("", SAMPLE):
        return source.rstrip("/")
    path = os.path.expanduser(source)
    for place in (path, paths.DATA.parent / path):
        if os.path.exists(place):  # False also where one may not look, which Path.exists raises
            return os.path.normpath(place)
    return source.rstrip("/")


def is_address(source):
    """Whether a source is on the network: ``s3://…`` or ``http(s)://…``."""
    return "://" in source


def without_signature(source):
    """A source as a table may show it: behind a ? may be a signature, but in S3 it is a part of the name.

    Examples
    --------
    >>> without_signature("https://host/m?signature=7"), without_signature("s3://bucket/m?")
    ('https://host/m', 's3://bucket/m?')
    """
    return source if is_s3(source) else source.partition("?")[0]


def kind(source):
    """What a source is.

    Returns
    -------
    str
        ``"saved"``: by `serialise`, here or at an address; ``"checkpoint"``: a Hugging Face directory;
        ``"name"``: of one on the hub; ``"none"``: a directory without a model; ``"missing"``: a path where
        nothing is.

    Examples
    --------
    >>> kind("s3://bucket/m"), kind("org/name"), kind("../not/here"), kind(SAMPLE)
    ('saved', 'name', 'missing', 'checkpoint')
    """
    saved, *checkpoint = (
        os.path.exists(os.path.join(source, name))
        for name in ("model.json", "config.json", "model_index.json")
    )
    if is_address(source) or saved or os.path.isfile(source):
        return "saved"
    if source == SAMPLE or any(checkpoint):
        return "checkpoint"
    if os.path.isdir(source):
        return "none"
    is_below = os.path.isdir(located(source.partition("/")[0]))  # a path with a mistake at its end
    return "name" if names.may_be_on_hub(source) and not is_below else "missing"


def weights(folder):
    """The files of weights in a directory and in those of its parts that one may read; none of an address or a name."""
    if not os.path.isdir(folder):
        return []
    found = [path for pattern in ("*", "*/*") for path in Path(folder).glob(pattern)]
    return [
        path
        for path in found
        if path.suffix in _WEIGHTS and os.path.isfile(path) and os.access(path, os.R_OK)
    ]


def safetensors_in(folder):
    """How many files a loader that reads one .safetensors may take for it: those right in the directory."""
    return len(list(Path(folder).glob("*.safetensors"))) if os.path.isdir(folder) else 0


def size_and_share(folder):
    """Bytes of the files of weights, and the share of them that is in the page cache."""
    files = weights(folder)
    size = sum(path.stat().st_size for path in files)
    there = sum(path.stat().st_size * page_cache.resident(path) for path in files if path.stat().st_size)
    return size, there / size if size else 0.0


def make_cold(source):
    """Take a model's files out of the page cache; a note if they would not go.

    Parameters
    ----------
    source : str

    Returns
    -------
    str
        "" if it is cold.
    """
    from workbook.bench import pagecache

    folder = Path(source)
    if not folder.is_dir():
        return f"{NOT_COLD}: not on this disk"
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    for path in files:
        pagecache.evict(path)
    stayed = max((pagecache.resident(path) for path in files), default=0)
    return f"{NOT_COLD}: {stayed:.0%} of a file stayed in memory" if stayed > 0.02 else ""


def is_recorded(source):
    """Whether it is known what the imports of a start read, so that `cold_start` can read it ahead.

    Parameters
    ----------
    source : str

    Returns
    -------
    bool

    Examples
    --------
    >>> is_recorded("../not/here")
    False
    """
    return recording.files(recording.place(source), recording.header(), recording.roots()) is not None


def sample_process():
    """A process that makes the sample, which takes half a minute the first time, and prints where it is."""
    command = [sys.executable, "-c", "from workbook.samples import smollm2; print(smollm2())"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def labels(sources):
    """The shortest ends of paths that tell sources apart, for a table.

    Parameters
    ----------
    sources : iterable of str

    Returns
    -------
    dict of str to str

    Examples
    --------
    >>> labels(["here/m", "there/m", "n", SAMPLE])
    {'here/m': 'here/m', 'there/m': 'there/m', 'n': 'n', 'sample: SmolLM2': 'sample: SmolLM2'}
    """
    parts = {source: without_signature(source).split("/") for source in sources}
    found = {}
    for source, own in parts.items():
        for count in range(1, len(own) + 1):
            end = own[-count:]
            if sum(other[-count:] == end for other in parts.values()) == 1:
                break
        found[source] = "/".join(end)
    return found


def destination(source, folder):
    """Where a model is saved: under its own name, or beside itself.

    Examples
    --------
    >>> destination("hub/llama", "models"), destination("models/llama", "models")
    ('models/llama', 'models/llama-saved')
    """
    # a name that no notebook saves under, so that what stands there is the sample
    name = "sample-smollm2" if source == SAMPLE else Path(source).name
    place = Path(folder) / name
    is_itself = os.path.realpath(place) == os.path.realpath(source)
    return str(place.with_name(f"{name}-saved") if is_itself else place)
