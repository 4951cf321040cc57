"""Mounts of checkpoints (-o at=), and what the verbs say of them and of the overlay at a checkpoint."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.mount_sandbox import MountSandbox, OverlayMount, await_end, is_mounted, minifo, run


@pytest.fixture
def overlay(sandbox: MountSandbox) -> OverlayMount:
    """A mounted overlay with two checkpoints, and changes since."""
    found = sandbox.overlay("commit=600")
    (found.base / "f").write_text("base")
    (found.base / "d").mkdir()
    (found.base / "d/g").write_text("base")
    found.mount()
    (found.mnt / "f").write_text("one")
    minifo("checkpoint", "create", found.mnt, "one")
    (found.mnt / "f").write_text("two")
    (found.mnt / "d").rename(found.mnt / "D")
    minifo("checkpoint", "create", found.mnt, "two")
    (found.mnt / "new").write_text("new")
    return found


@pytest.fixture
def places(sandbox: MountSandbox) -> Iterator[list[Path]]:
    """Two mount points, empty again afterwards."""
    found = [sandbox.directory(), sandbox.directory()]
    yield found
    for place in found:
        while is_mounted(place):
            run("umount", "-l", "-i", place)


def show(overlay: OverlayMount, name: str, place: Path, *, check: bool = True) -> str:
    """Mount a checkpoint; return what is said of a failure."""
    done = minifo("mount", "--base", overlay.base, "--sto", overlay.sto, "-o", f"at={name}", place, check=check)
    return done.stderr


def said(*words: str | bytes | Path) -> str:
    """What minifo says that fails, in one line."""
    done = minifo(*words, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_two_beside_the_live_mount(overlay: OverlayMount, places: list[Path]) -> None:
    """In either order; each says what it is, and goes by itself."""
    one, two = places
    show(overlay, "one", one)
    show(overlay, "two", two)
    assert [(place / "f").read_text() for place in (overlay.mnt, one, two)] == ["two", "one", "two"]
    assert sorted(os.listdir(one)) == ["d", "f"]
    found = {entry["mountpoint"]: entry for entry in map(json.loads, minifo("list", "--json").stdout.splitlines())}
    assert [found[str(place)]["at"] for place in (overlay.mnt, one, two)] == [None, "one", "two"]
    assert found[str(one)]["read_only"] is True
    assert f"{one}  (base {overlay.base}, storage {overlay.sto})  ro, checkpoint one\n" in minifo("list").stdout
    minifo("umount", one)
    assert (two / "f").read_text() == (overlay.mnt / "f").read_text() == "two"
    overlay.umount()
    assert (two / "D/g").read_text() == "base"
    overlay.mount()
    run("umount", two)
    assert not is_mounted(two)
    (overlay.mnt / "f").write_text("still")


def test_verbs_in_such_a_mount(overlay: OverlayMount, places: list[Path]) -> None:
    """They show the checkpoint, or say that they are about the overlay itself; they never ask or change that."""
    place = places[0]
    show(overlay, "one", place)
    assert minifo("diff", place).stdout == "M  /f\n"
    assert minifo("state", place / "f").stdout == "MODIFIED       /f\n"
    assert minifo("cat", "--base", place / "f").stdout == "base"
    assert "as it was at checkpoint one" in minifo("status", place).stdout
    assert json.loads(minifo("status", "--json", place).stdout)["lists"]["created"] == 0
    assert minifo("digest", place).stdout == minifo("digest", "--at", "one", overlay.mnt).stdout
    assert minifo("digest", place).stdout != minifo("digest", overlay.mnt).stdout
    assert minifo("sql", place, "SELECT path FROM v_changes").stdout == "path\n/f\n"
    assert minifo("sync", place / "f").stdout == ""
    assert len(minifo("checkpoint", "list", place).stdout.splitlines()) == 3
    for words in (
        ("checkpoint", "create", place),
        ("checkpoint", "delete", place, "two"),
        ("checkpoint", "prune", place, "--keep-last", "1"),
        ("checkpoint", "diff", place, "one"),
        ("rollback", place, "one"),
        ("undo", place / "d"),
        ("redo", place),
        ("log", place),
        ("watch", "-n", "1", place),
        ("metrics", place),
    ):
        assert f"shows checkpoint one, which nothing changes; name the overlay itself: {overlay.sto}" in said(*words)
    assert "cannot become writable" in minifo("mount", "-o", "remount,rw", place, check=False).stderr
    assert (overlay.mnt / "new").read_text() == "new"


def test_the_overlay_as_it_was(overlay: OverlayMount) -> None:
    """--at, mounted and not."""
    for target in (overlay.mnt, overlay.sto):
        assert minifo("diff", "--at", "one", target).stdout == "M  /f\n"
        assert minifo("diff", "--at", "two", "--name-only", target).stdout == "/D/\n/f\n"
        assert "+two" in minifo("diff", "-u", "--at", "two", target).stdout
        assert minifo("du", "--at", "one", target).stdout.split() == ["3", "bytes", "/"]
        if target == overlay.mnt:
            assert minifo("cat", "--at", "one", target / "f").stdout == "one"
            assert minifo("cat", "--at", "one", target / "d/g").stdout == "base"
            assert minifo("state", "--at", "one", target / "new").stdout == "NON_EXISTANT   /new\n"
            overlay.umount()
    assert minifo("cat", "--at", "two", "--sto", overlay.sto, "f").stdout == "two"
    assert "at one there was nothing at /new" in said("cat", "--at", "one", "--sto", overlay.sto, "new")
    assert minifo("cat", "--sto", overlay.sto, "f", check=False).returncode == 1
    for name in ("no", b"\xff", "../one", "a,b"):
        for words in (("diff",), ("digest",), ("du",), ("cat", "--sto")):
            rest = ("f",) if words[0] == "cat" else ()
            assert "has no checkpoint" in said(words[0], "--at", name, *words[1:], overlay.sto, *rest)


@pytest.mark.parametrize("mounted", [True, False])
def test_what_changed_between(overlay: OverlayMount, mounted: bool) -> None:
    """checkpoint diff, and rollback --dry-run, which changes nothing."""
    target = overlay.mnt
    if not mounted:
        overlay.umount()
        target = overlay.sto

    def diff(*words: str) -> str:
        return minifo("checkpoint", "diff", target, *words).stdout

    assert diff("one") == "R  /d/ -> /D/\nM  /f\nA  /new\n"
    assert diff("one", "two") == "R  /d/ -> /D/\nM  /f\n"
    assert diff("two", "one", "--name-only") == "/d/\n/f\n"
    assert diff("one", "--stat").split() == [
        "A",
        "1",
        "added",
        "M",
        "1",
        "modified",
        "R",
        "1",
        "renamed",
        "3",
        "in",
        "all",
    ]
    assert diff("two", "-z") == "A\0/new\0"
    assert json.loads(diff("two", "--json"))["path"] == "/new"
    assert minifo("checkpoint", "diff", "--exit-code", target, "two", check=False).returncode == 1
    assert minifo("checkpoint", "diff", "--exit-code", target, "two", "two").stdout == ""
    assert minifo("rollback", "--dry-run", target, "one").stdout == "R  /D/ -> /d/\nM  /f\nD  /new\n"
    for name in ("no", b"\xff", "../one"):
        assert "has no checkpoint" in said("checkpoint", "diff", target, name)
        assert "has no checkpoint" in said("checkpoint", "diff", target, "one", name)
        assert "has no checkpoint" in said("rollback", "--dry-run", target, name)
    assert len(minifo("checkpoint", "list", target).stdout.splitlines()) == 3


def test_wrong_mounts(overlay: OverlayMount, places: list[Path]) -> None:
    """Names that are none, and options that do not go with it; nothing is mounted."""
    place = places[0]
    for name in ("no", "../one", "a\\,b", "\udcff", "one ", "'; DROP TABLE inode--", "x" * 300):
        assert "has no checkpoint" in show(overlay, name, place, check=False)
    assert "at= is empty" in show(overlay, "", place, check=False)
    assert "exclude each other" in show(overlay, "one,metrics=/tmp", place, check=False)
    assert not is_mounted(place)
    show(overlay, "one", place)
    assert "already mounted" in show(overlay, "two", place, check=False)


def test_a_killed_daemon(overlay: OverlayMount, places: list[Path]) -> None:
    """Its mount is cleared without a wait for the daemon of the overlay itself; then the checkpoint may go."""
    place = places[0]
    show(overlay, "one", place)
    pids = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if b"at=one" in path.read_bytes() and os.fsencode(place) in path.read_bytes()
    ]
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        await_end(pid)
    done = minifo("umount", place)
    assert "the mount is cleared now" in done.stderr
    assert "mount it again" not in done.stderr
    assert not is_mounted(place)
    minifo("checkpoint", "delete", overlay.mnt, "one")


def test_completion(overlay: OverlayMount) -> None:
    """Names of checkpoints, wherever one is asked for."""
    for words, found in (
        (f"rollback {overlay.mnt} ", {"one", "two"}),
        (f"checkpoint delete {overlay.sto} o", {"one"}),
        (f"checkpoint diff {overlay.sto} one t", {"two"}),
        (f"diff {overlay.mnt} --at ", {"one", "two"}),
        (f"mount --base {overlay.base} --sto {overlay.sto} -o at=t", {"at=two"}),
        (f"mount -o sto={overlay.sto},at=", {f"sto={overlay.sto},at=one", f"sto={overlay.sto},at=two"}),
        ("rollback /proc ", set()),
    ):
        line = f"minifo {words}"
        env = {**os.environ, "_MINIFO_COMPLETE": "bash_complete", "COMP_WORDS": line}
        env["COMP_CWORD"] = str(len(line.split(" ")) - 1)
        done = minifo(env=env)
        assert {text.partition(",")[2] for text in done.stdout.split()} == found, words
