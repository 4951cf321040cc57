"""The format of mini_fo's META files: conversion of bytes to records and back, without any I/O.

mini_fo kept a META file in each storage directory in which an entry was deleted or into which a base directory was
moved.  The whole grammar, as the kernel module wrote it:

    file = line*
    line = "D" SP name LF                 the base name is hidden (a whiteout)
         | "R" SP oldpath SP newname LF   the base directory oldpath (base terms) is newname's base side

Names are bytes without escaping, and the file has no checksum.  The module appended lines without a sync, so a file may
end in half a line.  A name with a line feed, or an old path with a blank, is read back as another one (``misread``).
The rule here: guess nothing and drop nothing silently; a line that is not a record is reported with its number and
bytes.  Names are never decoded: a name that looks like base64 is that name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

META_NAME = b"META_dAfFgHE39ktF3HD2sr"
META_MODE = 0o600

_PAGE = 4096  # bytes; longer lines crashed or hung the kernel module


class Whiteout(NamedTuple):
    """A D line: the base name is hidden."""

    name: bytes


class Redirect(NamedTuple):
    """An R line: ``new`` in this directory has the base directory ``old`` (base terms) as its base side."""

    old: bytes
    new: bytes

    def readings(self) -> list[Redirect]:
        """Return all ways to split the line into an old path and a new name.

        The first one is that of the kernel module, which split the line at the first blank.
        """
        text = self.old + b" " + self.new
        cuts = [at for at, byte in enumerate(text) if byte == 0x20]
        return [Redirect(text[:at], text[at + 1 :]) for at in cuts]


Record = Whiteout | Redirect


class Skipped(NamedTuple):
    """A line that is not a record: its number (from 1), its bytes without the line feed, and the reason."""

    line: int
    raw: bytes
    reason: str


class Meta(NamedTuple):
    """The content of a META file: its records in file order, the line number of each, and the skipped lines."""

    records: list[Record]
    lines: list[int]
    skipped: list[Skipped]


def parse(data: bytes) -> Meta:
    """Parse a META file and return its records; a damaged file is never an error.

    Lines are parsed as the kernel module parsed them: the byte after the letter is ignored, and an R line is split at
    the first blank.  Unknown lines are skipped; so are an unterminated last line and lines with a NUL, which crashed
    the module or made it read wrong names.

    Args:
        data: the bytes of the whole file.
    """
    meta = Meta([], [], [])
    lines = data.split(b"\n")
    tail = lines.pop()
    for number, line in enumerate(lines, 1):
        record = _record(line)
        if isinstance(record, str):
            meta.skipped.append(Skipped(number, line, record))
        else:
            meta.records.append(record)
            meta.lines.append(number)
    if tail:
        meta.skipped.append(Skipped(len(lines) + 1, tail, "the line is not terminated: its write was cut short"))
    return meta


def _record(line: bytes) -> Record | str:
    """Return the record of a line, or the reason why it is not a record."""
    if not line:
        return "blank line"
    if b"\0" in line:
        return "holds a NUL byte"
    if line[:1] not in (b"D", b"R"):
        return "neither D nor R"
    if len(line) < 2:
        return "no name"
    if line[:1] == b"D":
        return Whiteout(line[2:])
    old, blank, new = line[2:].partition(b" ")
    return Redirect(old, new) if blank else "no new name"


def emit(records: Iterable[Record]) -> bytes:
    """Return the lines that the kernel module would have written for *records*; names are not checked (``misread``)."""
    return b"".join(
        b"D %b\n" % record.name if isinstance(record, Whiteout) else b"R %b %b\n" % record for record in records
    )


def misread(record: Record) -> str | None:
    """Return the reason why the module would read a record back as another one, or None if it would not."""
    names = (record.name,) if isinstance(record, Whiteout) else record
    if any(b"\n" in name for name in names):
        return "a line feed in a name cannot be written"
    if any(b"\0" in name for name in names):
        return "a NUL in a name cannot be written"
    if isinstance(record, Redirect) and b" " in record.old:
        return "a blank in the old path of a renamed directory is read as its end"
    if len(emit([record])) >= _PAGE:
        return "the line is longer than a page"
    return None


def kernel_lists(records: Sequence[Record]) -> tuple[list[Whiteout], list[Redirect]]:
    """Return the D and the R records as the kernel module kept them in memory: two lists, each with the newest first.

    So of several R records with the same new name the last one in the file counts.
    """
    newest = list(reversed(records))
    return [r for r in newest if isinstance(r, Whiteout)], [r for r in newest if isinstance(r, Redirect)]


def without_redirect(records: Sequence[Record], new: bytes) -> list[Record]:
    """Return the records of a META file without the R record of the name *new*, in the order of the kernel module.

    The module rewrote the file in this way when a renamed directory was renamed again: all D lines, then all R lines,
    each with the newest first.
    """
    hidden, moved = kernel_lists(records)
    for at, redirect in enumerate(moved):
        if redirect.new == new:
            del moved[at]
            break
    return [*hidden, *moved]
