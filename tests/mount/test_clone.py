"""``minifo clone`` of mounted overlays: what was acknowledged is in it, and both sides live on, killed or not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.mount.mount_sandbox import MountSandbox, OverlayMount, daemon_of, minifo, run

LARGE = os.urandom(500_000)


@pytest.fixture
def overlay(sandbox: MountSandbox) -> OverlayMount:
    """A mounted overlay with a file of every backing, not committed yet."""
    found = sandbox.overlay("commit=600")
    for name in ("mixed", "gone"):
        (found.base / name).write_bytes(LARGE)
    found.mount()
    (found.mnt / "large").write_bytes(LARGE)
    (found.mnt / "small").write_text("small")
    (found.mnt / "gone").unlink()
    patch(found.mnt / "mixed", 100_000, b"M" * 9000)
    return found


def patch(path: Path, at: int, data: bytes, *, sync: bool = False) -> None:
    """Write into a file, and perhaps wait until it is durable."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(fd, data, at)
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def bytes_of(mount: OverlayMount) -> dict[str, bytes]:
    """All that it shows."""
    return {path.name: path.read_bytes() for path in sorted(mount.mnt.iterdir())}


def fork(sandbox: MountSandbox, overlay: OverlayMount, *options: str, target: Path | None = None) -> OverlayMount:
    """A clone, not mounted."""
    sto = overlay.sto.with_name(overlay.sto.name + "-fork")
    minifo("clone", *options, target or overlay.mnt, sto)
    sandbox.undo(lambda: run("rm", "-rf", sto))
    return sandbox.overlay("commit=600", base=overlay.base, sto=sto)


def test_both_go_on(sandbox: MountSandbox, overlay: OverlayMount) -> None:
    """The clone has all that was written before, the kernel's pages included; after that each has its own."""
    (overlay.mnt / "late").write_text("late")
    before = bytes_of(overlay)
    twin = fork(sandbox, overlay)
    assert minifo("checkpoint", "list", "--json", overlay.mnt).stdout == ""
    twin.mount()
    assert bytes_of(twin) == before
    for name in ("large", "mixed", "small"):
        patch(overlay.mnt / name, 3, b"ours" * 300)
        patch(twin.mnt / name, 700, b"theirs" * 300)
    minifo("sync", overlay.mnt, twin.mnt)
    ours, theirs = ({**before} for _ in range(2))
    for name in ("large", "mixed", "small"):
        ours[name] = edited(before[name], 3, b"ours" * 300)
        theirs[name] = edited(before[name], 700, b"theirs" * 300)
    assert bytes_of(overlay) == ours
    assert bytes_of(twin) == theirs
    for side, expected in ((overlay, ours), (twin, theirs)):
        side.remount()
        assert bytes_of(side) == expected
        side.umount()
        assert side.violations() == []


def edited(data: bytes, at: int, new: bytes) -> bytes:
    """Bytes after a write."""
    data = data.ljust(at, b"\0")
    return data[:at] + new + data[at + len(new) :]


def test_both_are_killed(sandbox: MountSandbox, overlay: OverlayMount) -> None:
    """kill -9 after a clone loses nothing that was acknowledged on either side, and gives nothing to the other one."""
    before = bytes_of(overlay)
    twin = fork(sandbox, overlay)
    twin.mount()
    patch(overlay.mnt / "large", 5, b"durable", sync=True)
    patch(twin.mnt / "mixed", 5, b"durable", sync=True)
    patch(overlay.mnt / "mixed", 200_000, b"closed")
    patch(twin.mnt / "large", 200_000, b"closed")
    for side in (overlay, twin):
        side.kill()
        side.clear()
    for side, durable, closed in ((overlay, "large", "mixed"), (twin, "mixed", "large")):
        side.mount()
        found = bytes_of(side)
        assert found[durable] == edited(before[durable], 5, b"durable")
        assert found[closed] == edited(before[closed], 200_000, b"closed")
        side.umount()
        assert side.violations() == []


def test_while_it_is_written(sandbox: MountSandbox, overlay: OverlayMount) -> None:
    """A writer that never stops: each clone has a state that was, in the order of the writes."""
    (overlay.mnt / "a").write_bytes(bytes(400_000))
    (overlay.mnt / "b").write_bytes(bytes(400_000))
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            for name in ("a", "b"):
                patch(overlay.mnt / name, 200_000, number.to_bytes(8, "big"))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        last = 0
        for turn in range(2):
            sto = overlay.sto.with_name(f"{overlay.sto.name}-{turn}")
            sandbox.undo(lambda sto=sto: run("rm", "-rf", sto))  # type: ignore[misc]
            minifo("clone", overlay.mnt, sto)
            twin = sandbox.overlay(base=overlay.base, sto=sto)
            twin.mount()
            one, two = (int.from_bytes((twin.mnt / name).read_bytes()[200_000:200_008], "big") for name in ("a", "b"))
            assert one - 1 <= two <= one
            assert one >= last
            last = one
            patch(twin.mnt / "a", 200_000, bytes(8))
            twin.umount()
    finally:
        stop.set()
        writer.join()
    assert int.from_bytes((overlay.mnt / "a").read_bytes()[200_000:200_008], "big") >= last > 0
    overlay.umount()
    assert overlay.violations() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a file system")
