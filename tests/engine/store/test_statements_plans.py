"""The plan of every statement that is shipped: no table is read as a whole where an index leads to the rows.

The statements are taken from the source: each text that begins like one, f-strings filled in.  So none is forgotten;
one that cannot be filled in fails the test.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from minifo.engine.queries import checkpoint_sizes
from minifo.engine.store import clearing, history
from minifo.engine.store.database_file import schema
from minifo.engine.store.four_lists_statements import NAMES
from minifo.engine.tree import inodes

ROOT = Path(__file__).parents[3]

#: Files whose statements are for reading every row.
EVERY_ROW = {
    "engine/store/invariants.py": "an invariant is about every row",
    "engine/store/metadata_backup.py": "a backup has every row",
    "engine/tree/row_checks.py": "checks every row, before a command carries it elsewhere",
    "engine/store/database_file.py": "a page or two of each table, to find damage early",
    "engine/queries/checkpoint_sizes.py": "checkpoint list: what each of them takes",
    "engine/store/clearing.py": "a reset: all that is there",
    "engine/store/history.py": "a return to a checkpoint, or its deletion: all that has changed since it was made",
}

#: Files that compose their statements from names of tables, once, when they are imported.
COMPOSED = {
    "engine/store/clearing.py": clearing,
    "engine/store/history.py": history,
    "engine/queries/checkpoint_sizes.py": checkpoint_sizes,
}

#: Statements that read a whole table, by their beginnings, with the reason.
DELIBERATE = {
    # -- a few rows, or the first one
    "SELECT key, value FROM overlay": "a dozen rows, read once",
    "SELECT count(*) FROM overlay": "a dozen rows, to begin a transaction",
    "SELECT 1 FROM inode": "one row is enough",
    "SELECT 1 FROM ancestor LIMIT 1": "one row is enough",
    "SELECT count(*) FROM (SELECT 1 FROM origin LIMIT ?)": "bounded",
    "SELECT id FROM journal ORDER BY id LIMIT 1 OFFSET 10000": "bounded",
    "SELECT 1 FROM created UNION ALL SELECT 1 FROM deleted": "one row is enough",
    "SELECT ino FROM orphan": "what a crash left: all of it is swept",
    "SELECT count(*) FROM orphan": "files that are open and deleted: few",
    "SELECT object FROM garbage": "all of it is deleted",
    "UPDATE checkpoint SET": "some checkpoints",
    "SELECT id FROM checkpoint": "some checkpoints",
    "SELECT id, name, time, note": "some checkpoints",
    "SELECT (SELECT count(*) FROM created)": "reset: what is there, before and after",
    "SELECT parent FROM created UNION SELECT parent": "reset: every directory with names, once",
    "SELECT m.ino, o.path FROM modified m JOIN origin o USING (ino)": "reset: every modified object, once",
    "SELECT ino, path FROM inode i LEFT JOIN origin": "reset: what is left, once",
    "SELECT 1 FROM modified JOIN inode USING (ino) WHERE seen_links > 1": "revert: asked once, before it may search",
    # -- questions about an overlay as a whole, which no request waits for
    "SELECT path, ino FROM origin WHERE ino IN (SELECT parent FROM created": "diff: every directory with changes",
    "SELECT c.ino FROM created c JOIN origin o": "diff: base objects with a new link, once",
    "SELECT t.ino, t.parent, t.name FROM": "diff, du: every directory with a name of its own, once",
    "SELECT coalesce((SELECT sum(length(data)) FROM small), 0)": "the sum of all bytes; once for each commit at most",
    "SELECT count(*) FROM": "counts of the four lists: SQLite keeps none",
    "SELECT ino, length(data) FROM small UNION ALL": "du: every object's bytes",
    "SELECT ino, parent, name FROM created UNION ALL": "du: every name; reset: those that are left",
    "SELECT ino, parent FROM created UNION ALL": "a return to a checkpoint: the parents of directories in use, once",
    "SELECT ino, path FROM origin": "du, messages: every base object, once",
    "SELECT ino, ctime FROM inode": "report: every object's time",
    "SELECT ino, mode, uid, gid, nlink, size, atime, mtime, ctime FROM inode": "sql: a view of every object",
    "SELECT id, time, op, path": "log: every entry",
    "SELECT ino, parent, name FROM renamed UNION ALL": "messages: the parent of every name, once",
    # -- migrations, and a base that was replaced: once for all rows
    "SELECT 1 FROM renamed WHERE ino = ?": "merge: asked of whiteouts that hide nothing; few",
    "SELECT ino, path, content, nlink FROM modified JOIN origin": "merge, export: every modified file",
    "SELECT parent, name, ino FROM created WHERE ino IN": "drift: once for 4,096 objects",
    "SELECT parent, name, ino FROM renamed WHERE ino IN": "drift: once for 4,096 objects",
    "SELECT o.path, r.parent, r.name FROM renamed r JOIN origin": "drift: every renamed directory, once",
    "SELECT ino, parent, name FROM created JOIN inode": "drift: every created directory, once",
    "SELECT (SELECT count(*) FROM origin) + (SELECT count(*) FROM deleted)": "rebase: the length of a progress bar",
    "UPDATE created SET ino = ? WHERE ino = ?": "rebase: an object that becomes another one; few",
    "UPDATE renamed SET ino = ? WHERE ino = ?": "rebase: an object that becomes another one; few",
    "UPDATE created SET ino = -": "a replaced base: every number at once",
    "UPDATE renamed SET ino = -": "a replaced base: every number at once",
    "SELECT ino, path, coalesce(mode, ?) & 61440 FROM origin": "a replaced base: every object, once",
    "SELECT ino, path, coalesce((SELECT mode FROM was_inode": "a replaced base: every object of a checkpoint, once",
    "SELECT ino FROM origin": "a replaced base: every number, once, up to a bound",
    "SELECT (SELECT count(*) FROM created WHERE ino = ?1)": "a replaced base: the links of a file with several",
    "SELECT 1 FROM renamed JOIN origin USING (ino) WHERE path = ?": "a replaced base: a hidden directory; few",
    # -- after a crash
    "SELECT object FROM inode WHERE object >= ?1 UNION": "after a crash: objects newer than the commit, once",
    "SELECT object FROM inode WHERE object > 0 UNION": "after a crash with deletions to replay: once",
    "SELECT ino FROM inode WHERE object = ?1 UNION": "a lost object: the message says whose it was",
    # -- names by number: an index would cost more at each create than these do
    "SELECT 1 FROM created WHERE ino = ?1 UNION ALL SELECT 1 FROM renamed": "a file with several links, as it was",
    "SELECT parent FROM created WHERE ino = ?1 UNION ALL": "..-entries of directories that are not in memory",
    "SELECT parent, name FROM created WHERE ino = ?1 UNION ALL": "journal, watch: a name that is not in memory",
    "SELECT ino, parent, name FROM created WHERE ino IN": "watch: names that are not in memory, once for all of them",
    "SELECT parent, name FROM renamed WHERE ino = ? LIMIT 1": "a link that takes back the base name of a renamed file",
    "DELETE FROM created WHERE ino = ?": "a replaced base: rows of an object that can never show again",
    "DELETE FROM renamed WHERE ino = ?": "a replaced base: rows of an object that can never show again",
    "DELETE FROM journal WHERE id IS NOT NULL": "empties it",
}

#: The beginning of longer statements, which are looked at themselves.
BEGINNING = inodes._FROM

#: What a function fills in: its names, and what they may stand for.
FILLED: dict[str, list[Any]] = {
    "table": list(NAMES),
    "marks": ["?, ?"],
    "name": ["created", "renamed", "deleted", "modified"],
    "column": ["parent", "ino"],
    "columns": ["ino"],
    "order": ["ASC", "DESC"],
    "sql": ["FROM extent WHERE ino = ? AND (at <> start) = 1 AND object > 0"],
}

_BEGIN = re.compile(r"\s*(?:SELECT|INSERT|UPDATE|DELETE|WITH|REPLACE) ")
_SCAN = re.compile(r"SCAN (?!CONSTANT ROW|\(subquery)(\S+)")


class Statement(NamedTuple):
    """A statement, and where it stands."""

    file: str
    line: int
    sql: str


def _texts(tree: ast.AST) -> Iterator[ast.expr]:
    """Every text, f-string and sum of them, but not its parts."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.expr) and _is_text(node):
            yield node
        else:
            yield from _texts(node)


