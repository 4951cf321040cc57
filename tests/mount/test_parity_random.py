"""Parity of random sequences of system calls, found and shrunk by hypothesis, on a real mount and a plain directory.

Every example takes fresh trees of one mount, so that it costs milliseconds; now and then the overlay is mounted anew in
the middle of a sequence.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.mount.mount_sandbox import MountSandbox, OverlayMount, attempt, differences, fingerprint, run, tree, watchdog

NAMES = ["f", "g", "d", "d/f", "d/e", "d/e/f", "h1", "d/h2", "n", "d/n", "s", "m"]
EXAMPLES = min(60, settings().max_examples)  # of up to 60 steps each
TREES = 400

paths = st.sampled_from(NAMES)
offsets = st.sampled_from([0, 1, 4095, 4096, 5000, 140_000, 200_000])
chunks = st.sampled_from([b"x", b"chunk" * 300, b"y" * 9000])
modes = st.sampled_from([0o644, 0o600, 0o755, 0o4755])
steps = st.one_of(
    st.tuples(st.just("create"), paths, chunks),
    st.tuples(st.just("write"), paths, offsets, chunks),
    st.tuples(st.just("truncate"), paths, offsets),
    st.tuples(st.just("rename"), paths, paths),
    st.tuples(st.just("link"), paths, paths),
    st.tuples(st.just("unlink"), paths),
    st.tuples(st.just("mkdir"), paths),
    st.tuples(st.just("rmdir"), paths),
    st.tuples(st.just("symlink"), paths, paths),
    st.tuples(st.just("chmod"), paths, modes),
    st.tuples(st.just("utime"), paths, st.integers(0, 2**60)),
    st.tuples(st.just("setxattr"), paths, chunks),
    st.tuples(st.just("hold"), paths),
    st.tuples(st.just("write held"), chunks),
    st.tuples(st.just("list"), paths),
    st.tuples(st.just("remount")),
)


def small_tree(place: Path) -> None:
    """A few objects of most kinds."""
    (place / "d/e").mkdir(parents=True)
    (place / "f").write_bytes(b"file " * 30)
    (place / "g").write_bytes(bytes(range(250)) * 640)  # 160 kB: changed by ranges
    (place / "d/f").write_bytes(b"")
    (place / "d/e/f").write_bytes(b"deep")
    (place / "h1").write_bytes(b"linked")
    os.link(place / "h1", place / "d/h2")
    (place / "s").symlink_to("f")


class Side:
    """One of the two trees, and the files a sequence holds open in it."""

    def __init__(self, root: Path) -> None:
        self.root = str(root) + "/"
        self.held: list[int] = []

    def act(self, step: tuple[Any, ...]) -> Any:
        """Do one step; what came of it."""
        actions: dict[str, Callable[..., Any]] = {
            "create": self._create,
            "write": self._write,
            "truncate": self._truncate,
            "rename": lambda old, new: os.rename(self.root + old, self.root + new),
            "link": lambda old, new: os.link(self.root + old, self.root + new, follow_symlinks=False),
            "unlink": lambda name: os.unlink(self.root + name),
            "mkdir": lambda name: os.mkdir(self.root + name),
            "rmdir": lambda name: os.rmdir(self.root + name),
            "symlink": lambda target, name: os.symlink(target, self.root + name),
            "chmod": lambda name, mode: os.chmod(self.root + name, mode),
            "utime": lambda name, ns: os.utime(self.root + name, ns=(ns, ns // 2), follow_symlinks=False),
            "setxattr": lambda name, value: os.setxattr(self.root + name, "user.x", value[:50]),
            "hold": self._hold,
            "write held": lambda data: [os.pwrite(fd, data, 10) for fd in self.held],
            "list": lambda name: sorted(os.listdir(self.root + name)),
        }
        return attempt(actions[step[0]], *step[1:])

    def _create(self, name: str, data: bytes) -> None:
        fd = os.open(self.root + name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o640)
        os.write(fd, data)
        os.close(fd)

    def _truncate(self, name: str, size: int) -> None:
        # with the size a file has, others move its times; FUSE does not, and POSIX asks for neither
        if os.path.isdir(self.root + name) or os.path.getsize(self.root + name) != size:
            os.truncate(self.root + name, size)

    def _write(self, name: str, offset: int, data: bytes) -> None:
        fd = os.open(self.root + name, os.O_WRONLY)
        os.pwrite(fd, data, offset)
        os.close(fd)

    def _hold(self, name: str) -> None:
        self.held.append(os.open(self.root + name, os.O_RDWR))

    def look(self) -> list[tuple[int, int, bytes]]:
        """What the files held open show."""
        return [(os.fstat(fd).st_nlink, os.fstat(fd).st_size, os.pread(fd, 300_000, 0)) for fd in self.held]

    def let_go(self) -> None:
        """Close the files held open."""
        for fd in self.held:
            os.close(fd)
        self.held.clear()


class Ground:
    """A mount with many small trees, used up one by one; a new one is made when none is left."""

    def __init__(self, sandbox: MountSandbox, mode: str) -> None:
        self.sandbox = sandbox
        self.mode = mode
        self.numbers: Iterator[int] = iter(())
        self.overlay: OverlayMount | None = None
        self.before: dict[bytes, tuple[Any, ...]] = {}
        self.home = Path()

    def fresh(self) -> tuple[OverlayMount, Side, Side]:
        """An unused tree on the mount and its plain twin."""
        number = next(self.numbers, None)
        if number is None or self.overlay is None:
            self.finish()
            self.home = self.sandbox.file_system("tmpfs")
            words = ["plain"] if self.mode == "plain" else []
            self.overlay = self.sandbox.overlay(*words, base=self.home / "base")
            for at in range(TREES):
                small_tree(self.overlay.base / str(at))
            run("cp", "-a", self.overlay.base, self.home / "twin")
            self.before = fingerprint(self.overlay.base)
            self.overlay.mount()
            self.numbers = iter(range(TREES))
            number = next(self.numbers)
        return self.overlay, Side(self.overlay.mnt / str(number)), Side(self.home / "twin" / str(number))

    def finish(self) -> None:
        """Check invariants and the base, if there was a mount."""
        if self.overlay is not None:
            self.overlay.umount()
            assert self.overlay.violations() == []
            assert fingerprint(self.overlay.base) == self.before


@pytest.mark.parametrize("mode", ["hook", "plain"])
def test_random_sequences(sandbox: MountSandbox, mode: str) -> None:
    """Any sequence of calls has the same outcomes and leaves the same tree as on a plain directory."""
    ground = Ground(sandbox, mode)

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(steps, min_size=1, max_size=60))
    def check(sequence: list[tuple[Any, ...]]) -> None:
        overlay, mounted, plain = ground.fresh()
        since = time.time_ns() - 10**9
        done = []
        try:
            for step in sequence:
                if step == ("remount",):
                    if not mounted.held:
                        overlay.remount()
                    continue
                found, expected = mounted.act(step), plain.act(step)
                done.append((*step, expected))
                assert found == expected, f"mount {found}, plain {expected} after {done}"
                assert mounted.look() == plain.look(), f"open files differ after {done}"
            lines = differences(tree(mounted.root, since=since), tree(plain.root, since=since))
            assert not lines, f"{lines} after {done}"
        finally:
            mounted.let_go()
            plain.let_go()

    with watchdog(sandbox, 100):
        check()
        ground.finish()
