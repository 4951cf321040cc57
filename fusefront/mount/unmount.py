"""Unmounts an overlay, and returns only when its last commit is durable.

The kernel removes a mount before its daemon has committed the last changes.  The daemon's report (end_report.py) says
when they are durable, or why they cannot be.  If there is no report, this module waits for the lock of the storage,
which the daemon holds until then.  It imports neither trio nor pyfuse3.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import select
import stat
import time

from ...engine.errors import StateError
from ...engine.store.writer_lock import LOCK, lock_holder
from . import end_report, mount_holders, mount_table, utab
from .end_report import FoundReport, Phase
from .mount_table import MountEntry

log = logging.getLogger(__name__)


class MountBusy(StateError):
    """The mount is in use, so it was not unmounted."""


_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8

_NOTICE_AFTER = 3.0  # seconds until a warning says what the command waits for
_CONNECTION_CLOSE = 15.0  # seconds until the kernel must have closed the connection, unless a process is seen to use it
_OTHER_USER = 60.0  # seconds to wait for another user's daemon, which might never end on purpose
_POLL_MAX = 0.1  # seconds
_EXIT_WAIT = 2.0  # seconds for the daemon to exit after its last commit
_CONNECTIONS = "/sys/fs/fuse/connections"  # has an entry, named by minor number, for each open one; needs fusectl
_PIDS_SHOWN = 5  # process ids in a message
_TRIES = 3  # to unmount what is busy, though the daemon is not seen to use it
_BETWEEN_TRIES = 0.02  # seconds


def unmount(mountpoint: str, *, lazy: bool = False, timeout: float | None = None) -> None:
    """Unmount the overlay at *mountpoint*; return when its changes are durable and its storage is unlocked.

    If the daemon has ended before, the mount is only detached, and a warning is logged.

    Args:
        mountpoint: the path it is mounted at; symbolic links are followed.
        lazy: detach it even if files are open, and return at once; the daemon serves them until they are closed.
        timeout: longest wait in seconds for the last commit; None waits as long as the daemon takes, but 60 seconds at
            most for the daemon of another user.

    Raises:
        StateError: there is no minifo mount, it is busy, a process keeps the file system alive, the daemon still holds
            the storage, or its last changes are not durable.
    """
    entry, storage = our_mount(mountpoint)
    target = entry.mountpoint
    if target == "/":
        # umount(2) of the root file system succeeds without unmounting: it makes it read-only
        hint = "make its changes durable instead: minifo sync /"
        raise StateError("/ cannot be unmounted: this overlay is the root directory of this process", hint)
    is_dead = mount_table.is_dead(target)
    owner = end_report.owner_of(entry)
    found = end_report.find(entry, owner)
    is_checkpoint = _shows_checkpoint(entry)
    # the daemon of a checkpoint holds no lock
    holder = found.pid if found is not None else 0 if is_checkpoint else _holder(storage, owner)
    if timeout is None and owner != os.geteuid():
        timeout = _OTHER_USER
    if lazy or is_dead:
        detach(target, lazy=True)
    else:
        detach_between_commits(target, holder, timeout)
    if is_dead:
        utab.remove_entry(target, entry.source)
        if is_checkpoint:
            log.warning("the daemon of %s had ended before; the mount is cleared now", target)
            return
        state = found.now() if found is not None else None
        why = f" ({state.message})" if state is not None and state.message else ""
        log.warning(
            "the daemon of %s had ended before%s; the mount is cleared now, and its last changes are in memory: "
            "mount %s again before this machine restarts",
            target, why, storage,
        )  # fmt: skip
        return
    if lazy:
        return
    others = [other for other in mount_table.read_mounts() if other.device == entry.device]
    if others:
        log.warning("the overlay is still mounted at %s", others[0].mountpoint)
        return
    wait = _DaemonWait(entry, storage, timeout)
    if found is not None:
        _wait_for_report(wait, found)
    elif not is_checkpoint:
        _wait_for_lock(wait, storage, owner, holder)
    _await_exit(holder)


def clear_dead(mountpoint: str) -> None:
    """Unmount the overlays at *mountpoint* whose daemon has ended; leave everything else.

    Raises:
        StateError: one cannot be unmounted.
    """
    while True:
        try:
            real, entry = mount_table.locate(mountpoint)
        except OSError:
            return  # the mount that follows says what is wrong
        if entry is None or entry.mountpoint != real or mount_table.overlay_of(entry) is None:
            return
        if not mount_table.is_dead(real):
            return
        unmount(real)


def _shows_checkpoint(entry: MountEntry) -> bool:
    """Return whether a mount shows a checkpoint: then there is nothing to commit."""
    source = mount_table.overlay_of(entry)
    return source is not None and source.at is not None


def our_mount(path: str) -> tuple[MountEntry, str]:
    """Return the minifo mount exactly at *path*, and the path of its storage.

    Raises:
        StateError: no minifo mount is there, or *path* cannot be reached.
    """
    try:
        real, entry = mount_table.locate(path)
    except FileNotFoundError as exc:
        raise StateError(f"{path} does not exist", mount_table.LISTING_HINT) from exc
    except OSError as exc:
        raise StateError(f"{path} cannot be reached ({exc.strerror})", mount_table.LISTING_HINT) from exc
    if entry is None:
        raise StateError(f"{path} is not mounted", mount_table.LISTING_HINT)
    source = mount_table.overlay_of(entry)
    if entry.mountpoint != real:
        if source is None:
            raise StateError(f"{path} is not mounted", mount_table.LISTING_HINT)
        raise StateError(f"{path} lies inside the mount {entry.mountpoint}", f"minifo umount {entry.mountpoint}")
    if source is None:
        raise StateError(f"{path} is not a minifo mount but {entry.fstype}", mount_table.LISTING_HINT)
    return entry, source.storage


# -- unmounting


def detach(target: str, *, lazy: bool) -> None:
    """Unmount a file system by umount2(2), or by fusermount3 if that is refused; do not wait for its daemon.

    Args:
        target: the true path of the mount point.
        lazy: detach it even if files are open.

    Raises:
        MountBusy: files are open, and *lazy* is false.
        StateError: it cannot be unmounted.
    """
    code = _umount2(target, _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0))
    if code == errno.EPERM:
        _fusermount(target, lazy=lazy)
    elif code == errno.EBUSY:
        raise _busy(target)
    elif code:
        raise StateError(f"{target} cannot be unmounted ({os.strerror(code)})", mount_table.LISTING_HINT)


def detach_between_commits(target: str, daemon: int, timeout: float | None) -> None:
    """Unmount as ``detach`` does, but wait as long as it is the daemon that keeps the mount busy.

    Before each commit a daemon makes the kernel write back dirty pages, and has the root directory of the mount open
    for it (mount_calls.py).

    Args:
        target: the true path of the mount point.
        daemon: process id of the daemon; 0 if it is unknown.
        timeout: longest wait in seconds; None for no limit.

    Raises:
        MountBusy: other processes use it, or the time is over.
        StateError: it cannot be unmounted.
    """
    begin, tries, noticed = time.monotonic(), 0, False
    while True:
        try:
            detach(target, lazy=False)
            return
        except MountBusy:
            waited = time.monotonic() - begin
            # its use may have ended since, so what is not seen counts only if it is not seen again
            tries = 0 if _has_open(daemon, target) else tries + 1
            if tries == _TRIES or (timeout is not None and waited > timeout):
                raise
        if waited > _NOTICE_AFTER and not noticed:
            log.warning("waiting for the kernel to write back %s to its daemon (process %d)", target, daemon)
            noticed = True
        time.sleep(_BETWEEN_TRIES)


def _has_open(daemon: int, target: str) -> bool:
    """Return whether a daemon or its helper process has an object of its mount open, as far as /proc tells."""
    if not daemon:
        return False
    try:
        pids = [daemon]
        for thread in os.listdir(f"/proc/{daemon}/task"):
            with open(f"/proc/{daemon}/task/{thread}/children", encoding="ascii") as file:
                pids += map(int, file.read().split())
        for pid in pids:
            directory = f"/proc/{pid}/fd"
            for name in os.listdir(directory):
                try:
                    path = os.readlink(f"{directory}/{name}")
                except FileNotFoundError:
                    continue  # it was closed
                if path == target or path.startswith(f"{target}/"):
                    return True
    except OSError as exc:
        log.debug("the descriptors of process %d cannot be read: %s", daemon, exc.strerror)
    return False


def _umount2(target: str, flags: int) -> int:
    """Call umount2(2); return 0 or the errno."""
    libc = ctypes.CDLL(None, use_errno=True)
    return ctypes.get_errno() if libc.umount2(os.fsencode(target), flags) != 0 else 0


def _fusermount(target: str, *, lazy: bool) -> None:
    import subprocess  # here, for it costs start-up time and root does not need it

    # not translated, for the message is compared below
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
    return MountBusy(f"{target} is busy", f"this lists the processes that use it: fuser -vm {target}")


# -- waiting for the daemon


class _DaemonWait:
    """Waits for one daemon in steps, up to a timeout; warns the user, and fails if the daemon cannot end.

    Args:
        entry: the mount.
        storage: path of its storage.
        timeout: longest wait in seconds; None for no limit.
    """

    def __init__(self, entry: MountEntry, storage: str, timeout: float | None) -> None:
        self.mountpoint = entry.mountpoint
        self.storage = storage
        self._entry = entry
        self._timeout = timeout
        self._begin = time.monotonic()
        self._next_check = self._begin + _NOTICE_AFTER
        self._pause = 0.002
        self._noticed = False

    def step(self, pid: int, *, ending: bool) -> None:
        """Sleep for 2 to 100 ms, longer at each call.

        Args:
            pid: process id of the daemon, for messages.
            ending: the daemon has reported that the kernel has closed the connection.

        Raises:
            StateError: the timeout is over, or a process keeps the file system alive, so that the daemon does not end.
        """
        now = time.monotonic()
        waited = now - self._begin
        if self._timeout is not None and waited > self._timeout:
            raise StateError(
                f"{self.mountpoint} is unmounted, but its daemon (process {pid}) still holds {self.storage}",
                "its last changes are durable when that process has ended: wait for it",
            )
        if now > self._next_check:
            if not ending:
                self._check_holders(waited)
            if not self._noticed:
                log.warning("waiting for the last commit to %s (process %d)", self.storage, pid)
                self._noticed = True
            self._next_check = now + _NOTICE_AFTER
        time.sleep(self._pause)
        self._pause = min(self._pause * 1.5, _POLL_MAX)

    def _check_holders(self, waited: float) -> None:
        """Raise if processes keep the file system alive: then its daemon does not end.

        Args:
            waited: seconds since the unmount.

        Raises:
            StateError: they do, or the kernel has not closed the connection in 15 seconds.
        """
        where = self.mountpoint
        for holder in mount_holders.holders(self._entry):
            first, number = holder.pids[0], len(holder.pids)
            pids = ", ".join(map(str, holder.pids[:_PIDS_SHOWN])) + (
                f" and {number - _PIDS_SHOWN} more" if number > _PIDS_SHOWN else ""
            )
            process = f"process {pids} has" if number == 1 else f"processes {pids} have"
            if holder.mountpoint:
                raise StateError(
                    f"{where} is unmounted here, but {process} it mounted in another mount namespace",
                    f"end them, or unmount it there: nsenter -t {first} -m umount {holder.mountpoint}",
                )
            raise StateError(
                f"{where} is unmounted here, but {process} a root or working directory inside",
                f"end them: kill {pids.replace(',', '')}" if number <= _PIDS_SHOWN else "end them",
            )
        if waited > _CONNECTION_CLOSE and _is_connected(self._entry.device) is not False:
            raise StateError(
                f"{where} is unmounted here, but the kernel has not closed it after {_CONNECTION_CLOSE:.0f} seconds",
                "a process that this user cannot see has it mounted or a file of it open; the last changes are durable "
                "when its daemon has ended",
            )


def _is_connected(device: int) -> bool | None:
    """Return whether the FUSE connection of the mount with st_dev *device* is open; None if that is unknown."""
    try:
        minors = os.listdir(_CONNECTIONS)
    except OSError as exc:
        log.debug("%s cannot be listed: %s", _CONNECTIONS, exc)
        return None
    return str(os.minor(device)) in minors if minors else None


def _wait_for_report(wait: _DaemonWait, found: FoundReport) -> None:
    """Return when the daemon has reported that all changes are durable.

    Raises:
        StateError: it has reported that some are not, it was killed, or *wait* raised it.
    """
    where = wait.mountpoint
    while True:
        ended = not end_report.is_running(found.pid)  # before the report is read, so that the last one is not missed
        state = found.now()
        if state is None:
            return
        if state.phase is Phase.FAILED:
            raise StateError(f"{where} is unmounted, but {state.message}", state.hint)
        if ended:
            raise StateError(
                f"{where} is unmounted, but its daemon (process {found.pid}) was killed before its last commit",
                f"its last changes are in memory: mount {wait.storage} again before this machine restarts",
            )
        wait.step(found.pid, ending=state.phase is Phase.ENDING)


def _wait_for_lock(wait: _DaemonWait, storage: str, owner: int, holder: int) -> None:
    """Return when the daemon has released the lock of *storage*.

    Args:
        wait: bounds the wait.
        storage: path of the storage.
        owner: user id of the user who made the mount.
        holder: process id of the daemon; 0 if it is unknown.

    Raises:
        StateError: the lock cannot be read, or *wait* raised it.
    """
    try:
        fd = _open_lock(storage, owner)
    except FileNotFoundError:
        return  # a read-only mount on a medium without a lock file: there was nothing to commit
    except OSError as exc:
        message = f"{wait.mountpoint} is unmounted, but the lock of {storage} cannot be read ({exc.strerror})"
        raise StateError(message, "the system log says whether its last changes are durable") from exc
    try:
        while (pid := lock_holder(fd)) is not None:
            if holder and pid and pid != holder:
                return  # another daemon has the lock, so ours has released it
            wait.step(pid, ending=False)
    finally:
        os.close(fd)


def _open_lock(storage: str, owner: int) -> int:
    """Return a descriptor of the lock file of a storage that a mount's source text names.

    A user chooses the source text of his mount freely.  So only a regular file that belongs to *owner*, the user who
    made the mount, is accepted.

    Raises:
        OSError: the file cannot be opened, or is not acceptable.
    """
    path = os.path.join(storage, LOCK)
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    st = os.fstat(fd)
    if not stat.S_ISREG(st.st_mode) or st.st_uid != owner:
        os.close(fd)
        raise PermissionError(errno.EACCES, "not a lock file of the user who made the mount", path)
    return fd


def is_written(storage: str, owner: int) -> bool:
    """Return whether a writer holds a storage of *owner*; True if no lock is visible, for a mount may hide it."""
    return not os.path.exists(os.path.join(storage, LOCK)) or _holder(storage, owner) != 0


def _holder(storage: str, owner: int) -> int:
    """Return the process id of the writer that holds a storage; 0 if there is none, or it is unknown."""
    try:
        fd = _open_lock(storage, owner)
    except OSError as exc:
        # the mount itself may hide the storage until it is unmounted
        log.debug("the lock of %s cannot be opened yet: %s", storage, exc)
        return 0
    try:
        return lock_holder(fd) or 0
    finally:
        os.close(fd)


def _await_exit(pid: int) -> None:
    """Return when process *pid* has ended, after 2 seconds at most, so that its directories are not busy any more."""
    if not pid:
        return
    try:
        fd = os.pidfd_open(pid)
    except OSError as exc:
        log.debug("process %d has ended: %s", pid, exc.strerror)
        return
    try:
        select.select([fd], [], [], _EXIT_WAIT)
    finally:
        os.close(fd)
