"""Clones: what they hold, that neither side ever sees what the other does, and what is left of one that fails."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minifo.engine.clone import Cloned, checkpoint_for_clone, clone, clone_beside, clone_overlay, state_of
from minifo.engine.errors import Corrupt, FsError, StateError, StorageBusy, UsageError
from minifo.engine.queries.checkpoint_sizes import oldest_beyond, sizes
from minifo.engine.store.confined_dir import mark_shared
from minifo.engine.store.object_files import ObjectFiles
from minifo.engine.store.object_paths import object_name
from minifo.engine.store.storage import CLONING, Storage
from minifo.engine.store.syscalls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE
from tests.crash.disk_model import Disk
from tests.crash.io_fault_injector import Injector
from tests.crash.recorded_overlay import materialise
from tests.crash.recorder import MARKS, Recorder
from tests.shared.overlay_sandbox import OverlaySandbox

LARGE = os.urandom(400_000)
MEDIUM = os.urandom(20_000)  # copied whole when it is written
NAMES = ("large", "medium", "small", "mixed", "mixed2", "moved", "grown")


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[OverlaySandbox]:
    """An overlay with a file of every backing."""
    found = OverlaySandbox(tmp_path)
    for name in ("mixed", "mixed2", "gone", "was"):
        found.put(name, LARGE)
    found.create("large", LARGE)
    found.create("medium", MEDIUM)
    found.create("small", b"small")
    found.write("mixed", b"m" * 9000, 50_000)
    found.write("mixed", b"n" * 9000, 300_000)
    found.write("mixed2", b"m" * 9000, 50_000)
    found.unlink("gone")
    found.rename("was", "moved")
    found.create("grown", LARGE[:100_000])
    found.set("grown", size=150_000)
    found.mkdir("d")
    found.set("d", mode=0o700)
    yield found
    found.close()


@pytest.fixture
def twin(sandbox: OverlaySandbox) -> Iterator[OverlaySandbox]:
    """A clone of it."""
    found = fork(sandbox)
    yield found
    found.close()


def fork(sandbox: OverlaySandbox, name: str = "fork", at: str | None = None) -> OverlaySandbox:
    """A clone, in a directory beside its source."""
    sto = sandbox.sto.with_name(name)
    clone_overlay(sandbox.ov, at, str(sto))
    return sandbox.beside(sto)


def bytes_of(sandbox: OverlaySandbox) -> dict[str, bytes]:
    """The bytes of the files above."""
    return {name: sandbox.read(name) for name in NAMES if sandbox.find(name) is not None}


def files(sto: Path) -> dict[int, Path]:
    """The content objects, by the numbers of their files."""
    return {path.stat().st_ino: path for path in (sto / "content").glob("*/*")}


def shared(one: OverlaySandbox, other: OverlaySandbox) -> int:
    """How many files two storages share."""
    return len(files(one.sto).keys() & files(other.sto).keys())


# -- what it holds


def test_it_shows_what_the_overlay_showed(sandbox: OverlaySandbox, twin: OverlaySandbox) -> None:
    """Names, bytes and attributes; it shares all objects, and has its own identity."""
    assert bytes_of(twin) == bytes_of(sandbox)
    assert twin.names() == sandbox.names()
    assert twin.lists() == sandbox.lists()
    assert [twin.attr(name) for name in NAMES] == [sandbox.attr(name) for name in NAMES]
    assert shared(sandbox, twin) == len(files(twin.sto)) > 2
    assert twin.ov.uuid != sandbox.ov.uuid
    assert sorted(os.listdir(twin.sto)) == sorted(os.listdir(sandbox.sto))


def test_what_is_about_the_storage_stays_there(sandbox: OverlaySandbox) -> None:
    """Checkpoints, the trial and the journal."""
    sandbox.reopen(journal=100)
    sandbox.ov.checkpoints.create("one")
    sandbox.ov.trial.start(3)
    sandbox.write("large", b"x")
    twin = fork(sandbox)
    twin.open(journal=100)
    assert twin.ov.checkpoints.all() == []
    assert twin.ov.trial.state().verdict == "good"
    assert twin.rows("journal") == twin.rows("was_inode") == twin.rows("garbage") == 0
    twin.create("new", LARGE)
    assert twin.ov.check() == []
    twin.close()
    assert len(sandbox.ov.checkpoints.all()) == 2


def test_a_checkpoint_of_it(sandbox: OverlaySandbox) -> None:
    """As it was then, whatever came after; objects of today only are not shared."""
    before = bytes_of(sandbox)
    sandbox.ov.checkpoints.create("one")
    sandbox.write("medium", b"later", 100)
    sandbox.unlink("large")
    sandbox.create("new", LARGE)
    for twin in (fork(sandbox, "open", "one"), sandbox.beside(sandbox.sto.with_name("beside"))):
        if not twin.sto.exists():
            clone_beside(str(sandbox.sto), "one", str(twin.sto))
        assert bytes_of(twin) == before
        assert twin.find("new") is None
        assert twin.ov.check() == []
        twin.close()
    sandbox.ov.checkpoints.delete(["one"])
    with pytest.raises(StateError, match="no checkpoint 'one'"):
        clone_beside(str(sandbox.sto), "one", str(sandbox.sto.with_name("third")))
    with pytest.raises(StateError, match="deleted meanwhile"):
        state_of(sandbox.ov.db, 1)
    assert not sandbox.sto.with_name("third").exists()


# -- neither side sees what the other does

OPERATIONS: dict[str, Callable[[OverlaySandbox], object]] = {
    "write": lambda s: [s.write(name, b"W" * 700, at) for name in NAMES for at in (3, 60_000)],
    "write again": lambda s: [s.write(name, b"%d" % turn * 700, 60_100 + turn) for name in NAMES for turn in range(3)],
    "write at the end": lambda s: [s.write(name, b"E" * 9000, s.attr(name).size - 5) for name in NAMES],
    "truncate": lambda s: [s.set(name, size=size) for name in NAMES for size in (5000, 90_000)],
    "empty": lambda s: [s.set(name, size=0) for name in NAMES],
    "grow": lambda s: [s.set(name, size=s.attr(name).size + 70_000) for name in NAMES],
    "punch": lambda s: [
        s.ov.fallocate(s.ino(name), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 60_000) for name in NAMES
    ],
    "zero": lambda s: [s.ov.fallocate(s.ino(name), FALLOC_FL_ZERO_RANGE, 100, 60_000) for name in NAMES],
    "allocate": lambda s: [s.ov.fallocate(s.ino(name), 0, 0, 500_000) for name in NAMES],
    "copy": lambda s: [s.ov.copy(s.ino("large"), 8192, s.ino(name), 4096, 40_960) for name in NAMES if name != "large"],
    "rename and unlink": lambda s: (s.rename("large", "medium"), s.unlink("mixed"), s.unlink("moved")),
    "rollback": lambda s: (
        s.ov.checkpoints.create("one"),
        s.write("large", b"R", 7),
        s.ov.checkpoints.rollback("one"),
        s.write("large", b"S", 7),
        s.ov.checkpoints.delete([found.name for found in s.ov.checkpoints.all()]),
        s.write("large", b"T", 8),
        s.write("medium", b"T", 8),
    ),
}


@pytest.mark.parametrize("what", OPERATIONS)
def test_what_one_does_the_other_does_not_see(sandbox: OverlaySandbox, twin: OverlaySandbox, what: str) -> None:
    """Each in turn, with commits that free what is not needed; one has been open since before there was the other."""
    before = bytes_of(sandbox)
    files_before = {number: path.read_bytes() for number, path in files(sandbox.sto).items()}
    OPERATIONS[what](sandbox)
    sandbox.ov.commits.run()
    assert bytes_of(twin) == before
    done = bytes_of(sandbox)
    OPERATIONS[what](twin)
    twin.ov.commits.run()
    assert bytes_of(twin) == done, "from one state the same comes of it"
    assert bytes_of(sandbox) == done
    sandbox.reopen()
    twin.reopen()
    assert bytes_of(sandbox) == bytes_of(twin) == done
    assert sandbox.ov.check() == twin.ov.check() == []
    for number, path in (files(sandbox.sto) | files(twin.sto)).items():
        if number in files_before and path.stat().st_nlink > 1:
            assert path.read_bytes() == files_before[number]


def test_what_the_other_does_not_have_any_more_is_its_own(sandbox: OverlaySandbox, twin: OverlaySandbox) -> None:
    """Then a write goes into the file that is there, in the same mount and after the next one."""
    for fresh in (False, True):
        name = "medium" if fresh else "large"
        twin.write(name, b"1", 5)  # while it is shared, also with a descriptor for reading only
        sandbox.read(name)
        sandbox.unlink(name)
        sandbox.ov.commits.run()
        twin.ov.commits.run()
        if fresh:
            twin.reopen()
        there = files(twin.sto).keys()
        twin.write(name, b"2" * 100, 100)
        twin.ov.commits.run()
        assert files(twin.sto).keys() == there
        assert twin.read(name)[100:200] == b"2" * 100


@pytest.mark.parametrize("again", [False, True])
def test_what_a_commit_shortened_is_synced_when_it_is_shared(again: bool, sandbox: OverlaySandbox) -> None:
    """The file was cut when the commit before the clone was durable, and is to be made so by the next one."""
    sandbox.create("cut", LARGE)
    sandbox.ov.commit()
    sandbox.set("cut", size=5000)
    clone_overlay(sandbox.ov, None, str(sandbox.sto.with_name("twin")))
    assert sandbox.ov.objects.dirty
    if again:
        clone_overlay(sandbox.ov, None, str(sandbox.sto.with_name("other")))
    sandbox.create("more")
    sandbox.ov.commit()
    assert sandbox.read("cut") == LARGE[:5000]


def test_a_descriptor_for_reading_becomes_one_for_writing(sandbox: OverlaySandbox, twin: OverlaySandbox) -> None:
    """An object was opened while it was shared, and is written when it is not."""
    assert twin.read("large") == LARGE
    sandbox.unlink("large")
    sandbox.ov.commits.run()
    count = len(files(twin.sto))
    twin.write("large", b"2" * 100, 100)
    assert len(files(twin.sto)) == count
    assert twin.read("large")[100:200] == b"2" * 100


def test_the_last_line_of_defence(
    sandbox: OverlaySandbox, twin: OverlaySandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who forgets to ask whether an object is shared gets EIO, and the other side keeps its bytes."""
    for side, other in ((sandbox, twin), (twin, sandbox)):
        before = bytes_of(other)
        with monkeypatch.context() as patched:
            patched.setattr(ObjectFiles, "is_frozen", lambda self, number: False)
            with pytest.raises(FsError) as failed:
                side.write("large", b"x", 10)
            assert failed.value.errno == errno.EIO
        assert bytes_of(other) == before


