"""A mount that the system runs on (``root_storage``): nothing that a shutdown does to every process ends its daemon."""

from __future__ import annotations

import itertools
import json
import os
import signal
from pathlib import Path

from minifo.fusefront.process.root_storage import MARK
from tests.mount.mount_sandbox import MountSandbox, await_end, is_mounted, minifo
from tests.shared.waiting import wait_until


def command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def uncommitted(mnt: Path) -> bool:
    """Whether there are operations that only memory has."""
    return bool(json.loads(minifo("status", "--json", mnt).stdout)["commits"]["pending"])


def children(pid: int) -> list[int]:
    texts = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(word) for text in texts for word in text.split()]


def test_mark(sandbox: MountSandbox) -> None:
    """The daemon and its helper bear the mark that systemd looks for, only if that is asked for; a new helper, too."""
    plain = sandbox.overlay()
    plain.mount()
    assert not command_line(plain.pid).startswith(MARK)
    overlay = sandbox.overlay("root_storage")
    overlay.mount()
    (helper,) = children(overlay.pid)
    assert command_line(overlay.pid).startswith(MARK)
    assert command_line(helper).startswith(MARK)
    os.kill(helper, signal.SIGKILL)
    wait_until(lambda: children(overlay.pid) not in ([], [helper]), "there is a new helper")
    (helper,) = children(overlay.pid)
    assert command_line(helper).startswith(MARK)
    overlay.umount()


def test_signals(sandbox: MountSandbox) -> None:
    """SIGTERM leaves the mount, and what is changed afterwards is durable at once; SIGINT still ends it."""
    overlay = sandbox.overlay("root_storage", "commit=3600")
    overlay.mount()
    (overlay.mnt / "before").write_text("before")
    assert uncommitted(overlay.mnt)
    os.kill(overlay.pid, signal.SIGTERM)
    names = (f"after{number}" for number in itertools.count())

    def is_synchronous() -> bool:
        (overlay.mnt / next(names)).mkdir()
        return not uncommitted(overlay.mnt)

    wait_until(is_synchronous, "a change is durable when its call returns")
    os.kill(overlay.pid, signal.SIGINT)
    await_end(overlay.pid)
    assert not is_mounted(overlay.mnt)
    overlay.mount()
    assert (overlay.mnt / "before").read_text() == "before"
    overlay.umount()
