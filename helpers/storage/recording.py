"""What the imports of a start read: noted once in an environment, read ahead at every further start.

A recording is a list of file names in the order of their first use; of a large shared library, of which a
start uses a part (145 of the 434 MB of libtorch_cpu.so), also which part. It stands in the user's cache
directory and says for which environment it was made. It is used for nothing but reading ahead, so
whatever is wrong with it costs speed alone.

Standard library only, and little of it: this runs before everything else.
"""

import os
import sys
import zlib

File = tuple[str, list[tuple[int, int]] | None]  # a name, and the parts that are used; None for all of it
_FOLDER = "model-loading-workbook/starts"
_SUFFIX = ".txt"
_END = "whole"  # the last line of a recording
_SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/System/Library", "/opt/homebrew")
_noting: dict[int, dict[str, None]] = {}  # by their ids: what is noted for the starts that record now
_is_hooked = False


def roots() -> tuple[str, ...]:
    """The folders whose files may be read ahead: this environment's, this package's, the system's libraries.

    Examples
    --------
    >>> os.path.realpath(os.__file__).startswith(roots())
    True
    """
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    folders = {
        sys.prefix,
        sys.exec_prefix,
        sys.base_prefix,
        sys.base_exec_prefix,
        own,
        *_SYSTEM,
        *_packages(),
    }
    return tuple(sorted(os.path.realpath(path) + os.sep for path in folders if path != os.sep))


def header() -> str:
    """The first line of a recording that is valid now: Python, and the packages with their versions.

    A package is known by the name of its metadata (``torch-2.13.0.dist-info``), so that the line
    changes whenever one is installed, removed or replaced by another version.

    Examples
    --------
    >>> header() == header()
    True
    """
    found = []
    for folder in _packages():
        found += sorted(name for name in os.listdir(folder) if name.endswith(("-info", ".pth")))
    version = ".".join(map(str, sys.version_info[:3]))
    return f"2 {version} {zlib.crc32(os.fsencode(os.sep.join(found))):08x} {sys.prefix}"


