"""Compression of archives: by the end of the file's name when one is written, by its first bytes when one is read."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import subprocess
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from typing import IO, BinaryIO, Protocol, cast

from ...engine import StateError

_LEVEL = 6  # of gzip(1), if nothing else is said
_SUFFIXES = {".gz": "gzip", ".tgz": "gzip", ".zst": "zstd", ".tzst": "zstd"}
_GZIP, _BZIP2, _XZ, _ZSTD = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"  # how they begin
#: What reading a damaged compressed stream raises; of bzip2 an OSError without errno.
DAMAGES = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


class Peekable(Protocol):
    """A stream whose first bytes can be looked at."""

    def peek(self, size: int, /) -> bytes: ...
    def read(self, size: int | None = -1, /) -> bytes: ...


class Compression(StrEnum):
    """How an archive is compressed."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


def by_name(path: str) -> Compression:
    """Return the compression that the end of a file's name says."""
    found = [name for suffix, name in _SUFFIXES.items() if path.endswith(suffix)]
    return Compression(found[0]) if found else Compression.NONE


@contextmanager
def compressed(out: BinaryIO, compression: Compression) -> Iterator[BinaryIO]:
    """Yield a stream whose bytes reach *out* compressed; all of them do when the block ends.

    Args:
        out: a file with a descriptor.
        compression: how.

    Raises:
        StateError: the program zstd is missing, or failed.
        OSError: *out* cannot be written.
    """
    if compression is Compression.NONE:
        yield out
    elif compression is Compression.GZIP:
        # without a name and a time, so that the same bytes come of the same tree
        with gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=out, mtime=0) as packed:
            yield cast(BinaryIO, packed)
    else:
        with _zstd(out) as packed_by_program:
            yield packed_by_program


@contextmanager
def _zstd(out: BinaryIO) -> Iterator[BinaryIO]:
    out.flush()
    process = subprocess.Popen([_program("zstd"), "-q", "-c"], stdin=subprocess.PIPE, stdout=out.fileno())
    assert process.stdin is not None
    try:
        yield cast(BinaryIO, process.stdin)
        process.stdin.close()
    except BrokenPipeError as error:
        raise StateError("zstd ended before it had all", "see its message above, and the free space") from error
    except BaseException:
        process.kill()  # nobody wants what it has written
        raise
    finally:
        with suppress(BrokenPipeError):  # it has ended, and so have the bytes that wait for it
            process.stdin.close()
        code = process.wait()
    if code:
        raise StateError(f"zstd failed (exit code {code})", "see its message above, and the free space")


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise StateError(f"the program {name} is not installed", "install it, or choose --compress gzip")
    return found


@contextmanager
def decompressed(stream: Peekable) -> Iterator[BinaryIO]:
    """Yield a stream with the bytes of another one, which its first bytes tell to be compressed, or not.

    Reading it raises EOFError, or another of ``DAMAGES``, where the compressed bytes are damaged.

    Raises:
        StateError: the program zstd is missing, or found damage.
    """
    begin = stream.peek(len(_XZ))
    if begin.startswith(_GZIP):
        with gzip.GzipFile(fileobj=cast(BinaryIO, stream), mode="rb") as plain:
            yield cast(BinaryIO, plain)
    elif begin.startswith(_BZIP2):
        with bz2.open(cast(BinaryIO, stream)) as plain_bzip2:
            yield cast(BinaryIO, plain_bzip2)
    elif begin.startswith(_XZ):
        with lzma.open(cast(BinaryIO, stream)) as plain_xz:
            yield cast(BinaryIO, plain_xz)
    elif begin.startswith(_ZSTD):
        with _unpacked_by_zstd(stream) as unpacked:
            yield unpacked
    else:
        yield cast(BinaryIO, stream)


@contextmanager
def _unpacked_by_zstd(stream: Peekable) -> Iterator[BinaryIO]:
    words = [_program("zstd"), "-q", "-d", "-c"]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    feeder = threading.Thread(target=_feed, args=(stream, process.stdin), daemon=True)
    feeder.start()
    try:
        yield cast(BinaryIO, process.stdout)
        process.stdout.read()  # it says only at the end whether the checksum is right
        said = process.stderr.read()
        if process.wait():
            raise StateError(f"zstd: {said.decode('utf-8', 'replace').strip()}", "nothing was imported; fetch it again")
    finally:
        process.kill()
        process.stdout.close()
        process.stderr.close()
        process.wait()


def _feed(stream: Peekable, to: IO[bytes]) -> None:
    with suppress(BrokenPipeError), to:  # the program has ended, and its exit code says why
        shutil.copyfileobj(stream, to, 1 << 20)
