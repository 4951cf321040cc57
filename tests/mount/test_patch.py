"""``minifo diff -u`` of real mounts: patch(1) makes the files of the mount out of a copy of the base."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.mount.mount_sandbox import MountSandbox, OverlayMount, minifo, minifo_program, run
from tests.shared.file_trees import HOSTILE, LONG

TEXT = "".join(f"line {number}\n" for number in range(30))


@pytest.fixture
def overlay(sandbox: MountSandbox) -> OverlayMount:
    """A mounted overlay of a few files, whose changes are committed late."""
    found = sandbox.overlay("commit=600")
    for name in ("kept", "gone", "moved", "written", "tool", "large"):
        (found.base / name).write_text(TEXT)
    (found.base / "binary").write_bytes(b"\0one")
    (found.base / "link").symlink_to("kept")
    (found.base / "directory" / "below").mkdir(parents=True)
    for name in ("a", "b", "below/c"):
        (found.base / "directory" / name).write_text(name + "\n")
    found.mount()
    return found


def patch_of(overlay: OverlayMount, *words: str | Path) -> bytes:
    """What ``minifo diff -u`` writes."""
    return subprocess.run([minifo_program(), "diff", "-u", overlay.mnt, *words], capture_output=True, check=True).stdout


def files(tree: Path) -> dict[Path, bytes | str]:
    """The files and symlinks of a tree, by their paths in it."""
    return {
        path.relative_to(tree): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in tree.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def test_patch_of_what_is_not_committed(overlay: OverlayMount, tmp_path: Path) -> None:
    """Every kind of change, and names of any bytes; a binary file is one line."""
    mnt = overlay.mnt
    (mnt / "gone").unlink()
    (mnt / "moved").rename(mnt / "other place")
    with open(mnt / "written", "r+") as file:
        file.write("LINE")
    (mnt / "tool").chmod(0o755)
    (mnt / "new").write_text("no newline")
    (mnt / "empty").touch()
    (mnt / "link").unlink()
    (mnt / "link").symlink_to("written")
    (mnt / "binary").write_bytes(b"\0two")
    (mnt / "directory").rename(mnt / "renamed")
    (mnt / "renamed" / "b").unlink()
    (mnt / "renamed" / "below" / "c").write_text("else\n")
    for name in set(HOSTILE) - {LONG}:  # patch(1) makes temporary names that are longer
        Path(os.fsdecode(os.fsencode(mnt) + b"/" + name)).write_text("hostile\n")
    told = patch_of(overlay)
    assert b"Binary files a/binary and b/binary differ\n" in told
    assert b"similarity" not in told
    assert b'rename from moved\nrename to "other place"\n' in told
    assert b"rename from directory/below/c\nrename to renamed/below/c\n" in told
    assert b"old mode 100644\nnew mode 100755\n" in told
    assert b'+++ "b/new\\nline"\n' in told
    assert b"--- a/written\n+++ b/written\n@@ -1,4 +1,4 @@\n-line 0\n+LINE 0\n line 1\n line 2\n line 3\n" in told
    copy = tmp_path / "copy"
    shutil.copytree(overlay.base, copy, symlinks=True)
    done = subprocess.run(["patch", "-p1", "--batch"], cwd=copy, input=told, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout
    expected = files(mnt)
    expected[Path("binary")] = b"\0one"
    assert files(copy) == expected
    assert os.access(copy / "tool", os.X_OK)
    overlay.umount()
    at_rest = subprocess.run([minifo_program(), "diff", "-u", overlay.sto], capture_output=True, check=True).stdout
    assert at_rest == told


def test_directory_in_place_of_a_file(overlay: OverlayMount, tmp_path: Path) -> None:
    """``git apply`` takes it; patch(1) deletes at its end only."""
    (overlay.mnt / "kept").unlink()
    (overlay.mnt / "kept").mkdir()
    (overlay.mnt / "kept" / "in").write_text("it is a directory now\n")
    shutil.rmtree(overlay.mnt / "directory")
    (overlay.mnt / "directory").write_text("it is a file now\n")
    copy = tmp_path / "copy"
    shutil.copytree(overlay.base, copy, symlinks=True)
    env = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path)}
    subprocess.run(["git", "apply"], cwd=copy, input=patch_of(overlay), env=env, check=True)
    assert files(copy) == files(overlay.mnt)


def test_patch_of_some_paths(overlay: OverlayMount) -> None:
    """Patterns limit it; the exit code says whether anything in it differs."""
    (overlay.mnt / "gone").unlink()
    (overlay.mnt / "new").write_text("new\n")
    assert patch_of(overlay, "new").splitlines()[4:] == [b"+++ b/new", b"@@ -0,0 +1 @@", b"+new"]
    assert minifo("diff", "-u", "--exit-code", overlay.mnt, "new", check=False).returncode == 1
    assert minifo("diff", "-u", "--exit-code", overlay.mnt, "kept").stdout == ""


def test_what_makes_no_difference_is_not_in_it(overlay: OverlayMount) -> None:
    """The same bytes, times, and permissions that git does not know."""
    (overlay.mnt / "kept").write_text(TEXT)
    (overlay.mnt / "tool").chmod(0o600)
    os.utime(overlay.mnt / "gone")
    assert patch_of(overlay) == b""


def test_large_file_is_one_line(overlay: OverlayMount) -> None:
    """It says which option shows it; where only the mode differs, the size does not matter."""
    with open(overlay.mnt / "large", "w") as file:
        file.write("x" * 63 + "\n")
        file.truncate(1 << 20)
        file.seek(0, os.SEEK_END)
        file.write("\n")
    told = b"Files a/large and b/large differ: larger than 1 MiB, --max-file shows them\n"
    assert patch_of(overlay, "--max-file", "1") == told
    (overlay.mnt / "large").write_text("long\n" * 300_000)
    assert patch_of(overlay, "--max-file", "1") == told
    assert patch_of(overlay).count(b"\n+long") == 300_000


def test_special_file_is_one_line(overlay: OverlayMount) -> None:
    """Patches have none."""
    os.mkfifo(overlay.mnt / "pipe")
    (overlay.mnt / "gone").unlink()
    os.mkfifo(overlay.mnt / "gone")
    told = patch_of(overlay)
    assert b"Special files /dev/null and b/pipe differ\n" in told
    assert b"Special files a/gone and b/gone differ\ndiff --git a/gone b/gone\ndeleted file mode 100644\n" in told


def test_file_that_cannot_be_read_is_said(overlay: OverlayMount) -> None:
    """The rest is in the patch, and the exit code is 2."""
    (overlay.mnt / "large").write_text("long\n" * 100_000)
    (overlay.mnt / "new").write_text("new\n")
    overlay.umount()
    for path in (overlay.sto / "content").glob("*/*"):
        path.unlink()
    done = minifo("diff", "-u", overlay.sto, check=False)
    assert done.returncode == 2
    assert done.stdout.endswith("@@ -0,0 +1 @@\n+new\n")
    assert "minifo: /large is not in the patch: it cannot be read (Input/output error)" in done.stderr


def test_wrong_calls(overlay: OverlayMount, tmp_path: Path) -> None:
    """Options that exclude each other, and a machine without diff(1)."""
    for words, why in ((["--json"], "exclude each other"), (["-z"], "a patch quotes names itself")):
        done = minifo("diff", "-u", *words, overlay.mnt, check=False)
        assert (done.returncode, why in done.stderr) == (1, True)
    program = minifo_program()
    done = run(program, "diff", "-u", overlay.mnt, check=False, env={**os.environ, "PATH": str(tmp_path)})
    assert (done.returncode, done.stderr) == (2, "minifo: a patch needs the program diff; install the diffutils\n")
