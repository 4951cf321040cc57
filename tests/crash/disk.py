"""A disk as POSIX promises it, and no better: what may be left of a record of effects when the power goes.

The model is that of ALICE (Pillai et al., OSDI 2014), without the kindness of any one file system:

* A write or truncate may be lost until its file is synced.  Of a write each sector of 512 bytes may be lost by itself.
  A sector holds some version it had since the last sync; versions do not mix within a sector.  The size may be kept
  where the bytes are lost: they then read as zeros.
* A created, removed or renamed entry may be lost until its directory is synced, whatever was done to the file (ext4
  would persist a new file's entry with its fsync).  One name goes through its versions in order, other names are
  independent; a rename is atomic.  What lies in a directory that is lost is lost.
* fsync, fdatasync, a directory's fsync and syncfs make durable what came before them, and nothing else does.
"""

from __future__ import annotations

import os
import random
from typing import NamedTuple

from recorder import Op

SECTOR = 512
DIRECTORY = None  # stands for the content of a directory

State = dict[str, bytes | None]


class _File:
    """One file: what is durable, what is in the page cache, and the writes and truncates between the two."""

    __slots__ = ("durable", "live", "pending")

    def __init__(self, content: bytes = b"") -> None:
        self.durable = content
        self.live = bytearray(content)
        self.pending: list[tuple[int, bytes] | int] = []  # (offset, bytes), or a size

    def sync(self) -> None:
        if self.pending:
            self.durable = bytes(self.live)
            self.pending = []


class _Entry(NamedTuple):
    """A change of directory entries: names, and what each stands for afterwards (None: nothing)."""

    names: tuple[str, ...]
    files: tuple[_File | str | None, ...]


_DIR = "directory"


def _apply(data: bytearray, op: tuple[int, bytes] | int) -> None:
    if isinstance(op, int):
        if op < len(data):
            del data[op:]
        else:
            data.extend(bytes(op - len(data)))
        return
    offset, written = op
    if offset > len(data):
        data.extend(bytes(offset - len(data)))
    data[offset : offset + len(written)] = written


