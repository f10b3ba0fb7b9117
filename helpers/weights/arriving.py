"""Weights that another process is fetching into a file in memory."""

from collections.abc import Callable
from typing import Any

from helpers.format.selection import Part
from helpers.timeline import phase
from helpers.weights.mapped import Mapped
from helpers.weights.tensors import Tensors


class Arriving:
    """A file of weights that is used like any other one, as soon as it is whole.

    Parameters
    ----------
    weights : helpers.weights.mapped.Mapped
        Or another object for a file; nothing is asked of it before.
    wait : callable
        Returns when the file is whole; whether all of it is known to be of one version.
    """

    def __init__(self, weights: Mapped, wait: Callable[[], bool]) -> None:
        self.weights, self.wait = weights, wait

    def begin(self, part: Part) -> None:
        """Nothing yet: the model's class is imported while the file arrives."""
        self.part = part

    def tensors(self, device: Any) -> Tensors:
        """Kind and tensor by name, once the file is whole."""
        self._await()
        self.weights.begin(self.part)
        return self.weights.tensors(device)

    def _await(self) -> None:
        with phase("wait for the weights"):
            if not self.wait():  # parts of two versions may be in it: all hashes tell
                self.weights.options = self.weights.options._replace(verify=True)

    def close(self) -> None:
        """End what the file's own object has begun."""
        self.weights.close()

    def check(self, encryption: bytes | str | None = None, progress: bool = True) -> None:
        """Compare everything with its hashes, once the file is whole."""
        self._await()
        self.weights.check(encryption, progress)
