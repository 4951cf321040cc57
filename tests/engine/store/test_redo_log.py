"""The redo log: its format, the content it relies on, and logs that are damaged, foreign or hostile."""

from __future__ import annotations

import errno
import os
import random
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifo.engine import StateError
from minifo.engine.errors import Corrupt
from minifo.engine.store.database import Params
from minifo.engine.store.database_file import open_database
from minifo.engine.store.redo_log import RedoLog
from minifo.engine.store.redo_records import (
    HEADER,
    BadRecord,
    Header,
    Operation,
    encode_operation,
    frame,
    parse_operation,
)
from minifo.engine.store.statements import NUMBERS, statement
from tests.shared.overlay_sandbox import OverlaySandbox

BIG = b"x" * 10_000  # above what is kept in a row

_VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.binary(max_size=3000),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=50),
)
STATEMENTS = st.lists(
    # a statement has as many values each time: here the number says how many
    st.integers(0, 2**32 - 1).flatmap(
        lambda number: st.tuples(
            st.just(number), st.lists(_VALUES, min_size=number % 21, max_size=number % 21).map(tuple)
        )
    ),
    max_size=6,
)
NUMBERS_64 = st.integers(-(2**63), 2**63 - 1)


#: The arguments of ``encode_operation``.
OPERATIONS = st.builds(
    Operation, STATEMENTS, NUMBERS_64, NUMBERS_64, st.lists(st.tuples(NUMBERS_64, NUMBERS_64), max_size=5)
)


@given(OPERATIONS)
def test_records_read_back_what_was_encoded(operation: Operation) -> None:
    """Every value is read back unchanged, with the same type."""
    body = encode_operation(*operation)
    found = parse_operation(body)
    assert found == operation
    assert [[type(value) for value in params] for _, params in found.statements] == [
        [type(value) for value in params] for _, params in operation.statements
    ]


@given(STATEMENTS, st.randoms(use_true_random=False), st.integers(1, 20))
def test_damaged_records_are_refused_or_read(
    statements: list[tuple[int, Params]], chance: random.Random, times: int
) -> None:
    """A record with changed bytes is parsed or raises BadRecord, and takes no more memory than its length."""
    body = bytearray(encode_operation(statements, 1, 2, [(3, 4)]))
    for _ in range(times):
        body[chance.randrange(len(body))] = chance.choice((0, 1, 127, 128, 255, chance.randrange(256)))
    try:
        found = parse_operation(bytes(body))
    except BadRecord:
        return
    size = sum(len(v) for _, params in found.statements for v in params if isinstance(v, bytes | str))
    assert size <= len(body)


class Killed:
    """An overlay whose daemon was killed with operations in its redo log."""

    def __init__(self, sandbox: OverlaySandbox, tmp_path: Path) -> None:
        self.sandbox = sandbox
        self.memory = tmp_path / "redo"
        self.memory.mkdir()
        sandbox.put("base", BIG)
        self.open()
        sandbox.create("old", BIG)
        sandbox.ov.commit()

    def open(self, **options: object) -> None:
        self.sandbox.open(redo_directory=str(self.memory), **options)

    def kill(self) -> Path:
        self.sandbox.kill()
        return self.log

    @property
    def log(self) -> Path:
        (log,) = self.memory.glob("*.redo")
        return log

    def state(self) -> dict[str, bytes]:
        """Return the bytes of all files in storage, and of the log."""
        paths = [path for path in self.sandbox.sto.glob("**/*") if path.is_file() and path.name != "lock"]
        return {str(path): path.read_bytes() for path in (*paths, self.log)}

    def refuses(self, why: str) -> None:
        """Expect that opening fails with *why*, changes nothing that the next open needs, and keeps the log."""
        before, log = self.state(), self.log.read_bytes()
        with pytest.raises(StateError, match=why) as caught:
            self.open()
        assert caught.value.redo == str(self.log)
        assert "redo=aside" in caught.value.hint
        assert self.log.read_bytes() == log
        after = self.state()
        # SQLite moves its log into the database when the last connection is closed
        assert {path: data for path, data in after.items() if "minifo.db" not in path} == {
            path: data for path, data in before.items() if "minifo.db" not in path
        }


