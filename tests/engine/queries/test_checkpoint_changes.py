"""What changed between two checkpoints, compared with walks of both trees."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from minifo.engine import ROOT, FsError, Ino, Overlay
from minifo.engine.queries.at_rest import open_beside, open_checkpoint
from minifo.engine.queries.changes import Change, Kind
from minifo.engine.queries.checkpoint_changes import changes_between
from tests.shared.overlay_sandbox import OverlaySandbox

BIG = b"x" * 300_000


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[OverlaySandbox]:
    """A base with files in directories, one of them with two names."""
    found = OverlaySandbox(tmp_path)
    for path in ("f", "d/f", "d/g", "d/sub/f", "d/sub/deep/f", "e/f", "e/other/f"):
        found.put(path, path.encode() * 2)
    found.put("large", BIG)
    os.link(found.base / "e/f", found.base / "e/link")
    os.link(found.base / "e/f", found.base / "link")
    os.symlink("target", found.base / "d/symlink")
    yield found
    found.close()


def between(
    sandbox: OverlaySandbox, first: str | None, second: str | None, **options: bool
) -> tuple[list[Change], Overlay, Overlay, ExitStack]:
    """The changes between two checkpoints, None for today, and the two states."""
    sandbox.ov.commit()
    stack = ExitStack()
    base, sto = str(sandbox.base), str(sandbox.sto)
    states = [
        open_checkpoint(sto, name, base) if name is not None else open_beside(sto, base) for name in (first, second)
    ]
    for state in states:
        stack.callback(state.close)
    points = [sandbox.ov.checkpoints.find(name) if name is not None else None for name in (first, second)]
    found = list(changes_between(states[0], states[1], points[0], points[1], **options))
    return found, states[0], states[1], stack


def lines(sandbox: OverlaySandbox, first: str | None, second: str | None, **options: bool) -> list[str]:
    """The changes as lines."""
    found, _, _, stack = between(sandbox, first, second, **options)
    stack.close()
    told = (
        f"{change.letters} {change.old.decode() + ' ' if change.old else ''}{change.path.decode()}"
        f"{'/' if change.is_dir else ''}"
        for change in found
    )
    return sorted(told)


def test_letters(sandbox: OverlaySandbox) -> None:
    """Each means what it means in minifo diff, with the checkpoint in the place of the base."""
    sandbox.create("new", b"new")
    sandbox.create("gone")
    sandbox.create("type")
    sandbox.ov.checkpoints.create("one")
    assert lines(sandbox, "one", None) == []
    assert lines(sandbox, "one", "one") == []
    sandbox.write("new", b"NEW")
    sandbox.set("f", mode=0o600)
    sandbox.unlink("gone")
    sandbox.unlink("type")
    sandbox.mkdir("type")
    sandbox.rename("d", "D")
    sandbox.write("D/f", b"ours")
    sandbox.create("D/new")
    sandbox.unlink("D/g")
    sandbox.rename("large", "D/sub/large")
    sandbox.set("D/sub/large", mode=0o600)
    sandbox.mkdir("dir")
    sandbox.create("dir/a")
    sandbox.rename("D/sub/f", "dir/moved")
    found = [
        "A /D/new", "A /dir/", "D /d/g", "M /d/f /D/f", "M /new", "R /d /D/", "R /d/sub/f /dir/moved",
        "Rm /large /D/sub/large", "T /type/", "m /f", "D /gone",
    ]  # fmt: skip
    assert lines(sandbox, "one", None) == sorted(found)
    assert lines(sandbox, "one", None, recursive=True) == sorted([*found, "A /dir/a"])
    sandbox.ov.checkpoints.create("two")
    sandbox.write("new", b"later")
    assert lines(sandbox, "one", "two") == sorted(found)
    assert lines(sandbox, "two", None) == ["M /new"]
    back = [
        "D /D/new", "D /dir/", "A /d/g", "M /D/f /d/f", "M /new", "R /D /d/", "R /dir/moved /d/sub/f",
        "Rm /D/sub/large /large", "T /type", "m /f", "A /gone",
    ]  # fmt: skip
    assert lines(sandbox, "two", "one") == sorted(back)
    assert lines(sandbox, None, "one") == sorted(back)


def test_a_directory_in_the_place_of_another(sandbox: OverlaySandbox) -> None:
    """It is compared name by name; what came from the old one is renamed."""
    sandbox.ov.checkpoints.create("one")
    sandbox.rename("d/sub", "kept")
    for name in ("f", "g", "symlink"):
        sandbox.unlink(f"d/{name}")
    sandbox.rmdir("d")
    sandbox.mkdir("d")
    sandbox.create("d/f", b"d/fd/f")
    sandbox.create("d/new")
    assert lines(sandbox, "one", None) == [
        "A /d/new", "D /d/g", "D /d/symlink", "M /d/f", "R /d/sub /kept/"
    ]  # fmt: skip
    assert "m /d/f" in lines(sandbox, "one", None, identical=False)
    sandbox.rename("kept/deep", "d/deep")
    sandbox.unlink("kept/f")
    sandbox.rmdir("kept")
    assert "R /d/sub/deep /d/deep/" in lines(sandbox, "one", None, recursive=True)
    assert "D /d/sub/f" in lines(sandbox, "one", None, recursive=True)
    assert "D /d/sub/" in lines(sandbox, "one", None)


def test_what_made_no_difference(sandbox: OverlaySandbox) -> None:
    """The same bytes again are a modification, unless they are compared; to go there and back is none."""
    sandbox.ov.checkpoints.create("one")
    sandbox.write("large", b"x" * 10, 5000)
    sandbox.set("large", mtime=1_600_000_000_000_000_007)
    sandbox.rename("f", "g")
    sandbox.rename("g", "f")
    assert lines(sandbox, "one", None) == []  # the time was set back: only the bytes tell
    sandbox.write("large", b"x" * 10, 5000)
    assert lines(sandbox, "one", None) == ["M /large"]
    assert lines(sandbox, "one", None, identical=False) == ["m /large"]


def test_names_of_one_file(sandbox: OverlaySandbox) -> None:
    """A change shows at all of them; a new link is an added name, and one that is gone a deleted one."""
    sandbox.create("a", b"a")
    sandbox.link("a", "b")
    sandbox.ov.checkpoints.create("one")
    sandbox.write("a", b"A")
    sandbox.write("e/f", b"EEE")
    assert lines(sandbox, "one", None) == ["M /a", "M /b", "M /e/f", "M /e/link", "M /link"]
    sandbox.ov.checkpoints.create("two")
    sandbox.link("a", "c")
    sandbox.unlink("b")
    sandbox.unlink("link")
    assert lines(sandbox, "two", None) == ["D /link", "R /b /c"]
    sandbox.link("a", "b")
    assert lines(sandbox, "two", None) == ["A /c", "D /link"]


def test_swapped(sandbox: OverlaySandbox) -> None:
    """Two objects that exchange their names are both renamed."""
    sandbox.create("a", b"a")
    sandbox.ov.checkpoints.create("one")
    sandbox.rename("a", "d", flags=2)
    assert lines(sandbox, "one", None) == ["R /a /d", "R /d /a/"]
    sandbox.rename("f", "d")
    assert lines(sandbox, "one", None) == ["D /a", "R /d /a/", "R /f /d"]


def test_a_file_in_use_without_a_name(sandbox: OverlaySandbox) -> None:
    """It does not show."""
    sandbox.ov.checkpoints.create("one")
    ino = sandbox.create("temporary", b"x")
    sandbox.ov.add_lookup(ino)
    sandbox.ov.unlink(*sandbox.split("temporary"))
    sandbox.ov.write(ino, 0, b"y")
    assert lines(sandbox, "one", None) == []


# -- random changes


class Tree:
    """Everything that a state shows, found by a walk."""

    def __init__(self, overlay: Overlay) -> None:
        self.found: dict[bytes, tuple[Any, ...]] = {}
        self.numbers: dict[bytes, int] = {}
        waiting = [(b"", Ino(ROOT))]
        while waiting:
            path, ino = waiting.pop()
            attr = overlay.getattr(ino)
            what: Any = None
            if stat.S_ISREG(attr.mode):
                what = overlay.read(ino, 0, attr.size)
            elif stat.S_ISLNK(attr.mode):
                what = overlay.readlink(ino)
            else:
                entries = list(overlay.readdir(ino))[2:]
                waiting += ((path + b"/" + entry.name, Ino(entry.attr.ino)) for entry in entries)
            times = () if stat.S_ISDIR(attr.mode) else (attr.mtime,)
            xattrs = sorted((name, overlay.getxattr(ino, name)) for name in overlay.listxattr(ino))
            self.found[path or b"/"] = (stat.S_IFMT(attr.mode), what, (attr.mode, attr.uid, attr.gid, times, xattrs))
            self.numbers[path or b"/"] = ino


def verify(found: list[Change], before: Tree, after: Tree) -> None:
    """Check that the changes, and nothing else, make one tree of the other."""
    taken = [change.path for change in found if change.kind is not Kind.DELETED]
    assert len(taken) == len(set(taken)), "a path is listed twice"
    listed = {change.path: change for change in found if change.kind is not Kind.DELETED}
    gone = {change.path for change in found if change.kind is Kind.DELETED}
    moves = {change.path: change.old for change in found if change.kind is Kind.RENAMED}
    used: set[bytes] = set()
    for path, (kind, what, meta) in after.found.items():
        change = listed.get(path)
        if change is not None and change.kind is Kind.ADDED:
            continue
        old = origin(path, moves)
        assert old in before.found, f"{path!r} was nowhere, and is not listed"
        was_kind, was, was_meta = before.found[old]
        used.add(old)
        letter = None if change is None else change.also if change.kind is Kind.RENAMED else change.kind
        expected = Kind.TYPE if kind != was_kind else Kind.MODIFIED if what != was else None
        if expected is None and meta != was_meta:
            expected = Kind.METADATA
        assert letter == expected, (path, old, change)
        if change is not None and change.kind is not Kind.RENAMED:
            assert (change.old or change.path) == old
        if change is not None and change.kind is Kind.RENAMED:
            assert before.numbers[old] == after.numbers[path]
    assert used | gone == set(before.found), "what is not there any more is not listed"
    assert not used & gone, "what is there is listed as gone"


def origin(path: bytes, moves: dict[bytes, bytes | None]) -> bytes:
    """The path before, by the renamed directory that is nearest above."""
    rest = b""
    at = path
    while at != b"/":
        if at in moves:
            return (moves[at] or b"") + rest
        above, _, name = at.rpartition(b"/")
        rest, at = b"/" + name + rest, above or b"/"
    return path


def step(sandbox: OverlaySandbox, chosen: random.Random) -> None:
    """One random change; what is impossible is left out."""
    paths = [path.decode()[1:] for path in Tree(sandbox.ov).found if path != b"/"]
    some = chosen.choice(paths) if paths else "f"
    place = chosen.choice(["", *paths])
    name = f"{place}/{chosen.choice('fgabc')}".lstrip("/")
    try:
        match chosen.randrange(10):
            case 0:
                sandbox.create(name, chosen.choice([b"", b"new", BIG]))
            case 1:
                sandbox.mkdir(name)
            case 2 | 3:
                sandbox.rename(some, name, chosen.choice([0, 0, 0, 2]))
            case 4:
                sandbox.unlink(some)
            case 5:
                sandbox.rmdir(some)
            case 6:
                sandbox.link(some, name)
            case 7:
                sandbox.write(some, chosen.choice([b"f", b"ours", b"x" * 100]), chosen.choice([0, 3, 5000]))
            case 8:
                sandbox.set(some, mode=chosen.choice([0o600, 0o640, 0o755]))
            case _:
                remove(sandbox, some)
    except FsError:
        pass  # of another type, there already, not empty


def remove(sandbox: OverlaySandbox, path: str) -> None:
    """Remove a tree."""
    if stat.S_ISDIR(sandbox.attr(path).mode):
        for name in sandbox.names(path):
            remove(sandbox, f"{path}/{name}")
        sandbox.rmdir(path)
    else:
        sandbox.unlink(path)


@pytest.mark.parametrize("seed", range(12))
def test_random_changes(sandbox: OverlaySandbox, seed: int) -> None:
    """Of four checkpoints and today each with each, in both directions."""
    chosen = random.Random(seed)
    names: list[str | None] = []
    for turn in range(4):
        for _ in range(chosen.choice([1, 3, 8])):
            step(sandbox, chosen)
        names.append(sandbox.ov.checkpoints.create(f"c{turn}").name)
        if turn == 2 and seed % 3 == 0:
            sandbox.ov.checkpoints.rollback("c0")
    for _ in range(4):
        step(sandbox, chosen)
    names.append(None)
    for first in names:
        for second in names:
            if first is None and second is None:
                continue
            found, before, after, stack = between(sandbox, first, second, recursive=True, identical=False)
            with stack:
                verify(found, Tree(before), Tree(after))
                fewer = set(changes_between(before, after, *points(sandbox, first, second), identical=False))
                assert fewer <= set(found)
                more = set(changes_between(before, after, *points(sandbox, first, second), recursive=True))
                assert {change.path for change in more} >= {change.path for change in found}


def points(sandbox: OverlaySandbox, *names: str | None) -> list[Any]:
    """The checkpoints with names."""
    return [sandbox.ov.checkpoints.find(name) if name is not None else None for name in names]
