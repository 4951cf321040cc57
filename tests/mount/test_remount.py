"""A mount that is there: changed between taking changes and not, or asked for once more."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from minifo.fusefront.mount.mount_table import find_mount
from tests.mount.mount_sandbox import (
    MountSandbox,
    OverlayMount,
    attempt,
    daemon_of,
    minifo,
    minifo_program,
    mount_lines,
    run,
)


def by_mount(overlay: OverlayMount, words: str) -> None:
    """``mount -o remount,...``."""
    run("mount", "-o", f"remount,{words}", overlay.mnt)


def by_kernel(overlay: OverlayMount, words: str) -> None:
    """What a shutdown does: no helper is asked, and it is mount(2) that is called.

    mount(8) of util-linux 2.40 and newer calls fsconfig(2) by itself, which FUSE refuses.
    """
    environment = {**os.environ, "LIBMOUNT_FORCE_MOUNT2": "always"}
    run("mount", "-i", "-o", f"remount,{words}", overlay.mnt, env=environment)


def by_minifo(overlay: OverlayMount, words: str) -> None:
    """``minifo mount -o remount,...``."""
    minifo("mount", "-o", f"remount,{words}", overlay.mnt)


def shown(overlay: OverlayMount) -> set[str]:
    """The options that the kernel shows."""
    entry = find_mount(str(overlay.mnt))
    assert entry is not None
    return set(entry.options)


@pytest.mark.parametrize("way", [by_mount, by_kernel, by_minifo])
def test_read_only_and_back(sandbox: MountSandbox, helpers: None, way: Callable[[OverlayMount, str], None]) -> None:
    """``ro`` refuses every change with EROFS and loses none; ``rw`` takes them again; other words stay as they were."""
    overlay = sandbox.overlay("commit=3600", "nosuid", "noexec")
    overlay.mount()
    before = shown(overlay)
    (overlay.mnt / "file").write_bytes(b"kept")
    way(overlay, "ro")
    assert shown(overlay) == before - {"rw"} | {"ro"}
    assert attempt(os.mkdir, overlay.mnt / "dir") == "EROFS"
    assert attempt(os.unlink, overlay.mnt / "file") == "EROFS"
    assert attempt(os.open, overlay.mnt / "file", os.O_WRONLY) == "EROFS"
    assert (overlay.mnt / "file").read_bytes() == b"kept"
    way(overlay, "rw")
    assert shown(overlay) == before
    (overlay.mnt / "dir").mkdir()
    (overlay.mnt / "file").write_bytes(b"changed")
    overlay.remount()
    assert (overlay.mnt / "file").read_bytes() == b"changed"
    assert (overlay.mnt / "dir").is_dir()


@pytest.mark.parametrize("way", [by_mount, by_minifo])
def test_read_only_is_durable(sandbox: MountSandbox, helpers: None, way: Callable[[OverlayMount, str], None]) -> None:
    """When the command returns everything is in the database, however long the mount might have waited."""
    overlay = sandbox.overlay("commit=3600")
    overlay.mount()
    for number in range(20):
        (overlay.mnt / f"file{number}").write_bytes(b"x" * number)
    way(overlay, "ro")
    assert len(overlay.rows("created")) == 20


def test_what_cannot_be_changed_is_refused(sandbox: MountSandbox, helpers: None) -> None:
    """A busy mount, a read-only daemon, another base, another way to commit: one line, and nothing is changed."""
    overlay = sandbox.overlay("commit=3600")
    overlay.mount()
    before = shown(overlay)

    def refused(words: str, text: str, code: int, where: Path = overlay.mnt) -> None:
        for program in (("mount",), (minifo_program(), "mount")):
            done = run(*program, "-o", f"remount,{words}", where, check=False)
            assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
            assert text in done.stderr

    with open(overlay.mnt / "file", "wb"):
        refused("ro", "files are open for writing", 32)
    refused("sync", "remount cannot change sync", 1)
    refused("relatime", "remount cannot change relatime", 1)
    refused("base=/usr", f"has base {overlay.base}, which remount cannot change to /usr", 1)
    refused("nosuch", "unknown option", 1)
    assert shown(overlay) == before
    overlay.umount()
    overlay.mount("ro")
    refused("rw", "was mounted read-only", 32)
    by_mount(overlay, "ro")
    minifo("umount", overlay.mnt)


def test_fstab_twice(sandbox: MountSandbox, helpers: None) -> None:
    """``mount -a`` mounts what is not there yet, whatever the first field says; a remount takes the line as well."""
    overlay = sandbox.overlay()
    table = sandbox.directory() / "fstab"
    for first in ("none", f"base={overlay.base},sto={overlay.sto}"):
        table.write_text(f"{first} {overlay.mnt} mini_fo base={overlay.base},sto={overlay.sto},commit=5,nodev 0 0\n")
        for _ in range(3):
            run("mount", "-T", table, "-a")
            overlay.pid = daemon_of(overlay.sto)
        assert [where for _, where, _ in mount_lines()].count(str(overlay.mnt)) == 1
        run("mount", "-T", table, "-o", "remount,ro", overlay.mnt)
        assert attempt(os.mkdir, overlay.mnt / "dir") == "EROFS"
        # that is not what the line says
        assert run("mount", "-T", table, overlay.mnt, check=False).returncode == 32
        run("mount", "-T", table, "-o", "remount,rw", overlay.mnt)
        overlay.umount()


def test_mounted_over_its_base_twice(sandbox: MountSandbox, helpers: None) -> None:
    """The same for a mount over the base itself, where neither base nor storage can be seen any more."""
    home = sandbox.directory()
    (home / "sto").mkdir()
    overlay = sandbox.overlay(base=home, sto=home / "sto", mnt=home)
    table = sandbox.directory() / "fstab"
    table.write_text(f"none {home} mini_fo base={home},sto={home}/sto 0 0\n")
    run("mount", "-T", table, "-a")
    try:
        again = run("mount", "-T", table, "-a")
        assert "already mounted" in again.stderr
        assert [where for _, where, _ in mount_lines()].count(str(home)) == 1
        run("mount", "-T", table, "-o", "remount,ro", home)
        assert attempt(os.mkdir, home / "dir") == "EROFS"
        run("mount", "-T", table, "-o", "remount,rw", home)
        (home / "dir").mkdir()
    finally:
        minifo("umount", home)
    assert not (home / "dir").exists()
    assert overlay.violations() == []


def test_umount_or_read_only(sandbox: MountSandbox, helpers: None) -> None:
    """``umount -r`` of a busy mount lets it take no more changes; with a file open for writing it stays as it was."""
    overlay = sandbox.overlay("commit=3600")
    overlay.mount()
    (overlay.mnt / "file").write_bytes(b"kept")
    with open(overlay.mnt / "file", "ab") as file:
        done = run("umount", "-r", overlay.mnt, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (32, 1), done.stderr
        file.write(b", and more")
    with open(overlay.mnt / "file", "rb") as file:
        assert "read-only" in run("umount", "-r", overlay.mnt).stderr
        assert file.read() == b"kept, and more"
        assert attempt(os.mkdir, overlay.mnt / "dir") == "EROFS"
        assert len(overlay.rows("created")) == 1
    run("umount", "-r", overlay.mnt)
    assert find_mount(str(overlay.mnt)) is None
