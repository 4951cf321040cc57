"""Legacy trees for tests: a base and a mini_fo storage over it, in every state and with names nobody should use."""

from __future__ import annotations

import os
import random
import shutil
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path

from minifo.migrations.meta.codec import META_NAME, Record, Redirect, Whiteout, emit

HOSTILE = [
    b" lead",
    b"trail ",
    b"two  blanks",
    b"\xff\xfe\x80",
    b"tab\tcr\r",
    b"*",
    b"-rf",
    b"$(x)`'\"",
    b"D x",
    b"R a b",
    b"bmFtZQ==",
    "ünï".encode(),
    b"#",
    b"n" * 255,
]
WITH_LF = [b"new\nline", b"x\nD passwd"]
_HOUR = 3600 * 10**9
_AGE = 1_400_000_000_000_000_000


def write_meta(directory: bytes, records: list[Record]) -> None:
    """Append records to the META file of a storage directory."""
    with open(directory + b"/" + META_NAME, "ab") as file:
        file.write(emit(records))


def age(path: bytes, mtime: int) -> None:
    """Set an object's times; those of a symlink so that reading it does not move them (relatime)."""
    atime = time.time_ns() + _HOUR if os.path.islink(path) else mtime
    os.utime(path, ns=(atime, mtime), follow_symlinks=False)


