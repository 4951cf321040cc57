"""What an overlay says it changed, against an independent walk over base and merged tree."""

from __future__ import annotations

import functools
import hashlib
import os
import stat
import struct
from collections import defaultdict
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis.stateful import invariant

from minifo.engine import ROOT, Attr, Ino, Overlay
from minifo.engine.queries.changes import changes
from minifo.engine.queries.digest import differences
from minifo.engine.store.syscalls import clone_mount
from tests.model.state_machine import AttributeRules, LifeRules
from tests.model.state_machine_unnamed import UnnamedRules
from tests.shared import file_trees

pytestmark = [
    pytest.mark.logs("operations of a killed daemon were replayed", always=False),
    pytest.mark.root,  # owners and devices are compared
    pytest.mark.skipif(
        file_trees.scratch_root() is None, reason="needs a tmpfs at /dev/shm that takes user attributes"
    ),
]

Line = tuple[str, bytes, bytes | None]  # letters, path, old path


def field(value: bytes) -> bytes:
    """A value behind its length."""
    return struct.pack(">Q", len(value)) + value


def blake(*parts: bytes) -> bytes:
    """BLAKE2b of bytes."""
    return hashlib.blake2b(b"".join(parts), digest_size=32).digest()


def record(numbers: tuple[int, int, int, int], data: bytes, xattrs: dict[bytes, bytes]) -> bytes:
    """The digest of what a path shows, for files of a few blocks."""
    mode, uid, gid, rdev = numbers
    if stat.S_ISREG(mode):
        blocks = [(at >> 16, data[at : at + 65536]) for at in range(0, len(data), 65536)]
        written = [field(struct.pack(">Q", number)) + block for number, block in blocks if block.count(0) < len(block)]
        data = blake(field(struct.pack(">Q", len(data))), *written)
    device = rdev if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0
    pairs = [part for pair in sorted(xattrs.items()) for part in pair]
    return blake(*map(field, (struct.pack(">4Q", mode, uid, gid, device), data, *pairs)))


