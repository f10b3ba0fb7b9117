"""What a caller asked for, as it is handed down: the keywords of `helpers.deserialise`."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from helpers.errors import ModelError


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


def listed(given: Any) -> tuple[Any, ...] | None:
    """What a caller passed as a list, as a tuple; None for what is none, such as a single text.

    Examples
    --------
    >>> listed(["a"]), listed("a"), listed(3)
    (('a',), None, None)
    """
    return tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else None


def full_names(trusted: Sequence[str]) -> tuple[str, ...]:
    """What a caller passed as ``trusted``, if these can be names of types with their modules.

    Parameters
    ----------
    trusted : sequence of str

    Returns
    -------
    tuple of str

    Raises
    ------
    ModelError
        It is no list, or holds what is no text or a name without its module.

    Examples
    --------
    >>> full_names(["package.module.Type"])
    ('package.module.Type',)
    """
    names = listed(trusted)
    if names is not None and all(isinstance(name, str) and "." in name for name in names):
        return names
    raise ModelError(
        f"trusted={trusted!r}",
        "is no list of full names of types, as texts",
        "Pass the names that the refusal without it lists, such as trusted=['package.module.Type'].",
    )
