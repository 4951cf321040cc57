"""Keep-lists: patterns of what a reset keeps, under a name, in the storage itself.

Each list is a fact in the table ``overlay``: its key is ``keep_list:`` and the name, its value the patterns as UTF-8,
a line for each.  A list is of no state of the overlay: a return to a checkpoint does not change it, nor does a reset.
The list ``default`` is used by a reset that is told nothing of what to keep.
"""

from __future__ import annotations

from collections.abc import Sequence

from .checkpoints import Checkpoints
from .errors import Corrupt, FsError, StateError
from .store.database import Database
from .store.statements import DROP_FACT, PUT_FACT
from .tree.row_checks import KEEP_LIST, KEEP_LIST_MAX, KEEP_LISTS_MAX, is_label, keep_list

DEFAULT = "default"
_ALL = "SELECT key, value FROM overlay"


class KeepLists:
    """The keep-lists of one overlay.

    Args:
        db: the overlay's database.
        checkpoints: change facts durably.
    """

    def __init__(self, db: Database, checkpoints: Checkpoints) -> None:
        self._db = db
        self._checkpoints = checkpoints

    def all(self) -> dict[str, list[str]]:
        """Return the patterns of each list, by name.

        Raises:
            Corrupt: a list is impossible.
        """
        try:
            facts = self._db.rows(_ALL)
        except FsError as error:
            raise _damaged(f"the keep-lists cannot be read ({error.filename or error.strerror})") from error
        found: dict[str, list[str]] = {}
        for key, value in facts:
            if not isinstance(key, str) or not key.startswith(KEEP_LIST):
                continue
            patterns = keep_list(key, value)
            if patterns is None or len(found) == KEEP_LISTS_MAX:
                raise _damaged(f"the keep-list {key.removeprefix(KEEP_LIST)!r:.100} is impossible")
            found[key.removeprefix(KEEP_LIST)] = patterns
        return dict(sorted(found.items()))

    def find(self, name: str) -> list[str]:
        """Return the patterns of a list.

        Raises:
            StateError: there is none with that name.
        """
        found = self.all().get(name)
        if found is None:
            raise StateError(f"there is no keep-list {name!r:.100}", "see them: minifo keep-list list")
        return found

    def set(self, name: str, patterns: Sequence[str]) -> None:
        """Make a list, or give it other patterns; durable when this returns.

        Args:
            name: up to 64 letters, digits and ``. _ + : -``.
            patterns: one or more, as in .gitignore.

        Raises:
            StateError: the name or a pattern is impossible, they are too many, or storage failed.
        """
        if not is_label(name):
            raise StateError(
                f"{name!r:.100} cannot be the name of a keep-list",
                "use up to 64 letters, digits and . _ + : -, and begin with a letter or a digit",
            )
        wrong = next((pattern for pattern in patterns if not _is_pattern(pattern)), None)
        if wrong is not None or not patterns:
            raise StateError(
                f"{wrong!r:.100} cannot be in a keep-list" if wrong is not None else "the keep-list has no pattern",
                "give one or more patterns, each one line of text",
            )
        value = "\n".join(patterns).encode()
        if len(value) > KEEP_LIST_MAX:
            raise StateError(
                f"the keep-list has {len(value)} bytes, {KEEP_LIST_MAX} are possible", "make several, or use wildcards"
            )
        known = self.all()
        if name not in known and len(known) >= KEEP_LISTS_MAX:
            raise StateError(f"there are {len(known)} keep-lists already", "delete one: minifo keep-list delete")
        self._checkpoints.note(lambda: self._db.change(PUT_FACT, (KEEP_LIST + name, value)))

    def delete(self, names: Sequence[str]) -> None:
        """Delete lists, all or none; durable when this returns.

        Raises:
            StateError: there is none with one of the names, or storage failed.
        """
        for name in names:
            self.find(name)

        def drop() -> None:
            for name in names:
                self._db.change(DROP_FACT, (KEEP_LIST + name,))

        self._checkpoints.note(drop)

    def chosen(self, patterns: Sequence[str], names: Sequence[str], *, default: bool) -> tuple[list[str], list[str]]:
        """Return all patterns that a reset is to keep, and the names of the lists that they are of.

        Args:
            patterns: those that were given.
            names: lists that were named.
            default: True to use the list ``default``, if there is one and neither patterns nor names were given.

        Raises:
            StateError: there is no list with one of the names.
        """
        lists = list(names)
        if default and not (patterns or names) and DEFAULT in self.all():
            lists = [DEFAULT]
        return [*patterns, *(pattern for name in lists for pattern in self.find(name))], lists


def _is_pattern(pattern: str) -> bool:
    try:
        pattern.encode()
    except UnicodeEncodeError:
        return False
    return bool(pattern.strip()) and not {"\n", "\r", "\0"} & set(pattern)


def _damaged(what: str) -> Corrupt:
    return Corrupt(what, "unmount the overlay, and run minifo-fsck on its storage")
