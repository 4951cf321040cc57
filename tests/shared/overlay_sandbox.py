"""A small overlay to do things with, and its four lists as readable paths."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any, NamedTuple

from minifo.engine import ROOT, Attr, Ino, Overlay, Process, SetAttr
from minifo.engine.recovery import BaseCheck

ME = Process(os.geteuid(), os.getegid(), 0o022)
PAST = 1_600_000_000_000_000_007  # ns


class Lists(NamedTuple):
    """The four lists: names as paths; ``renamed`` with the place in the base, ``modified`` with 1 for changed bytes."""

    created: set[str]
    deleted: set[str]
    renamed: dict[str, str]
    modified: dict[str, int]


NOTHING = Lists(set(), set(), {}, {})


class OverlaySandbox:
    """A base directory, a storage directory and the overlay of the two; everything by path."""

    me = ME

    def __init__(self, top: Path) -> None:
        self.base = top / "base"
        self.sto = top / "sto"
        self.base.mkdir()
        self.sto.mkdir()
        self._ov: Overlay | None = None
        self.base_check = BaseCheck.WARN

    def beside(self, sto: Path) -> OverlaySandbox:
        """Another storage over the same base."""
        found = copy.copy(self)
        found.sto, found._ov = sto, None
        return found

    @property
    def ov(self) -> Overlay:
        """The overlay, opened when first needed."""
        return self._ov or self.open()

    def open(self, **options: Any) -> Overlay:
        """Open the overlay."""
        assert self._ov is None
        self._ov = Overlay.open(str(self.base), str(self.sto), **{"base_check": self.base_check, **options})
        return self._ov

    def close(self) -> None:
        """Close it."""
        if self._ov is not None:
            ov, self._ov = self._ov, None
            ov.close()

    def reopen(self, **options: Any) -> Overlay:
        """Close and open it again."""
        self.close()
        return self.open(**options)

    def kill(self) -> None:
        """Let go of it as a killed process does: what was not committed is lost."""
        ov, self._ov = self.ov, None
        ov.commits.failure = RuntimeError("killed")
        ov.db.read_only = True
        ov.close()

    # -- the base

    def put(self, path: str, data: bytes = b"base") -> Path:
        """Make a file in the base, and the directories above it; with times in the past."""
        full = self.base / path
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_bytes(data)
        os.utime(full, ns=(PAST, PAST))
        return full

    # -- operations by path

    def find(self, path: str) -> Attr | None:
        """The attributes of what stands at a path, or None."""
        attr: Attr | None = self.ov.getattr(ROOT)
        for name in os.fsencode(path).split(b"/") if path else ():
            if attr is None:
                return None
            attr = self.ov.lookup(Ino(attr.ino), name)
        return attr

    def attr(self, path: str) -> Attr:
        """The attributes of what stands at a path."""
        attr = self.find(path)
        assert attr is not None, f"no {path}"
        return attr

    def ino(self, path: str) -> Ino:
        """The inode number of a path."""
        return Ino(self.attr(path).ino)

    def split(self, path: str) -> tuple[Ino, bytes]:
        """The number of the directory, and the name."""
        directory, _, name = path.rpartition("/")
        return self.ino(directory), os.fsencode(name)

    def create(self, path: str, data: bytes = b"") -> Ino:
        """Make a regular file."""
        ino = Ino(self.ov.mknod(*self.split(path), 0o644, 0, ME).ino)
        if data:
            self.ov.write(ino, 0, data)
        return ino

    def mkdir(self, path: str) -> Ino:
        """Make a directory."""
        return Ino(self.ov.mkdir(*self.split(path), 0o755, ME).ino)

    def link(self, path: str, new: str) -> None:
        """Make a hard link."""
        self.ov.link(self.ino(path), *self.split(new))

    def unlink(self, path: str) -> None:
        """Remove a file; the kernel would forget it at once."""
        ino = self.ino(path)
        self.ov.unlink(*self.split(path))
        if self.ov.getattr(ino).nlink == 0:
            self.ov.forget([ino])

    def rmdir(self, path: str) -> None:
        """Remove a directory."""
        ino = self.ino(path)
        self.ov.rmdir(*self.split(path))
        self.ov.forget([ino])

    def rename(self, path: str, new: str, flags: int = 0) -> None:
        """Rename."""
        self.ov.rename(*self.split(path), *self.split(new), flags)

    def write(self, path: str, data: bytes, offset: int = 0) -> None:
        """Write into a file."""
        self.ov.write(self.ino(path), offset, data)

    def set(self, path: str, **change: Any) -> Attr:
        """Change attributes."""
        return self.ov.setattr(self.ino(path), SetAttr(**change))

    def read(self, path: str) -> bytes:
        """All bytes of a file."""
        attr = self.attr(path)
        return self.ov.read(Ino(attr.ino), 0, attr.size)

    def names(self, path: str = "") -> list[str]:
        """The names in a directory, sorted."""
        return sorted(os.fsdecode(entry.name) for entry in self.ov.readdir(self.ino(path)))[2:]

    # -- looking into the tables

    def rows(self, table: str) -> int:
        """How many rows a table has."""
        return int(self.ov.db.value(f"SELECT count(*) FROM {table}"))

    def lists(self) -> Lists:
        """The four lists, by path; the invariants are checked on the way."""
        db = self.ov.db
        assert self.ov.check() == []
        places: dict[int, str] = {}
        self._collect(ROOT, "", places)

        def place(parent: int, name: bytes) -> str:
            return os.path.join(places.get(parent, f"<{parent}>"), os.fsdecode(name))

        origins = {ino: os.fsdecode(path)[1:] for ino, path in db.rows("SELECT ino, path FROM origin")}
        return Lists(
            {place(parent, name) for parent, name in db.rows("SELECT parent, name FROM created")},
            {place(parent, name) for parent, name in db.rows("SELECT parent, name FROM deleted")},
            {place(parent, name): origins[ino] for parent, name, ino in db.rows("SELECT * FROM renamed")},
            {origins[ino]: content for ino, content in db.rows("SELECT ino, content FROM modified")},
        )

    def _collect(self, ino: Ino, path: str, places: dict[int, str]) -> None:
        places[ino] = path
        for entry in list(self.ov.readdir(ino))[2:]:
            if entry.attr.mode & 0o170000 == 0o040000:
                self._collect(Ino(entry.attr.ino), os.path.join(path, os.fsdecode(entry.name)), places)

    def extents(self) -> list[tuple[int, int]]:
        """Return start and end of all extents."""
        return [(start, end) for start, end in self.ov.db.rows('SELECT start, "end" FROM extent ORDER BY start')]

    def allocated(self) -> int:
        """Return the bytes that all content objects take on disk."""
        return sum(path.stat().st_blocks * 512 for path in (self.sto / "content").glob("*/*"))

    def objects(self) -> dict[str, int]:
        """Sizes of the content objects on disk."""
        content = self.sto / "content"
        return {str(path.relative_to(content)): path.stat().st_size for path in content.glob("*/*")}
