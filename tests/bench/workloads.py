"""The work that is timed.  Each workload says what base it needs, what is prepared untimed, and what is timed."""

from __future__ import annotations

import mmap
import os
import random
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Step = Callable[[Path], object]

MANY = 10_000  # files of the untar
TREE = 50_000  # entries of the large base tree
NAMES = 100_000  # names of the large directory
GIB = 1 << 30


def shell(command: str) -> Step:
    """A step that runs a shell command in the mount."""

    def step(mnt: Path) -> None:
        subprocess.run(["sh", "-c", command], cwd=mnt, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    return step


def nothing(mnt: Path) -> None:
    """A step for a workload without preparation."""


@dataclass(frozen=True)
class Workload:
    """One row of the table.

    Attributes:
        name: as the table shows it.
        base: which base it needs: tree, large, names, file or empty.
        timed: what is timed.
        before: what is done first, untimed.
        cold: drop the caches before the timed step.
    """

    name: str
    base: str
    timed: Step
    before: Step = nothing
    cold: bool = False


# -- steps that need more than a command


def _untar(mnt: Path) -> None:
    with tarfile.open(mnt.parent.parent / "many.tar") as archive:
        archive.extractall(mnt / "untar", filter="fully_trusted")


def _write_gib(mnt: Path) -> None:
    block = os.urandom(1 << 20)
    fd = os.open(mnt / "gib", os.O_CREAT | os.O_WRONLY, 0o644)
    for _ in range(1024):
        os.write(fd, block)
    os.fsync(fd)
    os.close(fd)


def _write_small(mnt: Path) -> None:
    block = b"x" * 4096
    fd = os.open(mnt / "small", os.O_CREAT | os.O_WRONLY, 0o644)
    for _ in range(16_384):
        os.write(fd, block)
    os.close(fd)


def _random(mnt: Path, *, write: bool) -> None:
    chooser = random.Random(7)
    fd = os.open(mnt / "big", os.O_RDWR)
    for _ in range(4096):
        offset = chooser.randrange(0, 256 << 20, 4096)
        if write:
            os.pwrite(fd, b"y" * 4096, offset)
        else:
            os.pread(fd, 4096, offset)
    os.fsync(fd)
    os.close(fd)


def _map(mnt: Path) -> None:
    fd = os.open(mnt / "big", os.O_RDWR)
    with mmap.mmap(fd, 64 << 20) as view:
        for offset in range(0, 64 << 20, 65536):
            view[offset] = (view[offset] + 1) & 255
        view.flush()
    os.close(fd)


def _copy_up(name: str) -> Step:
    def step(mnt: Path) -> None:
        fd = os.open(mnt / name, os.O_RDWR)
        os.pwrite(fd, b"!", 100)
        os.fsync(fd)
        os.close(fd)

    return step


def _stat_storm(mnt: Path) -> None:
    paths = [os.path.join(top, name) for top, _, files in os.walk(mnt) for name in files]
    for _ in range(3):
        for path in paths:
            os.lstat(path)


def _list_names(mnt: Path) -> None:
    for entry in os.scandir(mnt / "names"):
        entry.stat(follow_symlinks=False)


def _create(mnt: Path) -> None:
    (mnt / "made").mkdir()
    for number in range(MANY):
        with open(mnt / "made" / f"f{number}", "wb") as file:
            file.write(b"hello, world\n")


def _unlink(mnt: Path) -> None:
    for number in range(MANY):
        os.unlink(mnt / "made" / f"f{number}")


def _rename(mnt: Path) -> None:
    for number in range(MANY):
        os.rename(mnt / "made" / f"f{number}", mnt / "made" / f"g{number}")


_GIT = "git -c user.name=n -c user.email=n@example.org -c gc.auto=0 -c init.defaultBranch=main"
_REPOSITORY = f"mkdir repo && cp -r tree/. repo && cd repo && {_GIT} init -q && {_GIT} add -A && {_GIT} commit -qm one"
_BUILD = (
    "mkdir build && cd build && for i in $(seq 60); do"
    ' printf "#include <stdio.h>\\nint f$i(int x){printf(\\"%%d\\",x);return x*$i;}\\n" > f$i.c; done &&'
    " for i in $(seq 60); do gcc -O1 -c f$i.c -o f$i.o; done && ar rc libf.a *.o"
)

WORKLOADS = [
    Workload("find, cold", "large", shell("find . -type f | wc -l"), cold=True),
    Workload("find, warm", "large", shell("find . | wc -l"), shell("find . | wc -l")),
    Workload("ls -lR, warm", "large", shell("ls -lR . | wc -l"), shell("ls -lR . | wc -l")),
    Workload("stat storm, warm", "large", _stat_storm, shell("ls -lR . | wc -l")),
    Workload("tar, cold", "tree", shell("tar cf - tree | cat | wc -c"), cold=True),
    Workload("tar, warm", "tree", shell("tar cf - tree | cat | wc -c"), shell("tar cf - tree | cat | wc -c")),
    Workload("grep -r, cold", "tree", shell("grep -r minifo-nowhere tree || true"), cold=True),
    Workload("grep -r, warm", "tree", shell("grep -r minifo-nowhere tree || true"), shell("cat -- tree/*/* || true")),
    Workload("git commit", "tree", shell(_REPOSITORY)),
    Workload("git status, warm", "tree", shell("cd repo && git status"), shell(f"{_REPOSITORY} && git status")),
    Workload("git checkout", "tree", shell("cd repo && git checkout -q ."), shell(f"{_REPOSITORY} && rm -rf *")),
    Workload("create 10,000 small files", "empty", _create),
    Workload("rename 10,000 files", "empty", _rename, _create),
    Workload("unlink 10,000 files", "empty", _unlink, _create),
    Workload("untar 10,000 small files", "empty", _untar),
    Workload("rm -rf 50,000 base entries", "large", shell("rm -rf large")),
    Workload("chmod -R, base tree", "tree", shell("chmod -R g+w tree")),
    Workload("mv 50,000-entry base directory", "large", shell("mv large moved")),
    Workload("C build", "empty", shell(_BUILD)),
    Workload("list 100,000 names with attributes", "names", _list_names, cold=True),
    Workload("write 1 GiB, fsync", "empty", _write_gib),
    Workload("write 64 MiB by 4 KiB, close", "empty", _write_small),
    Workload("random 4 KiB reads", "file", lambda mnt: _random(mnt, write=False), cold=True),
    Workload("random 4 KiB writes", "file", lambda mnt: _random(mnt, write=True)),
    Workload("mmap, a byte in each 64 KiB", "file", _map),
    Workload("copy-up: 1 byte into 4 KiB", "file", _copy_up("f4k")),
    Workload("copy-up: 1 byte into 1 MiB", "file", _copy_up("f1m")),
    Workload("copy-up: 1 byte into 256 MiB", "file", _copy_up("big")),
    Workload("copy-up: 1 byte into 1 GiB", "file", _copy_up("gib")),
]


# -- bases


def make_base(kind: str, directory: Path, *, scale: float) -> None:
    """Fill *directory* with the base of that kind; *scale* shrinks it (1 is the documented size)."""
    if kind == "large":
        count = int(TREE * scale)
        for group in range(max(1, count // 100)):
            folder = directory / "large" / f"d{group % 20}" / f"e{group}"
            folder.mkdir(parents=True)
            for number in range(98):
                (folder / f"file-{number}").write_bytes(b"x" * (number * 7))
    elif kind == "names":
        (directory / "names").mkdir()
        for number in range(int(NAMES * scale)):
            (directory / "names" / f"name-{number:06}").touch()
    elif kind == "tree":
        chooser = random.Random(3)
        for group in range(max(2, int(100 * scale))):
            folder = directory / "tree" / f"pkg{group}"
            folder.mkdir(parents=True)
            for number in range(30):
                (folder / f"mod{number}.py").write_bytes(
                    chooser.randbytes(chooser.choice((300, 1500, 4000, 20_000))).hex().encode()
                )
    elif kind == "file":
        for name, size in (("f4k", 4096), ("f1m", 1 << 20), ("big", 256 << 20), ("gib", GIB)):
            with open(directory / name, "wb") as file:
                block = os.urandom(min(size, 1 << 20))
                for _ in range(max(1, size >> 20)):
                    file.write(block)


def make_archive(path: Path) -> None:
    """The archive of the untar workload."""
    source = path.with_suffix(".d")
    for number in range(MANY):
        file = source / f"d{number // 100}" / f"f{number}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"s" * (number % 4000))
    with tarfile.open(path, "w") as archive:
        archive.add(source, "many")
    shutil.rmtree(source)
