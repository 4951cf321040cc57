"""Every code of minifo-fsck: the damage, exactly that finding, the repair, a clean second run, and what shows then."""

from __future__ import annotations

import glob
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import apsw
import pytest

from minifo.engine import Process
from minifo.engine.fsck.problems import KINDS, NEEDS_REBUILD
from minifo.engine.fsck.session import FsckSession
from minifo.engine.store.invariants import INVARIANTS
from minifo.engine.store.memory_directory import memory_directory
from minifo.tools import fsck_helper
from tests.fsck.sample_storage import SampleStorage, Tree, kept, unprivileged, wrong
from tests.fsck.test_checkpoints import object_of_first

_DOCS = Path(__file__).parents[2] / "docs" / "fsck.md"


class Damage(NamedTuple):
    """One way to damage a storage.

    Attributes:
        code: what fsck must find, and nothing else.
        act: SQL statements, or a function.
        gone: paths that do not show as before after the repair.
        found: names in lost+found after it; ``#PATH`` stands for the inode number of a path.
        base: True where the base must be compared.
    """

    code: str
    act: tuple[str, ...] | Callable[[SampleStorage], None]
    gone: tuple[str, ...] = ()
    found: tuple[str, ...] = ()
    base: bool = False


def at(path: str) -> Callable[[SampleStorage], str]:
    """A path in storage."""
    return lambda sample: os.path.join(sample.storage, path)


def _overwrite(path: str, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def _put(path: str, data: bytes = b"stray") -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)


def _replace_in_base(sample: SampleStorage, name: str, act: Callable[[str], None]) -> None:
    path = os.path.join(sample.base, name)
    os.unlink(path)
    act(path)


def _kill(sample: SampleStorage) -> None:
    """Leave operations in the redo log of a process that is gone."""
    from minifo.engine import ROOT, Overlay

    child = os.fork()
    if child == 0:
        overlay = Overlay.open(sample.base, sample.storage, clone=False, redo_directory=memory_directory())
        overlay.mkdir(ROOT, b"late", 0o755, Process())
        os._exit(0)
    os.waitpid(child, 0)


def _digest_of_nothing(sample: SampleStorage) -> None:
    """A digest of an object that does not exist, though a checkpoint might have frozen it."""
    sample.sql(
        "UPDATE overlay SET value = value + 8 WHERE key IN ('next_object', 'object_limit')",
        "UPDATE checkpoint SET next_object = next_object + 8 WHERE id = 2",
        "INSERT INTO object_digest SELECT next_object - 1, 4096, zeroblob(16) FROM checkpoint WHERE id = 2",
    )


_INSERT = "INSERT INTO inode VALUES (77777, 33188, 1, 0, 0, 0, 0, 0, 0, 0, NULL, NULL, 0, 0, NULL, NULL, NULL, NULL)"

