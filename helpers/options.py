"""What a caller asked for, as it is handed down: the keywords of `helpers.deserialise`."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Options(NamedTuple):
    """The keywords of `helpers.deserialise`; ``device`` and ``dtype`` already torch's own objects."""

    device: Any = None
    dtype: Any = None
    skeleton: Callable | None = None
    mapped: bool | None = None
    verify: bool = False
    readers: int | None = None
    trusted: Sequence[str] = ()
    encryption: bytes | str | None = None
    only: Callable | None = None
    progress: bool = True

    def below(self, name: str) -> "Options":
        """The same for a model inside the model, whose tensors ``only`` knows by longer names."""
        only, below = self.only, self._replace(skeleton=None)
        return below._replace(only=lambda inner: only(f"{name}/{inner}")) if only else below
