"""The names of the processes that send requests, for the journal: right also after an exec(2), and cheap.

A descriptor of ``/proc/PID/comm`` stands for one process, not for its number: reading it gives the name that the
process has now, and fails once the process has ended.  So the descriptors of the last few processes are kept.  /proc
is opened before the mount: a path from the root may lead through the mount itself.
"""

from __future__ import annotations

import errno
import os
import time

from ...engine.store.fd_cache import share
from ...engine.tree.journal_entries import COMMAND_MAX

_KEPT = 16  # processes at most
_FRESH = 300_000  # ns for which a name counts without a look: to exec another program and change a file takes longer


class CommandNames:
    """Reads names of processes, and of threads: the kernel names the thread that has sent a request."""

    def __init__(self) -> None:
        try:
            self._proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            self._proc = -1  # early at boot there may be none
        self._last: tuple[int, bytes | None] = (0, None)  # process id and name
        self._until = 0  # by the monotonic clock in ns
        self._descriptors: dict[int, int] = {}  # by process id, the one opened first at the front
        self._kept = share(_KEPT, 12)

    def of(self, pid: int) -> bytes | None:
        """Return the name of a process as ``ps`` shows it, or None if it has ended or /proc does not tell."""
        now = time.monotonic_ns()
        if now < self._until and pid == self._last[0]:
            return self._last[1]
        name = self._read(pid)
        self._last, self._until = (pid, name), now + _FRESH
        return name

    def _read(self, pid: int) -> bytes | None:
        fd = self._descriptors.get(pid)
        if fd is not None:
            try:
                return os.pread(fd, COMMAND_MAX, 0).rstrip(b"\n")
            except OSError as error:
                del self._descriptors[pid]
                os.close(fd)
                if error.errno != errno.ESRCH:
                    return None  # not "the process has ended, and another one has its number"
        return self._read_first(pid)

    def _read_first(self, pid: int) -> bytes | None:
        try:
            fd = os.open(f"{pid}/comm", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc)
        except OSError:
            return None
        self._descriptors[pid] = fd
        if len(self._descriptors) > self._kept:
            os.close(self._descriptors.pop(next(iter(self._descriptors))))
        try:
            return os.pread(fd, COMMAND_MAX, 0).rstrip(b"\n")
        except OSError:
            return None