def _is_text(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.Add) and _is_text(node.left)
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _beginning(node: ast.expr) -> str:
    """The text that an expression begins with; a name that is filled in begins it where the text is in its module."""
    if isinstance(node, ast.BinOp):
        return _beginning(node.left)
    first = node.values[0] if isinstance(node, ast.JoinedStr) and node.values else node
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""


def _filled(node: ast.expr, module: Any) -> Iterator[str]:
    """The texts that an expression of a module may become."""
    code = compile(ast.Expression(node), "statement", "eval")
    unknown = [name for name in code.co_names if not hasattr(module, name) and name in FILLED]
    for values in product(*(FILLED[name] for name in unknown)):
        text = eval(code, {**vars(module), **dict(zip(unknown, values, strict=True))})  # our own source
        yield from (text.format(table) for table in NAMES) if "{}" in text else [text]


def statements() -> Iterator[Statement]:
    """Every statement of the product but those of minifo-fsck."""
    for folder in ("engine", "fusefront", "migrations", "tools"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            file = str(path.relative_to(ROOT))
            if file.startswith("engine/fsck/"):
                continue  # it reads every row, and makes indexes for its repairs
            if file in COMPOSED:
                yield from (Statement(file, 0, sql) for sql in _constants(vars(COMPOSED[file]).values()))
                continue
            for node in _texts(ast.parse(path.read_text())):
                begins = _BEGIN.match(_beginning(node))
                is_named = isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.FormattedValue)
                if not (begins or is_named):
                    continue
                module = importlib.import_module("minifo." + file.removesuffix(".py").replace("/", "."))
                if is_named and not _begins_by_name(node, module):
                    continue
                for sql in _filled(node, module):
                    yield Statement(file, node.lineno, sql)


