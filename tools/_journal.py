"""The journal of an overlay, mounted or not, as one thing: entries forward, backward, and as they come.

A daemon is asked at its control socket, some hundred entries at a time.  So what is not committed yet is there too, and
no answer holds up requests for long.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import time
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from ..engine.errors import StateError
from ..engine.model import JournalEntry, JournalSlice
from ..fusefront.control.client import ControlClient, Refused
from ._common import printable
from ._output import plain
from ._target import at_rest, storage_of

if TYPE_CHECKING:
    from ..engine import Overlay

_PATIENCE = 30.0  # seconds that one answer may take
_ARROWS = {"rename": "->", "exchange": "<->", "link": "=>"}
_POLL = 0.25  # seconds between two looks for new entries


class Source(Protocol):
    """Where entries come from."""

    def ask(self, first: int | None, end: int | None, *, backward: bool = False) -> JournalSlice:
        """Return entries with ids in a range, and set ``limit``, ``first`` and ``end``."""
        ...

    limit: int | None
    first: int
    end: int


class _AtRest:
    """The journal of an overlay that no daemon writes to."""

    limit: int | None = None

    def __init__(self, overlay: Overlay) -> None:
        self._journal = overlay.journal
        self.first, self.end = self._journal.bounds()

    def ask(self, first: int | None, end: int | None, *, backward: bool = False) -> JournalSlice:
        first = self.first if first is None else first
        return self._journal.read(first, self.end if end is None else end, backward=backward)


class _Live:
    """The journal of a mounted overlay, as its daemon tells it."""

    def __init__(self, client: ControlClient) -> None:
        self._client = client
        self.ask(1, 1)

    def ask(self, first: int | None, end: int | None, *, backward: bool = False) -> JournalSlice:
        said = self._client.call("Journal", first=first, end=end, backward=backward)
        self.limit, self.first, self.end = said["limit"], said["first"], said["end"]
        return JournalSlice([_entry(told) for told in said["entries"]], said["next"], said["impossible"])


def _entry(told: dict[str, Any]) -> JournalEntry:
    encoded = {name: os.fsencode(told[name]) for name in ("path", "other", "command") if told[name] is not None}
    return JournalEntry(**{name: told[name] for name in JournalEntry._fields} | encoded)


class Journal:
    """The entries of one overlay.

    Args:
        source: where they come from.

    Attributes:
        impossible: how many damaged entries were left out so far.
        dropped: how many entries were gone before ``follow`` could yield them.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.impossible = 0
        self.dropped = 0

    @property
    def limit(self) -> int | None:
        """How many entries the mount keeps, 0 if it writes none; None if the overlay is not mounted."""
        return self._source.limit

    @property
    def is_empty(self) -> bool:
        """Whether there are no entries."""
        return self._source.first == self._source.end

    @property
    def end(self) -> int:
        """The id after that of the last entry."""
        return self._source.end

    def forward(self) -> Iterator[JournalEntry]:
        """Yield all entries that there are now, the oldest first."""
        yield from self._range(self._source.first, self._source.end)

    def _range(self, at: int, end: int) -> Iterator[JournalEntry]:
        while at < end:
            found = self._take(at, end)
            yield from found.entries
            at = found.next

    def backward(self) -> Iterator[list[JournalEntry]]:
        """Yield the entries that there are now in pieces, the newest first."""
        first, end = self._source.first, self._source.end
        while first < end:
            found = self._take(first, end, backward=True)
            yield found.entries
            end = found.next

    def follow(self, at: int) -> Iterator[list[JournalEntry]]:
        """Yield entries as they come, in pieces, from the id *at* on, until the overlay is unmounted."""
        while True:
            try:
                found = self._take(at, None)
            except Refused:
                raise
            except StateError:
                return  # the daemon has ended
            self.dropped += max(0, min(self._source.first, found.next) - at)
            at = max(at, found.next)
            yield found.entries
            if at >= self._source.end:
                time.sleep(_POLL)

    def _take(self, first: int, end: int | None, *, backward: bool = False) -> JournalSlice:
        found = self._source.ask(first, end, backward=backward)
        self.impossible += found.impossible
        return found


@contextlib.contextmanager
def opened_journal(target: str, base: str | None) -> Iterator[Journal]:
    """Open the journal of the overlay that TARGET means.

    Args:
        target: a storage directory, or a path in a mounted overlay.
        base: the base directory of one that is not mounted; None for that of its last mount.

    Raises:
        NotMinifo: there is no overlay.
        StateError: it cannot be opened, or its daemon does not answer.
    """
    storage = storage_of(target)
    overlay = at_rest(storage, base)
    if overlay is None:
        with ControlClient(storage, _PATIENCE) as client:
            yield Journal(_Live(client))
        return
    try:
        yield Journal(_AtRest(overlay))
    finally:
        overlay.close()


# -- for people


@cache
def user_name(uid: int) -> str:
    """Return the name that this machine has for a user, or the number."""
    try:
        return printable(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return str(uid)


def where(entry: JournalEntry) -> str:
    """Return the path of an entry, or its two paths, as one line of printable text."""
    path = _path(entry.path)
    if entry.other is None:
        return path
    other = _path(entry.other)
    ends = (path, other) if entry.op == "link" else (other, path)
    return f" {_ARROWS.get(entry.op, '->')} ".join(ends)


def _path(path: bytes) -> str:
    return plain(path) if path.startswith((b"/", b"<")) else f".../{plain(path)}"
