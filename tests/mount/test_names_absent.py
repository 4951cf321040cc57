"""Names that are not there, which the session hook answers by itself once a directory was missed often enough.

A wrong answer would hide a file.  So names come and go in every way there is, on a mount and on a plain directory, are
missed all the while, and again and again the kernel is made to forget what it knows and asked for every name.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.mount_sandbox import USER, MountSandbox, attempt, daemon_of, in_child
from tests.mount.unprivileged import as_user
from tests.shared.file_trees import renameat2

SEEDS = 2
STEPS = 500
ROUND = 25  # steps between two looks at every name
MISSES = 4  # more than it takes
AT_CWD = -100
NOREPLACE, EXCHANGE = 1, 2
LARGE = 16_384  # names; a directory that has more is not kept (serve/reply_cache.py)
NAMES = [
    *(b"n%d" % number for number in range(6)),
    b"with\nnewline",
    b"not \xff\xfe utf-8",
    b"\xc3\xa4 dotted",
    b".hidden",
    b"...",
    b"x" * 255,
    b"x" * 254 + b"y",
]
TOP = [b"plain", b"changed", b"deep", b"deep/er"]


def forget() -> None:
    """Have the kernel let go of all names and inodes that nobody uses."""
    Path("/proc/sys/vm/drop_caches").write_text("2")


def populate(root: Path) -> None:
    """A few directories with some names each."""
    for name in TOP:
        path = os.path.join(bytes(root), name)
        os.mkdir(path)
        for entry in NAMES[::2]:
            with open(os.path.join(path, entry), "xb"):
                pass
        os.mkdir(os.path.join(path, b"sub"))
        os.symlink(b"n0", os.path.join(path, b"link"))
    os.mkdir(root / "ballast")


class Both:
    """A mount and its plain twin, and random changes of both.

    Args:
        sandbox: makes them.
        seed: of everything that is random.
    """

    def __init__(self, sandbox: MountSandbox, seed: int) -> None:
        self.random = random.Random(seed)
        self.overlay = sandbox.overlay("max_size=12m")
        self.twin = sandbox.directory()
        populate(self.overlay.base)
        populate(self.twin)
        self.overlay.mount()
        for name in ("gone", "come"):  # so that this directory has state
            os.mkdir(self.overlay.mnt / "changed" / name)
            os.mkdir(self.twin / "changed" / name)
        os.rmdir(self.overlay.mnt / "changed/gone")
        os.rmdir(self.twin / "changed/gone")
        self.missed = 0
        self.outcomes: set[str] = set()
        self.done: list[str] = []

    def directories(self) -> list[bytes]:
        """All directories there are, but for the one for ballast."""
        top = bytes(self.twin)
        found = [os.path.relpath(path, top) for path, _, _ in os.walk(top)]
        return sorted(path for path in found if path not in (b"ballast", b"."))

    def path(self) -> bytes:
        """A path at which something may be."""
        names = [*NAMES, b"sub", b"link"]
        return os.path.join(self.random.choice(self.directories()), self.random.choice(names))

    def both(self, word: str, act: Callable[[bytes], object]) -> str:
        """Do something on the mount and, unless that is full, to the twin; the outcome must be the same."""
        mounted = attempt(act, bytes(self.overlay.mnt))
        outcome = mounted if isinstance(mounted, str) else "done"
        self.done.append(f"{word}: {outcome}")
        if outcome != "ENOSPC":
            plain = attempt(act, bytes(self.twin))
            assert outcome == (plain if isinstance(plain, str) else "done"), word
        self.outcomes.add(outcome)
        return outcome

    def step(self) -> None:
        """One random change, or look-ups in vain."""
        first, second = self.path(), self.path()
        flags = self.random.choice([0, 0, NOREPLACE, EXCHANGE])
        directories = self.directories()
        folder, other = self.random.choice(directories), self.random.choice(directories)

        def create(root: bytes) -> None:
            os.close(os.open(os.path.join(root, first), os.O_CREAT | os.O_EXCL | os.O_WRONLY))

        def rename(old: bytes, new: bytes, how: int) -> Callable[[bytes], None]:
            return lambda root: renameat2(AT_CWD, os.path.join(root, old), AT_CWD, os.path.join(root, new), how)

        def link(root: bytes) -> None:
            os.link(os.path.join(root, first), os.path.join(root, second), follow_symlinks=False)

        changes: list[tuple[int, str, Callable[[bytes], object]]] = [
            (6, f"create {first!r}", create),
            (3, f"mkdir {first!r}", lambda root: os.mkdir(os.path.join(root, first))),
            (2, f"symlink {first!r}", lambda root: os.symlink(b"x", os.path.join(root, first))),
            (3, f"link {first!r} {second!r}", link),
            (6, f"unlink {first!r}", lambda root: os.unlink(os.path.join(root, first))),
            (1, f"rmdir {folder!r}", lambda root: os.rmdir(os.path.join(root, folder))),
            (8, f"rename {first!r} {second!r} {flags}", rename(first, second, flags)),
            (2, f"rename {folder!r} {second!r} {flags}", rename(folder, second, flags)),
            (2, f"rename {folder!r} {other!r} {flags}", rename(folder, other, flags)),
        ]
        if self.random.random() < 0.25:
            self.miss(folder)
            return
        _, word, change = self.random.choices(changes, [weight for weight, _, _ in changes])[0]
        self.both(word, change)

    def miss(self, directory: bytes) -> None:
        """Look for names that never were, often enough."""
        for _ in range(MISSES):
            self.missed += 1
            assert not os.path.lexists(os.path.join(bytes(self.overlay.mnt), directory, b"never%d" % self.missed))

    def fill(self, *, full: bool) -> None:
        """Leave no room in storage, for names neither, or give it back."""
        ballast = self.overlay.mnt / "ballast"
        if not full:
            for path in ballast.iterdir():
                path.unlink()
            fd = os.open(ballast, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
            return

        def write() -> None:
            with (ballast / "full").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 18))
                    os.fsync(file.fileno())

        def name() -> None:
            for number in range(100_000):
                os.symlink("x" * 4000, ballast / f"long{number}")

        assert attempt(write) == attempt(name) == "ENOSPC"

    def compare(self) -> None:
        """Ask for every name, of a kernel that knows none."""
        forget()
        top, plain = bytes(self.overlay.mnt), bytes(self.twin)
        for directory in self.directories():
            for name in [*NAMES, b"sub", b"link", b"gone", b"come", b"never"]:
                path = os.path.join(directory, name)
                found = [attempt(lambda root=root: stat.S_IFMT(os.lstat(root).st_mode)) for root in
                         (os.path.join(top, path), os.path.join(plain, path))]  # fmt: skip
                assert found[0] == found[1], f"{path!r} after {self.done[-2 * ROUND :]}"
            assert sorted(os.listdir(os.path.join(top, directory))) == sorted(
                os.listdir(os.path.join(plain, directory))
            )


@pytest.mark.parametrize("seed", [*range(SEEDS), None])
def test_no_name_is_ever_hidden(sandbox: MountSandbox, seed: int | None) -> None:
    """Whatever was done, in directories of every kind, the mount has the names its plain twin has."""
    expected = {"done"} if seed is None else {"done", "EEXIST", "ENOENT", "ENOTEMPTY", "ENOSPC", "ENOTDIR"}
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    print(f"seed {seed}")  # shown if the test fails
    both = Both(sandbox, seed)
    for number in range(STEPS):
        both.step()
        if number % ROUND == 0:
            both.compare()
            for directory in both.directories():
                both.miss(directory)
        if number in (200, 400):
            both.fill(full=True)
        elif number in (230, 430):
            both.fill(full=False)
    both.compare()
    assert both.outcomes >= expected
    both.overlay.remount()
    both.compare()


# ----------------------------------------------------------------------------------------------------------------------
# The limits of the tables


def make_names(directory: Path, count: int) -> None:
    """Fill a directory, quickly."""
    directory.mkdir()
    first = directory / "name0"
    first.touch()
    for number in range(1, count):
        os.link(first, directory / f"name{number}")


def seen(directory: Path, name: str) -> bool:
    """Whether a name is there, as the file system says now."""
    return os.path.lexists(directory / name)


def probe(directory: Path, count: int, draw: random.Random) -> None:
    """Miss names of a directory, then look for some that are there, for new ones and for removed ones."""
    there = [f"name{number}" for number in draw.sample(range(count), 40)]
    for number in range(MISSES):
        assert not seen(directory, f"absent{number}{draw.random()}")
    assert all(seen(directory, name) for name in there)
    gone, new = there[0], f"new{draw.random()}"
    (directory / gone).unlink()
    assert not seen(directory, new)
    (directory / new).touch()
    forget()
    assert [seen(directory, name) for name in (*there[1:], gone, new)] == [True] * 39 + [False, True]
    os.rename(directory / there[1], directory / gone)
    forget()
    assert [seen(directory, name) for name in (there[1], gone)] == [False, True]
    (directory / new).unlink()
    os.rename(directory / gone, directory / there[1])
    (directory / gone).touch()
    forget()
    assert [seen(directory, name) for name in (*there, new)] == [True] * 40 + [False]


def test_a_directory_as_large_as_may_be_kept_and_a_larger_one(sandbox: MountSandbox) -> None:
    """Both show what is there, before, while and after their number of names crosses the limit."""
    overlay = sandbox.overlay()
    for name, count in (("kept", LARGE), ("larger", LARGE + 1)):
        make_names(overlay.base / name, count)
    overlay.mount()
    draw = random.Random(1)
    for _ in range(2):
        for name in ("kept", "larger"):
            probe(overlay.mnt / name, LARGE, draw)
        (overlay.mnt / "kept/one more").touch()  # too many for another time


def test_more_directories_than_the_table_holds(sandbox: MountSandbox) -> None:
    """It is emptied when it is full, in the middle of a directory too; what is in use is kept again."""
    overlay = sandbox.overlay()
    counts = {f"d{number}": count for number, count in enumerate((16_000, 15_000, 14_000, 13_000, 12_000))}
    for name, count in counts.items():
        make_names(overlay.base / name, count)
    overlay.mount()
    draw = random.Random(2)
    for name in [*counts, "d0", "d3", "d0"]:
        probe(overlay.mnt / name, counts[name], draw)


def test_directories_that_share_a_place(sandbox: MountSandbox) -> None:
    """Thousands of small directories, many of which push another one out: none takes the other's names for its own."""
    overlay = sandbox.overlay()
    overlay.mount()
    paths = [overlay.mnt / f"d{number}" for number in range(5000)]
    for number, path in enumerate(paths):
        path.mkdir()
        (path / f"own{number}").touch()
    numbers = itertools.count()
    for one, other in zip(paths[:60], paths[4096:4156], strict=True):
        assert (other.stat().st_ino - one.stat().st_ino) % 4096 == 0
        for path in (one, other, one):
            assert not any(seen(path, f"absent{next(numbers)}") for _ in range(MISSES))
    forget()
    for number in [*range(60), *range(4096, 4156)]:
        assert seen(paths[number], f"own{number}")
        assert not seen(paths[number], f"own{(number + 4096) % 5000}")