DAMAGES = (
    Damage("E001", ("INSERT INTO renamed VALUES (1, CAST('small' AS BLOB), {/newfile})",), found=("small",)),
    Damage("E002", ("UPDATE created SET parent = 99999 WHERE ino = {/large}",), ("/large",), ("large",)),
    Damage("E002", ("UPDATE created SET parent = {/newfile} WHERE ino = {/large}",), ("/large",), ("large",)),
    Damage("E003", ("DELETE FROM inode WHERE ino = {/empty}",), ("/empty",)),
    Damage("E003", ("DELETE FROM inode WHERE ino = {/made/sub}",)),
    Damage("E003", ("UPDATE inode SET nlink = 0 WHERE ino = {/newfile}",)),
    Damage("E004", ("DELETE FROM origin WHERE ino = {/newfile}",), ("/newfile",)),
    Damage("E005", ("DELETE FROM deleted WHERE name = CAST('olddir' AS BLOB)",)),
    Damage("E006", ("INSERT INTO deleted VALUES ({/made}, CAST('ghost' AS BLOB))",)),
    Damage("E007", ("INSERT INTO modified VALUES ({/small}, 1, 0, 0, NULL)",)),
    Damage("E008", (_INSERT,), found=("#77777",)),
    Damage("E009", ("DELETE FROM created WHERE ino = {/made}",), ("/made",), ("#/made",)),
    Damage("E010", ("UPDATE inode SET nlink = 7 WHERE ino = {/large}",)),
    Damage("E010", ("DELETE FROM created WHERE ino = {/large}",), ("/large",), ("#/large",)),
    Damage("E010", ("UPDATE inode SET nlink = 0 WHERE ino = {/large}",)),
    Damage("E011", ("INSERT INTO orphan VALUES ({/large})",)),
    Damage("E011", ("INSERT INTO orphan VALUES (424242)",)),
    Damage("E011", ("UPDATE inode SET nlink = 0 WHERE ino = 1",)),
    Damage("E011", ("UPDATE inode SET nlink = 0 WHERE ino = {/copied}",)),
    Damage(
        "E011",
        ("UPDATE inode SET nlink = 0 WHERE ino = {/large}", "DELETE FROM created WHERE ino = {/large}"),
        ("/large",),
        ("#/large",),
    ),
    Damage(
        "E012",
        (
            'INSERT INTO extent SELECT ino, start + 100, "end", object, at + 100 FROM extent'
            " WHERE ino = {/big} AND start < 20000",
        ),
    ),
    Damage("E012", ("UPDATE extent SET ino = 31337 WHERE ino = {/big}",), ("/big",), ("#31337",)),
    Damage("E012", ("UPDATE inode SET mapped = 0 WHERE ino = {/big}",)),
    Damage(
        "E012", ("INSERT INTO extent SELECT ino, 5, 5, object, 5 FROM extent WHERE ino = {/big} AND start > 20000",)
    ),
    Damage("E012", ("UPDATE extent SET at = 0 WHERE ino = {/holed} AND object = 0",)),
    Damage("E013", ("UPDATE inode SET size = -5 WHERE ino = {/large}",)),
    Damage("E013", ("UPDATE inode SET bound = -1 WHERE ino = {/empty}",)),
    Damage("E013", ("UPDATE inode SET size = 9223372036854775807 WHERE ino = {/large}",)),
    Damage("E013", ("UPDATE inode SET bound = 9223372036854775807 WHERE ino = {/large}",)),
    Damage("E014", ("INSERT INTO garbage SELECT object FROM inode WHERE ino = {/large}",)),
    Damage(
        "E014",
        (
            "UPDATE inode SET (object, size) = (SELECT object, size FROM inode WHERE ino = {/large})"
            " WHERE ino = {/empty}",
        ),
        ("/empty",),
    ),
    Damage("E015", ("INSERT INTO xattr VALUES (123456, CAST('user.x' AS BLOB), x'31')",)),
    Damage(
        "E015",
        ("UPDATE inode SET xattrs = 0 WHERE ino = {/newfile}", "INSERT INTO xattr VALUES ({/newfile}, x'78', x'31')"),
    ),
    Damage("E016", ("UPDATE inode SET target = x'31' WHERE ino = {/large}",)),
    Damage("E016", ("UPDATE inode SET target = NULL WHERE ino = {/made-link}",), ("/made-link",)),
    Damage("E017", ("DELETE FROM origin WHERE ino = 1",)),
    Damage(
        "E018",
        (
            "UPDATE created SET parent = {/made/sub} WHERE ino = {/made}",
            "UPDATE inode SET nlink = 3 WHERE ino = {/made/sub}",
        ),
        ("/made",),
    ),
    Damage("E019", ("DELETE FROM small WHERE ino = {/small}",), ("/small", "/made/hard")),
    Damage("E019", ("INSERT INTO small VALUES (55555, CAST('bytes' AS BLOB))",), found=("#55555",)),
    Damage("E019", ("UPDATE inode SET size = 10 WHERE ino = {/small}",)),
    Damage("E019", ("UPDATE inode SET object = NULL WHERE ino = {/small}",)),
    Damage("E100", lambda p: os.unlink(p.database)),
    Damage("E101", lambda p: _overwrite(p.database, 0, bytes(100))),
    Damage("E101", lambda p: os.truncate(p.database, 0)),
    Damage("E102", lambda p: _overwrite(p.database, 5 * 4096, b"\xa5" * 4096)),
    Damage("E102", ("UPDATE overlay SET value = CAST(x'ff30' AS TEXT) WHERE key = 'uuid'",)),
    Damage("E103", ("PRAGMA application_id = 5",)),
    Damage("E104", ("PRAGMA user_version = 0",)),
    Damage("E104", ("PRAGMA user_version = -1",)),
    Damage("E104", ("PRAGMA user_version = 10000",)),
    Damage("E105", ("DROP TABLE garbage",)),
    Damage("E105", ("DROP TABLE created",)),
    Damage("E105", ("CREATE TABLE guest (x)",)),
    Damage("E105", ('CREATE TABLE "inode"" LIMIT 0; DELETE FROM created; --" (x)',)),
    Damage("E105", ("CREATE VIEW seen AS SELECT 1",)),
    Damage("E105", ("CREATE INDEX quick ON created (ino)",)),
    Damage("E105", ("CREATE TRIGGER t AFTER UPDATE ON inode BEGIN DELETE FROM created; END",)),
    Damage("E201", ("DELETE FROM origin WHERE path = CAST('/x' AS BLOB)",)),
    Damage("E201", ("UPDATE origin SET path = x'2f6f6c6400' WHERE ino = {/newfile}",), ("/newfile",), base=True),
    Damage("E202", ("UPDATE inode SET nlink = 9 WHERE ino = {/made}",)),
    Damage("E203", ("UPDATE created SET name = CAST('x/y' AS BLOB) WHERE ino = {/large}",), ("/large",), ("x_y",)),
    Damage("E204", ("UPDATE inode SET mode = 61860 WHERE ino = {/large}",)),
    Damage(
        "E204",
        tuple(f"UPDATE {table} SET ino = 4294967295 WHERE ino = {{/large}}" for table in ("inode", "created")),
    ),
    Damage("E204", ("UPDATE inode SET mode = mode & 4095 WHERE ino = 1",)),
    Damage("E204", ("UPDATE inode SET mode = 33188 WHERE ino = 1",)),
    Damage("E204", ("UPDATE inode SET mode = -1 WHERE ino = 1",)),
    Damage("E204", ("UPDATE inode SET mode = mode & 4095 WHERE ino = {/made}",)),
    Damage("E204", ("UPDATE inode SET mode = mode & 4095 WHERE ino = {/made/newdir}",)),
    Damage("E204", ("UPDATE inode SET uid = -1 WHERE ino = {/large}",)),
    Damage("E204", ("UPDATE inode SET rdev = 1 << 40 WHERE ino = {/large}",)),
    Damage("E204", ("UPDATE inode SET xattrs = 7 WHERE ino = {/made/one}",)),
    Damage("E203", ("INSERT INTO deleted VALUES (1, CAST('a/b' AS BLOB))",)),
    Damage("E015", ("INSERT INTO xattr VALUES ({/large}, x'', x'00')",)),
    Damage("E016", ("UPDATE inode SET target = zeroblob(5) WHERE ino = {/made-link}",), ("/made-link",)),
    Damage("E209", ("UPDATE overlay SET value = '../../x' WHERE key = 'uuid'",)),
    Damage("E209", ("UPDATE overlay SET value = 1 << 60 WHERE key = 'object_limit'",)),
    Damage(
        "E205",
        (
            "INSERT INTO renamed VALUES ({/made/sub}, CAST('twin' AS BLOB), {/made/newdir})",
            "UPDATE inode SET nlink = 3 WHERE ino = {/made/sub}",
        ),
    ),
    Damage("E205", ("INSERT INTO created VALUES (1, CAST('loop' AS BLOB), 1)",)),
    Damage(
        "E205",
        (
            "INSERT INTO created SELECT * FROM renamed WHERE ino = {/made/newdir}",
            "DELETE FROM renamed WHERE name = CAST('newdir' AS BLOB)",
        ),
    ),
    Damage("E206", ("UPDATE inode SET xattrs = 0 WHERE ino = {/large}",)),
    Damage("E207", ("DELETE FROM modified WHERE ino = {/big}",)),
    Damage("E207", ("UPDATE modified SET content = 0 WHERE ino = {/copied}",)),
    Damage("E208", ("UPDATE overlay SET value = 1 WHERE key = 'next_object'",)),
    Damage("E208", ("UPDATE overlay SET value = 5 WHERE key = 'next_ino'",)),
    Damage("E209", ("DELETE FROM overlay WHERE key = 'uuid'",)),
    Damage("E209", ("UPDATE overlay SET value = x'00' WHERE key = 'window'",)),
    Damage("E209", ("UPDATE overlay SET value = value + 1024 WHERE key = 'window'",)),
    Damage("E209", ("UPDATE overlay SET value = 1 << 40 WHERE key = 'next_ino'",)),
    Damage(
        "E210",
        ("DELETE FROM renamed WHERE ino = {/made/newdir}", "UPDATE inode SET nlink = 3 WHERE ino = {/made}"),
        ("/made/newdir", "/olddir"),
    ),
    Damage("E210", ("DELETE FROM renamed WHERE ino = {/newfile}",), ("/newfile", "/oldfile"), base=True),
    Damage(
        "E210",
        (
            "UPDATE created SET name = CAST('olddir' AS BLOB) WHERE ino = {/large}",
            "DELETE FROM renamed WHERE name = CAST('newdir' AS BLOB)",
            "UPDATE inode SET nlink = 3 WHERE ino = {/made}",
        ),
        ("/large", "/made/newdir", "/olddir"),
        ("olddir",),
    ),
    Damage("E020", ("INSERT INTO object_digest VALUES (999999, 4096, zeroblob(16))",)),
    Damage("E020", ("INSERT INTO object_digest VALUES (-5, 4096, zeroblob(16))",)),
    Damage("E020", ("INSERT INTO object_digest VALUES (1, -1, zeroblob(16))",)),
    Damage("E020", ("INSERT INTO object_digest VALUES (1, 9223372036854775807, zeroblob(16))",)),
    Damage("E020", ("INSERT INTO object_digest VALUES (1, 4096, zeroblob(300000))",)),
    Damage("E020", _digest_of_nothing),
    Damage("E211", ("INSERT INTO journal VALUES (0, 0, 'create', x'2f61', NULL, 0, 0, NULL)",)),
    Damage("E211", ("INSERT INTO journal VALUES (7, 0, 'rm -rf', x'2f61', NULL, NULL, NULL, NULL)",)),
    Damage("E211", ("INSERT INTO journal VALUES (7, 0, 'create', x'', NULL, -1, 4, x'0a')",)),
    Damage("E211", ("INSERT INTO journal VALUES (7, 0, 'rename', x'2f61', x'2f6100', NULL, NULL, NULL)",)),
    Damage("E212", ("INSERT INTO overlay VALUES ('keep_list:default', x'ff')",)),
    Damage("E212", ("INSERT INTO overlay VALUES ('keep_list:a/b', x'61')",)),
    Damage("E301", lambda p: os.unlink(p.object_of("/large")), ("/large",)),
    Damage("E301", lambda p: os.unlink(p.object_of("/big")), ("/big",)),
    Damage("E302", lambda p: os.truncate(p.object_of("/large"), 0), ("/large",)),
    Damage("E302", lambda p: os.truncate(p.object_of("/big"), 9000), ("/big",)),
    Damage("E304", lambda p: _put(at("content/40/5")(p)), found=("object-65541",)),
    Damage("E601", ("UPDATE checkpoint SET name = char(39, 34, 10) WHERE id = 1",)),
    Damage("E601", ("UPDATE checkpoint SET name = '' WHERE id = 1",)),
    Damage("E601", ("UPDATE checkpoint SET time = -1, pinned = 7, note = hex(zeroblob(2000)) WHERE id = 2",)),
    Damage("E601", ("UPDATE checkpoint SET cause = 'x y', returns = -3 WHERE id = 2",)),
    Damage("E601", ("UPDATE checkpoint SET next_object = 9223372036854775807, next_ino = -1",)),
    Damage("E601", ("UPDATE checkpoint SET next_object = 1 WHERE id = 2",)),
    Damage("E601", ("UPDATE checkpoint SET next_ino = {/made} WHERE id = 1",)),
    Damage("E602", ("DELETE FROM checkpoint WHERE id = 2",)),
    Damage("E602", ("DELETE FROM checkpoint WHERE id = 1",)),
    Damage("E602", ("INSERT INTO was_xattr VALUES ({/made/one}, CAST('user.colour' AS BLOB), 77, 0, NULL)",)),
    Damage("E602", ("INSERT INTO was_orphan VALUES (5, -9223372036854775808, 1)",)),
    Damage("E603", ("UPDATE was_xattr SET value = NULL WHERE checkpoint = 1 AND held = 1",)),
    Damage("E603", ("UPDATE was_inode SET held = 9223372036854775807 WHERE held = 1",)),
    Damage("E603", ("INSERT INTO was_created VALUES (7777, x'78', 1, 0, 5)",)),
    Damage(
        "E604",
        (
            "UPDATE inode SET object = (SELECT object FROM was_inode w WHERE held AND object > 0"
            " AND NOT EXISTS (SELECT 1 FROM inode i WHERE i.ino = w.ino)) WHERE ino = {/empty}",
        ),
    ),
    Damage("E605", ("UPDATE was_inode SET mode = 8 WHERE held = 1",)),
    Damage("E605", lambda sample: os.unlink(object_of_first(sample))),
    Damage("E605", ("INSERT INTO was_created VALUES (1, CAST('in' AS BLOB), 2, 1, {/made})",)),
    Damage("E606", ("INSERT INTO was_origin VALUES (999999, 2, 1, x'2f', NULL, NULL, NULL)",)),
    Damage("W306", lambda p: _put(at("content/junk")(p))),
    Damage("W306", lambda p: _put(at("content/0/not-hex")(p))),
)

