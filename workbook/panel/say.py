"""How a process of the panel tells what it does: lines of JSON on its standard output."""

import json
import time

_EACH = 0.2  # seconds between two reports of one step


def say(**message):
    """Print a message as one line."""
    print(json.dumps(message), flush=True)


class Bar:
    """Stands in for the bars of helpers: what they would draw is said.

    Parameters
    ----------
    total : int
        Bytes.
    """

    def __init__(self, total):
        self._total, self._done, self._due = total, 0, 0.0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def update(self, size):
        """Count bytes; called from several threads, so a report may be a little behind."""
        self._done += size
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + _EACH
            say(done=self._done, total=self._total)

    def close(self):
        say(done=self._done, total=self._total)


def instead_of_bars():
    """Let the bars of helpers be said from now on. To be called before anything of it is imported."""
    from helpers import progress

    progress.progress_bar = lambda total, title, shown: Bar(total)
