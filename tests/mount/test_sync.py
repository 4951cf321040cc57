"""``minifo sync``: what it has returned for is in the storage, whatever the kernel and the daemon held of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from live.device import Device
from mount.support import Lab, Overlay, minifo, run


def committed(lab: Lab, overlay: Overlay) -> Path:
    """What a power cut would leave now: the mount of a copy of the storage, without what is in memory."""
    kept = lab.directory()
    run("cp", "-a", f"{overlay.sto}/.", kept)
    (kept / "lock").unlink()
    copy = lab.overlay(base=overlay.base, sto=kept)
    copy.mount()
    return copy.mnt


@pytest.mark.parametrize("options", [(), ("plain",)])
@pytest.mark.parametrize("place", [".", "directory", "directory/file", None])
def test_everything_is_durable(lab: Lab, options: tuple[str, ...], place: str | None) -> None:
    """Names and bytes are, also those of a file that is open, by any path in the overlay or by none."""
    overlay = lab.overlay(*options, "commit=600")
    overlay.mount()
    (overlay.mnt / "directory").mkdir()
    with open(overlay.mnt / "directory/file", "wb") as file:
        file.write(b"bytes " * 100_000)
        file.flush()
        minifo("sync", *([] if place is None else [overlay.mnt / place]))
        copy = committed(lab, overlay)
        assert (copy / "directory/file").read_bytes() == b"bytes " * 100_000
        assert os.listdir(copy) == ["directory"]


def test_failures(lab: Lab) -> None:
    """A storage that failed, a daemon that is gone, and what is no overlay are told by one line each, and by 2."""
    device = Device(lab, "ext4", 100)
    failing, dead = lab.overlay("commit=600", sto=device.directory("sto")), lab.overlay()
    for overlay in (failing, dead):
        overlay.mount()
    dead.kill()
    (failing.mnt / "file").touch()
    device.cut(log=True)
    done = minifo("sync", failing.mnt, dead.mnt, lab.home, lab.home / "missing", check=False)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert [line.split("; ")[0] for line in lines] == [
        f"minifo: not everything in {failing.mnt} is durable (Input/output error)",
        f"minifo: the daemon of {dead.mnt} is gone",
        f"minifo: {lab.home} is not on a minifo mount",
        f"minifo: {lab.home}/missing cannot be reached (No such file or directory)",
    ]
