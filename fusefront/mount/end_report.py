"""The report by which a daemon tells the command that unmounts it whether its last commit succeeded.

The kernel removes a mount before its daemon makes the last commit, and no process waits for the daemon as its parent.
So the daemon keeps a small file on tmpfs, beside its redo log, while it serves, and removes the file when all changes
are durable.  A file that remains says what failed; if it still says ``serving`` when its daemon has ended, the daemon
was killed.  The file is JSON, is replaced by rename(2), and disappears when the machine restarts.

A reader accepts a file only if it is short and belongs to root or to the user who made the mount, who need not be
trusted.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
from dataclasses import asdict, dataclass
from enum import StrEnum

from ...engine.store.memory_directory import memory_directory
from .mount_table import MountEntry

log = logging.getLogger(__name__)

_SUFFIX = ".mount"
_SIZE_MAX = 65_536  # bytes; a source text has at most 4,095


class Phase(StrEnum):
    """What a daemon is doing."""

    SERVING = "serving"
    ENDING = "ending"  # the kernel has closed the connection; the daemon makes the last commit
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class State:
    """The content of a report.

    Attributes:
        pid: process id of the daemon.
        device: st_dev of the mount.
        source: the mount's source text, which names base and storage.
        phase: what the daemon is doing.
        message, hint: what failed, and what the user should do; empty unless *phase* is FAILED.
    """

    pid: int
    device: int
    source: str
    phase: Phase
    message: str = ""
    hint: str = ""


class EndReport:
    """The report of this process, which is a daemon.  Without a tmpfs there is no file, and every method does nothing.

    Args:
        source: the mount's source text.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._device = 0
        self._path: str | None = None

    def serving(self, device: int) -> None:
        """Create the file: the mount exists.

        Args:
            device: st_dev of the mount.
        """
        directory = memory_directory()
        if directory is None:
            return
        self._device = device
        self._path = os.path.join(directory, f"{os.getpid()}{_SUFFIX}")
        self._remove_stale(directory)
        self._write(Phase.SERVING)

    def ending(self) -> None:
        """Record that the kernel has closed the connection, and that the last commit begins."""
        self._write(Phase.ENDING)

    def failed(self, message: str, hint: str) -> None:
        """Record that a change is not durable.

        Args:
            message: what failed.
            hint: what the user should do.
        """
        self._write(Phase.FAILED, message, hint)

    def done(self) -> None:
        """Remove the file: all changes are durable."""
        if self._path is not None:
            try:
                os.unlink(self._path)
            except OSError as error:
                log.warning("%s cannot be removed, so umount may report a failure that is none: %s", self._path, error)
            self._path = None

    def _write(self, phase: Phase, message: str = "", hint: str = "") -> None:
        if self._path is None:
            return
        state = State(os.getpid(), self._device, self._source, phase, message, hint)
        fresh = self._path + ".new"
        try:
            with open(fresh, "w", encoding="ascii") as file:
                json.dump(asdict(state), file)  # ASCII: surrogate escapes survive
            os.replace(fresh, self._path)
        except OSError as error:
            log.warning("%s cannot be written, so umount will not say how the mount ended: %s", self._path, error)
            with contextlib.suppress(OSError):  # it would take space that the redo log may need
                os.unlink(fresh)

    def _remove_stale(self, directory: str) -> None:
        """Remove reports of ended daemons of the same overlay: this daemon serves the storage now."""
        for name in os.listdir(directory):
            path = os.path.join(directory, name)
            state = read(path, os.geteuid()) if name.endswith(_SUFFIX) else None
            if state is not None and state.source == self._source and not is_running(state.pid):
                os.unlink(path)


def read(path: str, owner: int) -> State | None:
    """Return the content of a report; None if there is no such file, or it is not acceptable.

    Args:
        path: the file.
        owner: user id of the user who made the mount; the file must belong to that user or to root.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            st = os.fstat(fd)
            if not stat.S_ISREG(st.st_mode) or st.st_uid not in (0, owner) or st.st_size > _SIZE_MAX:
                return None
            fields = json.loads(os.read(fd, _SIZE_MAX))
        finally:
            os.close(fd)
        words = {name: str(fields[name]) for name in ("source", "message", "hint")}
        return State(int(fields["pid"]), int(fields["device"]), phase=Phase(fields["phase"]), **words)
    except OSError as error:
        log.debug("the report %s cannot be read: %s", path, error)
    except (ValueError, KeyError, TypeError) as error:
        log.debug("%s is not a valid report: %s", path, error)
    return None


class FoundReport:
    """The report of another process's mount.

    Args:
        path: the file.
        owner: user id of the user who made the mount.
        state: its content when it was found.
    """

    def __init__(self, path: str, owner: int, state: State) -> None:
        self._path = path
        self._owner = owner
        self.pid = state.pid

    def now(self) -> State | None:
        """Return the present content; None if the daemon has removed the file, for all changes are durable."""
        state = read(self._path, self._owner)
        return state if state is not None and state.pid == self.pid else None


def owner_of(entry: MountEntry) -> int:
    """Return the user id of the user who made a FUSE mount."""
    return next((int(word[8:]) for word in entry.options if word.startswith("user_id=") and word[8:].isdigit()), 0)


def find(entry: MountEntry, owner: int) -> FoundReport | None:
    """Return the report of the daemon that serves a mount; None if this process cannot read it.

    Args:
        entry: the mount.
        owner: user id of the user who made it.
    """
    found = []
    for directory in _report_directories(owner):
        try:
            names = os.listdir(directory)
        except OSError as error:
            log.debug("%s cannot be listed: %s", directory, error)
            continue
        for name in names:
            path = os.path.join(directory, name)
            state = read(path, owner) if name.endswith(_SUFFIX) else None
            if state is not None and (state.device, state.source) == (entry.device, entry.source):
                found.append(FoundReport(path, owner, state))
    # the report of a killed daemon remains, and another mount may have got its st_dev
    return max(found, key=lambda report: is_running(report.pid), default=None)


def _report_directories(owner: int) -> list[str]:
    """Return the directories that may hold reports of a user's daemons (engine/store/memory_directory.py)."""
    ours = memory_directory() if owner == os.geteuid() else None
    usual = ["/run/minifo"] if owner == 0 else [f"/run/user/{owner}/minifo"]
    return list(dict.fromkeys([*([ours] if ours else []), *usual, f"/dev/shm/minifo-{owner}"]))


def is_running(pid: int) -> bool:
    """Return whether a process exists and has not ended; a zombie has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False
