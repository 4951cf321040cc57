"""The redo log: a killed daemon loses nothing acknowledged, and flash still sees one commit a second (promise P4).

Between two commits the changed rows live in this process only.  So every operation is also appended, as the numbers of
its statements and their values (store/redo_records.py), to a file in memory (tmpfs), which outlives the process but not
the machine.  At the next mount it is replayed (store/redo_replay.py), before anything is swept, if it belongs to this
storage, this boot and the very commit the database stands at.

A commit marks its place in the log.  What precedes the mark is dropped when the commit is durable, not before: storage
that fails may come back with the commit before.  The log also notes what content the operations rely on, and that
storage failed: then nothing is known of the content that was written since the mark.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
import uuid as uuids
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

from ..errors import Corrupt, StateError
from .database import Statement
from .redo_records import (
    FAILED,
    FRAME,
    FRAME_MAX,
    HEADER,
    OPERATION,
    SEALED,
    BadRecord,
    Header,
    Note,
    Operation,
    pack_failed,
    pack_operation,
    pack_sealed,
    parse_operation,
    parse_token,
)
from .syscalls import file_system_type

log = logging.getLogger(__name__)

_MEMORY = (0x01021994, 0x858458F6)  # statfs(2): TMPFS_MAGIC, RAMFS_MAGIC


def memory_directory() -> str | None:
    """A directory of ours in memory, made if need be: /run/minifo for root, else the user's runtime directory.

    Returns:
        None where there is none; then every operation is committed by itself.
    """
    uid = os.geteuid()
    candidates = ["/run/minifo"] if uid == 0 else []
    if uid != 0 and (runtime := os.environ.get("XDG_RUNTIME_DIR")):
        candidates.append(os.path.join(runtime, "minifo"))
    candidates.append(f"/dev/shm/minifo-{uid}")
    for path in candidates:
        try:
            os.makedirs(path, 0o700, exist_ok=True)
            found = os.lstat(path)
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            log.debug("%s cannot hold the redo log: %s", path, error)
            continue
        try:
            ours = found.st_uid == uid and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            if ours and file_system_type(fd) in _MEMORY:
                return path
        finally:
            os.close(fd)
    return None


def _boot_id() -> bytes:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return uuids.UUID(file.read().strip()).bytes


class Recording(list[Operation]):
    """The operations of a log that follow a commit, in order.

    Attributes:
        stale: there is a log, but of another commit.
        failure: what storage answered when something could not be made durable, or None.
        least: by content object, the bytes that the rows may rely on.
        unsynced: the objects among them that no commit has synced yet.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stale = False
        self.failure: str | None = None
        self.least: dict[int, int] = {}
        self.unsynced: set[int] = set()

    def add(self, operation: Operation) -> None:
        """Take one more operation."""
        self.append(operation)
        for number, size in operation.notes:
            self.least[number] = ~size if size < 0 else max(size, self.least.get(number, 0))
            self.unsynced.add(number)

    def seal(self) -> None:
        """Note that a commit synced all content."""
        self.unsynced.clear()
        self.failure = None


