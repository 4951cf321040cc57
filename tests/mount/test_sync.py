"""``minifo sync``: what it has returned for is in the storage, whatever the kernel and the daemon held of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.live_crash.loop_device import Device
from tests.mount.mount_sandbox import MountSandbox, OverlayMount, minifo, run


def committed(sandbox: MountSandbox, overlay: OverlayMount) -> Path:
    """What a power cut would leave now: the mount of a copy of the storage, without what is in memory."""
    kept = sandbox.directory()
    run("cp", "-a", f"{overlay.sto}/.", kept)
    (kept / "lock").unlink()
    copy = sandbox.overlay(base=overlay.base, sto=kept)
    copy.mount()
    return copy.mnt


@pytest.mark.parametrize("options", [(), ("plain",)])
@pytest.mark.parametrize("place", [".", "directory", "directory/file", None])
def test_everything_is_durable(sandbox: MountSandbox, options: tuple[str, ...], place: str | None) -> None:
    """Names and bytes are, also those of a file that is open, by any path in the overlay or by none."""
    overlay = sandbox.overlay(*options, "commit=600")
    overlay.mount()
    (overlay.mnt / "directory").mkdir()
    with open(overlay.mnt / "directory/file", "wb") as file:
        file.write(b"bytes " * 100_000)
        file.flush()
        minifo("sync", *([] if place is None else [overlay.mnt / place]))
        copy = committed(sandbox, overlay)
        assert (copy / "directory/file").read_bytes() == b"bytes " * 100_000
        assert os.listdir(copy) == ["directory"]


def test_failures(sandbox: MountSandbox) -> None:
    """A storage that failed, a daemon that is gone, and what is no overlay are told by one line each, and by 2."""
    device = Device(sandbox, "ext4", 100)
    failing, dead = sandbox.overlay("commit=600", sto=device.directory("sto")), sandbox.overlay()
    for overlay in (failing, dead):
        overlay.mount()
    dead.kill()
    (failing.mnt / "file").touch()
    device.cut(log=True)
    done = minifo("sync", failing.mnt, dead.mnt, sandbox.home, sandbox.home / "missing", check=False)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert [line.split("; ")[0] for line in lines] == [
        f"minifo: not everything in {failing.mnt} is durable (Input/output error)",
        f"minifo: the daemon of {dead.mnt} has ended",
        f"minifo: {sandbox.home} is not on a minifo mount",
        f"minifo: {sandbox.home}/missing cannot be reached (No such file or directory)",
    ]
