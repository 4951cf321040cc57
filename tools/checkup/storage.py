"""One storage: where it lies, whether it can be trusted, and what state it is in (``minifo doctor STO``).

The rule: nothing in the storage is changed.  What its file system can do is tried with files that never have a name.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
from collections import Counter
from collections.abc import Callable, Iterator

from ...engine.errors import OlderFormat, StateError
from ...engine.store.layers import missing_layer
from ...fusefront.mount import mount_table
from .._progress import Progress
from .._size import size
from ..status import FULL
from .finding import Check, Finding, found_by, note, ok, problem

_SHOWN = 5  # kinds of problems that are named
_TRIED = 1 << 20  # bytes of a file without blocks
_WAITING = "N404"  # acknowledged operations of a killed daemon, which the next mount replays


def checks(storage: str, *, quiet: bool) -> Iterator[Check]:
    """Yield the checks of a storage directory; what rests on an earlier one is left out where that has failed.

    Args:
        storage: the directory.
        quiet: True to show no progress.
    """
    yield Check("file system", lambda: _file_system(storage))
    if not os.path.isdir(storage):
        return
    yield Check("space", lambda: _space(storage))
    yield Check("abilities", lambda: _abilities(storage))
    for check in (Check("trust", lambda: _trust(storage)), Check("format", lambda: _format(storage))):
        yield check
        if found_by(check).verdict != "ok":
            return
    if not os.path.exists(_database(storage)):
        return
    examined = _Examined(storage, quiet=quiet)
    yield Check("use", examined.use)
    yield Check("fsck", examined.fsck)
    yield Check("base", examined.base)


def _file_system(storage: str) -> Finding:
    name = "file system"
    try:
        real, entry = mount_table.locate(storage)
    except OSError as error:
        raise StateError(f"storage {storage} cannot be reached ({error.strerror})", "check the path") from error
    if entry is None:
        return ok(name, f"{real}, on a mount outside of this root directory")
    words = ",".join(word for word in entry.options if "=" not in word)
    fact = f"{entry.fstype} at {entry.mountpoint} ({words})"
    if mount_table.overlay_of(entry) is not None:
        return note(name, f"{fact}: in an overlay of minifo", "put the storage on a file system of its own")
    if "ro" in entry.options:
        return problem(name, fact, "mount it writable (mount -o remount,rw), or mount the overlay with -o ro")
    slow = [word for word in ("sync", "dirsync") if word in entry.options]
    if slow:
        return note(name, fact, f"mount it without {slow[0]}: minifo makes durable what must be, by itself")
    carried = [word for word in ("nosuid", "nodev", "noexec") if word in entry.options]
    if "noexec" in carried:
        return note(name, fact, "an overlay gets noexec from it: mount it with exec, if programs are to run there")
    return ok(name, fact + (f"; an overlay gets {', '.join(carried)} from it" if carried else ""))


def _space(storage: str) -> Finding:
    figures = os.statvfs(storage)
    if not figures.f_blocks:
        return ok("space", "its file system does not say how much")
    block = figures.f_frsize or figures.f_bsize
    fact = f"{size(figures.f_bavail * block)} of {size(figures.f_blocks * block)} free"
    if figures.f_bavail * block < FULL:
        return problem("space", fact, "delete something there, or give it more room")
    if figures.f_files and not figures.f_favail:
        return problem("space", f"{fact}, but no inodes", "delete files there")
    return ok("space", fact)


def _abilities(storage: str) -> Finding:
    """What its file system can do that saves space or time; minifo needs none of it."""
    from ...engine.store.storage import FICLONE
    from ...engine.store.syscalls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, fallocate

    found = {"extended attributes": _has_xattrs(storage)}
    fds: list[int] = []
    rest = ""
    try:
        fds += (os.open(storage, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600) for _ in range(2))
        os.ftruncate(fds[0], _TRIED)
        found["holes"] = os.fstat(fds[0]).st_blocks * 512 < _TRIED
        found["punched holes"] = _can(lambda: fallocate(fds[0], FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0, _TRIED))
        found["reflinks"] = _can(lambda: fcntl.ioctl(fds[1], FICLONE, fds[0]))
    except OSError as error:
        rest = f"; of holes and reflinks nothing is known, for it makes no file without a name ({error.strerror})"
    finally:
        for fd in fds:
            os.close(fd)
    has = [ability for ability, there in found.items() if there]
    lacks = [ability for ability, there in found.items() if not there]
    told = (["it has " + ", ".join(has)] if has else []) + (["it lacks " + ", ".join(lacks)] if lacks else [])
    return ok("abilities", "; ".join(told) + rest)


def _has_xattrs(storage: str) -> bool:
    try:
        os.getxattr(storage, "user.minifo")
    except OSError as error:
        return error.errno == errno.ENODATA
    return True


def _can(call: Callable[[], object]) -> bool:
    try:
        call()
    except OSError:
        return False
    return True


def _trust(storage: str) -> Finding:
    from ...engine.store.storage import Storage

    Storage(storage).close()  # what it raises is the finding
    return ok("trust", "no other user may change it")


def _database(storage: str) -> str:
    from ...engine.store.database import DB_NAME

    return os.path.join(storage, DB_NAME)


def _format(storage: str) -> Finding:
    from ...engine.store.database_file import SCHEMA_VERSION, check_header
    from ...engine.store.storage import Storage

    store = Storage(storage)
    try:
        if not store.is_formatted:
            store.check_empty()
            return ok("format", "it is empty: the first mount makes an overlay")
        check_header(store.database)
    except OlderFormat as error:
        return note("format", error.message, f"the next mount upgrades it; or now: minifo upgrade {storage}")
    finally:
        store.close()
    return ok("format", f"{SCHEMA_VERSION}, that of this minifo")


class _Examined:
    """A storage as ``minifo-fsck -n`` sees it, looked at once.

    Args:
        storage: the directory; it holds a database of this format.
        quiet: True to show no progress.
    """

    def __init__(self, storage: str, *, quiet: bool) -> None:
        self._storage = storage
        self._quiet = quiet
        self._facts: dict[str, object] = {}

    @functools.cached_property
    def _mounts(self) -> list[str]:
        """Where it is mounted, as far as it can be seen from here."""
        real = os.path.realpath(self._storage)
        found = [(entry.mountpoint, mount_table.overlay_of(entry)) for entry in mount_table.minifo_mounts()]
        return [where for where, source in found if source is not None and source.storage == real]

    def use(self) -> Finding:
        """Whether a daemon works on it."""
        from ...engine.store.storage import Storage

        store = Storage(self._storage)
        try:
            in_use = store.has_writer()
        finally:
            store.close()
        where = f", mounted at {', '.join(self._mounts)}" if self._mounts else ""
        return ok("use", f"a daemon works on it{where}" if in_use else f"no daemon changes it{where}")

    def fsck(self) -> Finding:
        """Whether minifo-fsck finds something to repair."""
        from ...engine.fsck.session import FsckSession

        progress = Progress(None, self._storage, quiet=self._quiet)
        with FsckSession(self._storage, write=False) as session:
            found = session.check(progress=progress)
            self._facts = session.facts
        progress.clear()
        counts = Counter(f"{one.code} {one.kind.meaning}" for one in found if not one.is_note)
        if counts:
            told = "; ".join(f"{what} ({number})" for what, number in counts.most_common(_SHOWN))
            return problem("fsck", f"problems: {told}", f"minifo-fsck {self._storage}")
        waiting = [one.detail for one in found if one.code == _WAITING]
        if waiting:
            remedy = "mount it before this machine restarts: they are in memory"
            return note("fsck", f"clean, but {waiting[0]} of a killed daemon are not in it yet", remedy)
        return ok("fsck", "clean")

    def base(self) -> Finding:
        """Whether the base of its last mount is there."""
        path = self._facts.get("base")
        if not isinstance(path, str | bytes) or not path:
            return ok("base", "not known yet")
        base = os.fsdecode(path)
        missing = missing_layer(base)
        if missing is None:
            return ok("base", base)
        remedy = "mount it with base= where the base is now; verbs on a storage take --base"
        return problem("base", f"{missing}, the base of its last mount, is not there", remedy)
