"""What becomes of a mount, told to whoever waits for its end.

The kernel forgets a mount before its daemon has made the last commit, and nobody is the daemon's parent by then.  So
the daemon keeps a small file in memory (tmpfs, beside its redo log) while it serves, and removes it when all is
durable.  A file that stays says what went wrong; one that still says ``serving`` when its daemon has ended says that it
was killed.  It is JSON, is replaced by a rename, and goes with the machine's memory.

A file is believed only if it belongs to root or to the user who made the mount, and is short: that user may be anybody.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
from dataclasses import asdict, dataclass
from enum import StrEnum

from ...engine.store.redo_log import memory_directory
from .mount_table import MountEntry

log = logging.getLogger(__name__)

_SUFFIX = ".mount"
_MOST = 65_536  # bytes; a source is at most 4,095


class Phase(StrEnum):
    """How far a daemon is."""

    SERVING = "serving"
    ENDING = "ending"  # the kernel has let go; the last commit is under way
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class State:
    """What a daemon says of itself.

    Attributes:
        pid: its process id.
        device: st_dev of the mount.
        source: the mount's source text, which names base and storage.
        phase: how far it is.
        message, hint: what has failed, and the next step to take.
    """

    pid: int
    device: int
    source: str
    phase: Phase
    message: str = ""
    hint: str = ""


class EndReport:
    """The file of this process, as its daemon keeps it.  Nothing is kept where there is no tmpfs.

    Args:
        source: the mount's source text.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._device = 0
        self._path: str | None = None

    def serving(self, device: int) -> None:
        """The mount is there."""
        directory = memory_directory()
        if directory is None:
            return
        self._device = device
        self._path = os.path.join(directory, f"{os.getpid()}{_SUFFIX}")
        self._forget_the_dead(directory)
        self._write(Phase.SERVING)

    def ending(self) -> None:
        """The kernel has let go of it."""
        self._write(Phase.ENDING)

    def failed(self, message: str, hint: str) -> None:
        """Something is not durable."""
        self._write(Phase.FAILED, message, hint)

    def done(self) -> None:
        """Everything is durable."""
        if self._path is not None:
            try:
                os.unlink(self._path)
            except OSError as error:
                log.warning("%s: %s", self._path, error)
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
            log.warning("%s: %s; whoever unmounts it will not be told how it ended", self._path, error)
            with contextlib.suppress(OSError):  # it takes room that the redo log may need
                os.unlink(fresh)

    def _forget_the_dead(self, directory: str) -> None:
        """Remove what daemons of the same overlay have left that are gone: the storage is in use again."""
        for name in os.listdir(directory):
            path = os.path.join(directory, name)
            state = read(path, os.geteuid()) if name.endswith(_SUFFIX) else None
            if state is not None and state.source == self._source and not is_running(state.pid):
                os.unlink(path)


def read(path: str, owner: int) -> State | None:
    """What is said in one file; None if there is none, or none to be believed.

    Args:
        path: the file.
        owner: the user who may have written it, beside root.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            st = os.fstat(fd)
            if not stat.S_ISREG(st.st_mode) or st.st_uid not in (0, owner) or st.st_size > _MOST:
                return None
            fields = json.loads(os.read(fd, _MOST))
        finally:
            os.close(fd)
        words = {name: str(fields[name]) for name in ("source", "message", "hint")}
        return State(int(fields["pid"]), int(fields["device"]), phase=Phase(fields["phase"]), **words)
    except OSError as error:
        log.debug("%s: %s", path, error)
    except (ValueError, KeyError, TypeError) as error:
        log.debug("%s is not a report: %s", path, error)
    return None


class Found:
    """The report of a mount, as somebody else reads it.

    Args:
        path: the file.
        owner: the user who made the mount.
        state: what it said when it was found.
    """

    def __init__(self, path: str, owner: int, state: State) -> None:
        self._path = path
        self._owner = owner
        self.pid = state.pid

    def now(self) -> State | None:
        """What it says now; None when everything is durable."""
        state = read(self._path, self._owner)
        return state if state is not None and state.pid == self.pid else None


def owner_of(entry: MountEntry) -> int:
    """The user who made a FUSE mount."""
    return next((int(word[8:]) for word in entry.options if word.startswith("user_id=") and word[8:].isdigit()), 0)


def find(entry: MountEntry, owner: int) -> Found | None:
    """The report of the daemon that serves a mount, if it can be seen from here.

    Args:
        entry: the mount.
        owner: the user who made it.
    """
    found = []
    for directory in _places(owner):
        try:
            names = os.listdir(directory)
        except OSError as error:
            log.debug("%s: %s", directory, error)
            continue
        for name in names:
            path = os.path.join(directory, name)
            state = read(path, owner) if name.endswith(_SUFFIX) else None
            if state is not None and (state.device, state.source) == (entry.device, entry.source):
                found.append(Found(path, owner, state))
    # a killed daemon's report stays, and the number of its device is given to another mount
    return max(found, key=lambda report: is_running(report.pid), default=None)


def _places(owner: int) -> list[str]:
    """Where a user's daemons keep their reports (engine/store/redo_log.py, memory_directory)."""
    ours = memory_directory() if owner == os.geteuid() else None
    usual = ["/run/minifo"] if owner == 0 else [f"/run/user/{owner}/minifo"]
    return list(dict.fromkeys([*([ours] if ours else []), *usual, f"/dev/shm/minifo-{owner}"]))


def is_running(pid: int) -> bool:
    """Whether a process exists and has not ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False