def test_a_clone_of_a_clone(sandbox: OverlaySandbox, twin: OverlaySandbox) -> None:
    """Three storages share a file, and any of them may go."""
    third = fork(twin, "third")
    before = bytes_of(sandbox)
    assert {path.stat().st_nlink for path in files(third.sto).values()} == {3}
    twin.set("large", size=100)
    twin.close()
    subprocess.run(["rm", "-r", twin.sto], check=True)
    third.write("large", b"3", 3)
    assert bytes_of(sandbox) == before
    third.unlink("mixed")
    third.close()
    sandbox.write("mixed", b"mine", 50_100)
    assert sandbox.read("mixed")[50_100:50_104] == b"mine"


def test_what_checkpoints_take(sandbox: OverlaySandbox) -> None:
    """What a clone has too would not be freed: it does not count as the checkpoint's own."""
    made = sandbox.ov.checkpoints.create("one")
    sandbox.unlink("large")
    sandbox.ov.commits.run()
    assert sizes(sandbox.ov)[made.id].own > 400_000
    assert oldest_beyond(sandbox.ov, [], [made.id], 100_000) == [made.id]
    fork(sandbox, at="one")
    found = sizes(sandbox.ov)[made.id]
    assert found.own < 10_000
    assert found.shared > 400_000
    assert oldest_beyond(sandbox.ov, [], [made.id], 100_000) == []


