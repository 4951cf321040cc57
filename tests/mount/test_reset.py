"""minifo reset and minifo keep-list: of a mounted overlay, under the programs that use it, and at rest."""

from __future__ import annotations

import json
import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from minifo.engine import ROOT, Ino, Overlay, Process
from minifo.fusefront.control.client import ControlClient, Refused
from tests.mount.mount_sandbox import MountSandbox, OverlayMount, attempt, minifo
from tests.mount.test_checkpoint_verbs import fill
from tests.mount.test_checkpoints import change_everything, tree

BIG = os.urandom(300_000)


@pytest.fixture
def overlay(sandbox: MountSandbox, request: pytest.FixtureRequest) -> OverlayMount:
    """A mounted overlay over a few base files; with or without the session hook, where a test asks for both."""
    found = sandbox.overlay(*(["plain"] if getattr(request, "param", "hook") == "plain" else []))
    (found.base / "dir").mkdir()
    for name in ("same", "edited", "gone", "dir/moved"):
        (found.base / name).write_text(name)
    (found.base / "big").write_bytes(BIG * 3)
    found.mount()
    return found


both = pytest.mark.parametrize("overlay", ["hook", "plain"], indirect=True)


def reset(target: Path, *words: str) -> dict[str, Any]:
    """minifo reset."""
    told: dict[str, Any] = json.loads(minifo("reset", target, "--json", *words).stdout)
    return told


def write_through(fd: int) -> None:
    """Write, and wait for what comes of it."""
    os.pwrite(fd, b"x", 0)
    os.fsync(fd)


@both
def test_everything_goes_under_warm_caches(overlay: OverlayMount) -> None:
    """Names, negative entries, attributes, listings and pages: what the kernel knew is told to be wrong."""
    mnt = overlay.mnt
    before = tree(mnt)
    change_everything(mnt)
    after = tree(mnt)
    assert not (mnt / "gone").exists()  # the kernel keeps that, too
    told = reset(mnt)
    assert tree(mnt) == before
    assert told["kept"] == 0
    assert told["bytes"] > 0
    minifo("undo", mnt)
    assert tree(mnt) == after
    told = reset(mnt, "--keep", "made", "--keep", "/elsewhere", "--keep", "/same")
    assert sorted(os.listdir(mnt)) == ["big", "dir", "edited", "elsewhere", "gone", "made", "same"]
    assert os.listdir(mnt / "dir") == []  # it is elsewhere
    assert (mnt / "same").stat().st_mode & 0o777 == 0o600
    assert (mnt / "made/inside").read_text() == "inside"
    minifo("undo", mnt)
    assert tree(mnt) == after


@both
def test_open_files(overlay: OverlayMount) -> None:
    """What is kept goes on, mapped or not; of what goes, a program gets an error until it opens it again."""
    mnt = overlay.mnt
    for name in ("keep", "state"):
        (mnt / name).write_bytes(BIG)
    (mnt / "edited").write_text("edited later")
    keep, state, edited = (os.open(mnt / name, os.O_RDWR) for name in ("keep", "state", "edited"))
    unnamed = os.open(mnt / "unnamed", os.O_RDWR | os.O_CREAT)
    (mnt / "unnamed").unlink()
    with mmap.mmap(keep, len(BIG)) as mapped:
        mapped[5:10] = b"dirty"
        reset(mnt, "--keep", "keep")
        mapped[5000:5010] = b"dirty too!"
        mapped.flush()
        assert os.pread(keep, 5, 5) == b"dirty"
    os.pwrite(unnamed, b"goes on", 0)
    os.fsync(unnamed)
    os.fsync(keep)
    for fd in (state, edited):
        with pytest.raises(OSError, match=r"Stale|Input/output"):
            write_through(fd)
    for fd in (keep, state, edited, unnamed):
        os.close(fd)
    assert (mnt / "edited").read_text() == "edited"
    overlay.umount()
    overlay.mount()
    data = (mnt / "keep").read_bytes()
    assert (data[5:10], data[5000:5010]) == (b"dirty", b"dirty too!")
    assert not (mnt / "state").exists()


def test_dirty_pages_are_kept(overlay: OverlayMount) -> None:
    """What only the kernel has is written back first."""
    file = overlay.mnt / "keep"
    file.write_bytes(BIG)
    reset(overlay.mnt, "--keep", "keep")
    overlay.umount()
    overlay.mount()
    assert file.read_bytes() == BIG


def test_what_is_told(overlay: OverlayMount, tmp_path: Path) -> None:
    """What would go, and what is there afterwards; live and at rest."""
    mnt = overlay.mnt
    keep_file = tmp_path / "keep"
    keep_file.write_text("# what to keep\n\nnew\r\n/made/ins*\n")
    for target in (mnt, overlay.sto):
        if target == overlay.sto:
            overlay.umount()
            overlay.mount()
        change_everything(mnt)
        if target == overlay.sto:
            overlay.umount()
        tried = minifo("reset", "--dry-run", "--keep-file", keep_file, target).stdout
        assert tried.splitlines() == [
            "M  /big",
            "M  /edited",
            "R  /dir/moved -> /elsewhere",
            "A  /first",
            "R  /dir/ -> /folder/",
            "D  /gone",
            "m  /same",
        ]
        done = minifo("reset", "--keep-file", keep_file, target).stdout
        assert "and 3 are kept." in done
        assert "are freed: minifo checkpoint delete" in done
        assert minifo("diff", "-r", target).stdout == "A  /made/\nA  /made/inside\nA  /new\n"
        assert minifo("reset", "--keep", "new", "--keep", "made", target).stdout == "Nothing was there to take back.\n"
        done = minifo("reset", "--all", "--discard", target).stdout
        assert "freed" in done
        assert "undo" not in done
        if target == mnt:
            overlay.umount()
            minifo("checkpoint", "delete", overlay.sto, "before-reset")
            overlay.mount()
    assert not list((overlay.sto / "content").glob("*/*"))[1:]


