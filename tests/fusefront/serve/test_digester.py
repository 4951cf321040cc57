"""When digests are computed: while nobody asks, and again after the next checkpoint; no failure ends the mount."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from minifo.fusefront.serve.digester import record_digests
from tests.shared.digests import record_digests as record_all
from tests.shared.digests import recorded
from tests.shared.overlay_sandbox import OverlaySandbox

BIG = os.urandom(300_000)


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[OverlaySandbox]:
    """An overlay with two files, and a checkpoint."""
    found = OverlaySandbox(tmp_path)
    for name in ("a", "b"):
        found.create(name, BIG)
    found.ov.checkpoints.create("one")
    yield found
    found.close()


class Idle:
    """A daemon that serves as many requests as it is told."""

    def __init__(self, sandbox: OverlaySandbox, requests: int = 0) -> None:
        self.sandbox = sandbox
        self.left = requests
        self.count = 0
        self.event = trio.Event()

    def served(self) -> int:
        """One more, as long as there are."""
        if self.left:
            self.left -= 1
            self.count += 1
        return self.count

    def changed(self) -> trio.Event:
        """The event of the next checkpoint."""
        return self.event

    def note(self) -> None:
        """A checkpoint was made."""
        self.event.set()
        self.event = trio.Event()

    def run(self, change: Callable[[], object] = lambda: None, after: float = 0.0) -> None:
        """Let it work until it has recorded something.

        Args:
            change: called meanwhile.
            after: how many seconds later.
        """

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(record_digests, self.sandbox.ov, self.served, self.changed)
                await trio.sleep(after)
                change()
                self.sandbox.ov.commit()
                done = trio.Event()
                self.sandbox.ov.when_dirty(done.set)
                await done.wait()
                nursery.cancel_scope.cancel()

        trio.run(main, clock=MockClock(autojump_threshold=0.01))


def test_it_waits_until_nobody_asks(sandbox: OverlaySandbox) -> None:
    """And records all then."""
    idle = Idle(sandbox, requests=20)
    idle.run()
    assert idle.left == 0
    assert len(recorded(sandbox.ov)) == 2


def test_the_next_checkpoint_wakes_it(sandbox: OverlaySandbox) -> None:
    """Whatever it has frozen gets digests, too."""
    record_all(sandbox.ov)
    sandbox.create("c", BIG)
    idle = Idle(sandbox)

    def change() -> None:
        sandbox.ov.checkpoints.create("two")
        idle.note()

    idle.run(change, after=100)
    assert len(recorded(sandbox.ov)) == 3


def test_on_a_full_storage_it_waits_for_room(sandbox: OverlaySandbox) -> None:
    """It tries again some minutes later; the mount goes on."""
    sandbox.reopen(max_size=200_000)

    def make_room() -> None:
        assert recorded(sandbox.ov) == {}
        sandbox.ov.space.max_size = 1 << 30

    Idle(sandbox).run(make_room, after=60)
    assert len(recorded(sandbox.ov)) == 2