# -- how it shares


def test_on_another_file_system_it_is_a_copy(sandbox: OverlaySandbox, tmp_path_factory: pytest.TempPathFactory) -> None:
    """With its holes."""
    memory = Path("/dev/shm")
    if memory.stat().st_dev == sandbox.sto.stat().st_dev:
        pytest.fail("these tests need a /dev/shm that is another file system than that of the tests")
    sandbox.set("grown", size=40 << 20)
    sandbox.write("grown", b"end", (40 << 20) - 3)
    sto = memory / f"minifo-clone-{os.getpid()}"
    twin = sandbox.beside(sto)
    try:
        made = clone_overlay(sandbox.ov, None, str(sto))
        assert (made.linked, made.reflinked, made.copied) == (0, 0, len(files(sto)))
        assert made.copied_bytes < 3 << 20
        assert bytes_of(twin) == bytes_of(sandbox)
    finally:
        twin.close()
        subprocess.run(["rm", "-rf", sto], check=True)


def test_a_file_with_all_the_names_it_can_have_is_copied(sandbox: OverlaySandbox) -> None:
    """EMLINK, as ext4 says it after 65,000 names."""
    sandbox.ov.commits.run()
    full = max(files(sandbox.sto).values(), key=lambda path: path.stat().st_size)

    class Full(Storage):
        def link(self, source: Storage, name: str, inode: int) -> None:
            if inode == full.stat().st_ino:
                raise OSError(errno.EMLINK, os.strerror(errno.EMLINK), name)
            super().link(source, name, inode)

    made = _clone(sandbox, "fork", Full)
    assert (made.copied, made.linked) == (1, len(files(sandbox.sto)) - 1)
    twin = sandbox.beside(sandbox.sto.with_name("fork"))
    assert bytes_of(twin) == bytes_of(sandbox)
    twin.close()


