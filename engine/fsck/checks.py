"""The checks of minifo-fsck: read-only queries over one state of the tables, the content objects, and the base.

Each check yields problems with the row that is wrong.  One fault often breaks several rules, so a problem that only
follows from another one is left out of the result.  The tables must be readable: a damaged database is rebuilt first
(fsck/rebuild.py).
"""

from __future__ import annotations

import dataclasses
import errno
import os
import stat
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

from ..model import FILE_MAX, NAME_MAX, OBJECTS_END, ROOT
from ..store import invariants
from ..store.base_view import NOT_THERE, BaseView, join, split
from ..store.database import Database
from ..store.history import frozen_below
from ..tree import journal_entries
from ..tree.nodes import UNREACHED, Numbers
from ..tree.path_resolver import PathResolver, is_base_path
from ..tree.row_checks import KEEP_LIST, KEEP_LISTS_MAX, TWO_NAMED, keep_list, wrong_facts
from .object_inventory import ObjectInventory, kind_of
from .problems import Problem

_BY_NAME = {1, 2, 3, 6}  # invariants whose violations begin with (parent, name); most others begin with an inode number
_TYPES = "(4096, 8192, 16384, 24576, 32768, 40960, 49152)"
_NAMED = (
    "SELECT parent, name, ino, 'created' AS list FROM created"
    " UNION ALL SELECT parent, name, ino, 'renamed' FROM renamed"
)
_TYPE = 0o170000  # the bits of a mode that hold the file type
_OWN_BYTES = "(i.object IS NOT NULL OR i.mapped = 1)"

_NAMED_OBJECTS = (
    "SELECT object FROM inode UNION SELECT object FROM extent"
    " UNION SELECT object FROM was_inode UNION SELECT object FROM was_extent"
)

Progress = Callable[[str, int, int], object]


