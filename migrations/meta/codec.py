"""The META file of mini_fo: bytes in, records out, and back again.  No I/O, no knowledge of any tree.

mini_fo kept one such file in each storage directory in which something was deleted or into which a base directory was
moved.  The whole grammar, as the kernel module wrote it:

    file = line*
    line = "D" SP name LF                 the base name is hidden (a whiteout)
         | "R" SP oldpath SP newname LF   the base directory oldpath (base terms) is newname's base side

Bytes, no escaping, no encoding, no checksum; appended without a sync.  So a file may end in half a line, and a name
with a line feed, or an old path with a blank, does not read back as it was written: see ``misread``.  The rule kept
here is that nothing is guessed and nothing is dropped in silence: what is not a record is reported with its line and
bytes.  Names are never decoded; one that looks like base64 is a name.
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
        """Every way to part the line into an old path and a new name, the kernel's (at the first blank) first."""
        text = self.old + b" " + self.new
        cuts = [at for at, byte in enumerate(text) if byte == 0x20]
        return [Redirect(text[:at], text[at + 1 :]) for at in cuts]


Record = Whiteout | Redirect


class Skipped(NamedTuple):
    """A line that holds no record: its number (from 1), its bytes without the line feed, and why."""

    line: int
    raw: bytes
    reason: str


class Meta(NamedTuple):
    """What a META file says: its records in file order, the line of each, and what was skipped."""

    records: list[Record]
    lines: list[int]
    skipped: list[Skipped]


def parse(data: bytes) -> Meta:
    """Read a META file, tolerantly.

    A line is taken as the kernel module took it: the byte after the letter is not looked at, an R line is parted at the
    first blank.  An unterminated tail and lines with a NUL, which crashed the module or made it invent names, are
    skipped, as are unknown lines.

    Args:
        data: the whole file; none is so damaged that this fails.
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
    """The record a line holds, or why it holds none."""
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
    """The bytes the kernel module would have written, record by record; it checks nothing (see ``misread``)."""
    return b"".join(
        b"D %b\n" % record.name if isinstance(record, Whiteout) else b"R %b %b\n" % record for record in records
    )


def misread(record: Record) -> str | None:
    """Why a record would not be read back as it is written, or None if it would."""
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
    """The two lists as the kernel module held them: newest first, so that of several equal new names the last wins."""
    newest = list(reversed(records))
    return [r for r in newest if isinstance(r, Whiteout)], [r for r in newest if isinstance(r, Redirect)]


def without_redirect(records: Sequence[Record], new: bytes) -> list[Record]:
    """The records left after the kernel module dropped the R of *new*, in the order it rewrote them.

    It did so when a renamed directory was renamed again: all D lines, then all R lines, each newest first.
    """
    hidden, moved = kernel_lists(records)
    for at, redirect in enumerate(moved):
        if redirect.new == new:
            del moved[at]
            break
    return [*hidden, *moved]
