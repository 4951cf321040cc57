"""The engine's invariants, numbered.  Tests and minifo-fsck check them by number; where the code keeps one, a comment
names it (``invariant 7``), in this folder or in ``tree/``.

Most are queries whose rows are violations: the first column is the inode number of the object or directory concerned,
the others say what is wrong.  Two need paths and are functions.  All invariants hold after every operation, and so in
every committed state.
"""

from __future__ import annotations

from typing import NamedTuple

from ..model import FILE_MAX, SYMLINK_MAX, XATTR_MAX, XATTR_NAME_MAX
from .database import Database
from .four_lists_statements import IS_HIDDEN
from .object_digests import SIZE as DIGEST_SIZE


class Invariant(NamedTuple):
    """One rule: its number, its text, and the query for the rows that break it."""

    number: int
    rule: str
    violations: str


class Violation(NamedTuple):
    """One row that breaks a rule."""

    number: int
    rule: str
    detail: tuple[object, ...]


_DIRECTORY = "(mode & 61440) = 16384"
_REGULAR = "(mode & 61440) = 32768"
_SYMLINK = "(mode & 61440) = 40960"
_WINDOW = "(SELECT value FROM overlay WHERE key = 'window')"
_WINDOW_END = "(SELECT value FROM overlay WHERE key = 'window_end')"
_CREATED = f"ino >= {_WINDOW} AND ino < {_WINDOW_END}"
_NAMED = "(SELECT parent, name, ino FROM created UNION ALL SELECT parent, name, ino FROM renamed)"
_COUNTED = "(SELECT ino, count(*) AS names FROM created GROUP BY ino)"  # one pass: created has no index by ino

INVARIANTS = (
    Invariant(
        1,
        "a name is in created or in renamed, not in both",
        "SELECT parent, name FROM created INTERSECT SELECT parent, name FROM renamed",
    ),
    Invariant(
        2,
        "a name is in a linked directory that has overlay state",
        f"SELECT parent, name FROM {_NAMED} AS n LEFT JOIN inode i ON i.ino = n.parent WHERE NOT {_DIRECTORY}"
        " OR coalesce(i.nlink, 0) = 0 AND NOT EXISTS (SELECT 1 FROM origin o WHERE o.ino = n.parent)",
    ),
    Invariant(
        3,
        "every name leads to an inode that is linked",
        f"SELECT parent, name, ino FROM {_NAMED} AS n"
        " WHERE NOT EXISTS (SELECT 1 FROM inode i WHERE i.ino = n.ino AND i.nlink > 0)",
    ),
    Invariant(
        4,
        "a renamed object has an origin",
        "SELECT ino, name FROM renamed r WHERE NOT EXISTS (SELECT 1 FROM origin o WHERE o.ino = r.ino)",
    ),
    Invariant(
        6,
        "only a directory with a base side hides names",
        "SELECT parent, name FROM deleted d WHERE NOT EXISTS (SELECT 1 FROM origin o WHERE o.ino = d.parent)",
    ),
    Invariant(
        7,
        "what is modified is a base object with a row",
        "SELECT ino FROM modified m WHERE NOT EXISTS (SELECT 1 FROM origin o WHERE o.ino = m.ino)"
        " OR NOT EXISTS (SELECT 1 FROM inode i WHERE i.ino = m.ino)",
    ),
    Invariant(
        8,
        "an inode is either created, with a number from the window, or has an origin",
        f"SELECT ino FROM inode i WHERE ({_CREATED}) = EXISTS (SELECT 1 FROM origin o WHERE o.ino = i.ino)",
    ),
    Invariant(
        9,
        "a created directory has exactly one name, or none when it was removed",
        f"SELECT ino, nlink FROM inode LEFT JOIN {_COUNTED} USING (ino) WHERE {_CREATED} AND {_DIRECTORY}"
        " AND coalesce(names, 0) <> (nlink > 0)",
    ),
    Invariant(
        10,
        "a created file's link count is the number of its names",
        f"SELECT ino, nlink FROM inode LEFT JOIN {_COUNTED} USING (ino) WHERE {_CREATED} AND NOT {_DIRECTORY}"
        " AND coalesce(names, 0) <> nlink",
    ),
    Invariant(
        11,
        "an inode without links is an orphan, and an orphan has no links and no names",
        "SELECT ino FROM inode WHERE nlink = 0 AND ino NOT IN (SELECT ino FROM orphan)"
        " UNION ALL SELECT ino FROM orphan WHERE ino NOT IN (SELECT ino FROM inode WHERE nlink = 0)"
        f" UNION ALL SELECT ino FROM orphan WHERE ino IN (SELECT ino FROM {_NAMED})",
    ),
    Invariant(
        12,
        "extents are of regular files that say so, lie within the file, are not empty and do not overlap;"
        " a hole has its start for an offset",
        "SELECT e.ino, e.start FROM extent e LEFT JOIN inode i USING (ino)"
        ' WHERE e.start < 0 OR e."end" <= e.start OR e.at < 0 OR (e.object = 0 AND e.at <> e.start)'
        f' OR e.at > {FILE_MAX} - (e."end" - e.start)'
        f' OR i.ino IS NULL OR i.mapped = 0 OR NOT {_REGULAR} OR e."end" > i.size'
        ' OR EXISTS (SELECT 1 FROM extent f WHERE f.ino = e.ino AND f.start > e.start AND f.start < e."end")',
    ),
    Invariant(
        13,
        "content belongs to regular files; a bound limits a backing that is there",
        f"SELECT ino FROM inode WHERE NOT {_REGULAR} AND (object IS NOT NULL OR bound IS NOT NULL OR mapped <> 0)"
        f" UNION ALL SELECT ino FROM inode WHERE bound NOT BETWEEN 0 AND {FILE_MAX}"
        f" OR size NOT BETWEEN 0 AND {FILE_MAX}",
    ),
    Invariant(
        14,
        "a content object belongs to one inode, is not garbage, and its id was handed out",
        "WITH used(object, ino) AS (SELECT object, ino FROM inode WHERE object <> 0"
        " UNION SELECT object, ino FROM extent WHERE object <> 0)"
        " SELECT object FROM used GROUP BY object HAVING count(*) > 1"
        " UNION ALL SELECT object FROM used JOIN garbage USING (object)"
        " UNION ALL SELECT object FROM used WHERE object < 1",
    ),
    Invariant(
        15,
        "extended attributes have names, and belong to an inode that owns them",
        "SELECT ino, name FROM xattr x WHERE NOT EXISTS (SELECT 1 FROM inode i WHERE i.ino = x.ino AND i.xattrs = 1)"
        f" OR length(name) NOT BETWEEN 1 AND {XATTR_NAME_MAX} OR instr(name, x'00') OR length(value) > {XATTR_MAX}",
    ),
    Invariant(
        16,
        "a created symlink has a target of a possible length, and nothing else has one",
        f"SELECT ino FROM inode WHERE {_CREATED} AND {_SYMLINK} <> (target IS NOT NULL)"
        f" UNION ALL SELECT ino FROM inode WHERE NOT {_SYMLINK} AND target IS NOT NULL"
        f" UNION ALL SELECT ino FROM inode WHERE {_SYMLINK}"
        f" AND (length(target) NOT BETWEEN 1 AND {SYMLINK_MAX} OR instr(target, x'00'))",
    ),
    Invariant(
        19,
        "a small file's bytes are a row, and every such row is of a small file and ends where it does or before",
        "SELECT ino FROM inode WHERE object = 0 AND ino NOT IN (SELECT ino FROM small)"
        " UNION ALL SELECT ino FROM small s WHERE NOT EXISTS"
        " (SELECT 1 FROM inode i WHERE i.ino = s.ino AND i.object = 0 AND i.mapped = 0 AND length(s.data) <= i.size)",
    ),
    Invariant(
        20,
        "a digest is of a content object that a checkpoint has frozen, and has the size of one",
        "SELECT object FROM object_digest WHERE object < 1"
        " OR object >= (SELECT coalesce(max(next_object), 0) FROM checkpoint)"
        f" OR typeof(size) <> 'integer' OR size NOT BETWEEN 0 AND {FILE_MAX}"
        f" OR typeof(digest) <> 'blob' OR length(digest) <> {DIGEST_SIZE}",
    ),
    Invariant(
        17,
        "the root stands for the root of the base",
        "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM origin WHERE ino = 1 AND path = x'2f')",
    ),
)


