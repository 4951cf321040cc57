"""Checkpoints of real mounts when storage is full, and when the daemon is killed in the middle of a verb."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from pathlib import Path

import pytest

from minifo.engine import Overlay as Engine
from minifo.engine import StateError
from minifo.fusefront.control.client import ControlClient, Refused
from tests.crash.recorded_overlay import Tree, tree_of
from tests.live_crash.load_check import check_storage, kill, rounds, seed, unmount_dead
from tests.live_crash.loop_device import Device
from tests.mount.mount_sandbox import MountSandbox, OverlayMount

_MEGABYTE = 1 << 20
_ROUNDS = 3
_VERB = 0.08  # seconds in which a verb is done


def _ask(overlay: OverlayMount, method: str, **parameters: object) -> dict[str, object]:
    with ControlClient(str(overlay.sto)) as client:
        return client.call(method, **parameters)


def _names(overlay: OverlayMount) -> list[str]:
    found = _ask(overlay, "Checkpoints")["checkpoints"]
    assert isinstance(found, list)
    return [point["name"] for point in found]


def _at(overlay: OverlayMount, name: str) -> Tree:
    shown = Engine.open(str(overlay.base), str(overlay.sto), at=name)
    try:
        return tree_of(shown)
    finally:
        shown.close()


def _fill_up(path: Path) -> None:
    for size in (65536, 4096, 512):
        try:
            with open(path, "ab", buffering=0) as file:
                while file.write(b"x" * size) == size:
                    pass
        except OSError as error:  # the last bytes may be refused at close only
            if error.errno != errno.ENOSPC:
                raise


def _make_files(directory: Path, count: int) -> None:
    for number in range(count):
        (directory / f"row{number}").write_bytes(b"x" * 2000)


def _free(path: Path) -> int:
    figures = os.statvfs(path)
    return figures.f_bfree * figures.f_frsize


def _settle(overlay: OverlayMount) -> None:
    fd = os.open(overlay.mnt, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _is_durable(overlay: OverlayMount) -> bool:
    try:
        _settle(overlay)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False
    return True


def test_a_full_storage(sandbox: MountSandbox) -> None:
    """No checkpoint can be made, and that leaves no trace; going back, undoing and deleting work at 100 %."""
    device = Device(sandbox, "ext4", 24)
    overlay = sandbox.overlay("commit=0.2", sto=device.directory("sto"))
    for number in range(200):
        (overlay.base / f"b{number}").write_bytes(b"base %d" % number)
    overlay.mount()
    (overlay.mnt / "kept").write_bytes(b"one" * 50_000)
    _ask(overlay, "CreateCheckpoint", name="one")
    (overlay.mnt / "kept").write_bytes(b"two" * 50_000)
    for number in range(200):
        (overlay.mnt / f"b{number}").unlink()
    (overlay.mnt / "new").write_bytes(b"new" * 50_000)
    _ask(overlay, "Rollback", name="one")
    (overlay.mnt / "kept").write_bytes(b"three" * 50_000)
    _settle(overlay)
    theirs = device.path / "theirs"
    theirs.write_bytes(bytes(1 << 20))
    _fill_up(overlay.mnt / "fill")
    _fill_up(device.path / "rest")
    with pytest.raises(OSError, match="No space left"):
        _make_files(overlay.mnt, 5000)  # the blocks that ext4 still counts as free it gives to nobody
    _settle(overlay)
    before = _names(overlay)
    with pytest.raises(Refused, match="the checkpoint was not made"):
        _ask(overlay, "CreateCheckpoint", name="two")
    assert _names(overlay) == before == ["one", "before-rollback"]
    held = {name: _at(overlay, name) for name in before}
    # to go back takes space for what is left
    with pytest.raises(Refused, match=r"nothing was changed: .* is full"):
        _ask(overlay, "Undo")
    assert (overlay.mnt / "kept").read_bytes() == b"three" * 50_000
    assert (overlay.mnt / "b0").exists()
    for path in overlay.mnt.glob("row*"):
        path.unlink()
    while not _is_durable(overlay):  # to commit deletions takes a little, too, which others must leave
        os.truncate(theirs, theirs.stat().st_size - (64 << 10))
    for turn, (method, parameters) in enumerate(
        [("Undo", {}), ("Redo", {}), ("Rollback", {"name": "one"}), ("Rollback", {"name": "before-rollback"})]
    ):
        _ask(overlay, method, **parameters)
        content = (b"two" if turn in (0, 3) else b"three" if turn == 1 else b"one") * 50_000
        assert (overlay.mnt / "kept").read_bytes() == content
        assert (overlay.mnt / "new").exists() == (turn in (0, 3))
    for name, tree in held.items():
        assert _at(overlay, name) == tree
    full = _free(device.path)
    for _ in range(12):  # the oldest ones go, and what only they needed
        _ask(overlay, "Rollback", name="one")
    assert "one" in _names(overlay)
    assert len(_names(overlay)) == 11
    _settle(overlay)
    assert _free(device.path) > full + 5 * _MEGABYTE
    _ask(overlay, "DeleteCheckpoints", names=[name for name in _names(overlay) if name != "one"])
    assert _names(overlay) == ["one"]
    (device.path / "theirs").unlink()
    _ask(overlay, "CreateCheckpoint", name="two")
    (overlay.mnt / "after").write_bytes(bytes(_MEGABYTE))
    assert (overlay.mnt / "kept").read_bytes() == b"one" * 50_000
    overlay.umount()
    check_storage(overlay.sto)


class _Load:
    """A thread that writes, replaces and unlinks files of its own until the mount is dead or it is told to stop."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            path = self._directory / f"f{number % 20}"
            try:
                self._directory.mkdir(exist_ok=True)
                path.with_suffix(".tmp").write_bytes(b"%d" % number * 700)
                path.with_suffix(".tmp").rename(path)
                if number % 3 == 0:
                    path.unlink()
            except OSError:
                time.sleep(0.001)  # a rollback took the directory away, or the daemon is dead

    def stop(self) -> None:
        """End it."""
        self._stop.set()
        self._thread.join(30)


