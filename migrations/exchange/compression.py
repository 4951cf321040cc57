"""Compression of archives: by the end of the file's name when one is written, by its first bytes when one is read."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from typing import BinaryIO, cast

from ...engine import StateError

_LEVEL = 6  # of gzip(1), if nothing else is said
_SUFFIXES = {".gz": "gzip", ".tgz": "gzip", ".zst": "zstd", ".tzst": "zstd"}


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
