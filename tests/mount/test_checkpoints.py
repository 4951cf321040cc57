"""Checkpoints of real mounts: programs keep files open and mapped while the overlay is brought back under them."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from minifo.fusefront.control.client import ControlClient, Refused
from tests.mount.mount_sandbox import MountSandbox, OverlayMount, minifo

BIG = os.urandom(1 << 20)
PAGE = mmap.PAGESIZE


@pytest.fixture
def overlay(sandbox: MountSandbox, request: pytest.FixtureRequest) -> OverlayMount:
    """A mounted overlay over a few base files; with or without the session hook, where a test asks for both."""
    found = sandbox.overlay(*(["plain"] if getattr(request, "param", "hook") == "plain" else []))
    (found.base / "dir").mkdir()
    for name in ("same", "edited", "gone", "dir/moved"):
        (found.base / name).write_text(name)
    (found.base / "big").write_bytes(BIG)
    found.mount()
    return found


both = pytest.mark.parametrize("overlay", ["hook", "plain"], indirect=True)


def ask(overlay: OverlayMount, method: str, **parameters: Any) -> dict[str, Any]:
    """Call a method of the daemon."""
    with ControlClient(str(overlay.sto)) as client:
        return client.call(method, **parameters)


def tree(top: Path) -> dict[str, object]:
    """What shows below a directory: type, mode, owner, times of files, link counts and bytes."""
    found: dict[str, object] = {}
    for directory, names, files in os.walk(top):
        for name in [*names, *files]:
            path = Path(directory) / name
            st = path.lstat()
            data = path.read_bytes() if path.is_file() else b""
            key = (st.st_mode, st.st_uid, st.st_size if data else 0, st.st_mtime_ns, st.st_ino, st.st_nlink, data)
            found[str(path.relative_to(top))] = key
    return found


def change_everything(mnt: Path) -> None:
    """Changes of every kind to what the kernel has in its caches."""
    (mnt / "edited").write_text("edited later")
    (mnt / "gone").unlink()
    (mnt / "dir/moved").rename(mnt / "elsewhere")
    (mnt / "dir").rename(mnt / "folder")
    (mnt / "new").write_text("new")
    (mnt / "made").mkdir()
    (mnt / "made/inside").write_text("inside")
    (mnt / "same").chmod(0o600)
    with (mnt / "big").open("r+b") as file:
        file.seek(500_000)
        file.write(b"in the middle")
    (mnt / "first").write_text("replaced")


@both
def test_everything_comes_back_under_warm_caches(overlay: OverlayMount) -> None:
    """Names, negative entries, attributes, listings and pages: what the kernel knew is told to be wrong."""
    mnt = overlay.mnt
    (mnt / "first").write_text("first")
    before = tree(mnt)
    ask(overlay, "CreateCheckpoint", name="one")
    change_everything(mnt)
    after = tree(mnt)
    assert not (mnt / "gone").exists()  # the kernel keeps that, too
    for _ in range(2):
        ask(overlay, "Rollback", name="one")
        assert tree(mnt) == before
        assert not (mnt / "new").exists()
        ask(overlay, "Undo")
        assert tree(mnt) == after
    overlay.umount()
    overlay.mount()
    assert tree(mnt) == after


@both
def test_a_listing_of_the_root_is_read_anew(overlay: OverlayMount) -> None:
    """The kernel does not count its reference to the root, and had no entry for a name that comes back."""
    (overlay.mnt / "gone").unlink()
    before = os.listdir(overlay.mnt)
    ask(overlay, "Revert", paths=["/"])
    assert {*os.listdir(overlay.mnt)} == {*before, "gone"}


def test_what_was_not_written_back_is_in_a_checkpoint(overlay: OverlayMount) -> None:
    """The kernel's dirty pages are, and what is written right after it is not."""
    file = overlay.mnt / "new"
    file.write_bytes(BIG)
    ask(overlay, "CreateCheckpoint", name="one")
    file.write_bytes(BIG[::-1])
    ask(overlay, "Rollback", name="one")
    assert file.read_bytes() == BIG