class Walk:
    """The changes of an overlay, found by walking both trees and comparing all they hold.

    Of files with several links in the base, or with new ones, only what is at its place counts: which of their names
    went where cannot be told from a walk.
    """

    def __init__(self, base: bytes, overlay: Overlay) -> None:
        self.base = base
        self.overlay = overlay
        self.places: dict[int, list[bytes]] = defaultdict(list)
        self.stats: dict[bytes, os.stat_result] = {}
        self._scan(b"")
        self.shown: dict[int, list[bytes]] = defaultdict(list)
        self.attrs: dict[bytes, Attr] = {}
        self._look(b"", ROOT)
        self._below: tuple[dict[bytes, set[bytes]], ...] = ({}, {})
        for found, tree in zip(self._below, (self.stats, self.attrs), strict=True):
            for full in tree:
                directory, _, name = full.rpartition(b"/")
                found.setdefault(directory, set()).add(name)
        self.linked = {ino for ino, places in self.places.items() if len(places) > 1}
        self.linked |= {
            ino for (ino,) in overlay.db.rows("SELECT ino FROM created WHERE ino IN (SELECT ino FROM origin)")
        }

    def _scan(self, path: bytes) -> None:
        for entry in os.scandir(self.base + (path or b"/")):
            st = entry.stat(follow_symlinks=False)
            full = path + b"/" + entry.name
            self.stats[full] = st
            self.places[st.st_ino].append(full)
            if entry.is_dir(follow_symlinks=False):
                self._scan(full)

    def _look(self, path: bytes, ino: Ino) -> None:
        for entry in self.overlay.readdir(ino):
            if entry.name in (b".", b".."):
                continue
            full = path + b"/" + entry.name
            attr = self.overlay.lookup(ino, entry.name)
            assert attr is not None
            self.attrs[full] = attr
            self.shown[attr.ino].append(full)
            if stat.S_ISDIR(attr.mode):
                self._look(full, Ino(attr.ino))

    def lines(self) -> Iterator[Line]:
        """Every change, all names below directories that are new or gone among them."""
        root = self.overlay.getattr(ROOT)
        if self._metadata(root, os.lstat(self.base + b"/"), b"/"):
            yield "m", b"/", None
        yield from self._compare(b"", b"")

    def _compare(self, under: bytes | None, path: bytes | None) -> Iterator[Line]:
        """One directory: its path in the base and in the merged tree; None where it is in one only."""
        here: set[bytes] = set()
        for found, directory in zip(self._below, (under, path), strict=True):
            here |= found.get(directory, set()) if directory is not None else set()
        for name in sorted(here):
            old = under + b"/" + name if under is not None and under + b"/" + name in self.stats else None
            new = path + b"/" + name if path is not None and path + b"/" + name in self.attrs else None
            yield from self._pair(old, new)

    def _pair(self, old: bytes | None, new: bytes | None) -> Iterator[Line]:
        st = self.stats[old] if old is not None else None
        attr = self.attrs[new] if new is not None else None
        if st is not None and attr is not None and st.st_ino == attr.ino:
            assert old is not None
            assert new is not None
            letters = self._differs(attr, st, old)
            if letters:
                yield letters, new, old if old != new else None
            if stat.S_ISDIR(st.st_mode):
                yield from self._compare(old, new)
            return
        replaced = False
        if attr is not None:
            assert new is not None
            is_dir = stat.S_ISDIR(attr.mode)
            if attr.ino in self.places:
                source = self.places[attr.ino][0]
                also = self._differs(attr, self.stats[source], source)
                yield "R" + ("" if is_dir else also), new, source
                if is_dir:
                    if also:
                        yield also, new, source
                    yield from self._compare(source, new)
            elif st is not None and st.st_ino not in self.shown:
                assert old is not None
                replaced = True
                yield from self._replaced(old, st, new, attr)
            else:
                yield "A", new, None
                if is_dir:
                    yield from self._compare(None, new)
        if st is not None and not replaced and st.st_ino not in self.shown:
            assert old is not None
            yield "D", old, None
            if stat.S_ISDIR(st.st_mode):
                yield from self._compare(old, None)

    def _replaced(self, old: bytes, st: os.stat_result, new: bytes, attr: Attr) -> Iterator[Line]:
        elsewhere = old if old != new else None
        if stat.S_IFMT(st.st_mode) != stat.S_IFMT(attr.mode):
            yield "T", new, elsewhere
            yield from self._compare(old if stat.S_ISDIR(st.st_mode) else None, None)
            yield from self._compare(None, new if stat.S_ISDIR(attr.mode) else None)
            return
        letters = self._differs(attr, st, old)
        if letters:
            yield letters, new, elsewhere
        if stat.S_ISDIR(attr.mode):
            yield from self._compare(old, new)

    def _differs(self, attr: Attr, st: os.stat_result, old: bytes) -> str:
        if stat.S_ISREG(attr.mode):
            with open(self.base + old, "rb") as file:
                if file.read() != self.overlay.read(Ino(attr.ino), 0, 1 << 24):
                    return "M"
        elif stat.S_ISLNK(attr.mode):
            if self.overlay.readlink(Ino(attr.ino)) != os.readlink(self.base + old):
                return "M"
        elif not stat.S_ISDIR(attr.mode) and attr.rdev != st.st_rdev:
            return "M"
        return "m" if self._metadata(attr, st, old) else ""

    def _metadata(self, attr: Attr, st: os.stat_result, old: bytes) -> bool:
        ours = (attr.mode, attr.uid, attr.gid)
        if ours != (st.st_mode, st.st_uid, st.st_gid):
            return True
        if not stat.S_ISDIR(attr.mode) and attr.mtime != st.st_mtime_ns:
            return True
        ino = Ino(attr.ino)
        mine = {name: self.overlay.getxattr(ino, name) for name in self.overlay.listxattr(ino)}
        path = self.base + old
        names = os.listxattr(path, follow_symlinks=False)
        return mine != {os.fsencode(name): os.getxattr(path, name, follow_symlinks=False) for name in names}

    def digests(self) -> Iterator[tuple[bytes, bytes]]:
        """Every path that differs, with its digest, as docs/inspect.md defines it."""
        for path in self.attrs.keys() | self.stats.keys():
            shown = self._digest_shown(path) if path in self.attrs else None
            if shown != (self._digest_in_base(path) if path in self.stats else None):
                yield path, shown or bytes(32)

    def _digest_shown(self, path: bytes) -> bytes:
        attr = self.attrs[path]
        ino = Ino(attr.ino)
        data = b""
        if stat.S_ISREG(attr.mode):
            data = self.overlay.read(ino, 0, 1 << 24)
        elif stat.S_ISLNK(attr.mode):
            data = self.overlay.readlink(ino)
        xattrs = {name: self.overlay.getxattr(ino, name) for name in self.overlay.listxattr(ino)}
        return record((attr.mode, attr.uid, attr.gid, attr.rdev), data, xattrs)

    def _digest_in_base(self, path: bytes) -> bytes:
        st, full, data = self.stats[path], self.base + path, b""
        if stat.S_ISREG(st.st_mode):
            with open(full, "rb") as file:
                data = file.read()
        elif stat.S_ISLNK(st.st_mode):
            data = os.readlink(full)
        names = os.listxattr(full, follow_symlinks=False)
        xattrs = {os.fsencode(name): os.getxattr(full, name, follow_symlinks=False) for name in names}
        return record((st.st_mode, st.st_uid, st.st_gid, st.st_rdev), data, xattrs)

    def is_plain(self, line: Line) -> bool:
        """Return whether a line is about no file with several links in the base."""
        letters, path, old = line
        if letters == "D":
            return self.stats[path].st_ino not in self.linked
        if self.is_changed_link(line):
            return True
        base = old or path
        if base in self.stats and self.stats[base].st_ino in self.linked:
            return False
        return path == b"/" or self.attrs[path].ino not in self.linked

    def is_changed_link(self, line: Line) -> bool:
        """Return whether a line says that a file with several links in the base is another one at its place there."""
        letters, path, old = line
        st = self.stats.get(old or path)
        is_linked = st is not None and st.st_ino in self.linked and len(self.places[st.st_ino]) > 1
        shown = self.attrs.get(path)
        return is_linked and letters in ("M", "m") and (shown is None or shown.ino == st.st_ino)