def test_where_blocks_can_be_shared(sandbox: MountSandbox) -> None:
    """On XFS no file is linked: both sides write in place at once, and share the blocks that they do not write."""
    disk = sandbox.file_system("xfs")
    overlay = sandbox.overlay(sto=disk / "sto")
    overlay.mount()
    (overlay.mnt / "large").write_bytes(LARGE)
    made = json.loads(minifo("clone", "--json", overlay.mnt, disk / "fork").stdout)
    assert (made["reflinked"], made["linked"], made["copied"]) == (1, 0, 0)
    twin = sandbox.overlay(base=overlay.base, sto=disk / "fork")
    twin.mount()
    patch(overlay.mnt / "large", 10, b"ours", sync=True)
    patch(twin.mnt / "large", 20, b"theirs", sync=True)
    assert (overlay.mnt / "large").read_bytes() == edited(LARGE, 10, b"ours")
    assert (twin.mnt / "large").read_bytes() == edited(LARGE, 20, b"theirs")
    for side in (overlay, twin):
        side.umount()
        assert [path.stat().st_nlink for path in (side.sto / "content").glob("*/*")] == [1]


def test_a_killed_overlay_at_rest(sandbox: MountSandbox, overlay: OverlayMount) -> None:
    """What a killed daemon had acknowledged is in a clone that is made before the next mount."""
    patch(overlay.mnt / "large", 5, b"closed")
    before = bytes_of(overlay)
    overlay.kill()
    overlay.clear()
    twin = fork(sandbox, overlay, target=overlay.sto)
    twin.mount()
    assert bytes_of(twin) == before
    overlay.mount()
    assert bytes_of(overlay) == before


def test_a_checkpoint(sandbox: MountSandbox, overlay: OverlayMount) -> None:
    """--at, and a path in a mount that shows one; it cannot be deleted meanwhile, and can be later."""
    before = bytes_of(overlay)
    minifo("checkpoint", "create", overlay.mnt, "one")
    patch(overlay.mnt / "large", 5, b"later")
    twin = fork(sandbox, overlay, "--at", "one")
    minifo("checkpoint", "delete", overlay.mnt, "one")
    patch(overlay.mnt / "large", 9, b"later still")
    twin.mount()
    assert bytes_of(twin) == before
    done = minifo("clone", "--at", "one", overlay.mnt, overlay.sto.with_name("no"), check=False)
    assert done.returncode == 2
    assert "no checkpoint 'one'" in done.stderr


def test_a_killed_clone(sandbox: MountSandbox, overlay: OverlayMount) -> None:
    """Its rest is no overlay; the next clone removes it, and the daemon deletes the checkpoint that was for it."""
    sto = overlay.sto.with_name(overlay.sto.name + "-fork")
    sandbox.undo(lambda: run("rm", "-rf", sto))
    script = (
        "import os, sys; from minifo.engine.store.storage import Storage; from minifo.tools.cli import main\n"
        "Storage.sync_all = lambda self: os.kill(os.getpid(), 9)\n"
        "sys.exit(main(['clone', *sys.argv[1:]]))"
    )
    done = subprocess.run([sys.executable, "-c", script, overlay.mnt, sto], check=False)
    assert done.returncode == -9
    assert (sto / "clone.db").exists()
    twin = sandbox.overlay(base=overlay.base, sto=sto)
    refused = twin.mount(check=False)
    assert refused.returncode == 32
    assert f"is a clone that was cut short; make it again: minifo clone STO {sto}" in refused.stderr
    assert [entry["cause"] for entry in checkpoints(overlay)] == ["clone"]
    minifo("clone", overlay.mnt, sto)
    twin.mount()
    assert bytes_of(twin) == bytes_of(overlay)
    assert len(checkpoints(overlay)) == 1  # not a minute old: it could be in use


def checkpoints(overlay: OverlayMount) -> list[dict[str, object]]:
    """Those of an overlay."""
    return [json.loads(line) for line in minifo("checkpoint", "list", "--json", overlay.mnt).stdout.splitlines()]


def test_places_that_are_refused(sandbox: MountSandbox, overlay: OverlayMount) -> None:
    """A storage would have to serve itself."""
    for place in (overlay.mnt / "inside", overlay.mnt):
        done = minifo("clone", overlay.mnt, place, check=False)
        assert "is in a mounted overlay" in done.stderr
        assert done.returncode == 1
    assert not (overlay.mnt / "inside").exists()
    assert checkpoints(overlay) == []
    assert daemon_of(overlay.sto)
