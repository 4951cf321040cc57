"""Whose tree is this?  Compares what a crash left with the trees of the commits that it may be.

Everything must be equal, but for the bytes of files that were overwritten in place since that commit: those may be old
or new, block by block (promise P1's parenthesis), and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.crash.disk_model import SECTOR
from tests.crash.recorded_overlay import Entry, Recording, Seen

_PIECES = 3  # a sector of storage may hold only a part of a sector of the file: an extent's beginning, end, or both


def match(recording: Recording, seen: Seen, point: int, oldest: int, newest: int) -> int | None:
    """The number of the commit whose tree and checkpoints these are, or None."""
    possible = [number for number in range(newest, oldest - 1, -1) if number not in recording.halves]
    for number in possible:
        if seen == recording.commits[number]:
            return number
    for number in possible:
        if all(why is None for why in differences(recording, number, seen, point)):
            return number
    return None


def differences(recording: Recording, number: int, seen: Seen, point: int) -> Iterator[str | None]:
    """What sets this apart from a commit; None for a file that differs as it may."""
    if number in recording.halves:
        yield "it is half of what is to be done at once"
    tree, points = seen
    expected, expected_points = recording.commits[number]
    if points != expected_points:
        yield f"checkpoints {points} for {expected_points}"
    if tree.keys() != expected.keys():
        missing, extra = expected.keys() - tree.keys(), tree.keys() - expected.keys()
        yield f"missing {sorted(missing)}, extra {sorted(extra)}"
        return
    for path, entry in tree.items():
        wanted = expected[path]
        if entry == wanted:
            continue
        if entry._replace(content=b"") != wanted._replace(content=b""):
            fields = [
                f"{name} {mine!r} for {other!r}"
                for name, mine, other in zip(Entry._fields[:-1], entry, wanted, strict=False)
                if mine != other
            ]
            yield f"{path!r}: {', '.join(fields)}"
        else:
            yield _content_difference(recording, number, path, entry, wanted, point)


def _content_difference(
    recording: Recording, number: int, path: bytes, entry: Entry, wanted: Entry, point: int
) -> str | None:
    """Old or new, block by block: None if every block is one the file had since that commit."""
    began = _sealed_at(recording, number)
    candidates = [wanted.content]
    size = len(wanted.content)
    for at, content in recording.versions.get(entry.ino, ()):
        if began <= at <= point:
            size = min(size, len(content))  # what was cut off since may not be written over before the cut is durable
            candidates.append(content[:size])
    for start in range(0, len(wanted.content), SECTOR):
        block = entry.content[start : start + SECTOR]
        if _pieces(block, [content[start : start + SECTOR] for content in candidates]) > _PIECES:
            if entry.content == b"\0" * len(entry.content):
                return f"{path!r}: {len(entry.content)} bytes of zeros"
            return f"{path!r}: bytes {start}-{start + len(block)} are none the file ever had: {block[:40]!r}"
    return None


def _pieces(block: bytes, versions: list[bytes]) -> int:
    """Of how many pieces of versions a block is made; more than there are bytes if it cannot be."""
    at = pieces = 0
    while at < len(block):
        longest = max(_same(block[at:], version[at:]) for version in versions)
        if longest == 0:
            return len(block) + 1
        at += longest
        pieces += 1
    return pieces


def _same(one: bytes, other: bytes) -> int:
    """How many bytes two begin with alike."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _sealed_at(recording: Recording, number: int) -> int:
    return next((at for at, op in enumerate(recording.ops) if op[:2] == ("seal", number)), 0)