class RedoLog:
    """The log of one storage.

    Args:
        directory: where it is kept; on tmpfs.
        uuid: of the storage.
        database: path of the database; its device and inode number tell a copied storage from the original.

    Raises:
        Corrupt: the uuid is none: it must not become part of a path.
    """

    def __init__(self, directory: str, uuid: object, database: str) -> None:
        try:
            identity = uuids.UUID(str(uuid))
        except ValueError as error:
            hint = f"run: minifo-fsck {os.path.dirname(database)}"
            raise Corrupt(f"{database} has an identity that is no UUID ({uuid!r})", hint) from error
        st = os.stat(database)
        self.path = os.path.join(directory, f"{identity}-{st.st_dev:x}-{st.st_ino:x}.redo")
        self._there = self.path  # where it is now
        self._identity = (identity.bytes, _boot_id(), st.st_dev, st.st_ino)
        self._lock = threading.RLock()  # a failure is noted by whichever thread meets it
        self._fd: int | None = None
        self._marks: dict[int, int] = {}  # token of a commit: where the log goes on after it
        self.size = 0

    # -- writing

    def begin(self, token: int) -> None:
        """Start anew: what follows comes after the commit of that *token*.

        Raises:
            OSError: there is no room even for this.
        """
        if self._fd is None:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        os.ftruncate(self._fd, 0)
        self.size = 0
        self._marks = {token: HEADER.size}
        self._write(Header(*self._identity, token).pack())

    def resume(self) -> None:
        """Go on with the log that was just read."""
        if self._there != self.path:
            os.rename(self._there, self.path)
            self._there = self.path
        self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        os.ftruncate(self._fd, self.size)

    def append(self, statements: list[Statement], next_ino: int, next_object: int, notes: list[Note]) -> None:
        """Add one operation.

        Args:
            statements: its statements.
            next_ino, next_object: the counters after it.
            notes: content written since the operation before (store/redo_records.py).

        Raises:
            OSError: ENOSPC where the memory for it is used up, EFBIG for an operation that is too large.
        """
        try:
            self._write(pack_operation(statements, next_ino, next_object, notes))
        except OverflowError as error:
            raise OSError(errno.EFBIG, str(error), self.path) from error

    def seal(self, token: int) -> None:
        """Mark a commit: it is made and not durable yet, but all content written before it is.

        Raises:
            OSError: as for ``append``.
        """
        self._write(pack_sealed(token))
        self._marks[token] = self.size

    def fail(self, reason: str) -> None:
        """Note that storage failed: of the content written since the last commit nothing is known.

        Raises:
            OSError: as for ``append``.
        """
        self._write(pack_failed(reason))

    def drop(self, token: int) -> None:
        """Drop everything before a commit, which is durable.

        Raises:
            OSError: there is no room to do so; the log is as it was.
        """
        with self._lock:
            mark = self._marks.get(token)
            if mark == self.size:
                self.begin(token)
            elif mark is not None and self._fd is not None:
                self._drop_before(mark, token)

    def _drop_before(self, mark: int, token: int) -> None:
        assert self._fd is not None
        header = Header(*self._identity, token).pack()
        fresh = self.path + ".new"
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            size = self.size - mark + len(header)
            if os.pwrite(fd, header + os.pread(self._fd, self.size - mark, mark), 0) != size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), fresh)
            os.rename(fresh, self.path)
        except OSError:
            os.close(fd)
            os.unlink(fresh)
            raise
        os.close(self._fd)
        self._fd = fd
        shift = mark - len(header)
        self._marks = {other: place - shift for other, place in self._marks.items() if place >= mark}
        self.size = size

    def _write(self, data: bytes) -> None:
        with self._lock:
            assert self._fd is not None
            if os.pwrite(self._fd, data, self.size) != len(data):
                os.ftruncate(self._fd, self.size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
            self.size += len(data)

    # -- reading

    def read(self, token: int) -> Recording:
        """The operations that follow the commit of that *token*; none if the log is not of it.

        Changes nothing.

        Raises:
            StateError: there is a log that cannot be read, or is of an unknown kind; it is left alone.
        """
        found = Recording()
        self.find()
        try:
            fd = os.open(self._there, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return found
        except OSError as error:
            raise self.refused(str(error)) from error
        with open(fd, "rb") as file:
            st = os.fstat(fd)
            if not stat.S_ISREG(st.st_mode) or st.st_uid != os.geteuid():
                raise self.refused("it is not a file of ours")
            if not st.st_size:
                return found  # killed when it began anew: everything was durable
            try:
                known = self._follow(file, token, found)
            except BadRecord as error:
                raise self.refused(str(error)) from error
        if not known:
            found = Recording()
            found.stale = True
        return found

    def find(self) -> None:
        """Look for the log: under its name, or that of a device that has come back with another number."""
        self._there = self.path
        if os.path.lexists(self.path):
            return
        directory, name = os.path.split(self.path)
        uuid, _, ino = name.rpartition(".")[0].rsplit("-", 2)
        for other in sorted(os.listdir(directory)):
            there, _, rest = other.removeprefix(uuid + "-").partition("-")
            if other.startswith(uuid) and rest == f"{ino}.redo" and _is_gone(int(there, 16)):
                self._there = os.path.join(directory, other)
                return

    def _follow(self, file: BinaryIO, token: int, found: Recording) -> bool:
        header = Header.parse(file.read(HEADER.size))
        ours = (*self._identity[:2], self._identity[3])
        if (header.uuid, header.boot, header.ino) != ours or (
            header.dev != self._identity[2] and self._there == self.path
        ):
            return False
        known = header.token == token
        self.size = HEADER.size
        for body in _bodies(file):
            self.size += FRAME.size + len(body)
            kind = body[0]
            if kind == SEALED:
                sealed = parse_token(body)
                self._marks[sealed] = self.size
                if sealed == token:  # what precedes it is in the database
                    known = True
                    found.clear()
                    found.least.clear()
                found.seal()
            elif kind == OPERATION:
                found.add(parse_operation(body))
            elif kind == FAILED:
                found.failure = body[1:].decode(errors="replace")
            else:
                raise BadRecord("it holds a record of an unknown kind")
        return known

    def refused(self, why: str) -> StateError:
        """What to say of a log that cannot be replayed; it is kept."""
        error = StateError(
            f"what was acknowledged since the last commit is in {self._there}, which cannot be replayed: {why}",
            "nothing was changed; to go on without it, and keep it under another name: mount with -o redo=aside",
        )
        error.redo = self._there
        return error

    def set_aside(self) -> str | None:
        """Give the log another name, under which it is kept but not looked at; that name, or None without a log."""
        if not os.path.lexists(self._there):
            return None
        count = 1
        while os.path.lexists(kept := f"{self._there}.{count}"):
            count += 1
        os.rename(self._there, kept)
        self._there = self.path
        return kept

    # -- ending

    def remove(self) -> None:
        """Delete the log: everything in it is durable."""
        self.close()
        with suppress(FileNotFoundError):
            os.unlink(self._there)

    def close(self) -> None:
        """Let go of the log and leave it where it is."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _is_gone(dev: int) -> bool:
    """True for a device from which nothing is mounted any more; what has no device of its own cannot be told."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        mounted = {line.split(" ", 3)[2] for line in file}
    return os.major(dev) != 0 and f"{os.major(dev)}:{os.minor(dev)}" not in mounted


def _bodies(file: BinaryIO) -> Iterator[bytes]:
    """The bodies of whole frames; a daemon that is killed leaves the last one cut short: it was not acknowledged."""
    while len(head := file.read(FRAME.size)) == FRAME.size:
        length, crc = FRAME.unpack(head)
        if not 0 < length <= FRAME_MAX:
            return
        body = file.read(length)
        if len(body) != length or zlib.crc32(body) != crc:
            return
        yield body