def test_keep_lists(overlay: OverlayMount) -> None:
    """The list named default is used where nothing else is said."""
    mnt = overlay.mnt
    for name in ("a", "b", "c"):
        (mnt / name).write_text(name)
    minifo("keep-list", "set", mnt, "default", "a")
    minifo("keep-list", "set", mnt, "more", "b")
    assert json.loads(minifo("keep-list", "list", "--json", mnt).stdout) == {"default": ["a"], "more": ["b"]}
    assert "Keep-list more was used." in minifo("reset", "--keep-list", "more", mnt).stdout
    assert (mnt / "b").exists()
    minifo("undo", mnt)
    assert reset(mnt)["lists"] == ["default"]
    assert [name for name in "abc" if (mnt / name).exists()] == ["a"]
    done = minifo("reset", "--keep-list", "none", mnt, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no keep-list 'none'" in done.stderr
    assert reset(mnt, "--all")["lists"] == []
    assert not (mnt / "a").exists()
    minifo("keep-list", "delete", mnt, "default", "more")
    assert minifo("keep-list", "list", mnt).stdout.startswith("no keep-list yet")


def test_two_at_once(overlay: OverlayMount) -> None:
    """One after the other: none is half done, and all but the first have nothing to do."""
    change_everything(overlay.mnt)
    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(lambda number: reset(overlay.mnt, "--keep", "new"), range(4)))
    assert sorted(bool(one["left"]) for one in told) == [False, False, False, True]
    assert os.listdir(overlay.mnt / "dir") == ["moved"]


@pytest.mark.parametrize("mounted", [True, False])
def test_a_full_storage(sandbox: MountSandbox, mounted: bool) -> None:
    """Not one block is free: it is done all the same, and what it frees can be used."""
    place = sandbox.file_system("tmpfs", options="size=16m")
    overlay = sandbox.overlay(sto=place / "sto")
    (overlay.base / "hosts").write_text("base")
    overlay.mount()
    for number in range(100):
        (overlay.mnt / f"row{number}").write_bytes(b"x" * 100)
    (overlay.mnt / "keep").write_bytes(b"kept")
    assert attempt(lambda: (overlay.mnt / "fill").write_bytes(b"x" * (20 << 20))) == "ENOSPC"
    minifo("sync", overlay.mnt, check=False)
    target = overlay.mnt if mounted else overlay.sto
    if not mounted:
        overlay.umount()
    fill(place / "rest")
    minifo("reset", "--keep", "keep", "--discard", target)
    if not mounted:
        overlay.mount()
    assert sorted(os.listdir(overlay.mnt)) == ["hosts", "keep"]
    (overlay.mnt / "new").write_bytes(b"x" * (1 << 20))
    (place / "rest").unlink()
    overlay.umount()
    assert overlay.violations() == []


def test_more_than_a_full_storage_takes(sandbox: MountSandbox) -> None:
    """The rows of what was there do not fit: it is refused, nothing is changed, and it is done when there is room."""
    place = sandbox.file_system("tmpfs", options="size=16m")
    overlay = sandbox.overlay(sto=place / "sto")
    engine = Overlay.open(str(overlay.base), str(overlay.sto))
    for number in range(3000):
        attr = engine.mknod(ROOT, b"row%d" % number, 0o100644, 0, Process())
        engine.write(Ino(attr.ino), 0, b"x")
    engine.close()
    fill(place / "rest")
    done = minifo("reset", "--keep", "row1", overlay.sto, check=False)
    assert done.returncode
    assert "nothing was changed" in done.stderr
    (place / "rest").unlink()
    assert minifo("checkpoint", "list", overlay.sto).stdout.startswith("no checkpoint yet")
    told = reset(overlay.sto, "--keep", "row1")
    assert (told["taken"], told["kept"]) == (2999, 1)
    assert overlay.violations() == []


def test_refused_calls(overlay: OverlayMount) -> None:
    """Whatever is sent to the socket."""
    with ControlClient(str(overlay.sto)) as client:
        for parameters in ({}, {"keep": "x", "lists": []}, {"keep": [1], "lists": []}, {"keep": [], "lists": None}):
            with pytest.raises(Refused, match="InvalidParameter"):
                client.call("Reset", **parameters)
        with pytest.raises(Refused, match="cannot be the name"):
            client.call("SetKeepList", name="../x", patterns=["a"])
        for pattern in ("!", "a/***b/\\"):
            with pytest.raises(Refused, match="a pattern is impossible"):
                client.call("Reset", keep=[pattern], lists=[])
            with pytest.raises(Refused, match="a pattern is impossible"):
                client.call("SetKeepList", name="x", patterns=[pattern])
        assert client.call("Reset", keep=["\udcff", "[", "**", "a\nb"], lists=[])["left"] is None