def _clone(sandbox: OverlaySandbox, name: str, storage_io: Callable[[str], Storage]) -> Cloned:
    """Make a clone with another way to storage."""
    sandbox.ov.commit()
    sandbox.ov.objects.share()
    state = state_of(sandbox.ov.db)
    try:
        return clone(sandbox.ov.storage, state, str(sandbox.sto.with_name(name)), storage_io=storage_io)
    finally:
        state.close()


def test_marks_are_durable_before_links(sandbox: OverlaySandbox) -> None:
    """After a power cut no object of the source has a second name without the mark."""
    done: list[str] = []

    class Noting(Storage):
        def offer(self, fd: int) -> int | None:
            done.append("mark")
            return super().offer(fd)

        def sync_all(self) -> None:
            super().sync_all()
            done.append("sync")

        def link(self, source: Storage, name: str, inode: int) -> None:
            super().link(source, name, inode)
            done.append("link")

    sandbox.reopen(storage_io=Noting)
    count = len(files(sandbox.sto))
    done.clear()
    _clone(sandbox, "fork", Noting)
    assert done == ["mark"] * count + ["sync"] + ["link"] * count + ["sync"]


# -- where it may be


def test_places_that_are_refused(sandbox: OverlaySandbox, twin: OverlaySandbox) -> None:
    """Nothing is changed there."""
    foreign = sandbox.sto.with_name("foreign")
    foreign.mkdir()
    (foreign / "mine").write_text("mine")
    for place, reason in (
        (sandbox.sto, "lie in each other"),
        (sandbox.sto / "in", "lie in each other"),
        (sandbox.sto.parent, "lie in each other"),
        (twin.sto, "holds an overlay already"),
        (foreign, "holds foreign files"),
        (foreign / "mine", "is not a directory"),
        (sandbox.sto.parent / "no" / "where", "cannot be made"),
    ):
        with pytest.raises(StateError, match=reason):
            clone_overlay(sandbox.ov, None, str(place))
    with pytest.raises(UsageError):
        clone_overlay(sandbox.ov, None, str(sandbox.sto))
    assert os.listdir(foreign) == ["mine"]
    assert bytes_of(twin) == bytes_of(sandbox)
    empty = sandbox.sto.with_name("empty")
    empty.mkdir()
    assert bytes_of(fork(sandbox, "empty")) == bytes_of(sandbox)


def test_two_at_once(sandbox: OverlaySandbox) -> None:
    """The second one into a directory is refused, and takes nothing from the first."""
    place = sandbox.sto.with_name("fork")
    place.mkdir()
    first = Storage(str(place))
    first.lock(exclusive=True)
    os.close(first.create(CLONING))
    with pytest.raises(StorageBusy):
        clone_overlay(sandbox.ov, None, str(place))
    assert first.exists(CLONING)
    first.close()
    assert bytes_of(fork(sandbox)) == bytes_of(sandbox)


