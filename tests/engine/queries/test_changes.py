"""How an overlay is asked what it changed; that the answers are right, tests/model/test_changes.py shows."""

from __future__ import annotations

from collections import Counter

from minifo.engine.queries.changes import changes
from tests.shared.overlay_sandbox import OverlaySandbox


def test_a_directory_is_listed_once(sandbox: OverlaySandbox) -> None:
    """However many names in it changed, and in whatever way."""
    for directory in ("a", "a/below", "b", "c"):
        for name in ("chmod", "gone", "moved", "written", "as-it-was"):
            sandbox.put(f"{directory}/{name}")
    for directory in ("a", "a/below", "b"):
        sandbox.set(f"{directory}/chmod", mode=0o600)
        sandbox.unlink(f"{directory}/gone")
        sandbox.rename(f"{directory}/moved", f"{directory}/new-name")
        sandbox.write(f"{directory}/written", b"else")
        sandbox.create(f"{directory}/new")
    listed: Counter[bytes] = Counter()
    listing = sandbox.ov.base.listing

    def counted(path: bytes) -> dict[bytes, bool]:
        listed[path] += 1
        return listing(path)

    sandbox.ov.base.listing = counted  # type: ignore[method-assign]
    found = sorted((change.letters, change.path) for change in changes(sandbox.ov))
    assert found == sorted(
        (letters, b"/%b/%b" % (directory, name))
        for directory in (b"a", b"a/below", b"b")
        for letters, name in (
            ("m", b"chmod"),
            ("D", b"gone"),
            ("R", b"new-name"),
            ("M", b"written"),
            ("A", b"new"),
        )
    )
    assert listed == {b"/a": 1, b"/a/below": 1, b"/b": 1}
