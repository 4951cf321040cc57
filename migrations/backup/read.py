"""Reads backups: what one says of itself, and its files, each compared with its digest."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from ...engine import StateError
from ...engine.store.confined_dir import ConfinedDir
from ...engine.store.object_paths import object_number
from ...engine.store.syscalls import data_ranges
from ..exchange.compression import decompressed
from .archive import File, files_in
from .contents import DATABASE, DIGESTS, HEADER, JSON_MAX, Header, damaged, digests_of, header_of

_COPY = 1 << 20  # bytes


def header_in(path: str) -> Header:
    """Return what a backup says of itself.

    Raises:
        StateError: it is no backup, or cannot be read.
    """
    with opened(path) as files:
        return _first(files, path)


def _first(files: Iterator[File], path: str) -> Header:
    first = next(files, None)
    if first is None or first.name != HEADER:
        raise damaged(path, f"it does not begin with {HEADER}")
    return header_of(_bytes(first, path), path)


def files_of(path: str, take: Callable[[File], str]) -> Header:
    """Call *take* with each file of a backup that belongs to a storage, and compare digests.

    Args:
        path: of the backup.
        take: uses up the file, and returns its digest in hexadecimal.

    Returns:
        What the backup says of itself.

    Raises:
        StateError: it is damaged, or has what no backup has.
    """
    with opened(path) as files:
        header = _first(files, path)
        wanted = {entry.number: entry.size for entry in header.objects if entry.is_here}
        found: dict[str, str] = {}
        said: dict[str, str] | None = None
        for file in files:
            if said is not None:
                raise damaged(path, f"{file.name!r:.100} after its end")
            if file.name == DIGESTS:
                said = digests_of(_bytes(file, path), path)
                continue
            directory, _, name = file.name.rpartition("/")
            number = object_number(directory, name) if directory else None
            is_expected = file.name == DATABASE if number is None else wanted.pop(number, None) == file.size
            if not is_expected or file.name in found:
                raise damaged(path, f"{file.name!r:.100} does not belong to it")
            found[file.name] = take(file)
    if said is None or wanted or DATABASE not in found:
        raise damaged(path, "it has no end")
    wrong = next((name for name in found if said.get(name) != found[name]), None)
    if wrong is not None or len(said) != len(found):
        raise damaged(path, f"{wrong or DIGESTS} has other bytes than when it was written")
    return header


def _bytes(file: File, path: str) -> bytes:
    if file.size > JSON_MAX:
        raise damaged(path, f"{file.name} has {file.size:,} bytes")
    data = bytearray(file.size)
    for at, piece in file.pieces:
        data[at : at + len(piece)] = piece
    return bytes(data)


@contextmanager
def opened(path: str) -> Iterator[Iterator[File]]:
    """Yield the files of a backup, in their order.

    Args:
        path: an archive or a directory; ``-`` is an archive on standard input.

    Raises:
        StateError: it cannot be read.
    """
    try:
        if path != "-" and os.path.isdir(path):
            directory = ConfinedDir(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            try:
                yield _in_directory(directory)
            finally:
                directory.close()
            return
        stream: BinaryIO = sys.stdin.buffer if path == "-" else open(path, "rb")  # noqa: SIM115  # closed below
    except OSError as error:
        raise StateError(f"{path} cannot be read ({error.strerror})", "check the path") from error
    try:
        with decompressed(io.BufferedReader(stream, _COPY) if path == "-" else stream) as plain:  # type: ignore[arg-type,type-var]
            yield files_in(plain, path)
    finally:
        if path != "-":
            stream.close()


def _in_directory(directory: ConfinedDir) -> Iterator[File]:
    names = [HEADER, DATABASE]
    if directory.find("content") is not None:
        names += [
            f"content/{block}/{name}"
            for block in sorted(directory.names("content"))
            for name in sorted(directory.names(f"content/{block}"))
        ]
    for name in [*names, DIGESTS]:
        fd = os.open(directory.at(name)[1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory.at(name)[0])
        try:
            yield File(name, os.fstat(fd).st_size, _pieces(fd))
        finally:
            os.close(fd)


def _pieces(fd: int) -> Iterator[tuple[int, bytes]]:
    size = os.fstat(fd).st_size
    for start, end in data_ranges(fd, 0, size):
        for at in range(start, end, _COPY):
            yield at, os.pread(fd, min(_COPY, end - at), at)
