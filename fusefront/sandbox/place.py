"""The directory of one sandbox: the storages, mount points, and what is in memory; it goes away with the sandbox.

A sandbox locks its directory (flock(2)).  A directory that nobody locks was left by a sandbox whose processes were all
killed at once; the next sandbox of the same user removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile

from ...engine.errors import StateError

log = logging.getLogger(__name__)

_PREFIX = "minifo-run-"
_KEPT = "minifo-kept-"


class Place:
    """The directory of one sandbox; creating this object makes it.

    Args:
        parent: the directory to make it in.

    Attributes:
        path: its true path.
        memory: a directory in it for a file system in memory.

    Raises:
        StateError: it cannot be made.
    """

    def __init__(self, parent: str) -> None:
        try:
            remove_abandoned(parent)
            while True:
                self.path = os.path.realpath(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
                self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                if _lock(self._fd):
                    break
                os.close(self._fd)  # another sandbox takes it for one that was left
            self.memory = self.directory("memory")
        except OSError as error:
            raise StateError(
                f"no directory can be made in {parent} ({error.strerror})", "name another one: TMPDIR=DIR minifo run …"
            ) from error

    def directory(self, name: str) -> str:
        """Make a directory in this one, and return its path."""
        path = os.path.join(self.path, name)
        os.mkdir(path, 0o700)
        return path

    def keep(self, name: str) -> str:
        """Move the directory *name* out of this one, and return its new path.

        Raises:
            OSError: it cannot be moved.
        """
        made = tempfile.mkdtemp(prefix=_KEPT, dir=os.path.dirname(self.path))
        os.rename(os.path.join(self.path, name), made)  # over the empty directory
        return made

    def remove(self) -> None:
        """Remove the directory and what is in it."""
        _remove(self.path)


def remove_abandoned(parent: str) -> None:
    """Remove the directories of this user's sandboxes that were killed.

    Raises:
        OSError: *parent* cannot be listed.
    """
    for name in os.listdir(parent):
        if not name.startswith(_PREFIX):
            continue
        with contextlib.suppress(OSError):  # it goes away at this moment, or is another user's
            fd = os.open(os.path.join(parent, name), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if os.fstat(fd).st_uid == os.geteuid() and _lock(fd):
                    _remove(os.path.join(parent, name))
            finally:
                os.close(fd)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(fd).st_nlink > 0


def _remove(path: str) -> None:
    def failed(function: object, name: str, info: tuple[object, BaseException, object]) -> None:
        if not isinstance(info[1], FileNotFoundError):
            log.warning("%s cannot be removed: %s", name, info[1])

    shutil.rmtree(path, onerror=failed)
