"""Bytes of content, measured beside the engine: those of the last commit, and once for each commit."""

from __future__ import annotations

import threading

from minifo.engine.queries.figures import CommittedContent, content, figures
from tests.shared.overlay_sandbox import OverlaySandbox


def test_every_kind_of_bytes_is_counted(sandbox: OverlaySandbox) -> None:
    """Rows, content objects, what is left of a cut one, extents; holes and bytes of the base are not."""
    sandbox.put("large", b"b" * (1 << 20))
    sandbox.create("small", b"x" * 100)
    sandbox.create("object", b"x" * 100_000)
    sandbox.create("cut", b"x" * 100_000)
    sandbox.set("cut", size=5_000)
    sandbox.ov.write(sandbox.ino("large"), 4096, b"y" * 4096)
    assert content(sandbox.ov) == 100 + 100_000 + 5_000 + 4096
    assert figures(sandbox.ov, 7)["usage"]["content"] == 7


def test_committed_content(sandbox: OverlaySandbox) -> None:
    """Another thread measures what was committed; changes that wait for the next commit are not in it."""
    committed = CommittedContent(sandbox.open())
    assert committed.known() is None
    found: list[int | None] = []

    def measured() -> int | None:
        thread = threading.Thread(target=lambda: found.append(committed.measure()))
        thread.start()
        thread.join()
        return found[-1]

    assert measured() == 0
    sandbox.create("first", b"x" * 1000)
    assert measured() == committed.known() == 0
    sandbox.ov.commit()
    assert committed.known() is None
    sandbox.create("second", b"x" * 1000)
    assert measured() == committed.known() == 1000
    sandbox.ov.commit()
    assert measured() == 2000