class Disk:
    """A disk that a record is replayed on, effect by effect.

    Args:
        image: what it holds, durably, at the start.
    """

    def __init__(self, image: State | None = None) -> None:
        self._live: dict[str, _File | str] = {
            name: _DIR if content is None else _File(content) for name, content in (image or {}).items()
        }
        self._durable = dict(self._live)
        self._entries: list[_Entry] = []
        self._files: set[_File] = set()  # those with pending writes, named or not

    # -- replaying

    def apply(self, op: Op) -> None:
        """Do one effect."""
        kind = op[0]
        if kind == "write":
            self._change(op[1], (op[2], op[3]))
        elif kind == "truncate":
            self._change(op[1], op[2])
        elif kind == "sync":
            self._sync(self._live.get(op[1]))
        elif kind == "create":
            self._enter((op[1],), (_File(),))
        elif kind == "mkdir":
            self._enter((op[1],), (_DIR,))
        elif kind == "unlink":
            self._enter((op[1],), (None,))
        elif kind == "rename":
            self._enter((op[1], op[2]), (None, self._live[op[1]]))
        elif kind == "syncdir":
            self._sync_entries(op[1])
        elif kind == "syncfs":
            for file in list(self._files):
                self._sync(file)
            self._sync_entries(None)
        else:
            raise ValueError(kind)

    def _change(self, name: str, op: tuple[int, bytes] | int) -> None:
        file = self._live[name]
        assert isinstance(file, _File)
        _apply(file.live, op)
        file.pending.append(op)
        self._files.add(file)

    def _sync(self, file: _File | str | None) -> None:
        if isinstance(file, _File):
            file.sync()
            self._files.discard(file)

    def _enter(self, names: tuple[str, ...], files: tuple[_File | str | None, ...]) -> None:
        entry = _Entry(names, files)
        _set(self._live, entry)
        self._entries.append(entry)

    def _sync_entries(self, directory: str | None) -> None:
        left = []
        for entry in self._entries:
            if directory is None or (os.path.dirname(entry.names[0]) or ".") == directory:
                _set(self._durable, entry)
            else:
                left.append(entry)
        self._entries = left

    # -- what may be left

    @property
    def is_clean(self) -> bool:
        """True if nothing is volatile."""
        return not self._entries and not self._files

    def build(self, recipe: str) -> State:
        """One disk that may be left now.

        Args:
            recipe: ``lost`` or ``kept``: everything volatile is; ``names``: entries are kept, bytes and sizes lost;
                ``sizes``: bytes alone are lost; ``bytes``: entries alone are lost; or the seed of a random choice.
        """
        if recipe == "lost":
            return _state(self._durable, lambda file: file.durable)
        if recipe == "kept":
            return _state(self._live, lambda file: bytes(file.live))
        if recipe == "names":
            return _state(self._live, lambda file: file.durable)
        if recipe == "sizes":
            return _state(self._live, lambda file: file.durable[: len(file.live)].ljust(len(file.live), b"\0"))
        if recipe == "bytes":
            return _state(self._durable, lambda file: bytes(file.live))
        return self._random(random.Random(recipe))

    def _random(self, rng: random.Random) -> State:
        keep = rng.choice((0.0, 0.1, 0.5, 0.5, 0.9, 1.0))
        names = dict(self._durable)
        broken: set[str] = set()  # names whose next version was lost: no later one can be there
        for entry in self._entries:
            if rng.random() < keep and broken.isdisjoint(entry.names):
                _set(names, entry)
            else:
                broken.update(entry.names)
        keep = rng.choice((0.1, 0.5, 0.5, 0.9, 0.97))
        tear = rng.choice((0.0, 0.2, 0.8))
        # in the order of the names, so that a seed always means the same
        chosen = {}
        for _, file in sorted((name, file) for name, file in names.items() if isinstance(file, _File)):
            if file.pending and file not in chosen:
                chosen[file] = _some(file, rng, keep, tear)
        return _state(names, lambda file: chosen.get(file, file.durable))


def _set(names: dict[str, _File | str], entry: _Entry) -> None:
    for name, file in zip(entry.names, entry.files, strict=True):
        if file is None:
            names.pop(name, None)
        else:
            names[name] = file


def _some(file: _File, rng: random.Random, keep: float, tear: float) -> bytes:
    """A file with some of its pending writes."""
    data = bytearray(file.durable)
    frozen: set[int] = set()  # sectors that stay at the version they have
    for op in file.pending:
        if isinstance(op, int):
            if rng.random() < keep:
                _apply(data, op)
            continue
        offset, written = op
        end = offset + len(written)
        first, last = offset // SECTOR, (end - 1) // SECTOR
        if rng.random() < tear and last > first:
            cut = rng.randint(first, last) if rng.random() < 0.5 else None
            kept = {s for s in range(first, last + 1) if (s < cut if cut is not None else rng.random() < keep)}
        else:
            kept = set(range(first, last + 1)) if rng.random() < keep else set()
        if end > len(data) and (kept or rng.random() < 0.5):
            # the size is kept, in whole or up to the last sector that is
            limit = end if rng.random() < 0.5 or last in kept else (max(kept) + 1) * SECTOR if kept else end
            data.extend(bytes(max(0, limit - len(data))))
        for sector in range(first, last + 1):
            if sector in frozen:
                continue
            if sector not in kept:
                frozen.add(sector)
                continue
            start, stop = max(offset, sector * SECTOR), min(end, (sector + 1) * SECTOR)
            if stop > len(data):
                data.extend(bytes(stop - len(data)))
            data[start:stop] = written[start - offset : stop - offset]
    return bytes(data)


def _state(names: dict[str, _File | str], content: object) -> State:
    state: State = {}
    for name in sorted(names):
        directory = os.path.dirname(name)
        if directory and directory not in state:
            continue  # its directory was lost
        file = names[name]
        state[name] = content(file) if isinstance(file, _File) else DIRECTORY  # type: ignore[operator]
    return state
