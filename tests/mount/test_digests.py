"""Digests of real mounts: they are recorded when nobody uses the overlay, and tell bytes that changed on the medium."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from minifo.engine.store.object_paths import object_name
from tests.mount.mount_sandbox import MountSandbox, OverlayMount, minifo
from tests.shared.waiting import wait_until

BIG = os.urandom(1 << 20)


@pytest.fixture
def overlay(sandbox: MountSandbox) -> OverlayMount:
    """A mounted overlay with a few large files of its own."""
    found = sandbox.overlay()
    found.mount()
    (found.mnt / "dir").mkdir()
    for name in ("one", "two", "dir/three"):
        (found.mnt / name).write_bytes(name.encode() + BIG)
    return found


def digests(overlay: OverlayMount) -> dict[int, tuple[int, bytes]]:
    """What is recorded."""
    return {number: (size, digest) for number, size, digest in overlay.rows("object_digest")}


def verify(overlay: OverlayMount, *options: str, code: int = 0) -> dict[str, Any]:
    """What ``minifo-fsck --verify-data`` says."""
    done = minifo("fsck", "--verify-data", "--json", *options, overlay.sto, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def said_of_data(said: dict[str, Any]) -> dict[str, Any]:
    """The part about the bytes."""
    found: dict[str, Any] = said["data"]
    return found


def object_of(overlay: OverlayMount, path: Path) -> Path:
    """The file in storage with a file's bytes."""
    numbers = {row[0]: row[10] for row in overlay.rows("inode")}
    return overlay.sto / object_name(numbers[path.stat().st_ino])


def test_flipped_byte_is_told_with_its_paths(overlay: OverlayMount) -> None:
    """After a checkpoint the digests come by themselves; dd changes one byte, and fsck names the paths that show it."""
    minifo("checkpoint", "create", overlay.mnt, "before")
    wait_until(lambda: len(digests(overlay)) == 3, "all digests are recorded")
    place = object_of(overlay, overlay.mnt / "dir/three")
    (overlay.mnt / "dir/three").rename(overlay.mnt / "moved")
    minifo("checkpoint", "create", overlay.mnt, "after")
    overlay.umount()
    data = said_of_data(verify(overlay, "-n"))
    assert (data["objects"], data["verified"], data["without_digest"], data["damaged"]) == (3, 3, 0, [])
    with open(place, "r+b") as file:
        file.seek(500_000)
        byte = file.read(1)
        file.seek(500_000)
        file.write(bytes([byte[0] ^ 1]))
    said = verify(overlay, "-y", code=4)
    assert [(found["code"], found["path"]) for found in said["findings"]] == [("E307", "/moved")]
    data = said_of_data(said)
    (damaged,) = data["damaged"]
    assert damaged["path"] == "/moved"
    assert damaged["checkpoints"] == [{"name": "after", "path": "/moved"}, {"name": "before", "path": "/dir/three"}]
    assert data["verified"] == 2
    text = minifo("fsck", "--verify-data", "-n", overlay.sto, check=False).stdout
    assert "/moved: bytes of a content object have changed" in text
    assert "minifo revert" in text
    overlay.mount()
    (overlay.mnt / "moved").write_bytes(b"three" + BIG)  # what the user has elsewhere
    minifo("checkpoint", "delete", overlay.mnt, "before", "after")
    overlay.umount()
    assert verify(overlay, "-n")["clean"]


def test_recording_and_deleting_go_together_with_work(overlay: OverlayMount) -> None:
    """Files are written, frozen and thawed under it, and fsck looks at the mounted storage: no false alarm."""
    stop = threading.Event()

    def work() -> None:
        turn = 0
        while not stop.is_set():
            with open(overlay.mnt / "one", "r+b") as file:
                file.seek(turn * 5000)
                file.write(b"%d" % turn)
            turn += 1
            stop.wait(0.01)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for turn in range(4):
            minifo("checkpoint", "create", overlay.mnt, f"c{turn}")
            verify(overlay, "-n")
            if turn % 2:
                minifo("checkpoint", "delete", overlay.mnt, f"c{turn}", f"c{turn - 1}")
                verify(overlay, "-n")
    finally:
        stop.set()
        worker.join()
    minifo("checkpoint", "create", overlay.mnt, "last")
    names = {path for path in (overlay.sto / "content").glob("*/*")}
    wait_until(lambda: {overlay.sto / object_name(number) for number in digests(overlay)} >= names, "all are recorded")
    overlay.umount()
    assert said_of_data(verify(overlay, "-y"))["without_digest"] == 0
