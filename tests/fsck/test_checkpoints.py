"""Checkpoints in a damaged storage: what is sound stays as it is, what is lost is said, and nothing goes in silence."""

from __future__ import annotations

import json
import os

import apsw
import pytest

from minifo.engine import ROOT, Ino, Overlay, Process
from minifo.engine.errors import Corrupt
from minifo.engine.fsck.session import FsckSession
from minifo.engine.store.memory_directory import memory_directory
from minifo.engine.store.object_paths import object_name
from minifo.tools import fsck_helper
from tests.fsck.sample_storage import SampleStorage, text, wrong

_PAGE = 4096
_UNNAMEABLE = "INSERT INTO was_origin VALUES (999999, 1, 1, x'2f', NULL, NULL, NULL)"  # two rows for the base's root


def object_of_first(sample: SampleStorage) -> str:
    """The object of the file that was deleted after the first checkpoint."""
    con = apsw.Connection(sample.database)
    try:
        sql = "SELECT object FROM was_inode WHERE held AND object > 0 AND ino NOT IN (SELECT ino FROM inode)"
        ((number,),) = con.execute(sql).fetchall()
        return os.path.join(sample.storage, object_name(number))
    finally:
        con.close()


def _root_page(sample: SampleStorage, table: str) -> int:
    con = apsw.Connection(sample.database)
    try:
        return int(con.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchall()[0][0])
    finally:
        con.close()


def _spoil(sample: SampleStorage, table: str) -> None:
    """The root page of a table is noise."""
    page = _root_page(sample, table)
    with open(sample.database, "r+b") as file:
        file.seek((page - 1) * _PAGE)
        file.write(b"\x5a" * _PAGE)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE inode SET nlink = 7 WHERE ino = {/made/sub/two}",
        "UPDATE inode SET bound = -1 WHERE ino = {/made/sub/two}",
        "UPDATE xattr SET value = zeroblob(100000) WHERE ino = {/made/one}",
        "UPDATE inode SET object = (SELECT object FROM inode WHERE ino = {/large}) WHERE ino = {/made/sub/two}",
    ],
)
def test_a_repair_leaves_sound_checkpoints_as_they_are(damage: str, sample: SampleStorage) -> None:
    """The damaged row was another one when the checkpoints were made."""
    sample.sql(damage)
    assert wrong(sample.examine())
    left, _ = sample.repair()
    assert wrong(left) == []
    assert sample.states() == sample.healthy_states


def test_a_lost_object_of_a_checkpoint_costs_its_bytes_only(sample: SampleStorage) -> None:
    """The file of the checkpoint that had them is marked; everything else is as it was."""
    path = object_of_first(sample)
    os.unlink(path)
    assert wrong(sample.examine()) == ["E605"]
    left, _ = sample.repair(safe=True)
    assert wrong(left) == ["E605"]
    left, _ = sample.repair()
    assert wrong(left) == []
    states = sample.states()
    assert states["first"].pop("/made/late-gone") == ("file", bytes(30_000))
    sample.healthy_states["first"].pop("/made/late-gone")
    assert states == sample.healthy_states
    overlay = Overlay.open(sample.base, sample.storage, clone=False, at="first")
    try:
        made = overlay.lookup(ROOT, b"made")
        assert made is not None
        gone = overlay.lookup(Ino(made.ino), b"late-gone")
        assert gone is not None
        assert overlay.getxattr(Ino(gone.ino), b"user.minifo.damaged").startswith(b"the bytes of object")
    finally:
        overlay.close()


def test_a_checkpoint_that_cannot_be_shown_is_deleted_by_y_only(sample: SampleStorage) -> None:
    """With it goes the content that nothing else needs; the other checkpoint and the overlay stay."""
    sample.sql(_UNNAMEABLE)
    path = object_of_first(sample)
    assert wrong(sample.examine()) == ["E606"]
    left, _ = sample.repair(safe=True)
    assert wrong(left) == ["E606"]
    left, _ = sample.repair()
    assert wrong(left) == []
    assert sample.states() == {"second": sample.healthy_states["second"]}
    assert sample.look() == sample.healthy
    assert not os.path.exists(path)


@pytest.mark.parametrize("good", [1, 2])
def test_a_trial_ends_with_its_fallback_only(good: int, sample: SampleStorage) -> None:
    """A later checkpoint may get the number of the one that was deleted, and is no fallback."""
    facts = f"('trial_good', {good}), ('trial_left', 2), ('trial_mounts', 3)"
    sample.sql(f"INSERT INTO overlay VALUES {facts}", _UNNAMEABLE)
    left, _ = sample.repair()
    assert wrong(left) == []
    con = apsw.Connection(sample.database)
    try:
        found = dict(con.execute("SELECT key, value FROM overlay WHERE key IN ('trial_good', 'trial_left')"))
    finally:
        con.close()
    assert found == ({"trial_good": 2, "trial_left": 2} if good == 2 else {})