#: What a mount cleans up by itself.
LEFTOVERS: tuple[tuple[str, tuple[str, ...] | Callable[[SampleStorage], None]], ...] = (
    (
        "N401",
        (
            "UPDATE inode SET nlink = 0 WHERE ino = {/large}",
            "DELETE FROM created WHERE ino = {/large}",
            "INSERT INTO orphan VALUES ({/large})",
        ),
    ),
    ("N402", ("INSERT INTO garbage VALUES (900)",)),
    ("N403", lambda p: _put(at("content/0/3ff")(p))),
    ("N404", _kill),
    ("N505", ("UPDATE overlay SET value = 'other' WHERE key = 'base_mark'",)),
)


#: What another base shows.
DRIFT: tuple[tuple[str, Callable[[SampleStorage], object]], ...] = (
    ("W501", lambda p: os.unlink(os.path.join(p.base, "big"))),
    ("W501", lambda p: os.unlink(os.path.join(p.base, "copied"))),
    ("W501", lambda p: shutil.rmtree(os.path.join(p.base, "x"))),
    ("W501", lambda p: os.unlink(os.path.join(p.base, "oldfile"))),
    ("W502", lambda p: _replace_in_base(p, "copied", os.mkdir)),
    ("W503", lambda p: _put(os.path.join(p.base, "copied"), b"new firmware")),
    ("W504", lambda p: os.unlink(os.path.join(p.base, "gone"))),
    ("W506", lambda p: _renumber(os.path.join(p.base, "copied"))),
)


