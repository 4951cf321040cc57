"""Digests of content objects: how one is computed, and when the database may hold it.

Only objects that a checkpoint has frozen have a digest.  Nothing writes into them, so bytes that differ from the digest
have changed by themselves: flash memory lost a charge, or somebody wrote into the storage.  An object that is not
frozen is overwritten in place, at any time before the commit that would drop its digest; after a power cut between the
two a digest would accuse bytes that are right.  To prevent that, each first write after a commit would have to wait for
a flush.

So there is one rule: a digest goes in the transaction in which its object ceases to be frozen, or becomes garbage
(``drop_stale``), and no byte of the object is written before that transaction is durable (engine/checkpoints.py).
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from typing import NamedTuple

from ..errors import FsError
from ..model import FILE_MAX
from .database import Database
from .statements import statement
from .syscalls import data_ranges

SIZE = 16  # bytes of a digest: enough for what changes by chance, and half the rows of a whole SHA-256
_BLOCK = 64 << 10  # bytes
_READ = 256 << 10  # bytes read at a time, a multiple of _BLOCK
_ZEROS = bytes(_BLOCK)
RECORD = statement("INSERT OR REPLACE INTO object_digest VALUES (?, ?, ?)")
_DROP_STALE = statement(
    "DELETE FROM object_digest WHERE object >= (SELECT coalesce(max(next_object), 0) FROM checkpoint)"
    " OR object IN (SELECT object FROM garbage)"
)
#: The digest of an object: its size, its digest.
FIND = "SELECT size, digest FROM object_digest WHERE object = ?"


class Digest(NamedTuple):
    """What is known of an object's bytes.

    Attributes:
        size: of its file, in bytes.
        digest: SIZE bytes.
    """

    size: int
    digest: bytes

    @property
    def is_possible(self) -> bool:
        """Whether it can be one: a damaged row may have any values."""
        size, digest = self
        return type(size) is int and 0 <= size <= FILE_MAX and type(digest) is bytes and len(digest) == SIZE


def drop_stale(db: Database) -> None:
    """Drop the digests of objects that are not frozen any more, or are garbage; call it inside an operation."""
    db.change(_DROP_STALE)  # invariant 20: a digest is of a frozen object


class DigestReader:
    """Computes the digest of one file, a part at a time.  One thread at a time may use it, and any.

    It is the first SIZE bytes of the SHA-256 of: each block of 64 KiB that is not all zeros, after its offset; then the
    file's size (offset and size as 8 bytes, the lowest first; the last block ends with the file).  So it does not
    depend on where the file has holes, and holes are not read.

    Args:
        fd: a descriptor for reading, which nobody else uses; its file does not change.

    Attributes:
        size: of the file, in bytes.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.size = os.fstat(fd).st_size
        self._hash = hashlib.sha256(usedforsecurity=False)
        self._parts = self._read()
        self.is_done = False

    def advance(self, most: int) -> int:
        """Read on; ``is_done`` says whether that was the end.

        Args:
            most: about how many bytes to read.

        Returns:
            How many bytes were read.

        Raises:
            OSError: the file cannot be read.
        """
        done = 0
        for size in self._parts:
            done += size
            if done >= most:
                return done
        self.is_done = True
        return done

    def result(self) -> Digest:
        """Return the digest, once ``is_done``."""
        self._hash.update(self.size.to_bytes(8, "little"))
        return Digest(self.size, self._hash.digest()[:SIZE])

    def _read(self) -> Iterator[int]:
        """Read all of the file, and yield how many bytes each read has got."""
        buffer = bytearray(min(_READ, -(-self.size // _BLOCK) * _BLOCK))
        view = memoryview(buffer)
        at = 0
        for first, end in data_ranges(self._fd, 0, self.size):
            at = max(at, first - first % _BLOCK)
            while at < end:
                wanted = min(len(buffer), -(-end // _BLOCK) * _BLOCK - at, self.size - at)
                if os.preadv(self._fd, [view[:wanted]], at) != wanted:
                    raise FsError(errno.EIO, "it became shorter while it was read")
                for start in range(0, wanted, _BLOCK):
                    end_of_block = min(start + _BLOCK, wanted)
                    if not buffer.startswith(_ZEROS[: end_of_block - start], start):
                        self._hash.update((at + start).to_bytes(8, "little"))
                        self._hash.update(view[start:end_of_block])
                at += wanted
                yield wanted


def digest_of(fd: int) -> Digest:
    """Return the digest of a file.

    Args:
        fd: as for DigestReader.

    Raises:
        OSError: the file cannot be read.
    """
    reader = DigestReader(fd)
    while not reader.is_done:
        reader.advance(_READ)
    return reader.result()
