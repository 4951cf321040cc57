"""Writes the metrics of a mount into a directory from which Prometheus' node_exporter reads them (``-o metrics=PATH``).

The textfile collector (github.com/prometheus/node_exporter) reads every ``*.prom`` of one directory at each scrape, so
a file must be complete whenever it is there: it is written beside its name and renamed over it.  The directory is
opened before the mount, for its path may lead through the mount afterwards; and it is written to in worker threads, for
it may be slow.  A failure is a warning, and never the end of the mount.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial

import trio

from .exposition import Metric, exposition

log = logging.getLogger(__name__)

INTERVAL = 15.0  # seconds between two writes; Prometheus asks about as often

_SUFFIX = ".prom"  # node_exporter reads no other file
_WARN_AGAIN = 3600.0  # seconds until a warning is repeated
_PATIENCE = 2.0  # seconds that the end of a mount waits for a slow directory
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class MetricsFile:
    """The file of one mount.

    Args:
        path: a directory, or a file name that ends with ``.prom`` in one.
        uuid: of the overlay; it names the file in a directory.

    Attributes:
        directory: path of the directory; None if it cannot be used, which is logged.
    """

    def __init__(self, path: str, uuid: str) -> None:
        self.directory: str | None = None
        self._path = path
        self._fd = -1
        self._written: tuple[int, int] | None = None  # st_dev and st_ino of the file we wrote last
        self._lock = threading.Lock()
        self._warned = -_WARN_AGAIN
        place, name = (path, "") if os.path.isdir(path) else os.path.split(path)
        try:
            if name and not name.endswith(_SUFFIX):
                raise OSError(errno.EINVAL, f"neither a directory nor a file name that ends with {_SUFFIX}")
            self._fd = os.open(place or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            self._warn(error, "no metrics are written until the next mount")
            return
        self.directory = place or "."
        self._name = name or f"minifo-{uuid}{_SUFFIX}"
        self._new = f".{self._name}.{uuid}.new"

    async def keep(self, mountpoint: str, collect: Callable[[], list[Metric]]) -> None:
        """Write the file again and again until cancelled.

        Args:
            mountpoint: label of each sample.
            collect: returns the metrics; called in the event loop.
        """
        while self.directory is not None:
            write = partial(self.write, exposition([(mountpoint, collect())]))
            await trio.to_thread.run_sync(write, abandon_on_cancel=True)
            await trio.sleep(INTERVAL)

    def write(self, lines: Iterable[str]) -> None:
        """Replace the file; a failure is logged.

        Args:
            lines: its new content.
        """
        text = "".join(f"{line}\n" for line in lines).encode()
        with self._lock:
            if self.directory is None:
                return
            try:
                self._replace(text)
            except OSError as error:
                self._warn(error, f"it is tried again every {INTERVAL:.0f} s")

    def _replace(self, text: bytes) -> None:
        self._discard(self._new)  # of a killed daemon, or planted
        fd = os.open(self._new, _CREATE, 0o600, dir_fd=self._fd)
        try:
            with open(fd, "wb", closefd=False) as file:
                file.write(text)
            os.fchmod(fd, 0o644)  # whatever the umask says: node_exporter runs as a user of its own
            st = os.fstat(fd)
            os.rename(self._new, self._name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except BaseException:
            self._discard(self._new)
            raise
        finally:
            os.close(fd)
        self._written = st.st_dev, st.st_ino

    def _identity(self) -> tuple[int, int] | None:
        """Return what tells the file from others, or None if there is none."""
        try:
            st = os.stat(self._name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return (st.st_dev, st.st_ino) if stat.S_ISREG(st.st_mode) else (0, 0)

    def _discard(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)

    def _warn(self, error: OSError, consequence: str) -> None:
        now = time.monotonic()
        level = logging.WARNING if now - self._warned >= _WARN_AGAIN else logging.DEBUG
        if level == logging.WARNING:
            self._warned = now
        log.log(
            level,
            "metrics=%s cannot be written (%s): %s",
            self._path,
            error.strerror,
            consequence,
            extra={"path": self._path, "error": error},
        )

    def close(self) -> None:
        """Remove the file, for counters of a mount that is gone would be taken for those of one that is idle.

        A slow directory is not waited for.  A file that another program has put in its place stays.
        """
        thread = threading.Thread(target=self._remove, daemon=True)
        thread.start()
        thread.join(_PATIENCE)

    def _remove(self) -> None:
        with self._lock:
            if self.directory is None:
                return
            self.directory = None
            try:
                if self._written is not None and self._identity() == self._written:
                    os.unlink(self._name, dir_fd=self._fd)
            except OSError as error:
                log.info("%s stays in %s: %s", self._name, self._path, error)
            os.close(self._fd)