def _renumber(path: str) -> None:
    """Another inode number for the same file."""
    shutil.copy2(path, path + ".new")
    os.rename(path + ".new", path)


def _ids() -> list[str]:
    seen: dict[str, int] = {}
    names = []
    for damage in DAMAGES:
        seen[damage.code] = seen.get(damage.code, 0) + 1
        names.append(f"{damage.code}-{seen[damage.code]}")
    return names


def _do(sample: SampleStorage, damage: Damage) -> None:
    if callable(damage.act):
        damage.act(sample)
    else:
        sample.sql(*damage.act)


def _among(path: str, roots: tuple[str, ...]) -> bool:
    return any(path == root or path.startswith(root + "/") for root in roots)


def _the_rest(tree: Tree, damage: Damage) -> Tree:
    return {path: what for path, what in tree.items() if not _among(path, (*damage.gone, "/lost+found"))}


@pytest.mark.parametrize("damage", DAMAGES, ids=_ids())
def test_damage_is_found_and_repaired_and_nothing_else_changes(damage: Damage, sample: SampleStorage) -> None:
    """One damage, one code; after the repair nothing is found, and everything else shows as it did."""
    assert wrong(sample.examine(base=damage.base)) == []
    _do(sample, damage)
    # checkpoints that share the damage may show more of it
    assert set(wrong(sample.examine(base=damage.base))) - {"E605"} == {damage.code} - {"E605"}
    left, _ = sample.repair(base=damage.base)
    assert wrong(left) == []
    assert wrong(sample.examine(base=damage.base)) == []
    states = sample.states()
    tree = sample.look()
    assert _the_rest(tree, damage) == _the_rest(sample.healthy, damage)
    for name in damage.found:
        number = sample.inos.get(name[1:])
        assert f"/lost+found/{name if number is None else f'#{number}'}" in tree
    if not damage.found and damage.code not in ("E018",) and len(states) == len(sample.healthy_states):
        assert "/lost+found" not in tree