@both
def test_open_files(overlay: OverlayMount) -> None:
    """One that is another now gives ESTALE or EIO and cannot reach the restored one; one that is the same goes on."""
    mnt = overlay.mnt
    (mnt / "log").write_text("1\n")
    (mnt / "state").write_text("before")
    ask(overlay, "CreateCheckpoint", name="one")
    (mnt / "state").write_text("AFTER!")
    log, state, base = (os.open(mnt / name, os.O_RDWR) for name in ("log", "state", "same"))
    directory = os.open(mnt / "dir", os.O_RDONLY)
    try:
        ask(overlay, "Rollback", name="one")
        os.pwrite(log, b"2\n", 2)
        assert os.pread(base, 10, 0) == b"same"
        assert os.listdir(directory) == ["moved"]
        assert (mnt / "state").read_text() == "before"
        for call in (lambda: os.pwrite(state, b"old", 0), lambda: os.fsync(state), lambda: os.ftruncate(state, 0)):
            with pytest.raises(OSError, match=r"Stale|Input/output") as raised:
                call()
            assert raised.value.errno in (errno.ESTALE, errno.EIO)
    finally:
        for fd in (log, base, directory):
            os.close(fd)
        with pytest.raises(OSError, match=r"Stale|Input/output"):
            os.close(state)
    assert (mnt / "state").read_text() == "before"
    assert (mnt / "log").read_text() == "1\n2\n"


def test_an_unlinked_temporary_file_goes_on(overlay: OverlayMount) -> None:
    """It was made after the checkpoint and has no name: nothing to bring back, and nobody else's business."""
    ask(overlay, "CreateCheckpoint", name="one")
    (overlay.mnt / "other").write_text("x")
    with (overlay.mnt / "temporary").open("w+b") as file:
        os.unlink(file.name)
        file.write(BIG)
        file.flush()
        ask(overlay, "Rollback", name="one")
        file.seek(0)
        assert file.read() == BIG
        file.write(b"more")
        file.flush()
    assert not (overlay.mnt / "other").exists()


