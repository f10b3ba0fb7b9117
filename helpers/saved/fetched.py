"""A model in a store that another process fetches, since before the imports."""

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

from helpers.errors import CorruptFile, ModelError, StorageError, storage_errors, temporary_directory
from helpers.format import manifest
from helpers.options import Options
from helpers.saved.local import index_of
from helpers.saved.opened import Opened, check_weights, open_files
from helpers.saved.remote import Cached, Remote, RemoteFile, write_files
from helpers.storage.ahead import Failed, Fetching
from helpers.storage.http import Changed
from helpers.timeline import phase
from helpers.weights.mapped import open_map

logger = logging.getLogger(__name__)


class Fetched:
    """A model of which another process brings everything, once; after any trouble the store has the word.

    Parameters
    ----------
    plain : Remote, Cached or RemoteFile
        The same model, fetched by this process.
    fetching : helpers.storage.ahead.Fetching
    options : helpers.options.Options
    """

    def __init__(self, plain: Remote | RemoteFile, fetching: Fetching, options: Options):
        self.plain, self.options, self.label = plain, options, plain.label
        self.fetching: Fetching | None = fetching
        self.TURNS = plain.TURNS + 1
        self._is_asked = False

    def identity(self) -> bytes:
        """What tells this model from another one; asked again, the store has the word, unless the caller erred.

        Raises
        ------
        NotAModel, StorageError
            As the plain source.
        """
        if self.fetching is not None and not self._is_asked:
            self._is_asked = True
            with contextlib.suppress(Failed), phase("wait for the small files"):
                return self.fetching.found().identity
        if self.fetching is not None:
            why = self.fetching.problem or "what came cannot be used"
            logger.warning("%s was not fetched ahead, so it is fetched now: %s", self.label, why)
            self.fetching = None
        return self.plain.identity()

    def is_still(self, identity: bytes) -> bool:
        """As the plain source says."""
        return self.plain.is_still(identity)

    @contextlib.contextmanager
    def opened(self, identity: bytes) -> Iterator[Opened]:
        """The model, as it was fetched; errors as the plain source, where that has the word."""
        if self.fetching is None:
            with self.plain.opened(identity) as opened:
                yield opened
            return
        try:
            with contextlib.ExitStack() as stack:
                yield self._opened(self.fetching, identity, stack)
        except (Failed, CorruptFile, StorageError):
            raise Changed from None  # so that it is opened again, the plain way
        except ModelError:  # the caller's own: what came is good, and the store need not be there any more
            self._is_asked = False
            raise

    def _opened(self, fetching: Fetching, identity: bytes, stack: contextlib.ExitStack) -> Opened:
        if isinstance(self.plain, Cached):
            with phase("wait for the copy"):
                fetching.wait("")
            return stack.enter_context(self.plain.opened(identity))
        if isinstance(self.plain, RemoteFile):
            return self._bare_file(fetching)
        found = fetching.found()
        with storage_errors(temporary_directory(), "writing to the temporary directory (TMPDIR)"):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="model-")))
            write_files(folder, found.files | {manifest.NAME: identity})
            for path, descriptor in found.weights.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).symlink_to(_path(descriptor))
        record = manifest.parse(identity, f"{self.label}/{manifest.NAME}")
        return _arriving(open_files(record, folder, self.label), folder, fetching)

    def _bare_file(self, fetching: Fetching) -> Opened:
        with phase("wait for the weights"):
            is_one_version = fetching.wait("")
        raw = open_map(_path(fetching.found().weights[""]), self.label)
        opened = Opened(index_of(raw, self.label), self.label, Path(), None, None, raw, {})
        if not is_one_version:
            check_weights(opened, self.options)
        return opened


def _path(descriptor):
    """A path by which an open file without a name can be opened anew."""
    return f"/proc/self/fd/{descriptor}"


def _arriving(opened: Opened, folder: Path, fetching: Fetching) -> Opened:
    """The same model; whoever wants its weights waits for them."""
    assert opened.weights_file is not None
    path = opened.weights_file.relative_to(folder).as_posix()
    children = {name: _arriving(child, folder, fetching) for name, child in opened.children.items()}
    return opened._replace(wait=lambda: fetching.wait(path), children=children)