def _write(overlay: OverlayMount, text: str) -> None:
    """Let five files hold a text, all or none of them after a commit, and one name tell it, too."""
    for number in range(5):
        (overlay.mnt / f"part{number}").write_text(text * 3000)
    for path in overlay.mnt.glob("is-*"):
        path.unlink()
    (overlay.mnt / f"is-{text}").touch()
    _settle(overlay)


def _read(overlay: OverlayMount) -> str:
    texts = {(overlay.mnt / f"part{number}").read_text()[:7] for number in range(5)}
    texts |= {path.name[3:] for path in overlay.mnt.glob("is-*")}
    assert len(texts) == 1, texts
    return texts.pop()


def test_killed_in_the_middle_of_a_verb(sandbox: MountSandbox) -> None:
    """The daemon is killed at a random moment of a rollback or a create: it was done or not; others are intact."""
    choose = random.Random(seed())
    overlay = sandbox.overlay("commit=0.3")
    overlay.mount()
    held: dict[str, Tree] = {}
    done = 0
    for turn in range(rounds(_ROUNDS)):
        old, new = f"old{turn:04}", f"new{turn:04}"
        _write(overlay, old)
        load = _Load(overlay.mnt / "load")
        _ask(overlay, "CreateCheckpoint", name=old)
        held[old] = _at(overlay, old)
        _write(overlay, new)
        method, name = ("Rollback", old) if turn % 3 else ("CreateCheckpoint", new)
        errors: list[StateError] = []

        def ask(method: str = method, name: str = name, errors: list[StateError] = errors) -> None:
            try:
                _ask(overlay, method, name=name)
            except StateError as error:
                errors.append(error)

        verb = threading.Thread(target=ask)
        verb.start()
        time.sleep(choose.uniform(0, _VERB))
        kill(overlay)
        verb.join(30)
        load.stop()
        unmount_dead(overlay)
        overlay.mount()
        names = _names(overlay)
        if method == "Rollback":
            back = _read(overlay) == old
            left = [point for point in names if point.startswith("before-rollback") and point not in held]
            assert len(left) == back, names
            for point in left:
                held[point] = _at(overlay, point)
                assert held[point][b"/part0"].content[:7] == new.encode()
        else:
            back = new in names
            assert _read(overlay) == new
            if back:
                held[new] = _at(overlay, new)
                assert held[new][b"/part0"].content[:7] == new.encode()
        assert back or errors, "it was acknowledged"
        done += back
        assert set(names) >= {point for point in held if not point.startswith("before-")}
        for point in held.keys() & set(names):
            assert _at(overlay, point) == held[point], point
    overlay.umount()
    check_storage(overlay.sto)
    print(f"{rounds(_ROUNDS)} kills, {done} times the verb was done")