def mapped(path: Path, go: int, said: int) -> int:
    """A child that maps a file shared, writes a page, waits, and writes again; returns its exit status."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[0:5] = b"dirty"
        os.write(said, b".")
        os.read(go, 1)
        view[0:5] = b"later"
        view.flush()
    return 0


@both
def test_mapped_files(overlay: OverlayMount) -> None:
    """Pages that a program has mapped never reach the restored file, whether they were dirty before or become so."""
    mnt = overlay.mnt
    (mnt / "mapped").write_bytes(b"first" + bytes(4 * PAGE))
    ask(overlay, "CreateCheckpoint", name="one")
    (mnt / "mapped").write_bytes(b"again" + bytes(4 * PAGE))
    (said, say), (wait, go) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            code = mapped(mnt / "mapped", wait, say)
        except OSError as error:  # of the close
            code = error.errno or 1
        except BaseException:
            code = 99
        os._exit(code)
    os.read(said, 1)
    ask(overlay, "Rollback", name="one")
    assert (mnt / "mapped").read_bytes()[:5] == b"first"
    os.write(go, b".")
    _, status = os.waitpid(child, 0)
    for fd in (said, say, wait, go):
        os.close(fd)
    code = os.waitstatus_to_exitcode(status)
    assert code in (errno.ESTALE, errno.EIO, -signal.SIGBUS), code
    os.sync()
    assert (mnt / "mapped").read_bytes()[:5] == b"first"
    overlay.umount()
    overlay.mount()
    assert (mnt / "mapped").read_bytes()[:5] == b"first"


def test_programs_at_work(overlay: OverlayMount) -> None:
    """Threads that write, list and rename all the while see errors at most, and the daemon serves on."""
    mnt = overlay.mnt
    (mnt / "work").mkdir()
    ask(overlay, "CreateCheckpoint", name="one")
    stop = threading.Event()
    wrong: list[BaseException] = []

    def work(number: int) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            path = mnt / f"work/{number}-{turn % 7}"
            try:
                path.write_bytes(b"%d" % turn * 1000)
                path.read_bytes()
                path.rename(mnt / f"work/{number}")
                os.listdir(mnt / "work")
                os.unlink(mnt / f"work/{number}")
            except OSError as error:
                if error.errno not in (errno.ESTALE, errno.EIO, errno.ENOENT):
                    wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(6):
            ask(overlay, "Rollback", name="one")
            ask(overlay, "CreateCheckpoint")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    ask(overlay, "Rollback", name="one")
    assert os.listdir(mnt / "work") == []
    overlay.umount()
    minifo("fsck", "-n", "--base", overlay.base, overlay.sto)


def test_one_is_mounted_beside(overlay: OverlayMount, tmp_path: Path) -> None:
    """Read-only, unchanged by what goes on, and safe from deletion as long as it is."""
    mnt = overlay.mnt
    (mnt / "first").write_text("first")
    before = tree(mnt)
    ask(overlay, "CreateCheckpoint", name="one")
    change_everything(mnt)
    beside = OverlayMount(tmp_path, base=overlay.base, sto=overlay.sto, mnt=tmp_path / "beside")
    pid = beside.pid
    minifo("mount", "-o", "at=one", "--base", overlay.base, "--sto", overlay.sto, beside.mnt)
    try:
        assert tree(beside.mnt) == before
        with pytest.raises(OSError, match="Read-only"):
            (beside.mnt / "x").write_text("x")
        (mnt / "edited").write_text("once more")
        assert tree(beside.mnt) == before
        with pytest.raises(Refused, match="is mounted"):
            ask(overlay, "DeleteCheckpoints", names=["one"])
        ask(overlay, "Rollback", name="one")
        assert tree(beside.mnt) == tree(mnt) == before
    finally:
        minifo("umount", beside.mnt)
    assert pid == 0
    ask(overlay, "DeleteCheckpoints", names=["one"])


def test_refused_calls(overlay: OverlayMount) -> None:
    """Each says what is wrong and what to do, and the mount goes on."""
    ask(overlay, "CreateCheckpoint", name="one")
    for method, parameters in (
        ("CreateCheckpoint", {"name": "one"}),
        ("CreateCheckpoint", {"name": "../x"}),
        ("CreateCheckpoint", {"name": "x", "note": "n" * 2000}),
        ("DeleteCheckpoints", {"names": ["none"]}),
        ("RenameCheckpoint", {"name": "none", "new_name": "x"}),
        ("Rollback", {"name": "none"}),
        ("Undo", {}),
        ("Redo", {}),
        ("AbandonTrial", {}),
        ("StartTrial", {"mounts": 0}),
    ):
        with pytest.raises(Refused) as raised:
            ask(overlay, method, **parameters)
        assert raised.value.name == "Refused"
        assert raised.value.parameters["hint"]
    for method, parameters in (("Rollback", {}), ("DeleteCheckpoints", {"names": 1}), ("StartTrial", {"mounts": "x"})):
        with pytest.raises(Refused) as raised:
            ask(overlay, method, **parameters)
        assert raised.value.name == "InvalidParameter"
    assert [found["name"] for found in ask(overlay, "Checkpoints")["checkpoints"]] == ["one"]
    assert (overlay.mnt / "same").read_text() == "same"


def test_trial(sandbox: MountSandbox) -> None:
    """Power is cut twice in an update on trial: the third mount comes up with what there was, and says so."""
    overlay = sandbox.overlay("trial=2")
    (overlay.base / "config").write_text("factory")
    overlay.mount()
    (overlay.mnt / "config").write_text("mine")
    assert ask(overlay, "Confirm")["trial"]["verdict"] == "indeterminate"
    (overlay.mnt / "config").write_text("broken")
    ask(overlay, "Sync")
    for left in (1, 0):
        overlay.kill()
        overlay.clear()
        overlay.mount()
        assert (overlay.mnt / "config").read_text() == "broken"
        assert ask(overlay, "Trial")["trial"]["left"] == left
    overlay.umount()
    overlay.mount()
    assert (overlay.mnt / "config").read_text() == "mine"
    trial = ask(overlay, "Status")["trial"]
    assert (trial["verdict"], trial["failed"], trial["left"]) == ("bad", "before-trial", 2)
    ask(overlay, "Confirm")
    assert ask(overlay, "Trial")["trial"]["verdict"] == "indeterminate"


def test_a_mount_that_does_not_serve_is_not_counted(sandbox: MountSandbox) -> None:
    """One that is refused, and a read-only one."""
    overlay = sandbox.overlay()
    overlay.mount()
    ask(overlay, "StartTrial", mounts=2)
    overlay.umount()
    assert overlay.mount("base_check=nonsense", check=False).returncode
    overlay.mount("ro")
    overlay.umount()
    overlay.mount()
    assert ask(overlay, "Trial")["trial"]["left"] == 1