def test_a_mount_says_what_to_do_about_an_impossible_checkpoint(sample: SampleStorage) -> None:
    """The overlay itself works, and its content is not written to in place."""
    sample.sql("UPDATE checkpoint SET name = char(10), next_object = 9223372036854775807 WHERE id = 2")
    overlay = sample.open()
    try:
        with pytest.raises(Corrupt, match="minifo-fsck"):
            overlay.checkpoints.all()
        with pytest.raises(Corrupt, match="minifo-fsck"):
            overlay.checkpoints.rollback("first")
        attr = overlay.lookup(ROOT, b"large")
        assert attr is not None
        overlay.write(Ino(attr.ino), 0, b"written again")
        made = overlay.mknod(ROOT, b"new", 0o100644, 0, Process())
        overlay.write(Ino(made.ino), 0, text("new", 50_000))
        overlay.write(Ino(made.ino), 10, b"once more")
    finally:
        overlay.close()
    left, _ = sample.repair()
    assert wrong(left) == []
    states = sample.states()
    assert list(states.values()) == list(sample.healthy_states.values())


def test_operations_in_the_redo_log_keep_the_history(sample: SampleStorage) -> None:
    """A repair replays what a killed daemon had acknowledged, and the checkpoints stay what they were."""
    child = os.fork()
    if child == 0:
        overlay = Overlay.open(sample.base, sample.storage, clone=False, redo_directory=memory_directory())
        for path in (b"large", b"spare"):
            attr = overlay.lookup(ROOT, path)
            assert attr is not None
            overlay.write(Ino(attr.ino), 100, b"acknowledged")
        overlay.unlink(ROOT, b"empty")
        os._exit(0)
    os.waitpid(child, 0)
    sample.sql("UPDATE inode SET nlink = 9 WHERE ino = {/made/sub}")
    left, _ = sample.repair()
    assert wrong(left) == []
    assert sample.states() == sample.healthy_states
    tree = sample.look()
    assert "/empty" not in tree
    assert tree["/large"][1][100:112] == b"acknowledged"


@pytest.mark.parametrize("table", ["was_inode", "was_xattr", "checkpoint", "orphan"])
def test_a_rebuild_without_all_rows_says_which_checkpoints_are_lost(
    table: str, sample: SampleStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their content is in lost+found, and nothing of the overlay is lost."""
    _spoil(sample, table)
    assert fsck_helper.main(["-y", sample.storage]) == fsck_helper.CORRECTED
    said = capsys.readouterr().out
    assert sample.states() == {}
    assert "0 checkpoints kept, 2 lost" in said
    for what in ("number 1", "number 2") if table == "checkpoint" else ("first", "second"):
        assert f"lost: checkpoint {what}" in said
    tree = sample.look()
    assert {path: seen for path, seen in tree.items() if not path.startswith("/lost+found")} == sample.healthy
    assert text("made/late-gone", 30_000) in {data for path, (_, data) in tree.items() if "/lost+found/" in path}
    assert wrong(sample.examine()) == []


@pytest.mark.parametrize("table", ["created", "journal", "garbage"])
def test_a_rebuild_with_all_rows_keeps_the_checkpoints(
    table: str, sample: SampleStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows of the overlay may come from the backup of the last commit; other tables have nothing that they need."""
    _spoil(sample, table)
    assert fsck_helper.main(["-y", "--json", sample.storage]) == fsck_helper.CORRECTED
    salvage = json.loads(capsys.readouterr().out)["salvage"]
    assert (salvage["checkpoints_kept"], salvage["checkpoints_lost"]) == (["first", "second"], [])
    assert sample.states() == sample.healthy_states
    assert sample.look() == sample.healthy


def test_a_damaged_backup_does_not_vouch_for_checkpoints(sample: SampleStorage) -> None:
    """Rows of the overlay are lost with a page of the database and a part of the backup."""
    _spoil(sample, "created")
    path = os.path.join(sample.storage, "minifo.names")
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) - 10)
        file.write(b"\xff")
    _, result = sample.repair()
    assert result is not None
    assert result.checkpoints.lost == ["first", "second"]
    assert sample.states() == {}


def test_without_a_database_nothing_is_known_of_checkpoints(
    sample: SampleStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    """The backup does not have them; it is said, and the content stays."""
    os.unlink(sample.database)
    assert fsck_helper.main(["-y", sample.storage]) == fsck_helper.CORRECTED
    assert "0 checkpoints kept, 0 lost; there may have been others" in capsys.readouterr().out
    assert text("made/late-gone", 30_000) in {data for _, data in sample.look().values()}


def test_progress_is_told_for_each_checkpoint(sample: SampleStorage) -> None:
    """Many checkpoints take a while."""
    seen: list[tuple[int, int]] = []
    with FsckSession(sample.storage, None, write=False) as session:
        session.check(
            progress=lambda what, done, total: seen.append((done, total)) if what == "checking checkpoints" else None
        )
    assert seen == [(0, 2), (1, 2), (2, 2)]
