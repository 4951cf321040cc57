"""Parity of rename: every state of source and target, with each flag, chains and swaps, and what open files see."""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.mount.mount_sandbox import MountSandbox, attempt, differences, fingerprint, in_child, run, tree
from tests.mount.parity_mount import Pair, ParityMount

NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4

_libc = ctypes.CDLL(None, use_errno=True)


def renameat2(old: str, new: str, flags: int = 0) -> None:
    """rename(2) with flags.

    Raises:
        OSError: as the system call.
    """
    if _libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def write(name: str, data: str = "new\n") -> None:
    """Make or rewrite a file."""
    Path(name).write_text(data)


# What an object of the base, or one in its place, may have gone through; each function makes it in the current
# directory and returns its name.  The base has, twice (suffix 1 and 2): file, hard and link (one inode), full (a
# directory with a file and a directory in it) and void (an empty directory).


def _renamed(name: str) -> str:
    os.rename(name, f"moved-{name}")
    return f"moved-{name}"


def _back(name: str) -> str:
    os.rename(name, "away")
    os.rename("away", name)
    return name


def _modified(name: str) -> str:
    with open(name, "a") as file:
        file.write("more")
    return name


def _touched(name: str) -> str:
    os.chmod(name, 0o750)
    return name


def _file_anew(name: str) -> str:
    os.unlink(name)
    write(name)
    return name


def _directory_anew(name: str) -> str:
    shutil.rmtree(name)
    os.mkdir(name)
    return name


def _emptied(name: str) -> str:
    os.unlink(f"{name}/one")
    shutil.rmtree(f"{name}/sub")
    return name


def _made(name: str) -> str:
    write(name)
    return name


def _made_directory(name: str) -> str:
    os.mkdir(name)
    return name


def _made_full(name: str) -> str:
    os.mkdir(name)
    write(f"{name}/inside")
    return name


def _filled(name: str) -> str:
    write(f"{name}/inside")
    return name


def _deleted(name: str) -> str:
    shutil.rmtree(name) if os.path.isdir(name) else os.unlink(name)
    return name


def _type_changed(name: str) -> str:
    os.unlink(name)
    os.mkdir(name)
    return name


def _moved_full(name: str) -> str:
    os.rename(name, f"moved-{name}")
    write(f"moved-{name}/inside")
    os.unlink(f"moved-{name}/one")
    return f"moved-{name}"


STATES: dict[str, Callable[[str], str]] = {
    "base file": lambda n: f"file{n}",
    "modified file": lambda n: _modified(f"file{n}"),
    "touched file": lambda n: _touched(f"file{n}"),
    "renamed file": lambda n: _renamed(f"file{n}"),
    "modified renamed file": lambda n: _modified(_renamed(f"file{n}")),
    "file moved and back": lambda n: _back(f"file{n}"),
    "created file": lambda n: _made(f"made{n}"),
    "file made anew": lambda n: _file_anew(f"file{n}"),
    "hard link": lambda n: f"hard{n}",
    "deleted file": lambda n: _deleted(f"file{n}"),
    "missing": lambda n: f"missing{n}",
    "base directory": lambda n: f"full{n}",
    "empty base directory": lambda n: f"void{n}",
    "emptied base directory": lambda n: _emptied(f"full{n}"),
    "filled base directory": lambda n: _filled(f"void{n}"),
    "renamed directory": lambda n: _renamed(f"full{n}"),
    "changed renamed directory": lambda n: _moved_full(f"full{n}"),
    "created directory": lambda n: _made_directory(f"made{n}"),
    "created full directory": lambda n: _made_full(f"made{n}"),
    "directory made anew": lambda n: _directory_anew(f"full{n}"),
    "deleted directory": lambda n: _deleted(f"full{n}"),
    "directory instead of a file": lambda n: _type_changed(f"file{n}"),
}
ALL = [
    (source, target, flags)
    for source, target, flags in itertools.product(STATES, STATES, (0, NOREPLACE, EXCHANGE))
    if flags != NOREPLACE or target in ("base file", "missing", "deleted file", "empty base directory")
]


