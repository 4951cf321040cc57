"""nosuid, nodev and noexec: whose word holds in a mount.  Tried with a set-id program and a device node."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from tests.mount.mount_sandbox import USER, MountSandbox, OverlayMount, attempt, in_child, minifo, run
from tests.mount.unprivileged import as_user

ALL = ("nosuid", "nodev", "noexec")
HERE = "dev,suid,exec"  # what a file system of a test is mounted with that forbids nothing


def arm(where: Path) -> None:
    """Put a set-id program and a device that everybody may read into a directory."""
    shutil.copy("/usr/bin/id", where / "id")
    (where / "id").chmod(0o4755)
    os.mknod(where / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    (where / "zero").chmod(0o666)


def powers(where: Path) -> set[str]:
    """Which of the three an ordinary user finds in force for what ``arm`` has put there."""

    def look() -> set[str]:
        done = attempt(run, where / "id", "-u")
        found = set()
        if isinstance(done, str):
            assert done == "EACCES"
            found |= {"noexec", "nosuid"}
        elif done.stdout == f"{USER}\n":
            found.add("nosuid")
        opened = attempt(os.open, where / "zero", os.O_RDONLY)
        if isinstance(opened, str):
            assert opened == "EACCES"
            found.add("nodev")
        return found

    return in_child(look, uid=USER)


def words(overlay: OverlayMount) -> set[str]:
    """Which of the three the mount table shows."""
    line = next(line for line in Path("/proc/mounts").read_text().splitlines() if f" {overlay.mnt} " in line)
    return set(line.split(" ")[3].split(",")) & set(ALL)


def two_places(sandbox: MountSandbox, base: str = HERE, sto: str = HERE) -> OverlayMount:
    """An armed overlay, base and storage on file systems of their own with the options given."""
    below, above = sandbox.file_system("tmpfs"), sandbox.file_system("tmpfs")
    overlay = sandbox.overlay(base=below, sto=above)
    arm(overlay.base)
    for place, options in ((below, base), (above, sto)):
        run("mount", "-o", f"remount,{options}", place)
    return overlay


def test_set_id_programs_and_devices_ask_for_leave(sandbox: MountSandbox) -> None:
    """Root's mounts honour neither unless told to: in what base brings, and in what is made in the overlay."""
    overlay = two_places(sandbox)
    overlay.mount()
    made = overlay.mnt / "made"
    made.mkdir()
    arm(made)
    assert words(overlay) == powers(overlay.mnt) == powers(made) == {"nosuid", "nodev"}
    overlay.umount()
    overlay.mount("dev,suid")
    assert words(overlay) == powers(overlay.mnt) == powers(made) == set()
    overlay.umount()
    overlay.mount("suid")
    assert words(overlay) == powers(overlay.mnt) == powers(made) == {"nodev"}


@pytest.mark.parametrize("word", ALL)
@pytest.mark.parametrize("place", ["base", "sto"])
def test_what_lies_below_forbids_lies_forbidden(sandbox: MountSandbox, place: str, word: str) -> None:
    """A word that base or storage is mounted with holds in the overlay, but for those that are contradicted."""
    overlay = two_places(sandbox, **{place: word})
    rest = [allowing for forbidding, allowing in zip(ALL, ("suid", "dev", "exec"), strict=True) if forbidding != word]
    overlay.mount(",".join(rest))
    (overlay.mnt / "made").mkdir()
    arm(overlay.mnt / "made")
    assert words(overlay) == {word}
    assert word in powers(overlay.mnt)
    assert word in powers(overlay.mnt / "made")
    overlay.umount()
    overlay.mount(HERE)  # explicitly, by root
    assert words(overlay) == powers(overlay.mnt) == set()


def test_the_root_directory_as_base(sandbox: MountSandbox) -> None:
    """An overlay of / honours devices and set-id programs, for a system is to run on it; a storage may forbid it."""
    home = sandbox.directory_on_disk()
    overlay = sandbox.overlay(base=Path("/"), sto=home / "sto", mnt=home / "mnt")
    flags = os.statvfs("/").f_flag
    below = {word for word, flag in zip(ALL, (os.ST_NOSUID, os.ST_NODEV, os.ST_NOEXEC), strict=True) if flags & flag}
    if os.stat("/").st_dev != os.stat(home).st_dev:
        pytest.skip("/var/tmp is a file system of its own")
    overlay.mount()
    assert words(overlay) == below
    overlay.umount()

    stick = sandbox.file_system("tmpfs", options="nosuid,nodev")
    overlay = sandbox.overlay(base=Path("/"), sto=stick)
    done = overlay.mount()
    assert words(overlay) == {"nosuid", "nodev", *below}
    assert "nosuid because" in done.stderr
    assert "mount with -o rootfs to allow it" in done.stderr


def test_the_old_line(sandbox: MountSandbox, helpers: None) -> None:
    """mini_fo's line mounts as it stands; mount(8) keeps ``suid,dev`` to itself, and passes ``rootfs`` on."""
    overlay = two_places(sandbox)
    line = ("mount", "-t", "mini_fo", "-o")
    places = f"base={overlay.base},sto={overlay.sto}"
    for options, expected in ((places, {"nosuid", "nodev"}), (f"rootfs,{places}", set())):
        run(*line, options, "none", overlay.mnt)
        assert words(overlay) == powers(overlay.mnt) == expected
        run("umount", overlay.mnt)


def test_a_user_gets_no_more_than_that(sandbox: MountSandbox, fuse_for_all: None) -> None:
    """fusermount3 forbids a user's mount set-id programs and devices; noexec of a stick carries over too."""
    stick = sandbox.file_system("tmpfs", options="noexec")
    overlay = sandbox.overlay(sto=stick)
    os.chown(overlay.sto, USER, USER)
    os.chown(overlay.mnt, USER, USER)
    shutil.copy("/usr/bin/id", overlay.base / "id")
    assert as_user("mount", "--base", overlay.base, "--sto", overlay.sto, overlay.mnt) == 0
    assert words(overlay) == set(ALL)
    minifo("umount", overlay.mnt)
