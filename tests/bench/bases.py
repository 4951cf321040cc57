"""What the work is done on: the bases, made once and kept, and the few files that lie beside the mounts."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

GIT = (
    "git -c user.name=n -c user.email=n@example.org -c init.defaultBranch=main -c gc.auto=0 -c maintenance.auto=false"
    " -c safe.directory='*' -c advice.detachedHead=false"
)
_DATE = "2020-02-02T02:02:02Z"
GIT_ENVIRONMENT = {
    "GIT_AUTHOR_DATE": _DATE,
    "GIT_COMMITTER_DATE": _DATE,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "LC_ALL": "C.UTF-8",
}

KIBI, MEBI, GIBI = 1 << 10, 1 << 20, 1 << 30
_PER_FOLDER = 100  # entries of a folder of the large tree, itself included
_MODULES = 30  # files of a folder of the source tree


@dataclass(frozen=True)
class Sizes:
    """How large everything is; ``Sizes.scaled(1)`` is what the documentation shows.

    Attributes:
        many: files that are created, renamed, unlinked, unpacked.
        large: entries of the large tree.
        names: names of the one large directory, and changes before a mount.
        folders: folders of the source tree, of 30 files each.
        jumps: random reads and writes.
        file: bytes of the file they go to, which is also copied and mapped.
        giant: bytes of the largest file.
        units: C files that are compiled.
    """

    many: int
    large: int
    names: int
    folders: int
    jumps: int
    file: int
    giant: int
    units: int

    @staticmethod
    def scaled(scale: float) -> Sizes:
        """Everything multiplied by *scale*."""

        def of(size: int, unit: int = 1) -> int:
            return max(1, round(size * scale / unit)) * unit

        return Sizes(
            many=of(10_000),
            large=of(50_000, _PER_FOLDER),
            names=of(100_000, 100),
            folders=of(100, 2),
            jumps=of(4096),
            file=of(256 * MEBI, MEBI),
            giant=of(GIBI, MEBI),
            units=of(40),
        )


def size_name(size: int) -> str:
    """A size as people say it."""
    for unit, name in ((GIBI, "GiB"), (MEBI, "MiB"), (KIBI, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"


def _large(top: Path, sizes: Sizes) -> None:
    for group in range(sizes.large // _PER_FOLDER):
        folder = top / "large" / f"d{group % 20}" / f"e{group}"
        folder.mkdir(parents=True)
        for number in range(_PER_FOLDER - 1):
            (folder / f"file-{number}").write_bytes(b"x" * (number * 7))


def _names(top: Path, sizes: Sizes) -> None:
    (top / "names").mkdir()
    for number in range(sizes.names):
        (top / "names" / f"name-{number:06}").touch()


def _tree(top: Path, sizes: Sizes) -> None:
    chooser = random.Random(3)
    for group in range(sizes.folders):
        folder = top / "tree" / f"pkg{group}"
        folder.mkdir(parents=True)
        for number in range(_MODULES):
            content = chooser.randbytes(chooser.choice((300, 1500, 4000, 20_000))).hex()
            lines = (content[at : at + 78] for at in range(0, len(content), 78))
            (folder / f"mod{number}.py").write_text("\n".join(lines) + "\n")


def _repository(top: Path, sizes: Sizes) -> None:
    """A repository at its first commit; the second, on branch ``other``, changes every other file."""
    _tree(top, sizes)
    place = (top / "tree").rename(top / "repo")
    environment = {**os.environ, **GIT_ENVIRONMENT}

    def git(words: str) -> None:
        subprocess.run(f"{GIT} {words}", shell=True, cwd=place, env=environment, check=True, stdout=subprocess.DEVNULL)

    git("init -q && git add -A && " + f"{GIT} commit -qm one && git checkout -qb other")
    for file in place.glob("pkg*/mod*[13579].py"):
        file.write_text(file.read_text()[::-1])
    git("commit -qam two && git checkout -q main")


def _file(size: int) -> Callable[[Path, Sizes], None]:
    def make(top: Path, sizes: Sizes) -> None:
        chooser = random.Random(size)
        with open(top / "file", "wb") as file:
            for at in range(0, size, MEBI):
                file.write(chooser.randbytes(min(MEBI, size - at)))

    return make


_MAKERS: dict[str, Callable[[Path, Sizes], None]] = {
    "empty": lambda top, sizes: None,
    "large": _large,
    "names": _names,
    "tree": _tree,
    "repository": _repository,
}


def make_base(kind: str, top: Path, sizes: Sizes) -> None:
    """Fill an empty directory; *kind* is a name, or the size of a single file."""
    (_MAKERS.get(kind) or _file(int(kind)))(top, sizes)


def make_archive(path: Path, sizes: Sizes) -> None:
    """The archive that is unpacked."""
    source = path.with_suffix(".d")
    for number in range(sizes.many):
        file = source / f"d{number // 100}" / f"f{number}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"s" * (number % 4000))
    with tarfile.open(path, "w") as archive:
        archive.add(source, "many")
    shutil.rmtree(source)


def make_list(path: Path, base: Path) -> None:
    """The paths of all files of a base, one a line."""
    paths = (os.path.relpath(os.path.join(top, name), base) for top, _, files in os.walk(base) for name in files)
    path.write_text("".join(f"{name}\n" for name in paths))


def make_worker(path: Path) -> None:
    """Compile the program that does what no common program does."""
    source = Path(__file__).with_name("worker.c")
    subprocess.run(["cc", "-O2", "-Wall", "-o", path, source], check=True)