def _constants(values: Iterable[object]) -> Iterator[str]:
    """The statements among values, which may be in collections: a module that composes them has them as constants."""
    for value in values:
        if isinstance(value, str):
            if _BEGIN.match(value):
                yield value
        elif isinstance(value, dict):
            yield from _constants(value.values())
        elif isinstance(value, list | tuple):
            yield from _constants(value)


def _begins_by_name(node: ast.expr, module: Any) -> bool:
    """Return whether an f-string begins with a statement that has a name in its module: ``f"{_FROM} WHERE ..."``."""
    first = node.values[0] if isinstance(node, ast.JoinedStr) else None
    name = first.value.id if isinstance(first, ast.FormattedValue) and isinstance(first.value, ast.Name) else ""
    value = getattr(module, name, None)
    return isinstance(value, str) and _BEGIN.match(value) is not None


def _reason(statement: Statement) -> str | None:
    """The entry of a list that explains why a statement reads a whole table."""
    if statement.file in EVERY_ROW:
        return statement.file
    found = [begin for begin in DELIBERATE if statement.sql.startswith(begin)]
    return max(found, key=len) if found else None


def test_no_table_is_read_as_a_whole() -> None:
    """But where the lists above say why, and they list nothing else."""
    con = apsw.Connection(":memory:")
    con.execute(schema())
    con.execute("CREATE TEMP TABLE moved (old INTEGER PRIMARY KEY, new INTEGER NOT NULL)")  # tree/base_match.py
    con.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)  # as every connection of minifo
    every = list(statements())
    assert len(every) > 200
    unexplained, used = [], set()
    for statement in every:
        numbered = [int(number) for number in re.findall(r"\?(\d+)", statement.sql)]
        values = [None] * (max(numbered) if numbered else statement.sql.count("?"))
        plan = [detail for _, _, _, detail in con.execute("EXPLAIN QUERY PLAN " + statement.sql, values)]
        scans = [detail for detail in plan if _SCAN.match(detail)]
        if not scans or statement.sql == BEGINNING:
            continue
        reason = _reason(statement)
        if reason is None:
            unexplained.append(f"{statement.file}:{statement.line}: {'; '.join(scans)}: {statement.sql}")
        else:
            used.add(reason)
    con.close()
    assert unexplained == [], "give each an index, or add it to DELIBERATE with the reason"
    assert {*EVERY_ROW, *DELIBERATE} - used == set(), "these read no whole table any more"


def test_what_keeps_a_row_finds_it_by_its_key() -> None:
    """The triggers run with every change, while there is a checkpoint."""
    con = apsw.Connection(":memory:")
    con.execute(schema())
    for name in history.TABLES:
        for _, trigger in history._triggers(name):
            _, _, body = trigger.partition("BEGIN ")
            for sql in body.removesuffix(" END").split(";")[:-1]:
                plain = re.sub(r'\b(OLD|NEW)\."?\w+"?', "1", sql)
                plan = [detail for _, _, _, detail in con.execute("EXPLAIN QUERY PLAN " + plain)]
                scans = [found[1] for detail in plan if (found := _SCAN.match(detail))]
                assert scans in ([], ["checkpoint"]), (sql, plan)  # of that the last row
    con.close()
