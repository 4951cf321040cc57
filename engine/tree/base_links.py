"""The other names of base files that have several: the base is searched for them, for no row tells them.

A change of a base file shows at each of its names in the base, by whichever it was made.  The directories in which one
name is known are searched first, as links are mostly near each other, and the search ends when as many names were found
as the files have links.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Iterator

from ..store.base_view import NOT_THERE, BaseView, join, split

log = logging.getLogger(__name__)


def readable_listing(base: BaseView, directory: bytes) -> dict[bytes, bool]:
    """Return the names in a base directory, each with whether it is a directory; none, and a log line, on failure."""
    try:
        return base.listing(directory)
    except OSError as error:
        if error.errno not in NOT_THERE:
            log.warning("%s cannot be read in the base: %s", os.fsdecode(directory), error.strerror)
        return {}


def files_below(
    base: BaseView, top: bytes, is_left_out: Callable[[bytes, bytes, os.stat_result], bool]
) -> Iterator[tuple[bytes, bytes, os.stat_result]]:
    """Yield directory, name and attributes of all below a base directory but directories.

    Args:
        base: the base.
        top: the directory (base terms).
        is_left_out: called with directory, name and attributes; what it returns True for is left out, with all below.
    """
    waiting = [top]
    while waiting:
        directory = waiting.pop()
        names = readable_listing(base, directory)
        for name, st in base.children(directory, names) if names else ():
            if isinstance(st, OSError) or is_left_out(directory, name, st):
                continue
            if stat.S_ISDIR(st.st_mode):
                waiting.append(join(directory, name))
            else:
                yield directory, name, st


class BaseLinks:
    """The search for the names of some base files.

    Args:
        base: the base.
        known: one name of each file, by the file's number in the overlay; one that the base lacks is left out.
    """

    def __init__(self, base: BaseView, known: dict[int, bytes]) -> None:
        self._base = base
        self._numbers: dict[tuple[int, int], int] = {}
        self._left: dict[int, int] = {}  # names that were not found yet
        self._known = known
        for ino, path in known.items():
            st = self._base.find_readable(path)
            if st is not None and st.st_nlink > 1:
                self._numbers[st.st_dev, st.st_ino] = ino
                self._left[ino] = st.st_nlink - 1

    def find(self) -> Iterator[tuple[int, bytes]]:
        """Yield the number of a file and another of its names (base terms), for each such name.

        A directory that cannot be read is logged, and nothing of it is found.
        """
        near = {split(self._known[ino])[0] for ino in self._left}
        for directory in near:
            yield from self._in(directory, list(readable_listing(self._base, directory)))
        waiting = [b"/"]
        while waiting and self._left:
            directory = waiting.pop()
            names = readable_listing(self._base, directory)
            if directory not in near:
                yield from self._in(directory, [name for name, is_dir in names.items() if not is_dir])
            waiting += (join(directory, name) for name, is_dir in names.items() if is_dir)

    def _in(self, directory: bytes, names: list[bytes]) -> Iterator[tuple[int, bytes]]:
        for name, st in self._base.children(directory, names) if names else ():
            if isinstance(st, OSError) or st.st_nlink < 2:
                continue
            ino = self._numbers.get((st.st_dev, st.st_ino))
            path = join(directory, name)
            if ino is None or path == self._known[ino]:
                continue
            yield ino, path
            if ino in self._left:
                self._left[ino] -= 1
                if not self._left[ino]:
                    del self._left[ino]
