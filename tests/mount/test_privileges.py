"""What the two processes of a mount may still do while it is there."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from minifo.fusefront.process import privileges
from tests.mount.mount_sandbox import (
    USER,
    MountSandbox,
    OverlayMount,
    attempt,
    await_end,
    daemon_of,
    is_mounted,
    run,
)
from tests.mount.test_helper_process import helper_of, living_children, use_everything_that_waits
from tests.mount.unprivileged import as_user
from tests.shared.waiting import wait_until


def facts(pid: int, thread: int = 0) -> dict[str, str]:
    """The fields of a thread's status."""
    text = Path(f"/proc/{pid}/task/{thread or pid}/status").read_text()
    return dict(line.split(":\t", 1) for line in text.splitlines())


def capabilities(pid: int, thread: int = 0) -> set[int]:
    """The capabilities that a thread has or could take."""
    found = facts(pid, thread)
    mask = int(found["CapEff"], 16) | int(found["CapPrm"], 16)
    return {number for number in range(64) if mask >> number & 1}


def ours() -> set[int]:
    """The capabilities of this process."""
    return capabilities(os.getpid())


@pytest.mark.parametrize("options", [(), ("plain",), ("ro",)])
def test_both_processes(sandbox: MountSandbox, options: tuple[str, ...]) -> None:
    """Root's keep what they use, and no program could give them more; so do the threads and a new helper."""
    overlay = sandbox.overlay()
    overlay.mount()
    overlay.umount()
    overlay.mount(*options)
    daemon = overlay.pid or int(run("pgrep", "-f", str(overlay.mnt)).stdout.split()[0])
    for first in (True, False):
        helper = helper_of(daemon)
        assert capabilities(daemon) == privileges.SERVER_CAPABILITIES & ours()
        assert capabilities(helper) == privileges.HELPER_CAPABILITIES & ours()
        for pid in (daemon, helper):
            for thread in os.listdir(f"/proc/{pid}/task"):
                found = facts(pid, int(thread))
                assert {found[f"Cap{kind}"] for kind in ("Bnd", "Inh", "Amb")} == {"0" * 16}
                assert capabilities(pid, int(thread)) <= privileges.SERVER_CAPABILITIES | privileges.HELPER_CAPABILITIES
                assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
        if first:
            os.kill(helper, signal.SIGKILL)
            await_end(helper)
            wait_until(lambda: len(living_children(daemon)) == 1, "the daemon has a new helper")
            wait_until(lambda: _has_given_up(helper_of(daemon)), "the helper has given up its privileges")


def _has_given_up(helper: int) -> bool:
    return facts(helper)["Seccomp"] == "2" and capabilities(helper) == privileges.HELPER_CAPABILITIES & ours()


def test_nothing_is_made_elsewhere(sandbox: MountSandbox) -> None:
    """A directory that is moved out of the storage takes nothing with it, though the daemon has it open."""
    overlay = sandbox.overlay("commit=0.1")
    overlay.mount()
    elsewhere = sandbox.directory()
    (overlay.mnt / "file").write_bytes(bytes(100_000))
    run("sync", "-f", overlay.mnt)
    os.rename(overlay.sto / "content", elsewhere / "content")
    before = sorted(elsewhere.rglob("*"))
    assert len(before) == 3  # a directory in it, and an object
    assert attempt((overlay.mnt / "another").write_bytes, bytes(100_000)) in ("EACCES", "EIO", "ENOENT")
    assert sorted(elsewhere.rglob("*")) == before


def test_a_base_that_is_hard_to_read(sandbox: MountSandbox) -> None:
    """Files of others that nobody may read, below a directory that nobody may enter, and trusted attributes."""
    overlay = sandbox.overlay()
    closed = overlay.base / "closed"
    closed.mkdir()
    (closed / "file").write_bytes(b"secret" * 100_000)
    os.setxattr(closed / "file", "trusted.minifo", b"seen")
    for path in (closed / "file", closed):
        os.chown(path, USER, USER)
        path.chmod(0)
    overlay.mount()
    path = overlay.mnt / "closed/file"
    assert os.getxattr(path, "trusted.minifo") == b"seen"
    with open(path, "r+b") as file:
        assert file.read(6) == b"secret"
        file.write(b"public")
    os.rename(path, overlay.mnt / "moved")
    overlay.remount()
    assert (overlay.mnt / "moved").read_bytes()[:18] == b"secretpublicsecret"
    assert os.getxattr(overlay.mnt / "moved", "trusted.minifo") == b"seen"


@pytest.mark.parametrize("killed", [False, True])
def test_a_user_may_still_unmount(sandbox: MountSandbox, fuse_for_all: None, killed: bool) -> None:
    """A user's daemon may run no set-id program itself, but its helper unmounts by fusermount3; a new helper, too."""
    overlay = sandbox.overlay()
    for path in (overlay.sto, overlay.mnt):
        os.chown(path, USER, USER)
    for how in ("signal", "command"):
        assert as_user("mount", "--base", overlay.base, "--sto", overlay.sto, overlay.mnt) == 0
        overlay.pid = daemon_of(overlay.sto)
        assert (facts(overlay.pid)["NoNewPrivs"], facts(overlay.pid)["Seccomp"]) == ("1", "2")
        assert capabilities(overlay.pid) == set()
        if killed:
            helper = helper_of(overlay.pid)
            os.kill(helper, signal.SIGKILL)
            await_end(helper)
        if how == "signal":
            os.kill(overlay.pid, signal.SIGTERM)
        else:
            assert as_user("umount", overlay.mnt) == 0
        await_end(overlay.pid)
        assert not is_mounted(overlay.mnt)


def test_storage_below_the_mount(sandbox: MountSandbox) -> None:
    """A storage inside a base that is mounted over: what the daemon may write to was found before."""
    home = sandbox.directory()
    (home / "sto").mkdir()
    overlay: OverlayMount = sandbox.overlay(base=home, sto=home / "sto", mnt=home)
    overlay.mount("commit=0.1")
    use_everything_that_waits(overlay)
    (overlay.mnt / "large").write_bytes(bytes(300_000))
    run("sync", "-f", overlay.mnt)
    assert not (overlay.mnt / "sto").exists()
    run("umount", "-i", overlay.mnt)
    assert (home / "sto/minifo.db").exists()