def check(db: Database) -> list[Violation]:
    """Return all violations of invariants; an empty list for an undamaged overlay.

    Args:
        db: an open database; only read.
    """
    found = [
        Violation(invariant.number, invariant.rule, tuple(row))
        for invariant in INVARIANTS
        for row in db.rows(invariant.violations)
    ]
    return found + _shown_twice(db) + _unreachable(db)


def _shown_twice(db: Database) -> list[Violation]:
    """Return the violations of invariant 5: a renamed directory's old name is hidden, if its old parent exists."""
    rule = "a renamed directory's old name is hidden"
    inos = {path: ino for ino, path in db.rows("SELECT ino, path FROM origin")}
    sql = f"SELECT ino, path FROM renamed JOIN origin USING (ino) JOIN inode USING (ino) WHERE {_DIRECTORY}"
    found = []
    for ino, path in db.rows(sql):
        directory, _, name = path.rpartition(b"/")
        parent = inos.get(directory or b"/")
        if parent is None or db.value("SELECT 1 FROM orphan WHERE ino = ?", (parent,)):
            continue
        if db.value(IS_HIDDEN, (parent, name)) is None:
            found.append(Violation(5, rule, (ino, path)))
    return found


def _unreachable(db: Database) -> list[Violation]:
    """Return the violations of invariant 18: the root reaches each directory that holds names, so there is no cycle."""
    rule = "a directory that holds names can be reached from the root"
    paths: dict[int, bytes] = dict(db.rows("SELECT ino, path FROM origin"))
    inos = {path: ino for ino, path in paths.items()}
    parents = {
        ino: parent
        for parent, ino in db.rows("SELECT parent, ino FROM renamed UNION ALL SELECT parent, ino FROM created")
    }
    orphans = {ino for (ino,) in db.rows("SELECT ino FROM orphan")}
    found = []
    for (holder,) in db.rows(
        "SELECT parent FROM created UNION SELECT parent FROM renamed UNION SELECT parent FROM deleted"
    ):
        seen: set[int] = set()
        ino: int | None = holder
        while ino is not None and ino != 1 and ino not in seen and ino not in orphans:
            seen.add(ino)
            ino = parents.get(ino, inos.get(paths[ino].rpartition(b"/")[0] or b"/") if ino in paths else None)
        if ino != 1:
            found.append(Violation(18, rule, (holder,)))
    return found