@functools.cache
def without_access_times(base: bytes) -> bytes:
    """A way to a directory by which reading leaves no access times, for these are compared elsewhere."""
    fd = os.open(base, os.O_PATH | os.O_DIRECTORY)
    try:
        return b"/proc/self/fd/%d" % clone_mount(fd)
    finally:
        os.close(fd)


class Changes(UnnamedRules, AttributeRules, LifeRules):
    """Rules about names and attributes, and after some steps the question what they changed."""

    build = staticmethod(file_trees.build_small)
    pool = (b"a", b"b", b"c", b"d", b"e")
    full_every = 1000

    @invariant()
    def changes_agree(self) -> None:
        """The rows and the walk say the same."""
        if self.steps % 4:
            return
        walk = Walk(without_access_times(os.fsencode(self.t.base)), self.t.ov)
        expected = sorted(filter(walk.is_plain, walk.lines()), key=repr)
        found = []
        for change in changes(self.t.ov, recursive=True, identical=False):
            letters = change.kind.value + (change.also.value if change.also is not None else "")
            line = (letters, change.path, change.old)
            if walk.is_plain(line):
                found.append(line)
        assert sorted(found, key=repr) == expected, self.t.told("rows and walk differ")
        paths = {path: value for path, value in differences(self.t.ov) if path != b"/"}
        assert paths == dict(walk.digests()), self.t.told("digests of rows and walk differ")


TestChanges = Changes.TestCase
TestChanges.settings = settings(stateful_step_count=40)
