"""The redo log: a killed daemon loses nothing acknowledged, and flash still sees one commit a second (promise P4).

Between two commits the changed rows are in the memory of this process only.  So each operation is also appended, as the
numbers of its statements and their values (store/redo_records.py), to a file on tmpfs, which survives the process but
not a reboot.  The next mount replays the file (store/redo_replay.py) before it deletes orphans and garbage, if the file
is of this storage, this boot, and the commit that the database holds.

Each commit appends a mark to the log.  The records before the mark are dropped only when that commit is durable: a
storage that fails may come back with the state of the commit before.  The log also notes which content the rows rely
on, and whether storage failed; content written between the last mark and a failure may not have reached the medium.
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
    Encode,
    Header,
    Note,
    Operation,
    encode_operation,
    frame,
    pack_failed,
    pack_sealed,
    parse_operation,
    parse_token,
)

log = logging.getLogger(__name__)


def _boot_id() -> bytes:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return uuids.UUID(file.read().strip()).bytes


class Recording(list[Operation]):
    """The operations in a log that follow a commit, in order.

    Attributes:
        stale: there is a log, but it does not follow that commit.
        failure: the error that storage answered when something could not be made durable, or None.
        least: for each content object, the least size in bytes that the rows rely on.
        unsynced: the content objects that were written since the last commit, and may not be durable.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stale = False
        self.failure: str | None = None
        self.least: dict[int, int] = {}
        self.unsynced: set[int] = set()

    def add(self, operation: Operation) -> None:
        """Append an operation, and take over its notes of written content."""
        self.append(operation)
        for number, size in operation.notes:
            self.least[number] = ~size if size < 0 else max(size, self.least.get(number, 0))
            self.unsynced.add(number)

    def seal(self) -> None:
        """Note that a commit has made all content so far durable."""
        self.unsynced.clear()
        self.failure = None


