"""The three states of the page cache that a start is measured in, brought about and checked.

``warm``: libraries and weights are in it. ``weights cold``: the libraries alone. ``all cold``:
nothing is, as after the machine has started.
"""

import time
from pathlib import Path

from helpers.errors import ModelError, StorageError
from helpers.storage.page_cache import pull
from workbook.bench import pagecache

STATES = ("warm", "weights cold", "all cold")
_WEIGHTS = 0.02  # at most this share of the weights may be left in the page cache of a cold start
_LIBRARIES = 0.05  # and this share of all else: what the benchmark's own Python maps cannot be emptied
# Seconds between emptying the cache and a cold start. A virtual machine gives memory that is free
# back to its host within seconds; a start right behind the emptying would still find it at hand,
# which a service's start never does. Measured: without the pause all cold rows are up to 2 x faster.
_SETTLE = 5


def check_possible(states):
    """Refuse ``all cold`` in a process that has torch mapped: its pages would stay.

    Parameters
    ----------
    states : sequence of str

    Raises
    ------
    StorageError
    """
    maps = Path("/proc/self/maps")
    if "all cold" in states and maps.exists() and "libtorch" in maps.read_text():
        raise StorageError(
            "all cold",
            "this process has torch imported, and what a process maps cannot be taken out of the page cache",
            "Measure from one that has not (python -m workbook.bench), or leave this state out.",
        )


def bring(state, weights, others):
    """Bring files into a state, and say how far it is reached.

    Parameters
    ----------
    state : str
        Of `STATES`.
    weights : path-like
        The file of weights that the next start reads.
    others : sequence of path-like
        All else that it reads: libraries, configurations.

    Returns
    -------
    dict
        ``resident``: the share of the weights that is in the page cache. All cold also
        ``libraries``: the share of the others, and ``emptied``: which way. ``failed`` with the
        reason where a cold state is not reached.
    """
    if state == "all cold":
        return _all_cold(weights, others)
    for file in others:
        pull(file)
    if state == "warm":
        pagecache.read_through(weights)
        return {"resident": pagecache.resident(weights)}
    pagecache.evict(weights)
    found = {"resident": pagecache.resident(weights)}
    return _settled(found)


def make_cold(weights):
    """Take the weights alone out of the page cache, and wait.

    Parameters
    ----------
    weights : path-like

    Raises
    ------
    ModelError
        They stayed.
    """
    reached = bring("weights cold", weights, ())
    if "failed" in reached:
        raise ModelError(weights, f"is {reached['failed']}", "See what maps it.")


def _all_cold(weights, others):
    files = [weights, *others]
    found = {"emptied": pagecache.empty(files)}
    found |= {"resident": pagecache.resident(weights), "libraries": pagecache.stayed(others)}
    pagecache.empty(files)  # once more: asking has read the metadata of the files that it asked for
    return _settled(found)


def _settled(found):
    """Wait, where the state is reached; the reason why not, where it is not."""
    if found["resident"] > _WEIGHTS:
        return found | {
            "failed": f"not cold: {found['resident']:.0%} of the weights stayed in the page cache"
        }
    if found.get("libraries", 0) > _LIBRARIES:
        return found | {
            "failed": f"not cold: {found['libraries']:.0%} of the libraries stayed in the page cache "
            "(another process has them mapped?)"
        }
    time.sleep(_SETTLE)
    return found