class Checks:
    """All checks of one overlay.

    Args:
        db: the overlay's tables; they are only read.
        inventory: the overlay's content objects.
        base: the base to compare with; None to skip that comparison.
        live: True if a mount is changing storage at the same time: objects that no commit refers to are not reported.
        progress: called with the name of the step, the number of units done, and their total.

    Attributes:
        paths: the merged path of each inode.
        facts: the rows of the table ``overlay``.
    """

    def __init__(
        self,
        db: Database,
        inventory: ObjectInventory,
        base: BaseView | None = None,
        *,
        live: bool = False,
        progress: Progress = lambda what, done, total: None,
    ) -> None:
        self._db = db
        self._inventory = inventory
        self._base = base
        self._live = live
        self._progress = progress
        self.paths = PathResolver(db)
        self.facts: dict[str, Any] = dict(db.rows("SELECT key, value FROM overlay"))

    def run(self) -> list[Problem]:
        """Run all checks and return the problems, including notes.

        Raises:
            FsError: the database cannot be read.
        """
        parts: list[Callable[[], Iterator[Problem]]] = [self._check_facts]
        if not wrong_facts(self.facts):
            # these checks use the facts: with wrong facts every inode number would look wrong
            parts += [
                self._check_invariants,
                self._check_rows,
                self._check_link_counts,
                self._check_marks,
                self._check_counters,
            ]
            parts += [self._check_names, self._check_content, self._check_unowned, self._check_leftovers]
            parts += [self._check_journal]
            parts += [self._compare_with_base] if self._base is not None else []
        return self._run(parts)

    def run_state(self) -> list[Problem]:
        """Run the checks of the state that a checkpoint holds, for a database that shows it, and return the problems.

        Raises:
            FsError: the database cannot be read.
        """
        rows = [self._check_invariants, self._check_rows, self._check_link_counts, self._check_marks]
        return self._run([*rows, self._check_names, self._check_content])

    def _run(self, parts: list[Callable[[], Iterator[Problem]]]) -> list[Problem]:
        found: list[Problem] = []
        for index, part in enumerate(parts):
            self._progress("checking", index, len(parts))
            found += part()
        self._progress("checking", len(parts), len(parts))
        return _causes_only(found, self.paths)

    def _problem_at(self, code: str, ino: int, detail: str = "", key: tuple[object, ...] | None = None) -> Problem:
        """Return a problem of one inode; its key is the inode number unless *key* is given."""
        return Problem(code, self.paths.of(ino), detail, (ino,) if key is None else key)

    # -- facts and counters

    def _check_facts(self) -> Iterator[Problem]:
        """Check the rows of the table overlay (E209), keep-lists among them (E212)."""
        for key in wrong_facts(self.facts):
            yield Problem("E209", b"<overlay>", f"{key} is {self.facts.get(key, 'missing')!r}", (key,))
        lists = sorted(key for key in self.facts if isinstance(key, str) and key.startswith(KEEP_LIST))
        for count, key in enumerate(lists):
            if count >= KEEP_LISTS_MAX or keep_list(key, self.facts[key]) is None:
                yield Problem("E212", b"<overlay>", f"{key.removeprefix(KEEP_LIST)!r:.100}", (key,))

    def _check_counters(self) -> Iterator[Problem]:
        """Check the counters for inode numbers and content object ids (E208)."""
        window, end = self.facts["window"], self.facts["window_end"]
        created = (window, end - UNREACHED)
        highest = max(
            self._db.value(f"SELECT max(ino) FROM {table} WHERE ino >= ? AND ino < ?", created) or 0
            for table in ("inode", "was_inode")
        )
        # an impossible id has a finding of its own, and no object will ever get it
        used = f"SELECT max(object) FROM ({_NAMED_OBJECTS}) WHERE object < ?"
        highest_object = self._db.value(used, (OBJECTS_END,)) or 0
        least = {
            "next_ino": max(window, highest + 1),
            "next_object": max(1, highest_object + 1),
            "object_limit": max(self.facts["next_object"], highest_object + 1),
        }
        for key, value in least.items():
            if self.facts[key] < value:
                yield Problem("E208", b"<overlay>", f"{key} is {self.facts[key]} instead of {value}", (key, value))

    # -- rows

    def _check_invariants(self) -> Iterator[Problem]:
        """Check the numbered invariants (E001 to E019)."""
        for number, _, row in invariants.check(self._db):
            code = f"E{number:03d}"
            if number in _BY_NAME:
                place = self.paths.of_name(row[0], row[1])  # type: ignore[arg-type]
                yield Problem(code, place, "" if len(row) < 3 else f"inode {row[2]}", row)
            elif number == 14:
                yield Problem(code, self.owner_path(row[0]), f"object {row[0]}", row)  # type: ignore[arg-type]
            elif number == 20:
                yield Problem(code, f"<object {row[0]}>".encode(), "", row)
            elif number == 17:
                yield Problem(code, b"/", "", ())
            else:
                ino: int = row[0]  # type: ignore[assignment]
                rest = ", ".join(os.fsdecode(value) if isinstance(value, bytes) else str(value) for value in row[1:])
                yield self._problem_at(code, ino, f"inode {ino}" + (f": {rest}" if rest else ""), row)

    def owner_path(self, number: int) -> bytes:
        """Return the path of the file that owns a content object, or a text with the id if none does."""
        ino = self._owners.get(number)
        return self.paths.of(ino) if ino is not None else b"<object %d>" % number

    @cached_property
    def _owners(self) -> dict[int, int]:
        """The inode that owns each content object; of two owners, the one with the lower number."""
        sql = "SELECT object, ino FROM inode WHERE object IS NOT NULL UNION SELECT object, ino FROM extent"
        return dict(self._db.rows(sql + " ORDER BY ino DESC"))

    def _check_rows(self) -> Iterator[Problem]:
        """Check names (E203), attributes (E204), and rows that contradict each other (E205 to E207)."""
        for parent, name, ino, table in self._db.rows(
            f"SELECT * FROM ({_NAMED} UNION ALL SELECT parent, name, NULL, 'deleted' FROM deleted)"
            f" WHERE length(name) NOT BETWEEN 1 AND {NAME_MAX} OR name IN (x'2e', x'2e2e')"
            " OR instr(name, x'2f') OR instr(name, x'00')"
        ):
            yield Problem("E203", self.paths.of_name(parent, name), "", (parent, name, ino, table))
        for ino, mode, nlink, uid, gid in self._db.rows(
            f"SELECT ino, mode, nlink, uid, gid FROM inode WHERE (mode & 61440) NOT IN {_TYPES} OR mode < 0"
            " OR mode > 65535 OR nlink < 0 OR nlink > 4294967295 OR uid NOT BETWEEN 0 AND 4294967295"
            " OR gid NOT BETWEEN 0 AND 4294967295 OR ino < 1 OR (ino = 1 AND (mode & 61440) <> 16384)"
            " OR (ino >= ?1 - ?2 AND ino < ?1) OR rdev NOT BETWEEN 0 AND 4294967295 OR mapped NOT IN (0, 1)"
            " OR xattrs NOT IN (0, 1)",
            (self.facts["window_end"], UNREACHED),
        ):
            yield self._problem_at("E204", ino, f"inode {ino}, mode {mode:o}, links {nlink}, owner {uid}:{gid}")
        for ino, count in self._db.rows(TWO_NAMED):
            yield self._problem_at("E205", ino, f"{count} beside its own place" if count == 1 else f"{count} names")
        window = (self.facts["window"], self.facts["window_end"])
        for (ino,) in self._db.rows("SELECT ino FROM inode WHERE xattrs <> 1 AND ino >= ? AND ino < ?", window):
            yield self._problem_at("E206", ino)
        for (ino,) in self._db.rows(
            f"SELECT i.ino FROM inode i JOIN origin USING (ino) LEFT JOIN modified m USING (ino)"
            f" WHERE {_OWN_BYTES} AND m.content IS NOT 1"
        ):
            yield self._problem_at("E207", ino)

    def _check_link_counts(self) -> Iterator[Problem]:
        """Check the link counts of created directories (E202)."""
        subdirectories = f"(SELECT parent, count(*) AS n FROM ({_NAMED}) JOIN inode USING (ino)"
        sql = (
            f"SELECT i.ino, nlink, 2 + coalesce(n, 0) FROM inode i LEFT JOIN {subdirectories}"
            " WHERE (mode & 61440) = 16384 GROUP BY parent) s"
            " ON s.parent = i.ino WHERE i.ino >= ? AND i.ino < ? AND (mode & 61440) = 16384 AND nlink > 0"
            " AND nlink <> 2 + coalesce(n, 0)"
        )
        for ino, nlink, due in self._db.rows(sql, (self.facts["window"], self.facts["window_end"])):
            yield self._problem_at("E202", ino, f"{nlink} instead of {due}", (ino, due))

    def _check_marks(self) -> Iterator[Problem]:
        """Check that every directory above a base object with overlay state is marked (E201)."""
        marked = self.paths.by_path
        below_gone: list[tuple[bytes, int]] = []
        for path, ino in marked.items():
            directory = split(path)[0]
            if not is_base_path(path):
                yield Problem("E201", b"<base>" + path, "not a path", (ino, path), safe=False)
            elif directory in marked or ino == ROOT:
                continue
            elif self._is_deleted(directory):
                below_gone.append((path, ino))
            else:
                yield self._missing_mark(ino, path)
        lost = self._topmost_lost_paths() if below_gone else set()
        for path, ino in below_gone:
            if path in lost:
                # not safe: the mark makes the deleted directory show again
                yield dataclasses.replace(self._missing_mark(ino, path), safe=False)

    def _missing_mark(self, ino: int, path: bytes) -> Problem:
        return self._problem_at("E201", ino, f"{os.fsdecode(split(path)[0])} has no mark", (ino, path))

    @cached_property
    def _hidden(self) -> set[tuple[int, bytes]]:
        """All whiteouts, as pairs of directory number and name."""
        return set(self._db.rows("SELECT parent, name FROM deleted"))

    @cached_property
    def _orphans(self) -> set[int]:
        return {ino for (ino,) in self._db.rows("SELECT ino FROM orphan")}

    def _is_deleted(self, directory: bytes) -> bool:
        """Return whether a base directory that is not marked was deleted, by itself or with a directory above it.

        An object that the user moved or linked out of it before still has its base path below the directory.
        """
        marked = self.paths.by_path
        while directory != b"/":
            directory, name = split(directory)
            parent = marked.get(directory)
            if parent is not None:
                return parent in self._orphans or (parent, name) in self._hidden
        return False

    def _topmost_lost_paths(self) -> set[bytes]:
        """Return the topmost marked paths below deleted directories that lead to content in storage shown nowhere.

        Only a file that has exactly one name in the base counts: a file with several names may still show under
        another one, and attributes are kept for a file that the base lacks.  If the base is not known, all files count
        as soon as one renamed object has lost its base path.
        """
        found: set[bytes] = set()
        blind = self._base is None and self._db.value("SELECT 1 FROM renamed WHERE ino NOT IN (SELECT ino FROM origin)")
        for ino, links in self._db.rows(
            f"SELECT i.ino, coalesce(seen_links, 1) FROM inode i JOIN origin USING (ino)"
            f" WHERE {_OWN_BYTES} AND nlink > 0"
        ):
            path = self.paths.origins[ino]
            if not blind and not (links == 1 and self._has_one_name(path)):
                continue
            at = ino
            while at != ROOT and at not in self.paths.names:
                above = self.paths.by_path.get(split(path)[0])
                if above is None:
                    found.add(path)
                    break
                at, path = above, split(path)[0]
        return found

    def _check_names(self) -> Iterator[Problem]:
        """Check for base objects that show nowhere: no name in the overlay, and a hidden base path (E210)."""
        paths = self.paths
        directories = {split(path)[0] for path in paths.by_path}
        for ino, path in paths.origins.items():
            directory, name = split(path)
            if ino == ROOT or (paths.by_path.get(directory), name) not in self._hidden or ino in paths.names:
                continue
            row = self._db.row("SELECT mode, nlink, coalesce(seen_links, 1) FROM inode WHERE ino = ?", (ino,))
            mode, nlink, links = row or (stat.S_IFDIR if path in directories else 0, 1, 1)
            # a file with several names may show under another one: in this base, or in the one it was first seen in
            if nlink > 0 and (mode & _TYPE == stat.S_IFDIR or (links == 1 and self._has_one_name(path))):
                yield self._problem_at("E210", ino, f"its path was {os.fsdecode(path)}", (ino, path))

    def _has_one_name(self, path: bytes) -> bool:
        st = self._stat(path) if self._base is not None else None
        return isinstance(st, os.stat_result) and st.st_nlink == 1

    # -- content

    def _check_content(self) -> Iterator[Problem]:
        """Check the content objects of files: which exist, and how long they are (E301, E302, N303)."""
        sizes = self._inventory.sizes
        named: set[int] = set()
        for ino, number, size, bound, mapped in self._db.rows(
            "SELECT ino, object, size, bound, mapped FROM inode WHERE object > 0"
        ):
            named.add(number)
            actual = sizes.get(number)
            needed = size if bound is None else min(bound, size)
            if actual is None:
                yield self._problem_at("E301", ino, f"object {number}", (ino, number))
            elif actual == 0 and needed > 0:
                yield self._problem_at("E302", ino, f"object {number} is empty", (ino, number, needed))
            elif actual < needed and not mapped:
                yield self._problem_at("N303", ino, f"object {number} has {actual} of {needed} bytes", (ino, number))
        ends: dict[tuple[int, int], int] = {}
        for ino, number, end in self._db.rows(
            # what an impossible extent (E012) needs may exceed SQLite's integers
            f'SELECT ino, object, max(iif(start >= 0 AND "end" <= {FILE_MAX}'
            f' AND at BETWEEN 0 AND {FILE_MAX} - ("end" - start), at + ("end" - start), 0))'
            " FROM extent WHERE object > 0 GROUP BY ino, object"
        ):
            ends[ino, number] = end
        for (ino, number), end in ends.items():
            if number in named and number not in sizes:
                continue
            named.add(number)
            actual = sizes.get(number)
            if actual is None:
                yield self._problem_at("E301", ino, f"object {number}", (ino, number))
            elif actual < end:
                yield self._problem_at("E302", ino, f"object {number} has {actual} of {end} bytes", (ino, number, end))

    def _check_unowned(self) -> Iterator[Problem]:
        """Check which content objects belong to no file (E304, W306), and which digests to no object (E020)."""
        sizes = self._inventory.sizes
        named = {number for (number,) in self._db.rows(f"{_NAMED_OBJECTS} UNION SELECT object FROM garbage")}
        for number in sorted(sizes.keys() - named):
            first, limit = self.facts["next_object"], self.facts["object_limit"]
            if not (first <= number < limit or (self._live and number >= first) or number in self._inventory.unstable):
                yield Problem("E304", b"<object %d>" % number, f"{sizes[number]} bytes", (number,))
        below = frozen_below(self._db)
        for (number,) in self._db.rows("SELECT object FROM object_digest WHERE object > 0 AND object < ?", (below,)):
            if number not in sizes and number not in named and not self._live:
                yield Problem("E020", b"<object %d>" % number, "it does not exist", (number,))
        for name in sorted(self._inventory.strays):
            yield Problem("W306", os.fsencode(name), "", (name,))

    def _check_leftovers(self) -> Iterator[Problem]:
        """Count what the next mount removes (N401 to N403)."""
        sizes, first = self._inventory.sizes, self.facts["next_object"]
        count = self._db.value("SELECT count(*) FROM orphan JOIN inode USING (ino) WHERE nlink = 0")
        if count:
            yield Problem("N401", b"<overlay>", f"{count} files")
        count = self._db.value("SELECT count(*) FROM garbage")
        if count:
            yield Problem("N402", b"<overlay>", f"{count} objects")
        count = sum(first <= number < self.facts["object_limit"] for number in sizes)
        if count and not self._live:
            yield Problem("N403", b"<overlay>", f"{count} objects")

    def _check_journal(self) -> Iterator[Problem]:
        """Check the entries of the journal (E211)."""
        for number, why in journal_entries.impossible(self._db):
            yield Problem("E211", b"<journal>", f"entry {number}: {why}", (number,))

    # -- the base

    def _stat(self, path: bytes) -> os.stat_result | OSError | None:
        """Return the attributes of a base object or the error of reading them; None if the base has no such object."""
        assert self._base is not None
        if not is_base_path(path):
            return None
        try:
            return self._base.stat(path)
        except OSError as error:
            return None if error.errno in (*NOT_THERE, errno.ENAMETOOLONG) else error

    def _compare_with_base(self) -> Iterator[Problem]:
        """Compare the rows with the base (W501 to W507, N505)."""
        assert self._base is not None
        from ..tree.base_match import base_mark

        other = self.facts["base_mark"] not in (None, base_mark(self._base))
        if other:
            yield Problem("N505", b"/", f"last mounted with {self.facts['base']!r}")
        numbers = Numbers(self._base.root_stat, (self.facts["window"], self.facts["window_end"]))
        modes: dict[int, int] = dict(self._db.rows("SELECT ino, mode FROM inode"))
        stats: dict[int, os.stat_result] = {}
        gone: set[bytes] = set()
        for path, ino in sorted(self.paths.by_path.items()):
            st = self._stat(path)
            mode = modes.get(ino)
            if split(path)[0] in gone or not is_base_path(path):
                gone.add(path)
            elif st is None:
                gone.add(path)
                yield self._problem_at("W501", ino, f"base {os.fsdecode(path)}", (ino, path))
            elif isinstance(st, OSError):
                yield self._problem_at("W507", ino, st.strerror or str(st), (ino, path))
            elif mode is not None and ino != ROOT and mode & _TYPE != st.st_mode & _TYPE:
                gone.add(path)
                detail = f"a {kind_of(mode)} here, a {kind_of(st.st_mode)} in the base"
                yield self._problem_at("W502", ino, detail, (ino, path))
            else:
                stats[ino] = st
                if not other and numbers.of(st) != ino and ino < 1 << 62:
                    yield self._problem_at("W506", ino, f"{numbers.of(st)} instead of {ino}")
        for ino, content, size, mtime in self._db.rows("SELECT ino, content, base_size, base_mtime FROM modified"):
            st = stats.get(ino) if content else None
            if st is not None and stat.S_ISREG(st.st_mode) and (st.st_size, st.st_mtime_ns) != (size, mtime):
                yield self._problem_at(
                    "W503", ino, f"{size} bytes then, {st.st_size} now", (ino, st.st_size, st.st_mtime_ns)
                )
        for parent, name in self._db.rows("SELECT parent, name FROM deleted"):
            directory = self.paths.origins.get(parent)
            if directory is None or directory in gone or join(directory, name) in gone:
                continue
            if self._stat(join(directory, name)) is None:
                yield Problem("W504", self.paths.of_name(parent, name), "", (parent, name))