@pytest.fixture
def killed(sandbox: OverlaySandbox, tmp_path: Path) -> Killed:
    """A killed overlay with one commit."""
    return Killed(sandbox, tmp_path)


def objects(sandbox: OverlaySandbox) -> set[str]:
    """Return the names of the files of all content objects."""
    return set(sandbox.objects())


@pytest.mark.logs("operations of a killed daemon were replayed")
def test_missing_content_refuses_the_replay(killed: Killed) -> None:
    """Without a content object the replay is refused before it changes anything; with it all are replayed."""
    sandbox = killed.sandbox
    before = objects(sandbox)
    sandbox.write("base", b"new")
    sandbox.create("after")
    (name,) = objects(sandbox) - before
    killed.kill()
    made = f"content/{name}"
    path = sandbox.sto / made
    kept = path.read_bytes()
    path.unlink()
    killed.refuses(f"{made} is missing")
    killed.refuses("is missing")  # and again
    path.write_bytes(kept[:-1])
    killed.refuses(f"{made} has 9999 of 10000 bytes")
    path.write_bytes(kept)
    killed.open()
    assert sandbox.names() == ["after", "base", "old"]
    assert sandbox.read("base") == b"new" + BIG[3:]
    sandbox.close()
    assert list(killed.memory.iterdir()) == []


@pytest.mark.logs("cannot be replayed: .* \\(content/.* is missing\\)")
def test_the_log_is_set_aside_when_asked(killed: Killed) -> None:
    """With redo=aside the last commit shows, the log is kept under another name, and the next mount does not see it."""
    sandbox = killed.sandbox
    sandbox.write("base", b"new")
    log = killed.kill()
    data = log.read_bytes()
    for path in sandbox.sto.glob("content/*/*"):
        if path.name != "1":
            path.unlink()
    killed.refuses("is missing")
    killed.open(redo_aside=True)
    assert sandbox.names() == ["base", "old"]
    assert sandbox.read("base") == BIG
    assert Path(f"{log}.1").read_bytes() == data
    sandbox.close()
    killed.open()
    assert sandbox.read("old") == BIG


@pytest.mark.logs("operations of a killed daemon were replayed")
def test_redo_aside_replays_a_whole_log(killed: Killed) -> None:
    """A log that can be replayed is replayed with ``redo=aside`` too, so that option may stand in fstab."""
    killed.sandbox.create("new", BIG)
    killed.kill()
    killed.open(redo_aside=True)
    assert killed.sandbox.names() == ["base", "new", "old"]
    assert killed.memory.glob("*.1")


@pytest.mark.logs("operations of a killed daemon were replayed")
def test_objects_deleted_again_are_not_needed(killed: Killed) -> None:
    """The replay does not need content objects that no row uses after it."""
    sandbox = killed.sandbox
    sandbox.create("short-lived", BIG)
    sandbox.unlink("short-lived")
    sandbox.create("cut", BIG)
    sandbox.set("cut", size=0)
    sandbox.write("old", BIG, 5000)
    sandbox.set("old", size=100)
    sandbox.set("old", size=20_000)
    killed.kill()
    killed.open()
    assert sandbox.names() == ["base", "cut", "old"]
    assert sandbox.read("old") == BIG[:100] + bytes(19_900)


def _fail(
    sandbox: OverlaySandbox, monkeypatch: pytest.MonkeyPatch, *, name: str = "fdatasync", after: int = 0
) -> StateError:
    """Commit, with a sync that fails after a number of successful ones."""
    true = getattr(os, name)
    done = 0

    def broken(fd: int) -> None:
        nonlocal done
        if done >= after:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        done += 1
        true(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, name, broken)
        with pytest.raises(StateError, match="read-only now") as caught:
            sandbox.ov.commit()
    return caught.value


