"""What a backup holds, and its two forms: an archive of tar, and a directory.

    backup.json      what it is, and the content objects that its database needs
    minifo.db        the database
    content/…        content objects: all of them, or those that an earlier backup has not
    digests.json     the digest of each file above

The first three unpacked are a storage.  The list of objects comes first, so that the next backup need not read more of
this one, and digests come last, so that a backup is written in one pass, also to a pipe.  Objects are told to be the
same by what stat(2) says of them, as rsync(1) does it, but with the time of change, which nobody can set.
"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any, NamedTuple

from ...engine import StateError
from ...engine.errors import NewerFormat
from ...engine.model import FILE_MAX, OBJECTS_END

HEADER, DATABASE, DIGESTS = "backup.json", "minifo.db", "digests.json"
FORMAT, VERSION = "minifo-backup", 1
JSON_MAX = 1 << 30  # bytes of one of these files
_HINT = "nothing was restored; fetch it again"
_NUMBERS = 6


class Object(NamedTuple):
    """A content object.

    Attributes:
        number: its id.
        size: bytes.
        inode, mtime, ctime: of its file in the storage; times in ns.
        is_here: whether this backup has its bytes, and not an earlier one.
    """

    number: int
    size: int
    inode: int
    mtime: int
    ctime: int
    is_here: bool = True

    def same_as(self, other: Object | None) -> bool:
        """Return whether two entries are of the same bytes of the same file."""
        return other is not None and self[:5] == other[:5]


class Header(NamedTuple):
    """What a backup says of itself.

    Attributes:
        id: of the backup.
        since: id of the backup that has the other objects; None: it has all.
        base: path of its base.
        storage: device and inode of the storage directory, by which the next backup knows that it is the same one.
        time: when it was made, in ns since the epoch.
        objects: all that the database needs, sorted.
    """

    id: str
    since: str | None
    base: str
    storage: tuple[int, int]
    time: int
    objects: list[Object]

    def encoded(self) -> bytes:
        """Return it as JSON, with a line for each object."""
        told = {"format": FORMAT, "version": VERSION, **self._asdict(), "objects": []}
        lines = ",\n".join(
            json.dumps([*entry[:5], int(entry.is_here)], separators=(",", ":")) for entry in self.objects
        )
        return json.dumps(told)[: -len("]}")].encode() + b"\n" + lines.encode() + b"\n]}\n"


def header_of(data: bytes, source: str) -> Header:
    """Return what JSON says of a backup.

    Args:
        data: the JSON.
        source: the backup's name, for messages.

    Raises:
        NewerFormat: a newer minifo has made it.
        StateError: it is no backup, or a damaged one.
    """
    try:
        told = json.loads(data)
        if told["format"] != FORMAT:
            raise ValueError(f"its format is {told['format']!r:.60}")
        if told["version"] != VERSION:
            raise NewerFormat(
                f"{source} is a backup of version {told['version']!r:.20}, and this minifo knows {VERSION}",
                "use a newer minifo",
            )
        objects = [_object(entry) for entry in told["objects"]]
        if any(one.number >= two.number for one, two in pairwise(objects)):
            raise ValueError("its objects are not in order")
        texts = [told[key] for key in ("id", "base")]
        first, second = told["storage"]
        if not all(isinstance(text, str) for text in texts) or not isinstance(told["since"], str | None):
            raise TypeError("no text where there should be some")
        if not all(type(number) is int for number in (first, second, told["time"])):
            raise TypeError("no number where there should be one")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise damaged(source, f"{HEADER}: {error}") from error
    return Header(told["id"], told["since"], texts[1], (first, second), told["time"], objects)


def _object(entry: Any) -> Object:
    if len(entry) != _NUMBERS or not all(type(number) is int for number in entry):
        raise ValueError(f"{entry!r:.80} is no object")
    found = Object._make([*entry[:5], bool(entry[5])])
    if not (0 < found.number < OBJECTS_END and 0 <= found.size <= FILE_MAX):
        raise ValueError(f"{entry!r:.80} is an impossible object")
    return found


def digests_of(data: bytes, source: str) -> dict[str, str]:
    """Return the digests of the files of a backup, by their names.

    Raises:
        StateError: they are damaged.
    """
    try:
        found = json.loads(data)
        if not all(isinstance(digest, str) for digest in found.values()):
            raise TypeError("no text")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(source, f"{DIGESTS}: {error}") from error
    return dict(found)


def damaged(source: str, why: str) -> StateError:
    """Return the error for a backup that is not as it was written."""
    return StateError(f"{source} is no backup, or a damaged one ({why})", _HINT)
