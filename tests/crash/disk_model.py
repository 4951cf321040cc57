"""A disk as POSIX promises it, and no better: what may be left of a record of effects when the power goes.

The model is that of ALICE (Pillai et al., OSDI 2014), without the kindness of any one file system:

* A write or truncate may be lost until its file is synced.  Of a write each sector of 512 bytes may be lost by itself.
  A sector holds some version it had since the last sync; versions do not mix within a sector.  The size may be kept
  where the bytes are lost: they then read as zeros.
* A created, removed or renamed entry may be lost until a directory it is in is synced, whatever was done to the file
  (ext4 would persist a new file's entry with its fsync).  One name goes through its versions in order, other names are
  independent; a rename is atomic, within a directory and between two.  What lies in a directory that is lost is lost.
* Each change of an attribute may be lost until its object is synced.  A changed directory has a new mtime.  A symlink
  is made with its target.
* fsync, fdatasync, a directory's fsync and syncfs make durable what came before them, and nothing else does.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tests.crash.recorder import Op

SECTOR = 512
DIRECTORY = None  # stands for the content of a directory
NOW = 1_900_000_000_000_000_000  # ns; the mtime of a directory that was changed

Facet = tuple[str, bytes]  # mode, owner, mtime; xattr and its name
Attributes = dict[Facet, object]


class Inode(NamedTuple):
    """An object with attributes, or with several names.

    Attributes:
        kind: ``file``, ``dir``, ``symlink``, or ``node``.
        content: of a file; the target of a symlink; mode and device of another node, as text.
        attributes: sorted.
        number: the same for all names of one file.
    """

    kind: str
    content: bytes
    attributes: tuple[tuple[Facet, object], ...]
    number: int


Content = bytes | Inode | None
State = dict[str, Content]
Place = tuple["_Node", str]  # a directory, and a name in it


class _Node:
    """One object: what is durable, what is in the page cache, and the changes between the two."""

    __slots__ = ("attributes", "durable", "entries", "kind", "live", "names", "number", "pending")

    def __init__(self, kind: str, content: bytes, number: int, attributes: Attributes | None = None) -> None:
        self.kind = kind
        self.number = number
        self.durable = content
        self.live = bytearray(content)
        self.pending: list[tuple[int, bytes] | int | tuple[Facet, object]] = []  # write, size, or attribute
        self.attributes = attributes  # durable ones; None where nobody wants to know
        self.names: dict[str, _Node] = {}  # of a directory: durable entries
        self.entries: dict[str, _Node] = {}  # and live ones

    def sync(self) -> None:
        self.durable, self.attributes = _live(self)
        self.pending = []


def _changed(attributes: Attributes | None, op: object) -> Attributes:
    facet, value = op  # type: ignore[misc]
    found = dict(attributes or {})
    if value is None:
        found.pop(facet, None)
    else:
        found[facet] = value
    return found


class _Entry(NamedTuple):
    """A change of directory entries: where, and what each place holds afterwards (None: nothing)."""

    places: tuple[Place, ...]
    nodes: tuple[_Node | None, ...]


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
        self._count = 0
        self._top = self._node("dir", b"")
        self._entries: list[_Entry] = []
        self._changed: dict[_Node, None] = {}  # those with pending changes of their own, named or not
        linked: dict[int, _Node] = {}
        for name, content in sorted((image or {}).items()):
            directory, last = self._place(name)
            if isinstance(content, Inode):
                node = linked.get(content.number) or self._node(content.kind, content.content, dict(content.attributes))
                if content.number:
                    linked[content.number] = node
            else:
                node = self._node("dir" if content is None else "file", content or b"")
            directory.entries[last] = directory.names[last] = node

    def _node(self, kind: str, content: bytes, attributes: Attributes | None = None) -> _Node:
        self._count += 1
        return _Node(kind, content, self._count, attributes)

    def _place(self, name: str) -> Place:
        node = self._top
        *parents, last = name.split("/")
        for part in parents:
            node = node.entries[part]
        return node, last

    def _find(self, name: str) -> _Node:
        if name == ".":
            return self._top
        directory, last = self._place(name)
        return directory.entries[last]

    def holds(self, name: str) -> bool:
        """True if there is such a name."""
        try:
            self._find(name)
        except KeyError:
            return False
        return True

    # -- replaying

    def apply(self, op: Op) -> None:
        """Do one effect."""
        kind = op[0]
        if kind == "write":
            self._change(op[1], (op[2], op[3]))
        elif kind == "truncate":
            self._change(op[1], op[2])
        elif kind == "attribute":
            self._change(op[1], ((op[2], op[3]), op[4]))
        elif kind == "sync":
            node = self._find(op[1])
            node.sync()
            self._changed.pop(node, None)
        elif kind in ("create", "mkdir"):
            attributes: Attributes | None = dict(op[2]) if len(op) > 2 else None
            self._enter((op[1],), (self._node("file" if kind == "create" else "dir", b"", attributes),))
        elif kind == "special":
            self._enter((op[1],), (self._node(op[2], op[3], dict(op[4])),))
        elif kind == "link":
            self._enter((op[2],), (self._find(op[1]),))
        elif kind == "unlink":
            self._enter((op[1],), (None,))
        elif kind == "rename":
            node = self._find(op[1])
            directory, last = self._place(op[2])
            if directory.entries.get(last) is not node:  # else rename(2) does nothing
                self._enter((op[1], op[2]), (None, node))
        elif kind == "syncdir":
            self._sync_directory(self._find(op[1]))
        elif kind == "syncfs":
            self._sync_all(op[1] if len(op) > 1 else ".")
        else:
            raise ValueError(kind)

    def _change(self, name: str, op: tuple[int, bytes] | int | tuple[Facet, object]) -> None:
        node = self._find(name)
        if not (isinstance(op, tuple) and isinstance(op[0], tuple)):
            _apply(node.live, op)  # type: ignore[arg-type]
        node.pending.append(op)
        self._changed[node] = None

    def _enter(self, names: tuple[str, ...], nodes: tuple[_Node | None, ...]) -> None:
        entry = _Entry(tuple(self._place(name) for name in names), nodes)
        for (directory, name), node in zip(entry.places, entry.nodes, strict=True):
            if node is None:
                del directory.entries[name]
            else:
                directory.entries[name] = node
            if directory.attributes is not None:
                directory.pending.append((("mtime", b""), NOW))
                self._changed[directory] = None
        self._entries.append(entry)

    def _sync_directory(self, directory: _Node) -> None:
        directory.sync()
        self._changed.pop(directory, None)
        self._settle({directory}, set())

    def _sync_all(self, name: str) -> None:
        own: set[Place] = set()  # whatever file system it is, it has the directory itself
        if name == ".":
            nodes = set(self._changed) | {d for entry in self._entries for d, _ in entry.places}
        else:
            nodes = set(_below(self._find(name)))
            own.add(self._place(name))
        for node in sorted(nodes & self._changed.keys(), key=lambda node: node.number):
            node.sync()
            del self._changed[node]
        self._settle(nodes, own)

    def _settle(self, directories: set[_Node], wanted: set[Place]) -> None:
        """Make the entries of directories durable, and those at the places *wanted*, with all versions they had."""
        left = []
        settled = []
        for entry in reversed(self._entries):
            if any(place[0] in directories or place in wanted for place in entry.places):
                wanted.update(entry.places)
                settled.append(entry)
            else:
                left.append(entry)
        self._entries = left[::-1]
        for entry in reversed(settled):
            for (directory, name), node in zip(entry.places, entry.nodes, strict=True):
                _set(directory.names, name, node)

    # -- what may be left

    @property
    def is_clean(self) -> bool:
        """True if nothing is volatile."""
        return not self._entries and not self._changed

    def build(self, recipe: str) -> State:
        """One disk that may be left now.

        Args:
            recipe: ``lost`` or ``kept``: everything volatile is; ``names``: entries are kept, bytes and sizes lost;
                ``sizes``: bytes alone are lost; ``bytes``: entries alone are lost; or the seed of a random choice.
        """
        if recipe == "lost":
            return self._state(_durable_names, _durable)
        if recipe == "kept":
            return self._state(_live_names, _live)
        if recipe == "names":
            return self._state(_live_names, _durable)
        if recipe == "sizes":
            return self._state(
                _live_names,
                lambda node: (node.durable[: len(node.live)].ljust(len(node.live), b"\0"), node.attributes),
            )
        if recipe == "bytes":
            return self._state(_durable_names, _live)
        return self._random(random.Random(recipe))

    def _random(self, rng: random.Random) -> State:
        keep = rng.choice((0.0, 0.1, 0.5, 0.5, 0.9, 1.0))
        names: dict[_Node, dict[str, _Node]] = {}
        broken: set[Place] = set()  # places whose next version was lost: no later one can be there
        for entry in self._entries:
            if rng.random() < keep and broken.isdisjoint(entry.places):
                for (directory, name), node in zip(entry.places, entry.nodes, strict=True):
                    _set(names.setdefault(directory, dict(directory.names)), name, node)
            else:
                broken.update(entry.places)
        keep = rng.choice((0.1, 0.5, 0.5, 0.9, 0.97))
        tear = rng.choice((0.0, 0.2, 0.8))
        chosen: dict[_Node, tuple[bytes, Attributes | None]] = {}

        def content(node: _Node) -> tuple[bytes, Attributes | None]:
            if node.pending and node not in chosen:
                chosen[node] = _some(node, rng, keep, tear)
            return chosen.get(node) or _durable(node)

        # in the order of the names, so that a seed always means the same
        return self._state(lambda node: names.get(node, node.names), content)

    def _state(
        self,
        names: Callable[[_Node], dict[str, _Node]],
        content: Callable[[_Node], tuple[bytes, Attributes | None]],
    ) -> State:
        state: State = {}
        count: dict[_Node, int] = {}
        pending = [("", self._top)]
        found: list[tuple[str, _Node]] = []
        while pending:
            path, directory = pending.pop()
            for name, node in names(directory).items():
                place = path + name
                found.append((place, node))
                count[node] = count.get(node, 0) + 1
                if node.kind == "dir":
                    pending.append((place + "/", node))
        for place, node in sorted(found, key=lambda item: item[0]):
            data, attributes = content(node)
            if attributes is None and count[node] == 1 and node.kind in ("file", "dir"):
                state[place] = data if node.kind == "file" else DIRECTORY
            else:
                several = node.number if count[node] > 1 else 0
                state[place] = Inode(node.kind, data, tuple(sorted((attributes or {}).items())), several)
        return state


def _durable_names(node: _Node) -> dict[str, _Node]:
    return node.names


def _live_names(node: _Node) -> dict[str, _Node]:
    return node.entries


def _durable(node: _Node) -> tuple[bytes, Attributes | None]:
    return node.durable, node.attributes


def _live(node: _Node) -> tuple[bytes, Attributes | None]:
    attributes = node.attributes
    for op in node.pending:
        if isinstance(op, tuple) and isinstance(op[0], tuple):
            attributes = _changed(attributes, op)
    return bytes(node.live), attributes


def _below(node: _Node) -> Iterator[_Node]:
    yield node
    for child in node.entries.values():
        yield from _below(child)


def _set(names: dict[str, _Node], name: str, node: _Node | None) -> None:
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node


def _some(file: _Node, rng: random.Random, keep: float, tear: float) -> tuple[bytes, Attributes | None]:
    """An object with some of its pending changes."""
    data, attributes = bytearray(file.durable), file.attributes
    frozen: set[int] = set()  # sectors that stay at the version they have
    for op in file.pending:
        if isinstance(op, int):
            if rng.random() < keep:
                _apply(data, op)
            continue
        if isinstance(op[0], tuple):
            if rng.random() < keep:
                attributes = _changed(attributes, op)
            continue
        offset, written = op
        assert isinstance(written, bytes)
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
    return bytes(data), attributes