@pytest.mark.logs("cannot be replayed: storage failed, and content did not arrive")
def test_content_is_unknown_after_a_failed_sync(killed: Killed, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed sync the log is not replayed, because the kernel may show bytes that the medium does not have."""
    sandbox = killed.sandbox
    sandbox.write("base", b"new")
    sandbox.create("after")
    error = _fail(sandbox, monkeypatch)
    assert error.redo == str(killed.log)
    assert error.redo in error.hint
    killed.kill()
    killed.refuses("was being written when it failed: .*Input/output error")
    killed.open(redo_aside=True)
    assert sandbox.names() == ["base", "old"]


def test_rows_are_replayed_after_a_failed_sync(killed: Killed, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed sync operations that need no content are replayed."""
    sandbox = killed.sandbox
    sandbox.rename("base", "renamed")
    sandbox.create("small", b"small")
    _fail(sandbox, monkeypatch)
    killed.kill()
    killed.open()
    assert sandbox.names() == ["old", "renamed", "small"]
    assert sandbox.read("small") == b"small"


@pytest.mark.logs("operations of a killed daemon were replayed", always=False)
@pytest.mark.parametrize("back", [False, True], ids=["arrived", "lost"])
def test_a_commit_whose_sync_failed(killed: Killed, monkeypatch: pytest.MonkeyPatch, back: bool) -> None:
    """The log is replayed on the commit whose sync failed, and on the one before, if the storage has lost that."""
    sandbox = killed.sandbox
    files = {path: path.read_bytes() for path in sandbox.sto.glob("minifo.db*")}
    sandbox.create("one", BIG)
    sandbox.rename("base", "two")
    _fail(sandbox, monkeypatch, after=1)  # the object is synced, the write-ahead log is not
    killed.kill()
    if back:
        for path, data in files.items():
            path.write_bytes(data)
    killed.open()
    assert sandbox.names() == ["old", "one", "two"]
    assert sandbox.read("one") == BIG
    assert sandbox.ov.check() == []


@pytest.mark.logs("operations of a killed daemon were replayed")
def test_operations_during_a_commit_stay_in_the_log(killed: Killed) -> None:
    """After a commit the log holds exactly the operations between the gate and the end of that commit."""
    sandbox = killed.sandbox
    sandbox.create("before", BIG)
    commits = sandbox.ov.commits
    sealed = commits.seal()
    sandbox.create("meanwhile", BIG)
    commits.harden()
    commits.finish(sealed)
    size = commits.redo_size
    sandbox.create("after", BIG)
    assert killed.log.stat().st_size == commits.redo_size > size
    killed.kill()
    killed.open()
    assert sandbox.names() == ["after", "base", "before", "meanwhile", "old"]
    sandbox.ov.commit()
    assert sandbox.ov.commits.redo_size == HEADER.size


@pytest.mark.logs("operations of a killed daemon were replayed")
def test_a_deleted_object_that_comes_back(killed: Killed, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object whose deletion a failed storage has lost is deleted again after the replay."""
    sandbox = killed.sandbox
    (name,) = objects(sandbox)
    path = sandbox.sto / "content" / name
    data = path.read_bytes()
    sandbox.unlink("old")
    sandbox.ov.commit()
    assert objects(sandbox) == set()
    sandbox.create("small", b"small")
    monkeypatch.setattr(sandbox.ov.db, "commit", _raise)  # after it was noted that the file is gone
    with pytest.raises(StateError, match="read-only now"):
        sandbox.ov.commit()
    killed.kill()
    path.write_bytes(data)
    killed.open()
    assert sandbox.names() == ["base", "small"]
    assert objects(sandbox) == set()


def _raise() -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


@pytest.mark.logs("operations of a killed daemon were replayed")
def test_a_failed_replay_is_done_again(killed: Killed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync that fails during a replay changes nothing, and the next mount replays all operations."""
    sandbox = killed.sandbox
    sandbox.create("new", BIG)
    killed.kill()
    with monkeypatch.context() as patch:

        def broken(fd: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        # the first one is of the write-ahead log
        patch.setattr("minifo.engine.store.storage.syncfs", broken)
        killed.refuses("storage failed")
    killed.open()
    assert sandbox.names() == ["base", "new", "old"]


def _rewrite(log: Path, **fields: object) -> None:
    data = log.read_bytes()
    header = Header.parse(data)._replace(**fields)  # type: ignore[arg-type]
    log.write_bytes(header.pack() + data[HEADER.size :])


@pytest.mark.logs("operations of a killed daemon were replayed")
def test_logs_of_unknown_formats_are_kept(killed: Killed) -> None:
    """A log of another version, of the first format or of an unknown one is neither replayed nor overwritten."""
    killed.sandbox.create("new")
    log = killed.kill()
    data = log.read_bytes()
    newer = bytearray(data)
    struct.pack_into("<I", newer, 12, 3)
    former = frame(b"(\x05\xda\x04uuid")
    for content, why in (
        (bytes(newer), "version 3"),
        (former + former, "unknown kind"),
        (b"x", "unknown kind"),
        (data[: HEADER.size - 1], "unknown kind"),
        (data[:30] + b"?" + data[31:], "header is damaged"),
        (data[: HEADER.size] + frame(b"\x09new kind"), "record of an unknown kind"),
        (data[: HEADER.size] + frame(b"\x01short"), "damaged"),
    ):
        log.write_bytes(content)
        killed.refuses(why)
    log.write_bytes(data)
    killed.open()
    assert killed.sandbox.names() == ["base", "new", "old"]


def test_unknown_statements_are_not_executed(killed: Killed) -> None:
    """Unknown statements, values of a wrong type and impossible rows are refused, and nothing is changed."""
    killed.sandbox.create("new")
    log = killed.kill()
    header = log.read_bytes()[: HEADER.size]
    known = NUMBERS["INSERT INTO created VALUES (?, ?, ?)"]
    for number, params, why in (
        (12345, (), "does not know"),
        (known, (1,), "does not fit"),
        (known, (1, None, 1), "does not fit"),
        (known, (1, "text", b"\xff"), "does not fit"),
    ):
        log.write_bytes(header + frame(encode_operation([(number, params)], 1, 1, [])))
        killed.refuses(why)


def test_a_symlink_or_fifo_in_place_of_the_log(killed: Killed, tmp_path: Path) -> None:
    """A symlink in place of the log is not followed, and a FIFO does not block the open."""
    killed.sandbox.create("new")
    log = killed.kill()
    data = log.read_bytes()
    canary = tmp_path / "canary"
    canary.write_bytes(data)
    log.unlink()
    log.symlink_to(canary)
    killed.refuses("symbolic link")
    log.unlink()
    log.symlink_to(tmp_path / "nothing")
    with pytest.raises(StateError, match="symbolic link"):
        killed.open()
    assert not (tmp_path / "nothing").exists()
    log.unlink()
    os.mkfifo(log)
    with pytest.raises(StateError, match="not a regular file"):
        killed.open()
    assert canary.read_bytes() == data


def test_the_identity_must_be_a_uuid(killed: Killed, tmp_path: Path) -> None:
    """A storage whose identity is not a UUID is refused, because the identity is part of the log's path."""
    killed.sandbox.close()
    for uuid in ("../../canary", "", "x" * 300, 7, None):
        db = open_database(str(killed.sandbox.sto / "minifo.db"), read_only=False)
        with db.operation():
            db.change_unlogged("UPDATE overlay SET value = ? WHERE key = 'uuid'", (uuid,))
        db.commit()
        db.close()
        with pytest.raises(Corrupt):
            killed.open()
    assert list(killed.memory.iterdir()) == []
    assert not list(tmp_path.parent.glob("canary*"))


@pytest.mark.logs("does not follow the last commit; kept as")
def test_a_log_of_another_commit_is_kept(killed: Killed) -> None:
    """A log of this storage that follows another commit is renamed with a warning, and not overwritten."""
    killed.sandbox.create("new")
    log = killed.kill()
    _rewrite(log, token=12345)
    data = log.read_bytes()
    killed.open()
    assert killed.sandbox.names() == ["base", "old"]
    assert Path(f"{log}.1").read_bytes() == data


@pytest.mark.logs("operations of a killed daemon were replayed")
def test_a_device_that_comes_back_with_another_number(killed: Killed) -> None:
    """The log is found after the storage's device has come back with another device number."""
    killed.sandbox.create("new", BIG)
    log = killed.kill()
    gone = os.makedev(250, 250)
    uuid, _, ino = log.stem.rsplit("-", 2)
    moved = log.with_name(f"{uuid}-{gone:x}-{ino}.redo")
    log.rename(moved)
    _rewrite(moved, dev=gone)
    killed.open()
    assert killed.sandbox.names() == ["base", "new", "old"]
    killed.sandbox.close()
    assert list(killed.memory.iterdir()) == []


def test_a_log_of_a_device_still_mounted_is_ignored(killed: Killed, tmp_path: Path) -> None:
    """A log of a device that is still mounted is ignored: it belongs to the storage that this one is a copy of."""
    killed.sandbox.create("new", BIG)
    log = killed.kill()
    there = os.stat("/proc").st_dev
    uuid, _, ino = log.stem.rsplit("-", 2)
    moved = log.with_name(f"{uuid}-{there:x}-{ino}.redo")
    log.rename(moved)
    _rewrite(moved, dev=there)
    killed.open()
    assert killed.sandbox.names() == ["base", "old"]
    assert moved.exists()


@pytest.mark.logs("operations of a killed daemon were replayed", always=False)
def test_a_randomly_damaged_log(killed: Killed) -> None:
    """With random bytes of the log changed, the overlay opens at an acknowledged state, or the error says why not."""
    sandbox = killed.sandbox
    for number in range(5):
        sandbox.create(f"f{number}", b"bytes")
    log = killed.kill()
    data = log.read_bytes()
    names = [f"f{number}" for number in range(5)]
    chance = random.Random(7)
    files = {path: path.read_bytes() for path in sandbox.sto.glob("minifo.db*")}
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            changed[chance.randrange(len(data))] = chance.randrange(256)
        if chance.random() < 0.3:
            del changed[chance.randrange(len(data)) :]
        log.write_bytes(changed)
        for path in sandbox.sto.glob("minifo.db*"):
            path.unlink() if path not in files else path.write_bytes(files[path])
        try:
            killed.open()
        except StateError:
            assert log.read_bytes() == changed
            continue
        shown = [name for name in sandbox.names() if name.startswith("f")]
        assert shown == names[: len(shown)]
        assert sandbox.ov.check() == []
        sandbox.kill()
        for path in killed.memory.iterdir():
            path.unlink()


def test_statements_must_be_registered(sandbox: OverlaySandbox) -> None:
    """A statement that is not registered raises LookupError, and changes nothing."""
    with pytest.raises(LookupError, match="not registered"), sandbox.ov.db.operation():
        sandbox.ov.db.change("DELETE FROM overlay")
    assert sandbox.ov.uuid
    sql = statement("DELETE FROM overlay WHERE key = ?")
    assert statement(sql) == sql
    assert NUMBERS[sql] < 2**32


def test_an_identity_that_is_not_a_uuid_makes_no_path(tmp_path: Path) -> None:
    """A log is refused for an identity that is not a UUID, which must not become part of its path."""
    with pytest.raises(Corrupt):
        RedoLog(str(tmp_path), "no-uuid", str(tmp_path))
