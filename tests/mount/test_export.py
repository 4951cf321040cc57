"""``minifo export`` of mounted overlays: the state of one moment, while programs go on writing."""

from __future__ import annotations

import os
import signal
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest

from tests.mount.mount_sandbox import MountSandbox, OverlayMount, daemon_of, minifo

SIZE = 300_000


@pytest.fixture
def overlay(sandbox: MountSandbox) -> OverlayMount:
    """A mounted overlay with a file that is not committed yet."""
    found = sandbox.overlay("commit=600")
    (found.base / "file").write_bytes(b"0" * SIZE)
    found.mount()
    (found.mnt / "late").write_text("late")
    return found


def write_on(mnt: Path, ended: threading.Event) -> None:
    """Overwrite a file in place, byte after byte the same, and note in another file what came before."""
    number = 0
    while not ended.is_set():
        number += 1
        digit = b"%d" % (number % 10)
        with open(mnt / "file", "r+b", buffering=0) as file:
            file.write(digit * SIZE)
            os.fsync(file.fileno())
        (mnt / f"made-{number}").write_bytes(digit)


def test_it_is_one_moment(overlay: OverlayMount, tmp_path: Path) -> None:
    """All that was there before, no file half old and half new, and names in the order in which they came."""
    ended = threading.Event()
    writer = threading.Thread(target=write_on, args=(overlay.mnt, ended))
    writer.start()
    try:
        for turn in range(3):
            out = tmp_path / f"{turn}.tar"
            minifo("export", overlay.mnt, "--format", "oci", "-o", out)
            with tarfile.open(out) as archive:
                found = {member.name: archive.extractfile(member) for member in archive if member.isreg()}
                data = {name: file.read() for name, file in found.items() if file is not None}
            assert data["late"] == b"late"
            made = sorted(int(name[5:]) for name in data if name.startswith("made-"))
            assert made == list(range(1, len(made) + 1))
            assert len(set(data["file"])) <= 2  # written in pieces: the one before, and the one at that moment
    finally:
        ended.set()
        writer.join()
    assert minifo("checkpoint", "list", "--json", overlay.mnt).stdout == ""


def test_an_export_that_is_killed_leaves_the_mount_as_it_is(overlay: OverlayMount, tmp_path: Path) -> None:
    """Its checkpoint goes with a later one; the next export works."""
    out = tmp_path / "pipe"
    os.mkfifo(out)
    words = ["minifo", "export", str(overlay.mnt), "--format", "oci", "-o", str(out)]
    with subprocess.Popen(words) as process, open(out, "rb") as pipe:
        pipe.read(512)
        process.send_signal(signal.SIGKILL)
    minifo("export", overlay.mnt, "--format", "oci", "-o", tmp_path / "out.tar")
    assert (overlay.mnt / "late").read_text() == "late"


def test_what_a_killed_daemon_did_is_missed_aloud(overlay: OverlayMount, tmp_path: Path) -> None:
    """The export reads a storage, and does not replay; it warns."""
    os.kill(daemon_of(overlay.sto), signal.SIGKILL)
    overlay.umount()
    done = minifo("export", overlay.sto, "--format", "oci", "-o", tmp_path / "out.tar")
    assert "killed daemon" in done.stderr
