"""End a mount, and return only when its last commit is durable.

The kernel forgets a mount before its daemon has committed what it was told last.  The daemon says in its report
(end_report.py) when that is done, or why it cannot be; where there is none, the storage's lock is waited for, which it
holds until then.  Imports neither trio nor pyfuse3.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import logging
import os
import select
import stat
import time

from ...engine.errors import StateError
from . import end_report, mount_holders, mount_table, utab
from .end_report import Found, Phase
from .mount_table import MountEntry

log = logging.getLogger(__name__)


class MountBusy(StateError):
    """The mount is in use, and so it stays."""


_LISTING = "findmnt -t fuse.minifo lists the mounts"

_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8

_NOTICE_AFTER = 3.0  # seconds of waiting until something is said
_LETTING_GO = 15.0  # seconds the kernel may hold on to what is unmounted here, with nobody to be seen who uses it
_FOREIGN = 60.0  # seconds to wait for a daemon of somebody else, who may mean ill
_SLOWEST_POLL = 0.1
_EXIT_WAIT = 2.0  # seconds granted to the daemon between its last commit and its end
_CONNECTIONS = "/sys/fs/fuse/connections"  # one entry for each that is alive, by minor number; if fusectl is mounted
_SHOWN = 5  # process ids that are named


def unmount(mountpoint: str, *, lazy: bool = False, timeout: float | None = None) -> None:
    """Unmount the overlay at *mountpoint* and wait until storage is complete and free.

    If the daemon is dead already, the mount is detached, and that is logged as a warning.

    Args:
        mountpoint: the path it is mounted at; symbolic links are followed.
        lazy: detach now even if files are open; the daemon goes on until they are closed, so nothing is waited for.
        timeout: longest wait in seconds for the last commit; None waits as long as the daemon takes for it.

    Raises:
        StateError: nothing of ours is mounted there, it is busy, something else keeps it alive, the daemon still holds
            the storage, or its last changes are not durable.
    """
    entry, storage = our_mount(mountpoint)
    target = entry.mountpoint
    if target == "/":
        # umount(2) would not even fail: it makes a process's root file system read-only
        hint = "it ends with the system; this makes everything durable before: minifo sync /"
        raise StateError("/ is an overlay, and the root directory of this process", hint)
    dead = mount_table.is_dead(target)
    owner = end_report.owner_of(entry)
    found = end_report.find(entry, owner)
    holder = found.pid if found is not None else _holder(storage, owner)
    detach(target, lazy=lazy or dead)
    if dead:
        utab.unmark(target, entry.source)
        state = found.now() if found is not None else None
        why = f" ({state.message})" if state is not None and state.message else ""
        log.warning(
            "the daemon of %s had died before%s; its mount is cleared now, "
            "what it was told last is in memory until %s is mounted again",
            target, why, storage,
        )  # fmt: skip
        return
    if lazy:
        return
    others = [other for other in mount_table.read_mounts() if other.device == entry.device]
    if others:
        log.warning("the overlay stays mounted at %s", others[0].mountpoint)
        return
    if timeout is None and owner != os.geteuid():
        timeout = _FOREIGN
    patience = _Patience(entry, storage, timeout)
    if found is None:
        _wait_for_lock(patience, storage, owner, holder)
    else:
        _wait_for_report(patience, found)
    _await_exit(holder)


def our_mount(path: str) -> tuple[MountEntry, str]:
    """The minifo mount exactly at *path*, and its storage.

    Raises:
        StateError: there is none.
    """
    try:
        real, entry = mount_table.locate(path)
    except FileNotFoundError as exc:
        raise StateError(f"{path} does not exist", _LISTING) from exc
    except OSError as exc:
        raise StateError(f"{path} cannot be reached ({exc.strerror})", _LISTING) from exc
    if entry is None:
        raise StateError(f"{path} is not mounted", _LISTING)
    overlay = mount_table.overlay_of(entry)
    if entry.mountpoint != real:
        if overlay is None:
            raise StateError(f"{path} is not mounted", _LISTING)
        raise StateError(f"{path} lies inside the mount {entry.mountpoint}", f"minifo umount {entry.mountpoint}")
    if overlay is None:
        raise StateError(f"{path} is not a minifo mount but {entry.fstype}", _LISTING)
    return entry, overlay[1]


# -- letting go of the mount


def detach(target: str, *, lazy: bool) -> None:
    code = _umount2(target, _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0))
    if code == errno.EPERM:
        _fusermount(target, lazy=lazy)
    elif code == errno.EBUSY:
        raise _busy(target)
    elif code:
        raise StateError(f"{target} cannot be unmounted ({os.strerror(code)})", _LISTING)


def _umount2(target: str, flags: int) -> int:
    """umount2(2); returns 0 or the errno."""
    libc = ctypes.CDLL(None, use_errno=True)
    return ctypes.get_errno() if libc.umount2(os.fsencode(target), flags) != 0 else 0


def _fusermount(target: str, *, lazy: bool) -> None:
    import subprocess  # only for those who are not root: it costs start-up time

    # Its messages are compared below, so they must not be translated.
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["fusermount3", "-uz" if lazy else "-u", "--", target], capture_output=True, env=environment, check=False
        )
    except FileNotFoundError as exc:
        raise StateError("fusermount3 is not installed", "install the package fuse3") from exc
    if done.returncode == 0:
        return
    said = os.fsdecode(done.stderr).strip()
    if os.strerror(errno.EBUSY) in said:
        raise _busy(target)
    raise StateError(f"{target} cannot be unmounted ({said})", "unmount it as the user who mounted it, or as root")


def _busy(target: str) -> MountBusy:
    return MountBusy(f"{target} is busy", f"see who uses it: fuser -vm {target}")


# -- waiting for the daemon


class _Patience:
    """Bounds the wait for one daemon, and says what is waited for.

    Args:
        entry: the mount.
        storage: its storage.
        timeout: as for ``unmount``.
    """

    def __init__(self, entry: MountEntry, storage: str, timeout: float | None) -> None:
        self.mountpoint = entry.mountpoint
        self.storage = storage
        self._entry = entry
        self._timeout = timeout
        self._begin = time.monotonic()
        self._next_look = self._begin + _NOTICE_AFTER
        self._pause = 0.002
        self._noticed = False

    def wait(self, pid: int, *, ending: bool) -> None:
        """Wait for a moment.

        Args:
            pid: the daemon.
            ending: it has said that the kernel has let go.

        Raises:
            StateError: it took too long, or something keeps the mount alive.
        """
        now = time.monotonic()
        waited = now - self._begin
        if self._timeout is not None and waited > self._timeout:
            raise StateError(
                f"{self.mountpoint} is unmounted, but its daemon (process {pid}) still holds {self.storage}",
                "the last changes are durable when that process has ended",
            )
        if now > self._next_look:
            if not ending:
                self._refuse_elsewhere(waited)
            if not self._noticed:
                log.warning("waiting for the last commit to %s (process %d)", self.storage, pid)
                self._noticed = True
            self._next_look = now + _NOTICE_AFTER
        time.sleep(self._pause)
        self._pause = min(self._pause * 1.5, _SLOWEST_POLL)

    def _refuse_elsewhere(self, waited: float) -> None:
        """Raise if the file system lives on: then its daemon will not end."""
        where = self.mountpoint
        for holder in mount_holders.holders(self._entry):
            first, number = holder.pids[0], len(holder.pids)
            pids = ", ".join(map(str, holder.pids[:_SHOWN])) + (
                f" and {number - _SHOWN} more" if number > _SHOWN else ""
            )
            process = f"process {pids} has" if number == 1 else f"processes {pids} have"
            if holder.mountpoint:
                raise StateError(
                    f"{where} is unmounted here, but {process} it mounted in another mount namespace",
                    f"end them, or unmount it there too: nsenter -t {first} -m umount {holder.mountpoint}",
                )
            raise StateError(
                f"{where} is unmounted here, but {process} a root or working directory inside",
                f"end them: kill {pids.replace(',', '')}" if number <= _SHOWN else "end them",
            )
        if waited > _LETTING_GO and _is_alive(self._entry.device) is not False:
            raise StateError(
                f"{where} is unmounted here, but the kernel has not let go of it after {_LETTING_GO:.0f} seconds",
                "some process that cannot be seen from here has it mounted or a file of it open; the last changes are "
                "durable when its daemon has ended",
            )


def _is_alive(device: int) -> bool | None:
    """Whether the kernel still has a FUSE connection; None if that cannot be told."""
    try:
        minors = os.listdir(_CONNECTIONS)
    except OSError as exc:
        log.debug("%s: %s", _CONNECTIONS, exc)
        return None
    return str(os.minor(device)) in minors if minors else None


def _wait_for_report(patience: _Patience, found: Found) -> None:
    """Return when the daemon has said that everything is durable.

    Raises:
        StateError: it has said that something is not, or has ended without a word.
    """
    where = patience.mountpoint
    while True:
        ended = not end_report.is_running(found.pid)  # before it is read: what it says last is read after its end
        state = found.now()
        if state is None:
            return
        if state.phase is Phase.FAILED:
            raise StateError(f"{where} is unmounted, but {state.message}", state.hint)
        if ended:
            raise StateError(
                f"{where} is unmounted, but its daemon (process {found.pid}) was killed before its last commit",
                f"what it was told last is in memory: mount {patience.storage} again before this machine restarts",
            )
        patience.wait(found.pid, ending=state.phase is Phase.ENDING)


def _wait_for_lock(patience: _Patience, storage: str, owner: int, holder: int) -> None:
    """Return when the daemon has released the lock of *storage*."""
    try:
        fd = _open_lock(storage, owner)
    except FileNotFoundError:
        return  # a read-only mount on a medium without a lock file: there was nothing to commit
    except OSError as exc:
        message = f"{patience.mountpoint} is unmounted, but the lock of {storage} cannot be read ({exc.strerror})"
        raise StateError(message, "see in the system log whether its last changes are durable") from exc
    try:
        while not _free(fd):
            pid = _pid(fd)
            if holder and pid and pid != holder:
                return  # somebody mounted it anew, so our daemon had released it
            patience.wait(pid, ending=False)
    finally:
        os.close(fd)


def _open_lock(storage: str, owner: int) -> int:
    """Open the lock file of a storage that a mount's source names.

    The source may be anybody's text (a user's mount has the one that the user gave it), so what is opened is a regular
    file of *owner*, the user who made the mount, or nothing.

    Raises:
        OSError: it cannot be opened, or is something else.
    """
    path = os.path.join(storage, "lock")
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    st = os.fstat(fd)
    if not stat.S_ISREG(st.st_mode) or st.st_uid != owner:
        os.close(fd)
        raise PermissionError(errno.EACCES, "not a lock of whoever made the mount", path)
    return fd


def _free(fd: int) -> bool:
    """Whether no writer holds the lock; it is only touched, not kept."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(fd, fcntl.LOCK_UN)
    return True


def is_written(storage: str, owner: int) -> bool:
    """Whether a writer holds a storage of *owner*; True where that cannot be seen (it may lie below a mount)."""
    return not os.path.exists(os.path.join(storage, "lock")) or _holder(storage, owner) != 0


def _holder(storage: str, owner: int) -> int:
    """Process id of the storage's writer, 0 if it cannot be told."""
    try:
        fd = _open_lock(storage, owner)
    except OSError as exc:
        # Storage may lie below the mount point and be out of sight until it is unmounted.
        log.debug("the lock cannot be seen yet: %s", exc)
        return 0
    try:
        return 0 if _free(fd) else _pid(fd)
    finally:
        os.close(fd)


def _pid(fd: int) -> int:
    text = os.pread(fd, 32, 0).split(b"\n")[0]
    return int(text) if text.isdigit() else 0


def _await_exit(pid: int) -> None:
    """Give process *pid* a moment to end, so that its directories are free when we return."""
    if not pid:
        return
    try:
        fd = os.pidfd_open(pid)
    except OSError as exc:
        log.debug("process %d: %s", pid, exc.strerror)  # it has ended
        return
    try:
        select.select([fd], [], [], _EXIT_WAIT)
    finally:
        os.close(fd)
