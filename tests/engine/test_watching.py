"""Who watches the names of directories is told of each that comes and of each that goes, once."""

from __future__ import annotations

import errno
import random
from collections import Counter

import pytest
from lab import Lab

from minifo.engine import ROOT, Ino, RenameFlags
from minifo.engine.errors import FsError
from minifo.engine.tree.inode_rows import Watcher


class Names(Watcher):
    """A watcher that keeps the names it is told of."""

    def __init__(self) -> None:
        self.kept: dict[Ino, Counter[bytes]] = {}

    def appeared(self, directory: Ino, name: bytes) -> None:
        self.kept.setdefault(directory, Counter())[name] += 1

    def vanished(self, directory: Ino, name: bytes) -> None:
        self.kept.setdefault(directory, Counter())[name] -= 1


def watched(lab: Lab, *directories: str) -> tuple[Names, dict[str, Ino]]:
    """A watcher that knows the names there are."""
    names = Names()
    numbers = {path: lab.ino(path) for path in directories}
    for path, ino in numbers.items():
        names.kept[ino] = Counter(name.encode() for name in lab.names(path))
    lab.ov.watch(names)
    return names, numbers


def told(names: Names, ino: Ino) -> dict[bytes, int]:
    """What a watcher keeps of a directory."""
    return {name: count for name, count in names.kept[ino].items() if count}


def test_a_name_that_is_renamed_over_stays_one(lab: Lab) -> None:
    """Writing a new file and renaming it over the old one, as editors do, brings no more names."""
    lab.put("dir/file")
    names, numbers = watched(lab, "dir")
    for _ in range(5):
        lab.create("dir/new")
        lab.rename("dir/new", "dir/file")
        assert told(names, numbers["dir"]) == {b"file": 1}
    lab.unlink("dir/file")
    assert told(names, numbers["dir"]) == {}


@pytest.mark.parametrize("seed", range(10))
def test_names_told_are_names_there(lab: Lab, seed: int) -> None:
    """After any changes, failed ones among them, what was told adds up to what is listed."""
    draw = random.Random(seed)
    for path in ("a/x", "a/y", "b/x", "b/d/z"):
        lab.put(path)
    lab.mkdir("new")
    directories = ("", "a", "b", "new")
    names, numbers = watched(lab, *directories)
    failures: Counter[int] = Counter()
    for _ in range(200):
        first, second = (f"{draw.choice(directories[1:])}/{draw.choice(('x', 'y', 'd', 'e'))}" for _ in range(2))
        flags = draw.choice([RenameFlags.NONE, RenameFlags.NONE, RenameFlags.NOREPLACE, RenameFlags.EXCHANGE])
        place, other = ((numbers[path.split("/")[0]], path.split("/")[1].encode()) for path in (first, second))
        try:
            match draw.randrange(7):
                case 0 | 1:
                    lab.create(first)
                case 2:
                    lab.mkdir(first)
                case 3:
                    lab.ov.unlink(*place)
                case 4:
                    lab.ov.rmdir(*place)
                case 5:
                    lab.ov.rename(*place, *other, flags)
                case 6:
                    found = lab.find(first)
                    lab.ov.link(Ino(found.ino) if found is not None else ROOT, *other)
        except FsError as error:
            failures[error.errno or 0] += 1
        for path, ino in numbers.items():
            assert told(names, ino) == dict.fromkeys((name.encode() for name in lab.names(path)), 1), path
    assert failures.keys() >= {errno.EEXIST, errno.ENOENT}


def test_names_of_a_directory_nobody_has_listed_are_told(lab: Lab) -> None:
    """Who watches hears of every directory, whether its listing is kept or not."""
    lab.put("dir/old")
    lab.put("dir/file")
    ino = lab.ino("dir")
    names = Names()
    names.kept[ino] = Counter((b"old", b"file"))
    lab.ov.watch(names)
    lab.create("dir/new")
    lab.unlink("dir/old")
    lab.rename("dir/file", "dir/moved")
    assert told(names, ino) == {b"new": 1, b"moved": 1}