@pytest.mark.parametrize("damage", DAMAGES, ids=_ids())
def test_safe_repairs_change_nothing_that_shows(damage: Damage, sample: SampleStorage) -> None:
    """With -p what is not safe stays as it is, and what was not damaged shows as before."""
    _do(sample, damage)
    found = sample.examine(base=damage.base)
    left, _ = sample.repair(base=damage.base, safe=True)
    here = [finding for finding in found if not finding.is_note and not finding.code.startswith("E6")]
    if here and all(finding.is_safe for finding in here):
        # what cannot be repaired so in a checkpoint stays there
        assert set(wrong(left)) <= {"E605"}
    elif all(finding.is_safe for finding in found if not finding.is_note):
        assert wrong(left) == []
        assert _the_rest(sample.look(), damage) == _the_rest(sample.healthy, damage)
    else:
        assert set(wrong(left)) == set(wrong(found))


def test_shorter_object_is_noted(sample: SampleStorage) -> None:
    """N303: it may be what truncate left, so it is only a note."""
    os.truncate(sample.object_of("/large"), 20_000)
    assert [finding.code for finding in sample.examine()] == ["N303"]


def test_unreadable_object_is_found(sample: SampleStorage) -> None:
    """E305: --verify-data reads everything; what cannot be read is still told after a repair of something else."""
    assert sample.examine(verify=True) == []
    sample.sql("UPDATE inode SET nlink = 7 WHERE ino = {/empty}")
    os.chmod(sample.object_of("/large"), 0)
    with unprivileged(sample.top), FsckSession(sample.storage, write=True) as examination:
        found = examination.check(verify=True)
        assert wrong(found) == ["E010", "E305"]
        done, left = examination.repair(found, lambda finding: True)
    assert (wrong(done), wrong(left)) == (["E010"], ["E305"])
    assert [(finding.path, finding.detail) for finding in left] == [
        (b"/large", "object 1: Permission denied; also in checkpoints second, first")
    ]