def _causes_only(found: list[Problem], paths: PathResolver) -> list[Problem]:
    """Return the problems without those that only follow from other ones."""
    inos: dict[str, set[object]] = {}
    for problem in found:
        if problem.key:
            inos.setdefault(problem.code, set()).add(problem.key[0])
    # made once, as sets: there may be as many problems as files
    rootless = any(problem.code == "E017" for problem in found)
    linked = {problem.key[2] for problem in found if problem.code == "E003" and len(problem.key) > 2}
    holders = {paths.names[ino][0] for ino in inos.get("E204", ()) if isinstance(ino, int) and ino in paths.names}

    def among(value: object, *codes: str) -> bool:
        return any(value in inos.get(code, ()) for code in codes)

    def follows(problem: Problem) -> bool:
        code, key = problem.code, problem.key
        if rootless:
            # without the root's row in origin, no object of the root directory has a path
            return code in ("E018", "E201") or (code in ("E002", "E004", "E006", "E008") and key[0] == ROOT)
        if code == "E002":
            # the directory has a name and shows again once E003 is repaired, or it gets its type back (E204)
            return key[0] in linked or among(key[0], "E204")
        if code == "E003":
            return among(key[2], "E009", "E010", "E204")
        if code in ("E009", "E010"):
            return among(key[0], "E008", "E204")
        if code == "E011":
            return among(key[0], "E009", "E010", "E204") or key[0] in linked
        if code == "E202" and (among(key[0], "E003") or key[0] in holders):
            return True  # the lost object with a name in it, or the one without a type, may be a directory: a link
        if code in ("E007", "E008", "E202"):
            return among(key[0], "E004") or (code != "E008" and among(key[0], "E008"))
        if code == "E018":
            broken = ("E002", "E004", "E006", "E008", "E009", "E204")
            return "E201" in inos or any(among(ino, *broken) for ino in paths.above(key[0]))
        if code in ("E012", "E013", "E015", "E016", "E206"):
            return among(key[0], "E204")
        if code in ("N303", "E302"):
            return among(key[0], "E012")
        return False

    return [problem for problem in found if not follows(problem)]
