"""End a mount, and return only when its last commit is durable.

The kernel forgets a mount before its daemon has committed what it was told last.  The daemon holds the storage's lock
until that is done, so the lock is what is waited for.  Imports neither trio nor pyfuse3.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import logging
import os
import select
import time

from minifo.engine.errors import StateError
from minifo.fusefront import mountinfo
from minifo.fusefront.mountinfo import MountEntry

log = logging.getLogger(__name__)

_LISTING = "findmnt -t fuse.minifo lists the mounts"

_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8

_NOTICE_AFTER = 3.0  # seconds of waiting until something is said
_SLOWEST_POLL = 0.1
_EXIT_WAIT = 2.0  # seconds granted to the daemon between its last commit and its end


def unmount(mountpoint: str, *, lazy: bool = False, timeout: float | None = None) -> None:
    """Unmount the overlay at *mountpoint* and wait until storage is complete and free.

    If the daemon is dead already, the mount is detached, and that is logged as a warning.

    Args:
        mountpoint: the path it is mounted at; symbolic links are followed.
        lazy: detach now even if files are open; the daemon goes on until they are closed, so nothing is waited for.
        timeout: longest wait in seconds for the last commit; None waits as long as the daemon takes.

    Raises:
        StateError: nothing of ours is mounted there, it is busy, or the daemon still holds the storage.
    """
    entry, storage = our_mount(mountpoint)
    target = entry.mountpoint
    dead = mountinfo.is_dead(target)
    holder = _holder(storage)
    detach(target, lazy=lazy or dead)
    if dead:
        log.warning("the daemon of %s had died before; its mount is cleared now", target)
        return
    if lazy:
        return
    others = [other for other in mountinfo.read_mounts() if other.device == entry.device]
    if others:
        log.warning("the overlay stays mounted at %s", others[0].mountpoint)
        return
    _wait(entry, storage, holder, timeout)


def our_mount(path: str) -> tuple[MountEntry, str]:
    """The minifo mount exactly at *path*, and its storage.

    Raises:
        StateError: there is none.
    """
    try:
        real, entry = mountinfo.locate(path)
    except FileNotFoundError as exc:
        raise StateError(f"{path} does not exist", _LISTING) from exc
    except OSError as exc:
        raise StateError(f"{path} cannot be reached ({exc.strerror})", _LISTING) from exc
    if entry is None:
        raise StateError(f"{path} is not mounted", _LISTING)
    overlay = mountinfo.overlay_of(entry)
    if entry.mountpoint != real:
        if overlay is None:
            raise StateError(f"{path} is not mounted", _LISTING)
        raise StateError(f"{path} lies inside the mount {entry.mountpoint}", f"minifo umount {entry.mountpoint}")
    if overlay is None:
        raise StateError(f"{path} is not a minifo mount but {entry.fstype}", f"umount {entry.mountpoint}")
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


def _busy(target: str) -> StateError:
    return StateError(f"{target} is busy", f"see who uses it: fuser -vm {target}")


# -- waiting for the daemon


def _wait(entry: MountEntry, storage: str, holder: int, timeout: float | None) -> None:
    """Return when the daemon has released the lock of *storage*."""
    path = os.path.join(storage, "lock")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # a read-only mount on a medium without a lock file: there was nothing to commit
    except OSError as exc:
        raise StateError(f"{entry.mountpoint} is unmounted, but {path} cannot be read ({exc.strerror})") from exc
    begin = time.monotonic()
    next_look = begin + _NOTICE_AFTER
    pause = 0.002
    noticed = False
    try:
        while not _free(fd):
            pid = _pid(fd)
            if holder and pid and pid != holder:
                return  # somebody mounted it anew, so our daemon had released it
            now = time.monotonic()
            if timeout is not None and now - begin > timeout:
                raise StateError(
                    f"{entry.mountpoint} is unmounted, but its daemon (process {pid}) still holds {storage}",
                    "the last changes are durable when that process has ended",
                )
            if now > next_look:
                _refuse_elsewhere(entry)
                if not noticed:
                    log.warning("waiting for the last commit to %s (process %d)", storage, pid)
                    noticed = True
                next_look = now + _NOTICE_AFTER
            time.sleep(pause)
            pause = min(pause * 1.5, _SLOWEST_POLL)
    finally:
        os.close(fd)
    _await_exit(holder)


def _free(fd: int) -> bool:
    """Whether no writer holds the lock; it is only touched, not kept."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(fd, fcntl.LOCK_UN)
    return True


def is_written(storage: str) -> bool:
    """Whether a writer holds a storage; True where that cannot be seen (it may lie below a mount)."""
    return not os.path.exists(os.path.join(storage, "lock")) or _holder(storage) != 0


def _holder(storage: str) -> int:
    """Process id of the storage's writer, 0 if it cannot be told."""
    try:
        fd = os.open(os.path.join(storage, "lock"), os.O_RDONLY | os.O_CLOEXEC)
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


def _refuse_elsewhere(entry: MountEntry) -> None:
    """Raise if the file system lives on in another mount namespace: then its daemon will not end."""
    seen: set[str] = set()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            namespace = os.readlink(f"/proc/{name}/ns/mnt")
            if namespace in seen:
                continue
            seen.add(namespace)
            mounts = mountinfo.read_mounts(f"/proc/{name}/mountinfo")
        except OSError as exc:
            log.debug("process %s: %s", name, exc.strerror)  # it ended, or belongs to another user
            continue
        if any(other.device == entry.device and other.source == entry.source for other in mounts):
            raise StateError(
                f"{entry.mountpoint} is unmounted here, but process {name} has it mounted in a namespace of its own",
                f"unmount it there too: nsenter -t {name} -m umount {entry.mountpoint}",
            )