class RedoLog:
    """The log of one storage.

    Args:
        directory: the directory that the log is in, on tmpfs.
        uuid: the storage's identity.
        database: path of the database; its device and inode number tell a copied storage from the original.
        encode: encodes an operation; None for ``encode_operation`` (store/redo_records.py).

    Raises:
        Corrupt: *uuid* is not a UUID; as it came from the storage, it must not become part of a path.
    """

    def __init__(self, directory: str, uuid: object, database: str, encode: Encode | None = None) -> None:
        try:
            identity = uuids.UUID(str(uuid))
        except ValueError as error:
            hint = f"run: minifo-fsck {os.path.dirname(database)}"
            raise Corrupt(f"{database} has an identity that is not a UUID ({uuid!r})", hint) from error
        st = os.stat(database)
        self.path = os.path.join(directory, f"{identity}-{st.st_dev:x}-{st.st_ino:x}.redo")
        self._found = self.path  # path of the existing log, see find()
        self._identity = (identity.bytes, _boot_id(), st.st_dev, st.st_ino)
        self._encode = encode or encode_operation
        self._lock = threading.RLock()  # any thread may note a failure
        self._fd: int | None = None
        self._marks: dict[int, int] = {}  # commit token -> offset in bytes of the first record after that commit
        self.size = 0

    # -- writing

    def begin(self, token: int) -> None:
        """Empty the log, or create it, for the operations that follow the commit with *token*.

        Raises:
            OSError: ENOSPC and others; the log is not usable.
        """
        if self._fd is None:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        os.ftruncate(self._fd, 0)
        self.size = 0
        self._marks = {token: HEADER.size}
        self._write(Header(*self._identity, token).pack())

    def resume(self) -> None:
        """Open the log that ``read`` has read, to append to it."""
        if self._found != self.path:
            os.rename(self._found, self.path)
            self._found = self.path
        self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        os.ftruncate(self._fd, self.size)

    def append(self, statements: list[Statement], next_ino: int, next_object: int, notes: list[Note]) -> None:
        """Append one operation.

        Args:
            statements: the statements it executed, in order.
            next_ino, next_object: the counters after it.
            notes: content written since the previous operation (store/redo_records.py).

        Raises:
            OSError: ENOSPC if tmpfs is full, EFBIG for an operation of more than FRAME_MAX bytes; the log is unchanged.
        """
        try:
            self._write(frame(self._encode(statements, next_ino, next_object, notes)))
        except OverflowError as error:
            raise OSError(errno.EFBIG, str(error), self.path) from error

    def seal(self, token: int) -> None:
        """Append the mark of a commit, which has been made but need not be durable yet; the content before it is.

        Raises:
            OSError: ENOSPC if tmpfs is full.
        """
        self._write(pack_sealed(token))
        self._marks[token] = self.size

    def fail(self, reason: str) -> None:
        """Append a note that storage failed, so that content written since the last commit may be lost.

        Args:
            reason: what storage answered.

        Raises:
            OSError: ENOSPC if tmpfs is full.
        """
        self._write(pack_failed(reason))

    def drop(self, token: int) -> None:
        """Drop the records that precede the mark of a commit; that commit must be durable.

        Args:
            token: of the commit.

        Raises:
            OSError: ENOSPC if tmpfs is full; the log still holds the records.
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
        self._marks = {other: offset - shift for other, offset in self._marks.items() if offset >= mark}
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
        """Return the operations that follow the commit with *token*; none if the log does not follow that commit.

        Changes nothing on disk.

        Raises:
            StateError: the log cannot be read, or has an unknown format.
        """
        recording = Recording()
        self.find()
        try:
            fd = os.open(self._found, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return recording
        except OSError as error:
            raise self.refusal(str(error)) from error
        with open(fd, "rb") as file:
            st = os.fstat(fd)
            if not stat.S_ISREG(st.st_mode) or st.st_uid != os.geteuid():
                raise self.refusal("it is not a regular file, or belongs to another user")
            if not st.st_size:
                return recording  # the daemon was killed within begin(): everything was durable
            try:
                follows = self._parse(file, token, recording)
            except BadRecord as error:
                raise self.refusal(str(error)) from error
        if not follows:
            recording = Recording()
            recording.stale = True
        return recording

    def find(self) -> None:
        """Find the file of the log, also when the device of the storage has another number than before.

        A device that was unplugged and came back may get a new number, while the log's name has the old one.
        """
        self._found = self.path
        if os.path.lexists(self.path):
            return
        directory, name = os.path.split(self.path)
        uuid, _, ino = name.rpartition(".")[0].rsplit("-", 2)
        for other in sorted(os.listdir(directory)):
            device, _, rest = other.removeprefix(uuid + "-").partition("-")
            if other.startswith(uuid) and rest == f"{ino}.redo" and _is_gone(int(device, 16)):
                self._found = os.path.join(directory, other)
                return

    def _parse(self, file: BinaryIO, token: int, recording: Recording) -> bool:
        """Fill *recording* with the operations after the commit with *token*; return whether the log follows it."""
        header = Header.parse(file.read(HEADER.size))
        ours = (*self._identity[:2], self._identity[3])
        if (header.uuid, header.boot, header.ino) != ours or (
            header.dev != self._identity[2] and self._found == self.path
        ):
            return False
        follows = header.token == token
        self.size = HEADER.size
        for body in _bodies(file):
            self.size += FRAME.size + len(body)
            kind = body[0]
            if kind == SEALED:
                sealed = parse_token(body)
                self._marks[sealed] = self.size
                if sealed == token:  # the database holds everything before this mark
                    follows = True
                    recording.clear()
                    recording.least.clear()
                recording.seal()
            elif kind == OPERATION:
                recording.add(parse_operation(body))
            elif kind == FAILED:
                recording.failure = body[1:].decode(errors="replace")
            else:
                raise BadRecord("it holds a record of an unknown kind")
        return follows

    def refusal(self, why: str) -> StateError:
        """Return the error for a log that exists but cannot be replayed; the log stays where it is."""
        error = StateError(
            f"the changes acknowledged since the last commit are in {self._found}, which cannot be replayed: {why}",
            "nothing was changed; to mount without these changes, and keep the log under another name: -o redo=aside",
        )
        error.redo = self._found
        return error

    def set_aside(self) -> str | None:
        """Rename the log, so that it is kept but no mount reads it; return the new path, or None if there is no log."""
        if not os.path.lexists(self._found):
            return None
        count = 1
        while os.path.lexists(kept := f"{self._found}.{count}"):
            count += 1
        os.rename(self._found, kept)
        self._found = self.path
        return kept

    # -- ending

    def remove(self) -> None:
        """Delete the log; everything in it must be durable."""
        self.close()
        with suppress(FileNotFoundError):
            os.unlink(self._found)

    def close(self) -> None:
        """Close the log's file, and keep it for the next mount."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _is_gone(dev: int) -> bool:
    """Return whether no file system on device number *dev* is mounted.

    False for device numbers with major 0 (network file systems, tmpfs): they name no device that could have gone.
    """
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        mounted = {line.split(" ", 3)[2] for line in file}
    return os.major(dev) != 0 and f"{os.major(dev)}:{os.minor(dev)}" not in mounted


def _bodies(file: BinaryIO) -> Iterator[bytes]:
    """Yield the bodies of all frames up to the first that is incomplete or damaged.

    A daemon that is killed while it appends leaves an incomplete last frame; its operation was not acknowledged.
    """
    while len(head := file.read(FRAME.size)) == FRAME.size:
        length, crc = FRAME.unpack(head)
        if not 0 < length <= FRAME_MAX:
            return
        body = file.read(length)
        if len(body) != length or zlib.crc32(body) != crc:
            return
        yield body
