"""Storage that fails and comes back in the same boot: nothing is lost, or the next mount says what is, and waits.

The device is shut down, shrunk, or write-protected under a loaded mount; then it comes back as it was, and is mounted
again.  What had reached it is a state of the overlay, whole (P1, P2).  What was acknowledged since is in the redo log:
it is replayed wholly, or the mount is refused, with everything kept, until somebody goes on without it.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from minifo.engine.store.memory_directory import memory_directory
from tests.live_crash.load_check import Load, check_storage, kill, rounds, seed, storage_uuid, unmount_dead
from tests.live_crash.loop_device import Device
from tests.mount.mount_sandbox import MountSandbox, OverlayMount, is_alive, minifo

_COMMIT = 0.3  # seconds
_SLACK = 2.0  # seconds a commit may take, on a machine that has other things to do
_MEGABYTES = 400
_FAILURES: dict[str, Callable[[Device], None]] = {
    "shut down": lambda device: device.cut(log=False),
    "shut down, journal written": lambda device: device.cut(log=True),
    "shrunk": lambda device: device.shrink(20),
    "write-protected": Device.abort,
}
_KINDS = [("ext4", name) for name in _FAILURES] + [("xfs", "shut down"), ("xfs", "shrunk")]
_ROUNDS = 2


@pytest.mark.parametrize(("kind", "failure"), _KINDS, ids=[f"{kind}-{name.replace(' ', '-')}" for kind, name in _KINDS])
def test_storage_fails_and_returns(sandbox: MountSandbox, kind: str, failure: str) -> None:
    """Whatever fails, and whether the daemon is told to end or killed: see the head of this file."""
    choose = random.Random(f"{seed()} {kind} {failure}")
    device = Device(sandbox, kind, _MEGABYTES)
    overlay = sandbox.overlay(f"commit={_COMMIT}", sto=device.directory("sto"))
    load = Load(overlay, sandbox.directory())
    overlay.mount()
    uuid = storage_uuid(overlay.sto)
    ends: Counter[str] = Counter()
    for number in range(rounds(_ROUNDS)):
        load.start()
        time.sleep(choose.uniform(0.3, 1.5))
        when = time.monotonic_ns()
        _FAILURES[failure](device)
        time.sleep(choose.choice([0, choose.uniform(0, _COMMIT), _COMMIT + 1]))
        killed = number % 2 == 1
        if killed:
            kill(overlay)
        load.stop()
        if not killed:
            minifo("umount", overlay.mnt, check=False)
            _await_end(overlay)
        unmount_dead(overlay)
        device.come_back()
        log = _log(uuid)
        failed = log is not None and b"Input/output error" in log.read_bytes()
        refused = _mount(overlay, uuid)
        ends["refused" if refused else "replayed" if log is not None else "nothing to replay"] += 1
        check_storage(overlay.sto)
        if failed and not refused:
            load.check_killed(when)  # the log says that storage failed, and was whole all the same
        else:
            load.check_cut(when, when - int((_COMMIT + _SLACK) * 1e9))
        for path in Path(str(memory_directory())).glob(f"{uuid}-*.redo.*"):
            path.unlink()
    overlay.umount()
    check_storage(overlay.sto)
    print(f"{kind} {failure}: {load.round} rounds, {load.operations} operations, {dict(ends)}")


def _log(uuid: str) -> Path | None:
    logs = list(Path(str(memory_directory())).glob(f"{uuid}-*.redo"))
    assert len(logs) <= 1
    return logs[0] if logs else None


def _await_end(overlay: OverlayMount) -> None:
    limit = time.monotonic() + 20
    while is_alive(overlay.pid) and time.monotonic() < limit:
        time.sleep(0.01)
    if is_alive(overlay.pid):
        kill(overlay)


def _content(overlay: OverlayMount) -> dict[str, tuple[int, int]]:
    found = {path: path.stat() for path in overlay.sto.glob("content/*/*")}
    return {str(path): (st.st_size, st.st_mtime_ns) for path, st in found.items()}


def _mount(overlay: OverlayMount, uuid: str) -> bool:
    """Mount; where that is refused, see that nothing was changed, and go on without the log.

    Returns:
        True if it was refused.
    """
    log, content = _log(uuid), _content(overlay)
    data = log.read_bytes() if log is not None else b""
    done = overlay.mount(check=False)
    if not done.returncode:
        return False
    assert log is not None
    assert "cannot be replayed" in done.stderr
    assert "redo=aside" in done.stderr
    assert done.stderr.count("\n") == 1
    assert (_content(overlay), log.read_bytes()) == (content, data)
    overlay.mount("redo=aside")
    assert Path(f"{log}.1").read_bytes() == data
    return True