def test_the_rest_of_one_that_was_cut(sandbox: OverlaySandbox) -> None:
    """It is no overlay to anybody, and the next clone takes its place."""
    sto = sandbox.sto.with_name("fork")
    twin = fork(sandbox)
    (sto / "minifo.db").rename(sto / CLONING)
    with pytest.raises(StateError, match="is a clone that was cut short"):
        twin.open()
    done = subprocess.run(
        [Path(sys.executable).with_name("minifo-fsck"), "-y", sto], capture_output=True, text=True, check=False
    )
    assert "is a clone that was cut short; make it again: minifo clone" in done.stderr
    assert bytes_of(fork(sandbox)) == bytes_of(sandbox)


def test_left_checkpoints_go(sandbox: OverlaySandbox) -> None:
    """One whose caller was killed goes after a while, unless it is in use; undo does not return to any."""
    points = sandbox.ov.checkpoints
    left, fresh = checkpoint_for_clone(points), checkpoint_for_clone(points)
    assert {found.id for found in points.all()} == {left.id, fresh.id}
    with sandbox.ov.db.operation():
        sandbox.ov.db.change_unlogged("UPDATE checkpoint SET time = time - 100000000000")
    reader = Storage(str(sandbox.sto))
    reader.hold(fresh.id)
    made = checkpoint_for_clone(points)
    assert {found.id for found in points.all()} == {fresh.id, made.id}
    reader.close()
    with pytest.raises(StateError, match="nothing to undo"):
        points.undo()


# -- damage and failures


@pytest.mark.logs("is missing: reading the bytes", always=False)
def test_a_damaged_source(sandbox: OverlaySandbox) -> None:
    """A lost object is said, and nothing is left of the clone."""
    sandbox.ov.commits.run()
    next(iter(files(sandbox.sto).values())).unlink()
    with pytest.raises(Corrupt, match="is missing") as failed:
        fork(sandbox)
    assert "minifo-fsck" in failed.value.hint
    assert not sandbox.sto.with_name("fork").exists()


def test_an_impossible_number_of_an_object(sandbox: OverlaySandbox) -> None:
    """Whoever has filled the storage."""
    with sandbox.ov.db.operation():
        sandbox.ov.db.change_unlogged("UPDATE inode SET object = 1 << 62 WHERE object > 0")
    with pytest.raises(Corrupt, match="as a content object"):
        fork(sandbox)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize("links", [True, False], ids=["shared", "copied"])
def test_every_step_can_fail(sandbox: OverlaySandbox, code: int, links: bool) -> None:
    """Storage is full or fails: nothing is left that could be taken for an overlay, and the source is as it was."""
    before = bytes_of(sandbox)
    sto = sandbox.sto.with_name("fork")
    for number in range(1000):
        injector = Injector()
        injector.arm(number, code)

        class Failing(type(injector.storage(str(sandbox.sto)))):  # type: ignore[misc]
            def link(self, source: Storage, name: str, inode: int) -> None:
                if not links:
                    raise OSError(errno.EXDEV, name)
                super().link(source, name, inode)

        try:
            _clone(sandbox, "fork", lambda path, injector=injector, kind=Failing: kind(injector, path))  # type: ignore[misc]
        except StateError as error:
            assert injector.failed is not None
            if "is made, but a power cut" not in error.message:
                assert not (sto / "minifo.db").exists(), injector.failed
        finally:
            injector.close()
        assert bytes_of(sandbox) == before
        if (sto / "minifo.db").exists():
            twin = sandbox.beside(sto)
            assert bytes_of(twin) == before
            assert twin.ov.check() == []
            twin.close()
            subprocess.run(["rm", "-r", sto], check=True)
        if injector.failed is None:
            assert number > 10
            return
    pytest.fail("no end")


RECIPES = ["lost", "kept", "names", "sizes", "bytes", *map(str, range(5))]