@dataclass
class Builder:
    """Makes trees by chance; the same seed makes the same ones.

    Attributes:
        top: where ``base`` and ``sto`` are made.
        dirs, files: how many base directories there are at most, and how many objects each holds.
        created: how many objects at most are new in each storage directory.
        counts: how often each case was made.
    """

    top: bytes
    seed: int
    dirs: int = 12
    files: int = 8
    created: int = 4
    counts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.base, self.sto = self.top + b"/base", self.top + b"/sto"
        self.serial = 0
        self.floating: list[bytes] = []  # base directories that were renamed and need a new place
        self.linked: list[bytes] = []

    def count(self, case: str) -> bool:
        """Note that a case was made; always true."""
        self.counts[case] = self.counts.get(case, 0) + 1
        return True

    def name(self, lf: bool = False) -> bytes:
        """A new name, hostile now and then."""
        self.serial += 1
        if self.rng.random() < 0.25:
            odd = self.rng.choice(HOSTILE + (WITH_LF if lf else []))
            number = b"%d" % self.serial
            return odd[: 255 - len(number)] + number
        return b"n%d" % self.serial

    def object(self, path: bytes, others: list[bytes]) -> None:
        """Make something that is no directory."""
        kind = self.rng.choices(
            ["file", "empty", "sparse", "link", "hard", "fifo", "char", "sock"], [9, 1, 1, 2, 2, 1, 1, 1]
        )[0]
        if kind == "hard" and others:
            os.link(self.rng.choice(others), path)
            return
        if kind == "link":
            os.symlink(self.rng.choice([b"target", b"/abs/\xff", b"../up"]), path)
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "char":
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, self.rng.randrange(9)))
        elif kind == "sock":
            os.mknod(path, stat.S_IFSOCK | 0o600)
        else:
            with open(path, "wb") as file:
                if kind == "sparse":
                    file.truncate(300_000)
                    file.seek(100_000)
                if kind != "empty":
                    file.write(self.rng.randbytes(self.rng.choice([1, 300, 5000])))
            others.append(path)
        self.dress(path)

    def dress(self, path: bytes) -> None:
        """Give an object owner, mode, times and perhaps extended attributes of its own."""
        st = os.lstat(path)
        link = stat.S_ISLNK(st.st_mode)
        os.chown(path, self.rng.choice([0, 0, 1000, 4_000_000]), self.rng.choice([0, 100]), follow_symlinks=False)
        if not link:
            os.chmod(path, self.rng.choice([0o644, 0o600, 0o755, 0o4711, 0o1777]))
        if (stat.S_ISREG(st.st_mode) or stat.S_ISDIR(st.st_mode)) and self.rng.random() < 0.1:
            os.setxattr(path, "trusted.note", self.rng.randbytes(5))

    def make_base(self) -> None:
        """The base: a few levels of directories."""
        os.mkdir(self.base)
        todo = [self.base]
        files: list[bytes] = []
        made = 0
        while todo:
            directory = todo.pop(0)
            for _ in range(self.files):
                self.object(directory + b"/" + self.name(lf=True), files)
            for _ in range(self.rng.randrange(2, 5)):
                if made < self.dirs:
                    path = directory + b"/" + self.name()
                    os.mkdir(path)
                    todo.append(path)
                    made += 1
            self.dress(directory)

    def make(self) -> Builder:
        """Make both trees."""
        self.make_base()
        os.mkdir(self.sto)
        self.fill(self.sto, b"/", 0)
        while self.floating:
            self.land(self.sto, 0)
        # root takes no storage that others may change
        os.chown(self.sto, 0, os.stat(self.sto).st_gid)
        os.chmod(self.sto, os.stat(self.sto).st_mode & ~0o022)
        for directory, names, files in os.walk(self.top, topdown=False):
            links = [name for name in names if os.path.islink(directory + b"/" + name)]
            for path in [*(directory + b"/" + name for name in [*files, *links]), directory]:
                age(path, _AGE + self.serial)
                self.serial += 1
        return self

    def children(self, base: bytes) -> list[bytes]:
        return sorted(os.listdir(self.base + base))

    def fill(self, sto: bytes, base: bytes | None, depth: int) -> None:
        """Give a storage directory its entries; *base* is its base side, or None."""
        records: list[Record] = []
        names = self.children(base) if base is not None else []
        directories = (
            [
                n
                for n in names
                if os.path.isdir(self.base + base + b"/" + n) and not os.path.islink(self.base + base + b"/" + n)
            ]
            if base is not None
            else []
        )
        if len(directories) >= 2 and self.rng.random() < 0.3 and self.count("swap"):
            x, y = directories[:2]
            names = [n for n in names if n not in (x, y)]
            for old, new in ((x, y), (y, x)):
                records.append(Redirect(self.join(base, old), new))
                self.directory(sto + b"/" + new, self.join(base, old), depth + 1)
        for name in names:
            assert base is not None
            self.child(sto, base, name, name in directories, records, depth)
        for _ in range(self.rng.randrange(0, self.created)):
            self.make_new(sto, depth)
        write_meta(sto, records) if records or self.rng.random() < 0.1 else None
        if self.floating and self.rng.random() < 0.5:
            self.land(sto, depth)
        if self.rng.random() < 0.1 and self.count("useless"):
            write_meta(sto, [Whiteout(b"never was")])
        self.dress(sto)

    def join(self, base: bytes | None, name: bytes) -> bytes:
        return (b"" if base in (b"/", None) else base or b"") + b"/" + name

    def child(self, sto: bytes, base: bytes, name: bytes, is_dir: bool, records: list[Record], depth: int) -> None:
        """Decide what happened to one base name."""
        path, old = sto + b"/" + name, self.join(base, name)
        sayable = b"\n" not in name
        roll = self.rng.random()
        if is_dir:
            if roll < 0.45 and self.count("modified directory"):
                self.directory(path, old, depth + 1)
            elif roll < 0.55 and self.count("deleted directory"):
                records.append(Whiteout(name))
            elif roll < 0.65 and self.count("opaque directory"):
                records.append(Whiteout(name))
                self.directory(path, None, depth + 1)
            elif roll < 0.8 and self.count("renamed directory"):
                records.append(Whiteout(name))
                self.floating.append(old)
            elif roll < 0.84 and self.count("renamed and back"):
                records += [Whiteout(name), Redirect(old, name)]
                self.directory(path, old, depth + 1)
            elif roll < 0.88 and self.count("clash"):
                self.object(path, [])
            elif roll < 0.92 and self.count("shown twice"):
                self.floating.append(old)
        elif roll < 0.15 and self.count("modified file"):
            self.object(path, self.linked)
        elif roll < 0.3 and self.count("modified, same type"):
            shutil.copy2(self.base + old, path, follow_symlinks=False) if stat.S_ISREG(
                os.lstat(self.base + old).st_mode
            ) else None
        elif roll < 0.4 and sayable and self.count("deleted file"):
            records.append(Whiteout(name))
        elif roll < 0.5 and sayable and self.count("rewritten file"):
            records.append(Whiteout(name))
            self.object(path, self.linked)

    def make_new(self, sto: bytes, depth: int) -> None:
        """Something new."""
        path = sto + b"/" + self.name(lf=True)
        if self.rng.random() < 0.8 / self.created and depth < 5 and self.count("created directory"):
            self.directory(path, None, depth + 1)
        elif self.count("created"):
            self.object(path, self.linked)

    def land(self, sto: bytes, depth: int) -> None:
        """Put a renamed base directory here."""
        old = self.floating.pop()
        new = self.name()
        records: list[Record] = [Redirect(old, new)]
        if self.rng.random() < 0.1 and self.count("superseded"):
            records.insert(0, Redirect(b"/no/such", new))
        write_meta(sto, records)
        if self.rng.random() < 0.9 or self.count("unlisted") is False:
            self.directory(sto + b"/" + new, old, depth + 1)

    def directory(self, path: bytes, base: bytes | None, depth: int) -> None:
        os.mkdir(path)
        if depth < 12:
            self.fill(path, base, depth)


def build(top: Path, seed: int, dirs: int = 12, files: int = 8, created: int = 4) -> Builder:
    """Make ``top/base`` and ``top/sto``; needs root."""
    return Builder(os.fsencode(top), seed, dirs, files, created).make()
