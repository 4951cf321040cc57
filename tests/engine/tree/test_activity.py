"""What is changed most: which object each change counts for, since when, and how much is remembered."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from minifo.engine import ROOT, Ino, RenameFlags, SetAttr
from minifo.engine.tree.activity import Activity, Busy
from tests.shared.overlay_sandbox import ME, OverlaySandbox

Counts = dict[str, tuple[int, int]]


def counts(sandbox: OverlaySandbox, activity: Activity) -> Counts:
    """Changes and bytes by path; of directories with a slash at the end."""
    found: Counts = {}
    for busy in activity.take(100)[0]:
        known = sandbox.ov.journal.path_of(busy.ino)
        path = "-" if known is None else os.fsdecode(known[0]) + ("/" if known[1] and known[0] != b"/" else "")
        found[path] = busy.changes, busy.written
    return found


Act = Callable[[OverlaySandbox], object]


@pytest.mark.parametrize("journal", [0, 100])
@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (lambda s: (s.create("d/new"), s.mkdir("d/sub")), {"/d/": (2, 0)}),
        (lambda s: s.link("top", "d/more"), {"/d/": (1, 0)}),
        (lambda s: s.unlink("top"), {"/": (1, 0)}),
        (lambda s: s.rename("top", "other"), {"/": (1, 0)}),
        (lambda s: s.rename("top", "d/other"), {"/": (1, 0), "/d/": (1, 0)}),
        (lambda s: s.rename("top", "d/file", RenameFlags.EXCHANGE), {"/": (1, 0), "/d/": (1, 0)}),
        (lambda s: (s.write("top", b"abc"), s.write("top", b"de")), {"/top": (2, 5)}),
        (lambda s: s.ov.fallocate(s.ino("top"), 0, 0, 9000), {"/top": (1, 0)}),
        (lambda s: s.ov.copy(s.ino("top"), 0, s.ino("d/file"), 0, 4), {"/d/file": (1, 4)}),
        (lambda s: (s.set("top", mode=0o600), s.set("d", uid=7, gid=7)), {"/top": (1, 0), "/d/": (1, 0)}),
        (lambda s: (s.set("top", size=1), s.set("top", size=1)), {"/top": (1, 0)}),
        (lambda s: s.ov.setxattr(s.ino("top"), b"user.a", b"1"), {"/top": (1, 0)}),
        # what the kernel says of a file by itself
        (
            lambda s: (s.write("top", b"x"), s.set("top", mtime=9, ctime=9), s.set("top", kill_priv=True)),
            {"/top": (1, 1)},
        ),
        # paths are those of the time of the question
        (lambda s: (s.write("d/file", b"x"), s.rename("d", "e")), {"/": (1, 0), "/e/file": (1, 1)}),
    ],
)
def test_each_change_counts_for_its_object(sandbox: OverlaySandbox, act: Act, expected: Counts, journal: int) -> None:
    """With the journal and without it; nothing is counted twice, and nothing after it was taken."""
    sandbox.put("top")
    sandbox.put("d/file")
    notes = sandbox.open(journal=journal).journal
    activity = notes.watch()
    act(sandbox)
    assert counts(sandbox, activity) == expected
    assert counts(sandbox, activity) == {}


def test_several_watch(sandbox: OverlaySandbox) -> None:
    """Each has the counts since its own question; when the last one has gone, nothing is counted or kept."""
    notes = sandbox.open().journal
    assert not notes.is_on
    one, other = notes.watch(), notes.watch()
    sandbox.mkdir("a")
    assert counts(sandbox, one) == {"/": (1, 0)}
    sandbox.mkdir("a/b")
    assert counts(sandbox, one) == {"/a/": (1, 0)}
    assert counts(sandbox, other) == {"/": (1, 0), "/a/": (1, 0)}
    notes.unwatch(one)
    sandbox.mkdir("c")
    assert counts(sandbox, other) == {"/": (1, 0)}
    notes.unwatch(other)
    assert not notes.is_on
    sandbox.mkdir("d")
    assert one.take(9) == other.take(9) == ([], 0)


def test_watching_does_not_end_the_journal(sandbox: OverlaySandbox) -> None:
    """And the journal does not keep counts."""
    notes = sandbox.open(journal=9).journal
    activity = notes.watch()
    notes.unwatch(activity)
    sandbox.mkdir("a")
    assert notes.is_on
    assert notes.bounds() == (1, 2)
    assert activity.take(9) == ([], 0)


def test_paths_that_moved_while_nobody_watched(sandbox: OverlaySandbox) -> None:
    """Nothing is remembered from an earlier watch, when names were other ones."""
    sandbox.put("d/file")
    notes = sandbox.open().journal
    activity = notes.watch()
    sandbox.write("d/file", b"x")
    assert counts(sandbox, activity) == {"/d/file": (1, 1)}
    notes.unwatch(activity)
    sandbox.rename("d", "e")
    sandbox.mkdir("d")
    activity = notes.watch()
    sandbox.write("e/file", b"y")
    sandbox.create("e/new")
    assert counts(sandbox, activity) == {"/e/file": (1, 1), "/e/": (1, 0)}


def test_names_from_before(sandbox: OverlaySandbox) -> None:
    """Objects that were looked up before somebody watched are found in one search for each level of directories."""
    sandbox.put("base/below/file")
    sandbox.put("moved/file")
    sandbox.mkdir("made")
    sandbox.mkdir("made/below")
    numbers = [sandbox.create(f"made/below/{name}") for name in "abc"]
    sandbox.rename("moved", "MOVED")
    numbers += [sandbox.ino("base/below/file"), sandbox.ino("MOVED/file"), sandbox.ino("made")]
    notes = sandbox.ov.journal
    activity = notes.watch()
    for number in numbers:
        sandbox.ov.setattr(number, SetAttr(mode=0o700))
    asked = []
    rows = sandbox.ov.db.rows

    def counted(sql: str, params: Any = ()) -> Any:
        asked.append(sql)
        return rows(sql, params)

    sandbox.ov.db.rows = counted  # type: ignore[method-assign]
    unknown, rounds = numbers, 0
    while unknown := notes.look_up(unknown):
        rounds += 1
    assert rounds <= 4
    assert len([sql for sql in asked if "created" in sql]) <= rounds + 1
    expected = {f"/made/below/{name}": (1, 0) for name in "abc"}
    expected |= {path: (1, 0) for path in ("/base/below/file", "/MOVED/file", "/made/")}
    assert counts(sandbox, activity) == expected


def test_what_has_no_name(sandbox: OverlaySandbox) -> None:
    """It is counted, and has no path; nor has what the kernel has forgotten since."""
    activity = sandbox.open().journal.watch()
    nameless = Ino(sandbox.ov.tmpfile(ROOT, 0o600, ME).ino)
    sandbox.ov.write(nameless, 0, b"x" * 7)
    assert counts(sandbox, activity) == {"-": (1, 7)}
    sandbox.ov.write(nameless, 0, b"x")
    sandbox.ov.forget([nameless])
    assert counts(sandbox, activity) == {"-": (1, 1)}


def test_few_are_named_and_memory_is_bounded() -> None:
    """The busiest first; of a flood of objects those that are changed often are kept, and the others are counted."""
    activity = Activity()
    for number in range(10_000):
        activity.add(Ino(number), 1)
        activity.add(Ino(77_777), 3)
        if number % 2:
            activity.add(Ino(88_888), 0)
    found, others = activity.take(2)
    assert found == [Busy(Ino(77_777), 10_000, 30_000), Busy(Ino(88_888), 5_000, 0)]
    assert others == 10_000
    for number in range(5):
        activity.add(Ino(number), number)
    assert activity.take(2) == ([Busy(Ino(4), 1, 4), Busy(Ino(3), 1, 3)], 3)
    assert activity.take(2) == ([], 0)
