"""A base that is slow, or stops answering, holds up those who wait for it and nobody else.

Run as a program, this file is such a base: a file system whose file ``slow`` is answered when somebody writes to the
fifo given as second argument, and ``late`` after a moment each time.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.mount.mount_sandbox import MountSandbox, is_mounted

CONTENT = {b"quick": b"quick", b"slow": b"slow", b"late": bytes(1 << 20)}
_LATE = 0.03  # seconds


def serve(mountpoint: str, gate: str) -> None:
    """Be the base, until unmounted."""
    import pyfuse3
    import trio

    inos = {name: number for number, name in enumerate(CONTENT, 2)}

    class Base(pyfuse3.Operations):
        def attributes(self, ino: int) -> pyfuse3.EntryAttributes:
            entry = pyfuse3.EntryAttributes()
            entry.st_ino = ino
            entry.st_mode = stat.S_IFDIR | 0o755 if ino == 1 else stat.S_IFREG | 0o644
            entry.st_size = 0 if ino == 1 else len(list(CONTENT.values())[ino - 2])
            return entry

        async def lookup(self, parent: int, name: bytes, ctx: Any) -> Any:
            if name in (b".", b".."):
                return self.attributes(1)
            if name not in inos:
                raise pyfuse3.FUSEError(errno.ENOENT)
            return self.attributes(inos[name])

        async def getattr(self, ino: int, ctx: Any = None) -> Any:
            return self.attributes(ino)

        async def opendir(self, ino: int, ctx: Any) -> Any:
            return ino

        async def readdir(self, fh: int, start: int, token: Any) -> None:
            for number, name in enumerate(list(CONTENT)[start:], start + 1):
                if not pyfuse3.readdir_reply(token, name, self.attributes(inos[name]), number):
                    return

        async def open(self, ino: int, flags: int, ctx: Any) -> Any:
            return pyfuse3.FileInfo(fh=ino)

        async def read(self, fh: int, off: int, size: int) -> bytes:
            name = list(CONTENT)[fh - 2]
            if name == b"slow":
                await trio.to_thread.run_sync(Path(gate).read_bytes)
            if name == b"late":
                await trio.sleep(_LATE)
            return CONTENT[name][off : off + size]

        async def statfs(self, ctx: Any) -> Any:
            return pyfuse3.StatvfsData()

        async def release(self, fh: int) -> None:
            return

        async def releasedir(self, fh: int) -> None:
            return

    pyfuse3.init(Base(), mountpoint, {"fsname=slow", "allow_other"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close()


def _gate(base: Path) -> Path:
    return base.with_name("gate")


@pytest.fixture
def base(sandbox: MountSandbox) -> Path:
    """The base, mounted."""
    path = sandbox.directory()
    os.mkfifo(gate := _gate(path))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    server = subprocess.Popen([sys.executable, __file__, path, gate], env=environment)

    def end() -> None:
        os.close(os.open(gate, os.O_RDWR))  # lets a reader go, if there is one
        subprocess.run(["umount", "-l", path], check=False)
        server.wait(30)

    sandbox.undo(end)
    deadline = time.monotonic() + 60
    while not is_mounted(path):
        assert server.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return path


def test_a_base_that_does_not_answer_holds_up_its_readers_only(sandbox: MountSandbox, base: Path) -> None:
    """While a read waits for the base, others create, list and read; then the read gets its bytes."""
    overlay = sandbox.overlay(base=base)
    overlay.mount()
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append((overlay.mnt / "slow").read_bytes()))
    reader.start()
    time.sleep(0.3)  # so that it waits, in all likelihood; the test also holds if it does not
    for number in range(40):
        (overlay.mnt / f"new{number}").write_bytes(b"content")
    assert (overlay.mnt / "quick").read_bytes() == b"quick"
    assert len(os.listdir(overlay.mnt)) == 43
    assert reader.is_alive()
    assert found == []
    _gate(base).write_bytes(b"now")
    reader.join(30)
    assert found == [b"slow"]
    overlay.umount()
    assert overlay.violations() == []


def test_a_base_is_read_aside_after_it_was_slow_once(sandbox: MountSandbox, base: Path) -> None:
    """The first slow read is in the event loop, where nothing else happens; the next ones are not."""
    import trio

    from minifo.engine import Overlay as Engine
    from minifo.engine.model import ROOT, Ino
    from minifo.fusefront.serve.base_reader import BaseReader, is_remote

    assert is_remote("fuse.sshfs")
    assert not is_remote("ext4")
    engine = Engine.open(str(base), str(sandbox.directory()))
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await trio.sleep(0.001)
            ticks += 1

    async def reads() -> list[int]:
        seen = []
        slow_base = BaseReader(engine, remote=False)
        late = engine.lookup(ROOT, b"late")
        assert late is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            for offset in (0, 400_000, 800_000):
                before = ticks
                assert await slow_base.read(Ino(late.ino), offset, 4096) == bytes(4096)
                seen.append(ticks - before)
            nursery.cancel_scope.cancel()
        return seen

    try:
        first, second, third = trio.run(reads)
    finally:
        engine.close()
    assert first == 0
    assert second > 0
    assert third > 0


def test_a_base_that_answers_from_memory_is_quick_again(sandbox: MountSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """One long read of a quick base is no reason to read the rest of a large file the slow way."""
    import trio

    from minifo.engine import Overlay as Engine
    from minifo.engine.model import ROOT, Ino
    from minifo.fusefront.serve import base_reader

    where = sandbox.directory()
    data = bytes(range(256)) * 1024
    (where / "file").write_bytes(data)
    engine = Engine.open(str(where), str(sandbox.directory()))
    seen = []

    async def reads() -> None:
        slow_base = base_reader.BaseReader(engine, remote=False)
        file = engine.lookup(ROOT, b"file")
        assert file is not None
        with monkeypatch.context() as patch:
            patch.setattr(base_reader, "SLOW_READ", 0.0)  # whatever it takes is too long
            await slow_base.read(Ino(file.ino), 0, 4096)
        for offset in range(0, 100 * 1000, 1000):
            seen.append(slow_base.is_fast)
            assert await slow_base.read(Ino(file.ino), offset, 1000) == data[offset : offset + 1000]
        assert await slow_base.read(Ino(file.ino), len(data) - 10, 1000) == data[-10:]

    try:
        trio.run(reads)
    finally:
        engine.close()
    assert not seen[0]
    assert seen[-1]


if __name__ == "__main__":
    serve(*sys.argv[1:3])