def _populate(place: Path) -> None:
    place.mkdir()
    for number in ("1", "2"):
        (place / f"file{number}").write_text(f"file {number}\n")
        (place / f"hard{number}").write_text(f"hard {number}\n")
        os.link(place / f"hard{number}", place / f"link{number}")
        (place / f"void{number}").mkdir()
        (place / f"full{number}").mkdir()
        (place / f"full{number}/one").write_text(f"one {number}\n")
        (place / f"full{number}/sub").mkdir()
        (place / f"full{number}/sub/two").write_text("two\n")


def _perform(root: Path, cases: list[tuple[str, str, int]], turn: int) -> list[Any]:
    """Prepare and make each rename; the outcomes."""
    outcomes = []
    for number, (source, target, flags) in enumerate(cases):
        os.chdir(root / f"case{number}")
        old, new = STATES[source]("1"), STATES[target]("2")
        if (number + turn) % 2:
            os.mkdir("elsewhere")
            os.path.lexists(new) and os.rename(new, f"elsewhere/{new}")
            new = f"elsewhere/{new}"
        outcomes.append(attempt(renameat2, old, new, flags))
    return outcomes


@pytest.mark.parametrize(("mode", "turn"), [("hook", 0), ("plain", 1)])
def test_every_state_to_every_state(sandbox: MountSandbox, mode: str, turn: int) -> None:
    """Every state of a source meets every state of a target under each flag, with the same outcome and tree."""
    cases = ALL[::4] if mode == "plain" else ALL  # plain mode renames in no other way: a sample will do
    home = sandbox.file_system("ext4", options="noatime")
    overlay = sandbox.overlay(*(["plain"] if mode == "plain" else []), base=home / "base")
    for number in range(len(cases)):
        _populate(overlay.base / f"case{number}")
    twin = home / "twin"
    run("cp", "-a", overlay.base, twin)
    before = fingerprint(overlay.base)
    since = min(os.stat(twin / name).st_ctime_ns for name in ("case0", "."))
    overlay.mount()
    expected = in_child(lambda: _perform(twin, cases, turn))
    found = in_child(lambda: _perform(overlay.mnt, cases, turn))
    wrong = [
        f"{source} to {target} with flags {flags}: mount {got}, plain {wanted}"
        for (source, target, flags), got, wanted in zip(cases, found, expected, strict=True)
        if got != wanted
    ]
    assert not wrong, "\n".join(wrong)
    for _ in range(2):
        lines = []
        for number, case in enumerate(cases):
            unlike = differences(
                tree(overlay.mnt / f"case{number}", since=since), tree(twin / f"case{number}", since=since)
            )
            lines += [f"{case}: {line}" for line in unlike]
        assert not lines, "mount (left) and plain directory (right) differ:\n" + "\n".join(lines[:50])
        overlay.umount()
        assert overlay.violations() == []
        overlay.mount()
    assert fingerprint(overlay.base) == before


def test_into_its_own_subtree(pair: Pair) -> None:
    """A directory cannot be moved into itself, nor exchanged with what lies below it, wherever it has moved to."""

    def act(_: str) -> list[Any]:
        seen = []
        os.rename("dir/sub", "dir2/sub")
        os.mkdir("dir2/sub/made")
        for flags in (0, NOREPLACE, EXCHANGE):
            for old, new in [
                ("dir2", "dir2/x"), ("dir2", "dir2/sub"), ("dir2", "dir2/sub/deep/x"), ("dir2", "dir2/sub/made/x"),
                ("dir2/sub", "dir2"), ("dir2/sub/deep", "dir2"), ("dir", "dir"), ("dir2/sub", "dir2/sub/made"),
                ("dir", "dir/."), ("dir/..", "x"), (".", "x"), ("a", "."), ("dir", ".."), ("a", "a/b"),
                ("dir/", "new/"),
            ]:  # fmt: skip
                seen.append((old, new, flags, attempt(renameat2, old, new, flags)))
        return seen

    pair.same(act)


@pytest.mark.parametrize("flags", [WHITEOUT, NOREPLACE | EXCHANGE, 8, 1 << 30])
def test_other_flags(pair: Pair, flags: int) -> None:
    """Flags that nobody serves are refused and change nothing."""
    found = in_child(lambda: (os.chdir(pair.mounted), attempt(renameat2, "a", "new", flags))[1])
    assert found == "EINVAL"