@pytest.mark.parametrize("links", [True, False], ids=["shared", "copied"])
def test_the_power_is_cut(sandbox: OverlaySandbox, tmp_path: Path, links: bool) -> None:
    """At any moment: the directory holds the whole clone, or none, and the same command makes it."""
    before = bytes_of(sandbox)
    sto = sandbox.sto.with_name("fork")
    sto.mkdir()
    recorder = Recorder(str(sto))

    class Recorded(type(recorder.storage(str(sto)))):  # type: ignore[misc]
        def link(self, source: Storage, name: str, inode: int) -> None:
            if not links:
                raise OSError(errno.EXDEV, name)
            super().link(source, name, inode)

    try:
        _clone(sandbox, "fork", lambda path: Recorded(recorder, path))
    finally:
        recorder.close()
    ops = [op for op in recorder.ops if op[0] not in MARKS]
    disk, tried, made = Disk(), set(), 0
    for number, op in enumerate([None, *ops]):
        if op is not None:
            disk.apply(op)
        for recipe in RECIPES:
            state = disk.build(recipe)
            key = tuple(sorted(state.items(), key=str))
            if key in tried:
                continue
            tried.add(key)
            place = tmp_path / f"cut{number}-{recipe}"
            place.mkdir(0o700)
            materialise(str(place), state)
            found = sandbox.beside(place)
            if not (place / "minifo.db").exists():
                assert number <= len(ops)
                clone_overlay(sandbox.ov, None, str(place))
            else:
                made += 1
            assert bytes_of(found) == before, f"after {op}, {recipe}"
            assert found.ov.check() == []
            found.close()
            subprocess.run(["rm", "-r", place], check=True)
    assert made
    assert "minifo.db" in disk.build("lost"), "what is acknowledged is durable"


# -- what may be shared


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
@pytest.mark.logs("is missing: reading the bytes")
@pytest.mark.parametrize("spoil", ["unmarked", "another owner's", "for the group to write", "for others to write"])
def test_what_no_clone_can_have_made(sandbox: OverlaySandbox, twin: OverlaySandbox, spoil: str) -> None:
    """A file with several names is refused, unless it bears the mark, and is of the storage's owner alone."""
    twin.ov.commits.run()
    path = max(files(twin.sto).values(), key=lambda path: path.stat().st_size)
    if spoil == "unmarked":
        os.removexattr(path, "user.minifo.shared")
    elif spoil == "another owner's":
        os.chown(path, 1234, 1234)
    else:
        path.chmod(0o660 if "group" in spoil else 0o606)
    for side in (sandbox, twin):
        side.reopen()
        with pytest.raises(FsError) as failed:
            side.read("large")
        assert failed.value.errno == errno.EIO
        with pytest.raises(FsError):
            side.write("large", b"x", 5)
    with pytest.raises(Corrupt, match="cannot be used"):
        fork(twin, "third")


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_what_is_not_the_owners_is_copied(sandbox: OverlaySandbox) -> None:
    """A file that could not be read where it is shared, in either storage."""
    sandbox.ov.commits.run()
    path = max(files(sandbox.sto).values(), key=lambda path: path.stat().st_size)
    os.chown(path, 1234, 1234)
    twin = fork(sandbox)
    assert path.stat().st_nlink == 1
    assert bytes_of(twin) == bytes_of(sandbox)
    twin.close()


def test_a_mark_alone_shares_nothing(sandbox: OverlaySandbox) -> None:
    """An object with one name is written as ever."""
    sandbox.ov.commits.run()
    for path in files(sandbox.sto).values():
        fd = os.open(path, os.O_RDONLY)
        mark_shared(fd)
        os.close(fd)
    sandbox.reopen()
    there = files(sandbox.sto).keys()
    sandbox.write("large", b"x", 5)
    sandbox.ov.commits.run()
    assert files(sandbox.sto).keys() == there


# -- minifo-fsck


def test_a_repair_leaves_the_other_side_alone(sandbox: OverlaySandbox, twin: OverlaySandbox) -> None:
    """A shared object that lost its end is extended in a copy."""
    number = twin.ov.db.value("SELECT max(object) FROM extent WHERE ino = ?", (twin.ino("mixed"),))
    path, theirs = twin.sto / object_name(number), sandbox.sto / object_name(number)
    sandbox.close()
    twin.close()
    os.truncate(path, 60_000)
    fsck = Path(sys.executable).with_name("minifo-fsck")
    done = subprocess.run([fsck, "-y", "-f", twin.sto], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "E302" in done.stdout
    again = subprocess.run([fsck, "-n", "-f", twin.sto], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stdout
    assert path.read_bytes() == theirs.read_bytes().ljust(309_000, b"\0")
    assert theirs.stat().st_size == 60_000, "its own loss is still to be seen"
    assert [found.name for found in path.parent.iterdir() if not found.name.isalnum()] == []
