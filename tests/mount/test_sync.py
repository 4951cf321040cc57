"""``minifo sync``: what it has returned for is in the storage, whatever the kernel and the daemon held of it."""

from __future__ import annotations

import os
import socket
import threading
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


@pytest.mark.parametrize(("options", "asked"), [((), True), (("plain",), True), ((), False)])
@pytest.mark.parametrize("place", [".", "directory", "directory/file", None])
def test_everything_is_durable(sandbox: MountSandbox, options: tuple[str, ...], asked: bool, place: str | None) -> None:
    """Names and bytes are, also those of a file that is open, by any path in the overlay or by none."""
    overlay = sandbox.overlay(*options, "commit=600")
    overlay.mount()
    if not asked:
        (overlay.sto / "control").unlink()
    (overlay.mnt / "directory").mkdir()
    with open(overlay.mnt / "directory/file", "wb") as file:
        file.write(b"bytes " * 100_000)
        file.flush()
        minifo("sync", *([] if place is None else [overlay.mnt / place]))
        copy = committed(sandbox, overlay)
        assert (copy / "directory/file").read_bytes() == b"bytes " * 100_000
        assert os.listdir(copy) == ["directory"]


@pytest.mark.parametrize("asked", [True, False])
def test_failures(sandbox: MountSandbox, asked: bool) -> None:
    """A storage that failed, a daemon that is gone, and what is no overlay are told by one line each, and by 2.

    The lines are the same where the daemon is asked at its control socket, and where there is none.
    """
    device = Device(sandbox, "ext4", 100)
    failing, dead = sandbox.overlay("commit=600", sto=device.directory("sto")), sandbox.overlay()
    for overlay in (failing, dead):
        overlay.mount()
        if not asked:
            (overlay.sto / "control").unlink()
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


def test_the_daemon_is_asked_at_its_socket(sandbox: MountSandbox) -> None:
    """Its answer decides: one that cannot be understood lets the kernel ask, one that says an errno is passed on."""
    overlay = sandbox.overlay("commit=600")
    overlay.mount()
    answers = [b'{"error": "org.varlink.service.MethodNotFound"}', b'{"parameters": {}}', b"nonsense"]
    answers.append(b'{"error": "org.minifo.Overlay.CommitFailed", "parameters": {"reason": "full", "errno": 28}}')
    (overlay.sto / "control").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(overlay.sto / "control"))
        listener.listen()

        def serve() -> None:
            for answer in answers:
                with listener.accept()[0] as connection:
                    assert b"org.minifo.Overlay.Sync" in connection.recv(1000)
                    connection.sendall(answer + b"\0")

        thread = threading.Thread(target=serve)
        thread.start()
        for _ in answers[:-1]:
            minifo("sync", overlay.mnt)
        done = minifo("sync", overlay.mnt, check=False)
        thread.join(10)
    assert done.returncode == 2
    assert done.stderr.startswith(f"minifo: not everything in {overlay.mnt} is durable (No space left on device); ")