def test_names_of_every_length(sandbox: MountSandbox) -> None:
    """255 bytes are a name, there or not; 256 never are, and are told so by a directory whose names are known."""
    overlay = sandbox.overlay()
    overlay.mount()
    folder = overlay.mnt / "folder"
    folder.mkdir()
    names = ["x" * 255, "\udcff" * 255, "\n" * 255, "a\nb", "\udc80", "~"]
    for _ in range(2):
        for name in names:
            assert not seen(folder, name)
            (folder / name).touch()
        forget()
        assert [seen(folder, name) for name in names] == [True] * len(names)
        assert not seen(folder, "x" * 254)
        assert attempt(os.lstat, folder / ("x" * 256)) == "ENAMETOOLONG"
        assert attempt(os.mkdir, folder / ("y" * 256)) == "ENAMETOOLONG"
        for name in names:
            (folder / name).unlink()
        forget()
        assert not any(seen(folder, name) for name in names)


class _Handle(ctypes.Structure):
    """struct file_handle (open_by_handle_at(2))."""

    _fields_ = (("size", ctypes.c_uint), ("type", ctypes.c_int), ("bytes", ctypes.c_char * 128))


def test_dot_and_dot_dot_are_always_there(sandbox: MountSandbox) -> None:
    """A handle of a forgotten directory has the kernel look up both, in a directory whose names are known."""
    overlay = sandbox.overlay()
    overlay.mount()
    folder = overlay.mnt / "above/folder"
    folder.mkdir(parents=True)
    for path in (folder, folder.parent):
        for number in range(MISSES):
            assert not seen(path, f"absent{number}")
    libc = ctypes.CDLL(None, use_errno=True)
    handle, mount = _Handle(size=128), ctypes.c_int()
    assert libc.name_to_handle_at(AT_CWD, bytes(folder), ctypes.byref(handle), ctypes.byref(mount), 0) == 0
    ino = folder.stat().st_ino
    top = os.open(overlay.mnt, os.O_RDONLY)
    try:
        for _ in range(3):
            forget()
            fd = libc.open_by_handle_at(top, ctypes.byref(handle), os.O_RDONLY)
            assert fd >= 0, os.strerror(ctypes.get_errno())
            assert os.fstat(fd).st_ino == ino
            assert os.stat("..", dir_fd=fd).st_ino == folder.parent.stat().st_ino
            os.close(fd)
    finally:
        os.close(top)


