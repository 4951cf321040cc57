"""minifo backup and minifo restore: while programs write, through pipes, one after the other."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.mount.mount_sandbox import MountSandbox, OverlayMount, minifo, minifo_program, run
from tests.mount.test_bundle import tree

_WRITER = "n=0; while :; do n=$((n + 1)); printf %08d $n > a.new; mv a.new a; printf %08d $n > b.new; mv b.new b; done"


@pytest.fixture
def overlay(sandbox: MountSandbox) -> OverlayMount:
    """A mounted overlay with changes and a checkpoint."""
    found = sandbox.overlay("commit=0.2")
    (found.base / "dir").mkdir()
    for name in ("kept", "dir/file"):
        (found.base / name).write_text(name)
    found.mount()
    for number in range(50):
        (found.mnt / f"file-{number}").write_bytes(os.urandom(5000))
    minifo("checkpoint", "create", found.mnt, "earlier")
    (found.mnt / "dir/file").write_text("changed")
    (found.mnt / "kept").unlink()
    return found


def restored(sandbox: MountSandbox, overlay: OverlayMount, *backups: Path) -> OverlayMount:
    """A mounted overlay of a storage that was restored."""
    sto = overlay.sto.parent / f"restored-{len(list(overlay.sto.parent.iterdir()))}"
    minifo("restore", "--sto", sto, *backups)
    found = sandbox.overlay("commit=0.2", base=overlay.base, sto=sto)
    found.mount()
    return found


def test_while_programs_write(sandbox: MountSandbox, overlay: OverlayMount) -> None:
    """It is one moment: what is in it was written in this order."""
    writer = subprocess.Popen(["sh", "-c", _WRITER], cwd=overlay.mnt)
    backups = []
    try:
        for number in range(2):
            backups.append(overlay.sto.parent / f"backup-{number}.tar.gz")
            since = ["--since", backups[-2]] if number else []
            minifo("backup", "-o", backups[-1], *since, overlay.mnt)
    finally:
        writer.kill()
        writer.wait()
    found = restored(sandbox, overlay, *backups)
    first, second = (int((found.mnt / name).read_text()) for name in ("a", "b"))
    assert 0 <= first - second <= 1
    assert (found.mnt / "dir/file").read_text() == "changed"
    assert not (found.mnt / "kept").exists()
    lines = [json.loads(line)["name"] for line in minifo("checkpoint", "list", "--json", found.mnt).stdout.splitlines()]
    assert lines == ["earlier"]
    assert minifo("checkpoint", "list", "--json", overlay.mnt).stdout.count("\n") == 1
    found.umount()
    assert "clean" in minifo("fsck", found.sto).stdout


def test_all_ways(sandbox: MountSandbox, overlay: OverlayMount) -> None:
    """To a directory, a file, a pipe; mounted or not; the digests are the same."""
    home, mnt = overlay.sto.parent, overlay.mnt
    expected, digest = tree(mnt), minifo("digest", mnt).stdout
    minifo("backup", "-o", f"{home}/directory/", mnt)
    minifo("backup", "-o", home / "file.tar.zst", mnt)
    command = f"{minifo_program()} backup -o - {mnt} | zstd -q | {minifo_program()} restore --sto {home}/piped -"
    run("bash", "-c", f"set -o pipefail; {command}")
    told = json.loads(minifo("backup", "--json", "-o", f"{home}/next/", "--since", home / "directory", mnt).stdout)
    assert told["objects"] == told["written"] == 50
    assert sum(path.stat().st_nlink > 1 for path in (home / "next/content").glob("*/*")) >= 50
    minifo("backup", "-o", home / "earlier.tar", "--at", "earlier", mnt)
    overlay.umount()
    minifo("backup", "-o", home / "at-rest.tar", overlay.sto)
    for name in ("directory", "file.tar.zst", "next", "at-rest.tar"):
        found = restored(sandbox, overlay, home / name)
        assert tree(found.mnt) == expected, name
        assert minifo("digest", found.mnt).stdout == digest
        found.umount()
    assert minifo("digest", home / "piped").stdout == digest
    found = restored(sandbox, overlay, home / "earlier.tar")
    assert (found.mnt / "kept").read_text() == "kept"
    assert minifo("checkpoint", "list", "--json", found.mnt).stdout == ""


def test_a_read_only_mount(sandbox: MountSandbox, overlay: OverlayMount) -> None:
    """It can be backed up, and nothing in storage changes."""
    expected = tree(overlay.mnt)
    overlay.umount()
    overlay.mount("ro")
    before = sorted(os.listdir(overlay.sto))
    minifo("backup", "-o", overlay.sto.parent / "backup.tar", overlay.mnt)
    assert sorted(os.listdir(overlay.sto)) == before
    overlay.umount()
    assert tree(restored(sandbox, overlay, overlay.sto.parent / "backup.tar").mnt) == expected


def test_an_open_transaction_is_taken_back(sandbox: MountSandbox, overlay: OverlayMount) -> None:
    """At the first mount of what was restored."""
    expected = tree(overlay.mnt)
    backup = overlay.sto.parent / "backup.tar"
    command = f"echo half > half; {minifo_program()} backup -o {backup} {overlay.mnt}"
    minifo("txn", overlay.mnt, "--", "sh", "-c", command)
    found = restored(sandbox, overlay, backup)
    assert tree(found.mnt) == expected


def test_what_is_refused(overlay: OverlayMount) -> None:
    """One line each, and the exit code of a wrong request or of a failure."""
    home = overlay.sto.parent
    (home / "taken").write_text("mine")
    for words, code, text in (
        (["backup", "-o", home / "taken", overlay.mnt], 1, "exists"),
        (["backup", "-o", f"{home}/taken/", overlay.mnt], 1, "exists"),
        (["backup", "-o", home / "x", "--since", home / "taken", overlay.mnt], 2, "damaged"),
        (["backup", "-o", home / "x", "--at", "no", overlay.mnt], 2, "no checkpoint"),
        (["backup", "-o", home / "x", home], 2, "overlay"),
        (["restore", "--sto", home / "new", home / "taken"], 2, "damaged"),
        (["restore", "--sto", home / "new", home / "nothing"], 1, "cannot be read"),
        (["restore", "--sto", overlay.sto, home / "taken"], 1, "is a minifo storage already"),
    ):
        done = minifo(*words, check=False)
        assert (done.returncode, text in done.stderr, done.stderr.count("\n")) == (code, True, 1), (words, done.stderr)
    assert not (home / "new").exists()
    assert not (home / "x").exists()
