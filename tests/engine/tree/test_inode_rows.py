"""A watcher of names is told once of each name that is added and of each that is removed."""

from __future__ import annotations

import errno
import random
from collections import Counter

import pytest

from minifo.engine import ROOT, Ino, RenameFlags
from minifo.engine.errors import FsError
from minifo.engine.tree.inode_rows import Watcher
from tests.shared.overlay_sandbox import OverlaySandbox


class Names(Watcher):
    """A watcher that keeps the names that it is told of."""

    def __init__(self) -> None:
        self.kept: dict[Ino, Counter[bytes]] = {}

    def appeared(self, directory: Ino, name: bytes) -> None:
        self.kept.setdefault(directory, Counter())[name] += 1

    def vanished(self, directory: Ino, name: bytes) -> None:
        self.kept.setdefault(directory, Counter())[name] -= 1


def watched(sandbox: OverlaySandbox, *directories: str) -> tuple[Names, dict[str, Ino]]:
    """Return a watcher that knows all present names, and the numbers of some directories."""
    names = Names()
    numbers = {path: sandbox.ino(path) for path in directories}
    for path, ino in numbers.items():
        names.kept[ino] = Counter(name.encode() for name in sandbox.names(path))
    sandbox.ov.watch(names)
    return names, numbers


def told(names: Names, ino: Ino) -> dict[bytes, int]:
    """Return the names that a watcher keeps for a directory."""
    return {name: count for name, count in names.kept[ino].items() if count}


def test_a_name_that_is_renamed_over_stays_one(sandbox: OverlaySandbox) -> None:
    """Replacing a file by rename, as editors do, leaves the count of names unchanged."""
    sandbox.put("dir/file")
    names, numbers = watched(sandbox, "dir")
    for _ in range(5):
        sandbox.create("dir/new")
        sandbox.rename("dir/new", "dir/file")
        assert told(names, numbers["dir"]) == {b"file": 1}
    sandbox.unlink("dir/file")
    assert told(names, numbers["dir"]) == {}


@pytest.mark.parametrize("seed", range(10))
def test_names_told_are_names_there(sandbox: OverlaySandbox, seed: int) -> None:
    """After random changes, also failed ones, the watcher's names equal the listing."""
    draw = random.Random(seed)
    for path in ("a/x", "a/y", "b/x", "b/d/z"):
        sandbox.put(path)
    sandbox.mkdir("new")
    directories = ("", "a", "b", "new")
    names, numbers = watched(sandbox, *directories)
    failures: Counter[int] = Counter()
    for _ in range(200):
        first, second = (f"{draw.choice(directories[1:])}/{draw.choice(('x', 'y', 'd', 'e'))}" for _ in range(2))
        flags = draw.choice([RenameFlags.NONE, RenameFlags.NONE, RenameFlags.NOREPLACE, RenameFlags.EXCHANGE])
        place, other = ((numbers[path.split("/")[0]], path.split("/")[1].encode()) for path in (first, second))
        try:
            match draw.randrange(7):
                case 0 | 1:
                    sandbox.create(first)
                case 2:
                    sandbox.mkdir(first)
                case 3:
                    sandbox.ov.unlink(*place)
                case 4:
                    sandbox.ov.rmdir(*place)
                case 5:
                    sandbox.ov.rename(*place, *other, flags)
                case 6:
                    found = sandbox.find(first)
                    sandbox.ov.link(Ino(found.ino) if found is not None else ROOT, *other)
        except FsError as error:
            failures[error.errno or 0] += 1
        for path, ino in numbers.items():
            assert told(names, ino) == dict.fromkeys((name.encode() for name in sandbox.names(path)), 1), path
    assert failures.keys() >= {errno.EEXIST, errno.ENOENT}


def test_names_of_a_directory_nobody_has_listed_are_told(sandbox: OverlaySandbox) -> None:
    """A watcher is told of names in a directory that was never listed."""
    sandbox.put("dir/old")
    sandbox.put("dir/file")
    ino = sandbox.ino("dir")
    names = Names()
    names.kept[ino] = Counter((b"old", b"file"))
    sandbox.ov.watch(names)
    sandbox.create("dir/new")
    sandbox.unlink("dir/old")
    sandbox.rename("dir/file", "dir/moved")
    assert told(names, ino) == {b"new": 1, b"moved": 1}
