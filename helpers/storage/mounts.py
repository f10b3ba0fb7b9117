"""Make a file on network storage ready to be mapped.

A map reads what is touched, page by page, when it is touched. From a local disk that is as good as
reading (timing notebook); from a network mount it is up to 30 times slower (safetensors issue 562,
diffusers issue 12680). So a file there is read once through before its map is touched.
"""

import os

from helpers.errors import storage_errors
from helpers.storage import memory
from helpers.storage.filesystems import on_network
from helpers.storage.page_cache import cached, pull
from helpers.timeline import phase


def may_map(path: str | os.PathLike) -> bool:
    """Whether mapping a file is wise: not if it lies on network storage and is larger than the memory.

    The page cache could not hold it, so pages would be fetched again and again, piece by piece.

    Examples
    --------
    >>> may_map(__file__)
    True
    """
    return not on_network(path) or os.path.getsize(path) < memory.available_bytes()


def ready(path: str | os.PathLike, spans: list[tuple[int, int]] | None = None) -> None:
    """Read a file on network storage into the page cache, unless it is there already.

    Of a file of which parts are wanted, these are read wherever it lies: a map would make the system
    read ahead and around them (up to some MB at each place that is touched).

    Parameters
    ----------
    path : str or path-like
    spans : list of (int, int), optional
        The parts that are wanted.

    Raises
    ------
    StorageError
        The file cannot be read.

    Examples
    --------
    >>> ready(__file__)
    """
    with storage_errors(path, "reading the weights"):
        if spans is not None or (on_network(path) and not cached(path)):
            with phase("read ahead"):
                pull(path, spans=spans)