def test_chains(pair: Pair) -> None:
    """a to b, b to c, c to a: names, contents and links are where the last rename put them."""

    def act(_: str) -> list[Any]:
        for names in (("a", "b", "c"), ("dir", "void", "void2"), ("hard1", "big", "made")):
            if names[-1] == "made":
                write("made")
            first, second, third = names
            for _ in range(3):
                os.rename(first, "tmp")
                os.rename(second, first)
                os.rename(third, second)
                os.rename("tmp", third)
            os.rename(first, "tmp")
            os.rename(second, first)
            os.rename("tmp", second)
        return sorted(os.listdir("."))

    pair.same(act)
    pair.remount()


def test_swaps(pair: Pair) -> None:
    """Swapping two names through a third one and by RENAME_EXCHANGE, twice, ends where it began."""

    def act(_: str) -> list[Any]:
        for first, second in (("a", "b"), ("dir", "dir2"), ("a", "dir"), ("hard1", "big"), ("symlink", "fifo")):
            for _ in range(2):
                os.rename(first, "tmp")
                os.rename(second, first)
                os.rename("tmp", second)
                renameat2(first, second, EXCHANGE)
            renameat2(first, second, EXCHANGE)
            renameat2(first, second, EXCHANGE)
        renameat2("dir/sub", "void", EXCHANGE)
        return [sorted(os.listdir(name)) for name in (".", "dir", "dir2", "dir/sub", "void")]

    pair.same(act)
    pair.remount()


def test_there_and_back_leaves_nothing(sandbox: MountSandbox) -> None:
    """Renames that end where they began leave no rows in the lists."""
    overlay = sandbox.overlay()
    (overlay.base / "a").write_text("content of a")
    (overlay.base / "dir").mkdir()
    (overlay.base / "dir/file").write_text("in dir")
    overlay.mount()
    for name in ("a", "dir"):
        os.rename(overlay.mnt / name, overlay.mnt / "elsewhere")
        os.rename(overlay.mnt / "elsewhere", overlay.mnt / name)
    assert (overlay.mnt / "a").read_text() == "content of a"
    overlay.umount()
    assert [overlay.rows(table) for table in ("created", "deleted", "renamed", "modified")] == [[], [], [], []]


def test_moving_a_large_directory_copies_nothing(sandbox: MountSandbox) -> None:
    """A directory with 5,000 files moves by a constant number of rows and stays complete, also after a new mount."""
    overlay = sandbox.overlay()
    (overlay.base / "large/inner").mkdir(parents=True)
    for number in range(5000):
        (overlay.base / f"large/inner/f{number}").write_bytes(b"x" * (number % 50))
    overlay.mount()
    os.rename(overlay.mnt / "large", overlay.mnt / "moved")
    os.rename(overlay.mnt / "moved/inner", overlay.mnt / "outer")
    assert len(os.listdir(overlay.mnt / "outer")) == 5000
    overlay.remount()
    assert len(os.listdir(overlay.mnt / "outer")) == 5000
    assert (overlay.mnt / "outer/f4999").read_bytes() == b"x" * 49
    assert os.listdir(overlay.mnt / "moved") == []
    overlay.umount()
    assert len(overlay.rows("renamed")) == 2
    assert sum(len(overlay.rows(table)) for table in ("inode", "origin", "deleted", "created")) < 12


def test_a_working_directory_moves_along(pair: Pair) -> None:
    """A process keeps its working directory when that, or one above it, is renamed; ``..`` leads to the new parent."""

    def act(root: str) -> list[Any]:
        os.chdir("dir/sub")
        os.rename("../../dir", "../../dir2/moved")
        here = os.getcwd().removeprefix(root)
        write("made here")
        return [here, sorted(os.listdir(".")), sorted(os.listdir("..")), sorted(os.listdir("../.."))]

    pair.same(act)


def test_replace_by_a_file_still_open(pair: Pair) -> None:
    """Write a temporary file, rename it over the old one while it is open, write on: all of it is there."""

    def act(_: str) -> list[Any]:
        for name in ("a", "big", "new"):
            with open("temporary", "wb") as file:
                file.write(b"first " * 1000)
                file.flush()
                os.rename("temporary", name)
                file.write(b"second")
        return [Path(name).read_bytes() for name in ("a", "big", "new")]

    pair.same(act)
    pair.remount()


def test_everything_survives_a_new_mount(parity_mount: ParityMount) -> None:
    """After all that, unmounting and mounting shows the same, no invariant is broken, the base is untouched."""
    parity_mount.survive()