@pytest.mark.logs("operations of a killed daemon were replayed", "is not the one of the last mount", always=False)
@pytest.mark.parametrize(("code", "act"), LEFTOVERS, ids=[code for code, _ in LEFTOVERS])
def test_what_a_mount_cleans_up_is_a_note(
    code: str, act: tuple[str, ...] | Callable[[SampleStorage], None], sample: SampleStorage
) -> None:
    """Leftovers are told, need no repair, and are gone after the next mount."""
    _do(sample, Damage(code, act))
    assert [finding.code for finding in sample.examine(base=True)] == [code]
    from minifo.engine import Overlay

    Overlay.open(sample.base, sample.storage, clone=False, redo_directory=memory_directory()).close()
    assert sample.examine(base=True) == []


def test_repair_takes_what_a_killed_daemon_acknowledged(sample: SampleStorage) -> None:
    """The redo log is replayed before the repair, and is stale after it."""
    _kill(sample)
    sample.sql("UPDATE inode SET nlink = 7 WHERE ino = {/large}")
    assert wrong(sample.repair()[0]) == []
    assert sample.examine() == []
    assert "/late" in sample.look()


def _kill_and_lose(sample: SampleStorage) -> str:
    """Leave operations in a redo log that rely on content which is gone; where the log is."""
    from minifo.engine import ROOT, Ino, Overlay

    child = os.fork()
    if child == 0:
        overlay = Overlay.open(sample.base, sample.storage, clone=False, redo_directory=memory_directory())
        ino = Ino(overlay.mknod(ROOT, b"late", 0o644, 0, Process()).ino)
        overlay.write(ino, 0, b"x" * 10_000)
        os._exit(0)
    os.waitpid(child, 0)
    os.unlink(max(glob.glob(at("content/*/*")(sample)), key=os.path.getmtime))
    con = apsw.Connection(sample.database)
    try:
        (uuid,) = next(iter(con.execute("SELECT value FROM overlay WHERE key = 'uuid'")))
    finally:
        con.close()
    (log,) = glob.glob(f"{memory_directory()}/{uuid}-*.redo")
    return log


