"""minifo checkpoint, rollback, undo and redo of a mounted overlay."""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.mount.mount_sandbox import (
    MountSandbox,
    OverlayMount,
    attempt,
    daemon_of,
    minifo,
    run,
)

BIG = b"x" * 300_000


@pytest.fixture
def overlay(sandbox: MountSandbox) -> OverlayMount:
    """A mounted overlay with a change."""
    found = sandbox.overlay("commit=600")
    (found.base / "hosts").write_text("base")
    found.mount()
    (found.mnt / "new").write_bytes(BIG)
    return found


def checkpoint(verb: str, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """minifo checkpoint."""
    return minifo("checkpoint", verb, *words, check=check)


def listed(target: Path) -> list[dict[str, Any]]:
    """The checkpoints of an overlay."""
    return [json.loads(line) for line in checkpoint("list", "--json", target).stdout.splitlines()]


def names(target: Path) -> list[str]:
    """Their names."""
    return [str(found["name"]) for found in listed(target)]


def test_by_any_path(overlay: OverlayMount) -> None:
    """TARGET is the mount point, a path in the mount, or the storage."""
    (overlay.mnt / "d").mkdir()
    for number, target in enumerate((overlay.mnt, overlay.mnt / "d", overlay.mnt / "new", overlay.sto)):
        checkpoint("create", target, f"c{number}")
    assert names(overlay.mnt) == names(overlay.sto) == ["c0", "c1", "c2", "c3"]
    checkpoint("rename", overlay.mnt, "c0", "first")
    checkpoint("pin", overlay.mnt, "first", "c1")
    checkpoint("unpin", overlay.mnt, "c1")
    checkpoint("prune", overlay.mnt, "--keep-last", "1")
    assert [(found["name"], found["pinned"]) for found in listed(overlay.mnt)] == [("first", True), ("c3", False)]
    checkpoint("delete", overlay.mnt, "first", "c3")
    assert names(overlay.mnt) == []


def test_all_that_was_done_before_is_in_it(overlay: OverlayMount) -> None:
    """Pages that only the kernel has, too; and it is there after a power cut."""
    with open(overlay.mnt / "late", "wb") as file:
        file.write(b"bytes " * 100_000)
        file.flush()
        checkpoint("create", overlay.mnt, "one")
    (overlay.mnt / "late").unlink()
    minifo("rollback", overlay.mnt, "one")
    assert (overlay.mnt / "late").read_bytes() == b"bytes " * 100_000
    overlay.kill()
    overlay.clear()
    overlay.mount()
    assert (overlay.mnt / "late").read_bytes() == b"bytes " * 100_000
    assert names(overlay.mnt) == ["one", "before-rollback"]


def test_there_and_back(overlay: OverlayMount) -> None:
    """The verbs say where the overlay is, how to go back, and what programs notice; files that stay are open on."""
    checkpoint("create", overlay.mnt, "one")
    kept = os.open(overlay.mnt / "hosts", os.O_RDONLY)
    changed = os.open(overlay.mnt / "new", os.O_RDWR)
    os.pwrite(changed, b"y", 0)
    (overlay.mnt / "later").mkdir()
    said = minifo("rollback", overlay.mnt, "one").stdout.splitlines()
    assert said[0].startswith("The overlay is as it was at one, ")
    assert said[1] == f"What was there is kept as before-rollback; minifo undo {overlay.mnt} takes this back."
    assert said[2] == "Programs that have a changed file open get errors (EIO, ESTALE) until they open it again."
    assert sorted(os.listdir(overlay.mnt)) == ["hosts", "new"]
    assert (overlay.mnt / "new").read_bytes() == BIG
    assert os.pread(kept, 10, 0) == b"base"
    assert attempt(os.pread, changed, 10, 0) in ("EIO", "ESTALE")
    assert attempt(os.pwrite, changed, b"z", 0) in ("EIO", "ESTALE")
    attempt(os.close, changed)
    os.close(kept)
    minifo("undo", overlay.mnt)
    assert (overlay.mnt / "new").read_bytes()[:2] == b"yx"  # what it wrote before is kept
    assert (overlay.mnt / "later").is_dir()
    told = json.loads(minifo("redo", "--json", overlay.mnt).stdout)
    assert told["left"]["name"] == "before-redo"
    assert not (overlay.mnt / "later").exists()
    overlay.umount()
    minifo("undo", overlay.sto)
    overlay.mount()
    assert (overlay.mnt / "later").is_dir()


def test_single_paths(overlay: OverlayMount) -> None:
    """A path is as at a checkpoint, all else stays, and an open file that did not change is open on."""
    (overlay.mnt / "d").mkdir()
    (overlay.mnt / "d/file").write_text("then")
    checkpoint("create", overlay.mnt, "one")
    kept = os.open(overlay.mnt / "new", os.O_RDWR)
    changed = os.open(overlay.mnt / "hosts", os.O_RDWR)
    os.pwrite(changed, b"edited", 0)
    (overlay.mnt / "d/file").unlink()
    (overlay.mnt / "d").rmdir()
    tried = minifo("revert", "--dry-run", "--to", "one", overlay.mnt / "d", overlay.mnt / "hosts").stdout.splitlines()
    assert tried == ["shown again  /d", "shown again  /d/file", "restored     /hosts"]
    said = minifo("revert", "--to", "one", overlay.mnt / "d", overlay.mnt / "hosts").stdout.splitlines()
    assert said[:3] == tried
    assert said[3] == f"What was there is kept as before-revert; minifo undo {overlay.mnt} takes this back."
    assert (overlay.mnt / "d/file").read_text() == "then"
    assert (overlay.mnt / "hosts").read_text() == "base"
    assert attempt(os.pwrite, changed, b"z", 0) in ("EIO", "ESTALE")
    attempt(os.close, changed)
    assert os.pread(kept, 2, 0) == b"xx"
    os.close(kept)
    listed = minifo("undo", "--dry-run", overlay.mnt).stdout.splitlines()
    assert listed == ["D  /d/", "M  /hosts"]
    minifo("undo", overlay.mnt)
    assert minifo("redo", "--dry-run", overlay.mnt).stdout.splitlines() == ["A  /d/", "M  /hosts"]
    assert sorted(os.listdir(overlay.mnt)) == ["hosts", "new"]
    assert checkpoint("diff", "--path", "d", overlay.mnt, "one").stdout == "D  /d/\n"
    assert "there is no checkpoint 'no'" in minifo("revert", "--to", "no", overlay.mnt, check=False).stderr


def test_refusals_are_those_of_the_engine(overlay: OverlayMount) -> None:
    """What the daemon refuses reads as if it had been done here."""
    checkpoint("create", overlay.mnt, "one")
    for words, said in (
        (("checkpoint", "create", overlay.mnt, "one"), "there is a checkpoint 'one' already; choose another name"),
        (("checkpoint", "create", overlay.mnt, b"\xff"), "cannot be the name of a checkpoint"),
        (("checkpoint", "create", overlay.mnt, "two", "-m", b"\xff"), "cannot be printed"),
        (("checkpoint", "delete", overlay.mnt, "one", "no"), "there is no checkpoint 'no'"),
        (("rollback", overlay.mnt, "no"), "there is no checkpoint 'no'; see them"),
        (("rollback", overlay.mnt, b"\xff\n"), "there is no checkpoint"),
        (("undo", overlay.mnt), "nothing to undo"),
        (("undo", "--dry-run", overlay.mnt), "nothing to undo"),
        (("redo", "--dry-run", overlay.mnt), "nothing to redo"),
        (("redo", overlay.mnt / "none"), "cannot be reached"),
        (("undo", "/proc/self"), "holds no overlay"),
    ):
        done = minifo(*words, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
    assert names(overlay.mnt) == ["one"]


def test_what_the_next_mount_takes(overlay: OverlayMount) -> None:
    """It is marked, and so is the checkpoint to which a trial would fall back."""
    minifo("trial", "start", "--mounts", "1", overlay.mnt)
    (overlay.mnt / "later").mkdir()
    assert [(found["fallback"], found["next_mount"]) for found in listed(overlay.mnt)] == [(True, False)]
    assert (
        checkpoint("list", overlay.mnt).stdout.splitlines()[1].endswith("pinned, fallback  what a trial falls back to")
    )
    overlay.remount()
    assert [(found["fallback"], found["next_mount"]) for found in listed(overlay.mnt)] == [(True, True)]
    assert "pinned, fallback, next mount" in checkpoint("list", overlay.mnt).stdout
    overlay.umount()
    assert "it is back at checkpoint confirmed" in overlay.mount().stderr
    assert not (overlay.mnt / "later").exists()


def test_two_verbs_at_once(overlay: OverlayMount) -> None:
    """Each is done as a whole, whatever the others do."""
    checkpoint("create", overlay.mnt, "one")
    calls: list[tuple[str | Path, ...]] = [
        *(("checkpoint", "create", overlay.mnt, f"c{number}") for number in range(3)),
        ("rollback", overlay.mnt, "one"),
        ("checkpoint", "prune", overlay.mnt, "--max-bytes", "0"),
        ("checkpoint", "pin", overlay.mnt, "one"),
    ]
    with ThreadPoolExecutor(len(calls)) as pool:
        done = list(pool.map(lambda words: minifo(*words, check=False), calls))
    failed = [call.stderr for call in done if call.returncode]
    assert all("there is no checkpoint 'one'" in said for said in failed), failed
    assert (overlay.mnt / "new").read_bytes() == BIG
    overlay.umount()
    assert overlay.violations() == []
    minifo("fsck", "-n", overlay.sto)


@pytest.mark.parametrize("mounted", [True, False])
def test_a_full_storage(sandbox: MountSandbox, mounted: bool) -> None:
    """A checkpoint may be refused; to delete one, and to return to one, is not."""
    place = sandbox.file_system("tmpfs", options="size=16m")
    overlay = sandbox.overlay(sto=place / "sto")
    (overlay.base / "hosts").write_text("base")
    overlay.mount()
    for name in ("a", "b", "c"):
        (overlay.mnt / name).write_bytes(b"x" * (2 << 20))
    checkpoint("create", overlay.mnt, "zero")
    (overlay.mnt / "c").unlink()
    checkpoint("create", overlay.mnt, "one")
    (overlay.mnt / "a").unlink()
    assert attempt(lambda: (overlay.mnt / "fill").write_bytes(b"x" * (20 << 20))) == "ENOSPC"
    minifo("sync", overlay.mnt, check=False)
    target = overlay.mnt
    if not mounted:
        overlay.umount()
        target = overlay.sto
    fill(place / "rest")
    done = checkpoint("create", target, "two", check=False)
    assert done.returncode == 0 or "No space left on device" in done.stderr
    checkpoint("delete", target, "zero")
    assert os.statvfs(place).f_bavail * 4096 > 1 << 20
    fill(place / "rest")
    minifo("rollback", target, "one")
    assert "before-rollback" in names(target)
    if not mounted:
        overlay.mount()
    assert sorted(os.listdir(overlay.mnt)) == ["a", "b", "hosts"]
    (place / "rest").unlink()
    overlay.umount()
    assert overlay.violations() == []


def fill(path: Path) -> None:
    """Write into a file until its file system is full."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    while attempt(os.write, file, b"x" * 4096) == 4096:
        pass
    os.close(file)


def test_a_mounted_checkpoint_is_not_deleted(overlay: OverlayMount) -> None:
    """The list says that it is mounted; prune leaves it out, delete refuses it."""
    checkpoint("create", overlay.mnt, "one")
    checkpoint("create", overlay.mnt, "two")
    (overlay.mnt / "new").unlink()
    there = overlay.mnt.with_name("there")
    there.mkdir()
    minifo("mount", "--base", overlay.base, "--sto", overlay.sto, "-o", "at=one", there)
    try:
        assert [found["mounted"] for found in listed(overlay.mnt)] == [True, False]
        assert (
            "one is mounted (-o at=); unmount it first" in checkpoint("delete", overlay.mnt, "one", check=False).stderr
        )
        assert len(checkpoint("prune", overlay.mnt, "--max-bytes", "0").stdout.splitlines()) == 1
        assert names(overlay.mnt) == ["one"]
        overlay.umount()
        assert [found["mounted"] for found in listed(overlay.sto)] == [True]
        assert "one is mounted" in checkpoint("delete", overlay.sto, "one", check=False).stderr
    finally:
        run("umount", "-l", "-i", there)


def test_a_daemon_of_another_version(overlay: OverlayMount) -> None:
    """One without a socket, and one that was mounted read-only, hold the storage: it is said."""
    checkpoint("create", overlay.mnt, "one")
    (overlay.sto / "control").unlink()
    done = minifo("rollback", overlay.mnt, "one", check=False)
    assert f"is in use by process {daemon_of(overlay.sto)}; unmount it first" in done.stderr
    overlay.umount()
    overlay.mount("ro")
    done = minifo("rollback", overlay.mnt, "one", check=False)
    assert "is in use by" in done.stderr
    assert names(overlay.mnt) == ["one"]