def _packages():
    named = [path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")]
    return [path for path in named if os.path.isdir(path)]


def place(source: str) -> str:
    """Where the recording for a source stands, or would stand, for this user and this environment.

    Parameters
    ----------
    source : str
        A path, or an address; of the latter no password and no signature leaves a trace.

    Examples
    --------
    >>> place("models/mine").endswith(".txt")
    True
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser(
        "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    )
    if source.lower().startswith("s3://"):
        named = source  # which holds no secrets
    elif "://" in source:
        named = source.partition("?")[0].rpartition("@")[2]
    else:
        named = os.path.realpath(os.path.expanduser(source))
    environment, model = (zlib.crc32(os.fsencode(name)) for name in (sys.prefix, named))
    return os.path.join(home, _FOLDER, f"{environment:08x}-{model:08x}{_SUFFIX}")


def usable(source: str) -> str | None:
    """The recording to read ahead from at a start of ``source``, if there is one.

    It is the source's own, or else the newest of this environment: a new version of a model mostly
    lies in a new directory and needs the same libraries.
    """
    own = place(source)
    if os.path.isfile(own):
        return own
    folder, name = os.path.split(own)
    try:
        found = [each for each in os.scandir(folder) if each.name.startswith(name[:9])]
        beside = [each for each in found if each.name.endswith(_SUFFIX)]  # no writer's partial file
        return max(beside, key=lambda entry: entry.stat().st_mtime).path
    except (OSError, ValueError):  # there is none
        return None


def files(path: str, first: str, allowed: tuple[str, ...]) -> list[File] | None:
    """The files of a recording, in their order.

    Parameters
    ----------
    path : str
        Of the recording.
    first : str
        What its first line must be, from `header`.
    allowed : tuple of str
        From `roots`.

    Returns
    -------
    list of (str, list of (int, int) or None), or None
        Names, each with the parts of the file that are used, None for all of it. Instead of the list None if
        there is no recording, or if it is stale, damaged, or names a file outside ``allowed``.

    Examples
    --------
    >>> files("absent.txt", header(), roots()) is None
    True
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().split("\n")
        if lines[0] != first or lines[-2:] != [_END, ""]:
            return None
        found = [_parsed(line) for line in lines[1:-2]]
    except (OSError, ValueError):
        return None
    inside = all(name.startswith(allowed) and "/.." not in name for name, _ in found)
    return found if inside else None


def _parsed(line):
    """``name`` or ``name<tab>start-stop,start-stop…`` of a recording."""
    name, _, parts = line.partition("\t")
    if not parts:
        return name, None
    spans = [tuple(map(int, part.split("-"))) for part in parts.split(",")]
    if any(len(span) != 2 or span[0] > span[1] for span in spans):
        raise ValueError(line)
    return name, spans


def _line(name, spans):
    return name + ("\t" + ",".join(f"{start}-{stop}" for start, stop in spans) if spans else "")


def write(path: str, first: str, found: list[File]) -> None:
    """Keep a recording; it takes the old one's place in one step.

    Raises
    ------
    OSError
        The user's cache directory cannot be written, or is none: it has no absolute path.
    """
    if not os.path.isabs(path):  # no home is known, and "~" would become a folder in the working directory
        raise OSError("it is no absolute path")
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    partial = f"{path}.{os.urandom(4).hex()}"  # each container on one volume may be process 1
    try:
        with open(partial, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write("\n".join([first, *(_line(*each) for each in found), _END, ""]))
        os.replace(partial, path)
    except OSError:
        if os.path.exists(partial):
            os.unlink(partial)
        raise


def begin() -> dict[str, None]:
    """Note from now on which files this process opens and which shared libraries it maps.

    Files show in an audit hook for ``open`` (PEP 578). Libraries are opened by the system's loader,
    past that hook: they show in ``/proc/self/maps``, which is looked at whenever Python is about to
    load an extension module, so that they come in their order too. A hook cannot be removed again,
    so there is one for all starts of this process; the first that records sets it.

    Returns
    -------
    dict
        Its keys are what is noted, in the order of first use. It grows until it is given to `end`.

    Examples
    --------
    >>> noted = begin()
    >>> import this as _  # doctest: +SKIP
    >>> end(noted)
    >>> isinstance(listed(noted), list)
    True
    """
    global _is_hooked
    if not _is_hooked:
        _is_hooked = True
        sys.addaudithook(_hook)
    noted: dict[str, None] = {}
    _noting[id(noted)] = noted
    return noted


def end(noted: dict[str, None]) -> None:
    """Note no more of what `begin` has begun to note.

    Examples
    --------
    >>> end(begin())
    """
    _noting.pop(id(noted), None)


def listed(noted: dict[str, None]) -> list[File]:
    """What was noted, as `files` gives it: real paths of files below `roots`, in the order of first use.

    Relative names are left out: imports use none, and the directory may be another one by now.

    Examples
    --------
    >>> os.path.realpath(os.__file__) in [name for name, _ in listed({os.__file__: None})]
    True
    """
    allowed, real = roots(), {}
    # all at once, since a thread that was in the hook at the end may still add to it
    _add(real, map(os.path.realpath, filter(os.path.isabs, [*noted, *_mapped()])))
    from helpers.storage import used_pages  # here, since the script that reads ahead has no package

    parts = used_pages.by_file(allowed)
    return [
        (name, parts.get(name))
        for name in real
        if name.startswith(allowed) and not {"\n", "\t"} & set(name) and os.path.isfile(name)
    ]


def _hook(event, given):
    """Note an opened file, or what is mapped by now, for each start that records."""
    if not _noting:
        return
    if event == "open" and isinstance(given[0], str):
        names = given[:1]
    elif event == "import" and given[1]:  # an extension module
        names = [*_mapped(), given[1]]
    else:
        return
    for noted in list(_noting.values()):
        _add(noted, names)


def _add(noted, names):
    for name in names:
        noted.setdefault(name)


def _mapped():
    """The files that this process maps, where the system tells it."""
    try:
        with open("/proc/self/maps", errors="surrogateescape") as lines:
            fields = [line.rstrip("\n").split(None, 5) for line in lines]
    except OSError:  # not Linux: then no libraries are read ahead
        return []
    return [parts[5] for parts in fields if len(parts) == 6 and parts[5].startswith("/")]