def test_a_redo_log_whose_content_is_gone(sample: SampleStorage) -> None:
    """E405: before somebody says so nothing is changed, no other damage either; then the log is set aside, and kept."""
    log = _kill_and_lose(sample)
    try:
        with open(log, "rb") as file:
            data = file.read()
        sample.sql("UPDATE inode SET nlink = 7 WHERE ino = {/large}")
        assert set(wrong(sample.examine())) == {"E010", "E405"}
        assert set(wrong(sample.repair(safe=True)[0])) == {"E010", "E405"}
        with open(log, "rb") as file:
            assert file.read() == data
        assert wrong(sample.repair()[0]) == []
        assert sample.examine() == []
        assert not os.path.exists(log)
        with open(log + ".1", "rb") as file:
            assert file.read() == data
        assert "/late" not in sample.look()
    finally:
        for path in glob.glob(log + "*"):
            os.unlink(path)


@pytest.mark.parametrize(("code", "act"), DRIFT, ids=[f"{code}-{n}" for n, (code, _) in enumerate(DRIFT)])
def test_another_base_is_noted_and_nothing_is_changed(
    code: str, act: Callable[[SampleStorage], object], sample: SampleStorage
) -> None:
    """Exit code 0 in every mode, and not a byte of storage is another one."""
    act(sample)
    assert {finding.code for finding in sample.examine(base=True)} == {code}
    before = kept(sample.storage)
    for mode in ("-n", "-p", "-y"):
        assert fsck_helper.main([mode, "--base", sample.base, sample.storage]) == 0
        assert kept(sample.storage) == before


def test_a_directory_without_a_type_is_one_again(sample: SampleStorage) -> None:
    """A base directory whose type is damaged, renamed and without a name of ours in it."""
    sample.sql("UPDATE inode SET mode = mode & 4095 WHERE ino = {/made/newdir}")
    left, _ = sample.repair(base=False)
    assert wrong(left) == []
    assert sample.look() == sample.healthy


def test_every_code_has_a_test_and_a_line_in_the_manual() -> None:
    """The table of docs/fsck.md is the catalogue, word by word; every code has a test, every invariant a code."""
    tests = [value.__doc__ for name, value in globals().items() if name.startswith("test_")]
    own = {found[1] for found in (re.match(r"(\w\d{3}): ", text or "") for text in tests) if found}
    assert own == {"N303", "E305", "E405"}
    own |= {"E307"}  # tests/fsck/test_data.py
    others = {code for code, _ in (*LEFTOVERS, *DRIFT)}
    bad_base = {"W507"}  # tests/mount/test_bad_objects.py
    assert {damage.code for damage in DAMAGES} | others | own | bad_base == set(KINDS)
    assert {f"E{invariant.number:03d}" for invariant in INVARIANTS} | {"E005", "E018"} <= set(KINDS)
    told = re.findall(r"^\| (\w\d{3}) \| (.*) \| (.*) \| (.*) \|$", _DOCS.read_text(), re.MULTILINE)
    assert [code for code, _, _, _ in told] == list(KINDS)
    for code, meaning, repair, safe in told:
        kind = KINDS[code]
        assert (meaning, safe == "yes") == (kind.meaning, kind.safe), code
        assert repair == kind.repair if kind.repair else repair.startswith(("none", "mount it")), code
    assert set(KINDS) >= NEEDS_REBUILD