def test_removed_names_leave_the_others_in_reach(sandbox: MountSandbox) -> None:
    """In a table that is nearly full names stand behind others: those are still found when these are gone."""
    overlay = sandbox.overlay()
    count = 15_000
    folders = [f"d{number}" for number in range(4)]
    for name in folders:
        make_names(overlay.base / name, count)
    overlay.mount()
    for name in folders:
        assert not any(seen(overlay.mnt / name, f"absent{number}") for number in range(MISSES))
    for number in range(0, 3000, 3):
        (overlay.mnt / "d0" / f"name{number}").unlink()
    forget()
    for name in folders:
        there = [seen(overlay.mnt / name, f"name{number}") for number in range(3000)]
        assert there == [name != "d0" or number % 3 != 0 for number in range(3000)]


def test_a_directory_that_may_be_searched_only(sandbox: MountSandbox, fuse_for_all: None) -> None:
    """To a daemon that may not list a base directory a name that is not there is just that, however often."""
    overlay = sandbox.overlay()
    folder = overlay.base / "folder"
    folder.mkdir()
    (folder / "file").touch()
    folder.chmod(0o711)
    for path in (overlay.sto, overlay.mnt):
        os.chown(path, USER, USER)
    assert as_user("mount", "--base", overlay.base, "--sto", overlay.sto, overlay.mnt) == 0
    overlay.pid = daemon_of(overlay.sto)

    def look() -> list[object]:
        missed = [attempt(os.lstat, overlay.mnt / f"folder/absent{number}") for number in range(3 * MISSES)]
        return [*missed, os.path.exists(overlay.mnt / "folder/file"), attempt(os.listdir, overlay.mnt / "folder")]

    assert in_child(look, uid=USER) == ["ENOENT"] * 3 * MISSES + [True, "EACCES"]
    assert as_user("umount", overlay.mnt) == 0


def test_a_base_that_finds_names_in_any_spelling(sandbox: MountSandbox) -> None:
    """Where the base knows a name in upper and lower case the mount does, however many others were missed."""
    overlay = sandbox.overlay(base=sandbox.file_system("exfat", 64))
    (overlay.base / "folder").mkdir()
    (overlay.base / "folder/name").touch()
    assert (overlay.base / "folder/NAME").exists(), "this base tells upper from lower case: the test can say nothing"
    overlay.mount()
    for _ in range(3):
        assert not any(seen(overlay.mnt / "folder", f"absent{number}") for number in range(2 * MISSES))
        forget()
        assert seen(overlay.mnt / "folder", "NAME")
