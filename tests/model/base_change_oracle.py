"""The oracle: what an overlay shows over bases that are replaced, by the rules of docs/base-updates.md and no SQL.

It knows no inode numbers, no rows and no content objects.  An object of which the overlay holds anything is a ``Held``:
its place in the base, and what counts instead of the base's own.  What a name shows is then worked out from the tree of
names and the base of the moment, each time anew:

* a name given in the overlay (create, rename, link), if its object shows;
* else nothing, where the base's name is hidden;
* else what is held of the object at that place of the base, if this base has it as the same kind of object, or if what
  is held stands by itself: a file with bytes of its own, a directory that is wanted or has something in it that shows;
* else what this base has there.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.model.base_versions import Thing, Tree, join, parent_of

NOW = -1  # a time at which the test ran


class Bytes:
    """What a file has, byte by byte, once anything of it was written, cut or punched.

    Attributes:
        data: all bytes, as they show while the base has the version they were written over.
        ours: 1 for each byte that is the overlay's own.
        version: the base file whose other bytes count.
        in_parts: whether the overlay keeps only ranges of it: then it goes on to.
    """

    def __init__(self, thing: Thing | None) -> None:
        self.data = bytearray(thing.data if thing is not None else b"")
        self.ours = bytearray(len(self.data))
        self.version = thing
        self.in_parts = False

    def resize(self, size: int) -> None:
        grown = max(0, size - len(self.data))
        self.data = self.data[:size] + bytes(grown)
        self.ours = self.ours[:size] + b"\1" * grown
        self.in_parts = self.in_parts and size > 0

    def put(self, offset: int, data: bytes) -> None:
        if offset + len(data) > len(self.data):
            self.resize(offset + len(data))
        self.data[offset : offset + len(data)] = data
        self.ours[offset : offset + len(data)] = b"\1" * len(data)

    def make_whole(self) -> None:
        self.ours = bytearray(b"\1" * len(self.data))

    def runs(self) -> Iterator[tuple[int, int, bool]]:
        """Ranges of bytes that are the overlay's own, and of those that are not."""
        start = 0
        while start < len(self.ours):
            mine = self.ours[start]
            end = self.ours.find(1 - mine, start)
            end = len(self.ours) if end < 0 else end
            yield start, end, bool(mine)
            start = end


@dataclass(eq=False)
class Held:
    """What the overlay holds of one object; with nothing set it is the base's."""

    kind: str
    origin: bytes | None = None  # its place in the base, in base terms; None: made in the overlay
    owner: tuple[int, int, int] | None = None  # mode, uid, gid; None: the base's
    mtime: int | None = None
    xattrs: dict[bytes, bytes] | None = None
    bytes: Bytes | None = None
    target: bytes = b""
    names: dict[bytes, Held] = field(default_factory=dict)
    hidden: set[bytes] = field(default_factory=set)
    wanted: bool = False  # a directory that was worked in while the base lacked it
    links: int = 0  # names made less names taken away
    seen: frozenset[bytes] = frozenset()  # its names in the base when it was last changed
    counted: bool = True  # False once these were others: which of them the overlay hid nobody knows any more


class Shown(NamedTuple):
    """What one path shows; None where the rules leave it open."""

    kind: str
    owner: tuple[int, int, int] | None
    mtime: int | None
    xattrs: dict[bytes, bytes]
    data: bytes  # of a file: what it has while the base's version is there; of a symlink: its target
    runs: tuple[tuple[int, int, bool], ...]  # of a file: (start, end, whether it must be readable)
    least_links: int  # names that show, where the base's count did not change
    links: int | None  # None: bases with other links came and went; of a directory the count is a hint
    identity: int  # alike for two names of one object


class Oracle:
    """The overlay, by the rules.

    Args:
        tree: the base.
        whole: True where every file is copied whole when any of its bytes change.
        copied: bytes up to which a file is copied whole in any case when it is written.
        choose: of the names of a base file that is held from now on, the one it is known by; the overlay takes the one
            that it was found by first, and only under that one it is found again.
    """

    def __init__(self, tree: Tree, *, whole: bool, copied: int, choose: Callable[[set[bytes]], bytes]) -> None:
        self.tree = tree
        self.whole = whole
        self._copied = copied
        self._choose = choose
        self.root = Held("dir", b"/")
        self.held: dict[bytes, Held] = {b"/": self.root}  # by place in the base
        self._plain: dict[bytes, Held] = {}  # base objects of which nothing is held, by place

    def replace(self, tree: Tree) -> None:
        """The base is another one."""
        self.tree = tree
        self._plain.clear()

    # -- looking

    def thing(self, h: Held) -> Thing | None:
        """The base object an object stands for, if this base has it."""
        thing = self.tree.get(h.origin) if h.origin is not None else None
        return thing if thing is not None and thing.kind == h.kind else None

    def is_gone(self, h: Held) -> bool:
        return h.origin is not None and self.thing(h) is None

    def stands(self, h: Held) -> bool:
        return h.bytes is not None or h.wanted or (h.kind == "dir" and bool(self.children(h)))

    def child(self, directory: Held, name: bytes) -> Held | None:
        """What a name shows; of a base object of which nothing is held it is a ``Held`` that is not registered."""
        h = directory.names.get(name)
        if h is not None and (not self.is_gone(h) or self.stands(h)):
            return h
        if name in directory.hidden or directory.origin is None:
            return None
        place = join(directory.origin, name)
        thing = self.tree.get(place)
        h = self.held.get(place)
        if h is not None and (self.thing(h) is not None or self.stands(h)):
            return h
        if thing is None:
            return None
        return self._by_link(place, thing) or self._plain.setdefault(place, Held(thing.kind, place))

    def _by_link(self, place: bytes, thing: Thing) -> Held | None:
        """What is held of a base file under another of its names."""
        if thing.kind == "dir":
            return None
        return next((h for path, h in sorted(self.held.items()) if self.thing(h) is thing), None)

    def children(self, directory: Held) -> dict[bytes, Held]:
        names = set(directory.names)
        if directory.origin is not None:
            places = [*self.tree, *self.held]
            names |= {p.rpartition(b"/")[2] for p in places if p != b"/" and parent_of(p) == directory.origin}
        found = {name: self.child(directory, name) for name in sorted(names)}
        return {name: h for name, h in found.items() if h is not None}

    def objects(self) -> dict[bytes, Held]:
        """Every path that shows, ``b""`` for the root."""
        found = {b"": self.root}
        waiting = [b""]
        while waiting:
            path = waiting.pop()
            for name, h in self.children(found[path]).items():
                found[path + b"/" + name] = h
                if h.kind == "dir":
                    waiting.append(path + b"/" + name)
        return found

    def view(self) -> dict[bytes, Shown]:
        """Everything that shows, by path."""
        objects = self.objects()
        counts: dict[int, int] = {}
        for h in objects.values():
            counts[self._identity(h)] = counts.get(self._identity(h), 0) + 1
        return {path: self._shown(h, counts[self._identity(h)]) for path, h in objects.items()}

    def _identity(self, h: Held) -> int:
        thing = self.thing(h)
        return id(h) if self._is_held(h) or thing is None else id(thing)

    def _is_held(self, h: Held) -> bool:
        return h.origin is None or self.held.get(h.origin) is h

    def owner(self, h: Held) -> tuple[int, int, int] | None:
        thing = self.thing(h)
        if h.owner is not None or thing is None or h.wanted:
            return h.owner  # a wanted directory keeps what it had when the base lacked it
        return thing.full_mode, thing.uid, thing.gid

    def xattrs(self, h: Held) -> dict[bytes, bytes]:
        thing = self.thing(h)
        return h.xattrs if h.xattrs is not None else thing.xattrs if thing is not None else {}

    def _shown(self, h: Held, names: int) -> Shown:
        thing = self.thing(h)
        links = self._links(h)
        mtime = h.mtime if h.mtime is not None or thing is None else thing.mtime
        data, runs = h.target, ()
        if h.kind == "file":
            content = h.bytes or Bytes(thing)
            data = bytes(content.data)
            alive = h.bytes is None or self.is_readable(h)
            runs = tuple((start, end, mine or alive) for start, end, mine in content.runs())
        elif thing is not None:
            data = thing.data
        return Shown(
            h.kind,
            self.owner(h),
            None if h.kind == "dir" else mtime,
            self.xattrs(h),
            data,
            runs,
            names if links is not None else 1,
            links,
            self._identity(h),
        )

    def is_readable(self, h: Held) -> bool:
        """True where the base has the very version that bytes were written over, or none of its bytes are needed."""
        assert h.bytes is not None
        return all(h.bytes.ours) or self._has_version(h)

    def _has_version(self, h: Held) -> bool:
        thing, version = self.thing(h), h.bytes.version if h.bytes is not None else None
        return thing is not None and version is not None and (thing.data, thing.mtime) == (version.data, version.mtime)

    def base_names(self, thing: Thing) -> frozenset[bytes]:
        return frozenset(path for path, other in self.tree.items() if other is thing)

    def _links(self, h: Held) -> int | None:
        """The link count, where the base has the same names of the object as when it was last changed."""
        if h.kind == "dir":
            return None
        if h.origin is None:
            return h.links
        thing = self.thing(h)
        if thing is None:
            return None
        names = self.base_names(thing)
        if not self._is_held(h):
            return len(names)
        return len(names) + h.links if h.counted and names == h.seen else None

    def find(self, path: bytes) -> Held:
        """What stands at a path that shows."""
        h = self.root
        for name in path.split(b"/")[1:]:
            found = self.child(h, name)
            assert found is not None
            h = found
        return h

    def places(self) -> set[bytes]:
        """Places in the base that matter: of what is held, and below names given in the overlay."""
        names = {join(d.origin, name) for d in self.held.values() if d.origin is not None for name in d.names}
        return names | self.held.keys()

    # -- changing

    def hold(self, h: Held) -> Held:
        """Before something of an object changes: have it held, and the directories above it."""
        if h.origin is None:
            return h
        thing = self.thing(h)
        seen = self.base_names(thing) if thing is not None else h.seen
        if not self._is_held(h):
            self._plain.pop(h.origin, None)
            if len(seen) > 1:
                others = {path for path in seen if path in self.held and self.stands(self.held[path])}
                h.origin = self._choose(set(seen) - others)
            self._settle(h.origin)
            self.held[h.origin] = h
        elif len(seen) != len(h.seen):
            known = self._known_links(h)
            h.links = max(1, known if len(seen) == 1 else max(known, h.links + len(seen))) - len(seen)
        h.counted = h.counted and h.seen in (seen, frozenset())
        h.seen = seen
        path = h.origin
        while path != b"/":
            path = parent_of(path)
            above = self.held.get(path)
            if above is not None and above.kind != "dir" and self.is_gone(above) and not self.stands(above):
                self._settle(path)
            if path not in self.held:
                plain = self._plain.pop(path, None)
                self.held[path] = plain if plain is not None and plain.kind == "dir" else Held("dir", path)
        return h

    def _all_names(self) -> Iterator[tuple[Held, Held]]:
        """Every name given in the overlay that can be reached: its directory and its object."""
        waiting = list(self.held.values())
        seen = {id(h) for h in waiting}
        while waiting:
            directory = waiting.pop()
            for h in directory.names.values():
                yield directory, h
                if id(h) not in seen:
                    seen.add(id(h))
                    waiting.append(h)

    def _is_named(self, h: Held) -> bool:
        return any(other is h for _, other in self._all_names())

    def _settle(self, place: bytes) -> None:
        """Nobody waits any more for what is held of an object in whose place another one is changed now."""
        old = self.held.pop(place, None)
        if old is not None:
            if old.kind == "dir":
                self._empty(old)  # below any other there is only what this base has
            for directory, name in [(d, n) for d, h in self._all_names() for n in d.names if h is old is d.names[n]]:
                directory.names.pop(name, None)

    def _empty(self, directory: Held) -> None:
        """With a directory goes what is held in it and did not show."""
        names, directory.names = directory.names, {}
        hidden, directory.hidden = directory.hidden, set()
        for h in names.values():
            self._drop(h)
        if directory.origin is not None:
            for place in [p for p in self.held if p != b"/" and parent_of(p) == directory.origin]:
                h = self.held[place]
                if place.rpartition(b"/")[2] not in hidden or h.kind == "dir" or self.is_gone(h):
                    self._drop(h)  # what was hidden before, and is here still, has another name in the base

    def _drop(self, h: Held) -> None:
        """A place in the base, or a name, does not lead to an object any more."""
        if h.kind != "dir" and not self.is_gone(h) and h.links + len(h.seen) > 1:
            self.hold(h).links -= 1
        elif not self._is_named(h):
            if h.origin is not None and self._is_held(h):
                del self.held[h.origin]
            self._empty(h)

    def _own(self, h: Held) -> Held:
        """Attributes are the overlay's from now on."""
        owner = self.owner(h)
        h = self.hold(h)
        h.owner = owner
        return h

    def _touch(self, directory: Held) -> None:
        self.hold(directory)
        directory.wanted = directory.wanted or self.is_gone(directory)

    def _vacate(self, directory: Held, name: bytes) -> None:
        """A name is taken: let go of what has it and does not show."""
        self.hold(directory)
        old = directory.names.pop(name, None)
        if old is not None:
            self._drop(old)

    def make(self, directory: Held, name: bytes, h: Held) -> None:
        if self.child(directory, name) is not None:
            raise OSError(errno.EEXIST, "make")
        self._vacate(directory, name)
        directory.names[name] = h
        h.links = 1
        self._touch(directory)

    def link(self, h: Held, directory: Held, name: bytes) -> None:
        if self.child(directory, name) is not None:
            raise OSError(errno.EEXIST, "link")
        if h.kind == "dir":
            raise OSError(errno.EPERM, "link")
        self._vacate(directory, name)
        self.hold(h)
        h.links += 1
        self._bind(h, directory, name)
        self._touch(directory)

    def _unbind(self, directory: Held, name: bytes) -> None:
        """Take a name away; what this base has there stays hidden."""
        shown = self.child(directory, name)
        if directory.names.get(name) is shown:
            del directory.names[name]
            if directory.origin is None or name in directory.hidden or join(directory.origin, name) not in self.tree:
                return
        elif directory.origin is not None:
            place = join(directory.origin, name)
            if shown is not None and shown.origin == place and not self._is_held(shown):
                self._settle(place)  # another object shows in the place of what is held
        self.hold(directory)
        directory.hidden.add(name)
        other = self.held.get(join(directory.origin, name)) if directory.origin is not None else None
        if other is not None and other is not shown:
            self._drop(other)

    def _bind(self, h: Held, directory: Held, name: bytes) -> None:
        if directory.origin is not None and name in directory.hidden:
            place = join(directory.origin, name)
            thing = self.thing(h)
            is_link = thing is not None and h.kind != "dir" and self.tree.get(place) is thing
            if h.origin == place or (is_link and place not in self.held):
                directory.hidden.discard(name)
                nothing = h.owner is h.mtime is h.xattrs is h.bytes is None and h.links == 0
                if h.kind != "dir" and nothing and h.origin is not None and not self._is_named(h):
                    self.held.pop(h.origin, None)  # and it may be known by another of its names later
                return
        directory.names[name] = h

    def unlink(self, directory: Held, name: bytes) -> None:
        h = self.child(directory, name)
        if h is None:
            raise OSError(errno.ENOENT, "unlink")
        if h.kind == "dir":
            raise OSError(errno.EISDIR, "unlink")
        self._remove(directory, name, h)
        self._touch(directory)

    def rmdir(self, directory: Held, name: bytes) -> None:
        h = self.child(directory, name)
        if h is None:
            raise OSError(errno.ENOENT, "rmdir")
        if h.kind != "dir":
            raise OSError(errno.ENOTDIR, "rmdir")
        if self.children(h):
            raise OSError(errno.ENOTEMPTY, "rmdir")
        self._remove(directory, name, h)
        self._touch(directory)

    def _remove(self, directory: Held, name: bytes, h: Held) -> None:
        thing = self.thing(h)
        self._unbind(directory, name)
        if h.kind == "dir":
            if h.origin is not None and self._is_held(h):
                del self.held[h.origin]
            self._empty(h)
            return
        if not self._is_held(h) and thing is not None and len(self.base_names(thing)) == 1:
            return  # nothing to hold: its name is hidden
        self.hold(h)
        h.links -= 1
        if h.origin is not None and h.links + len(h.seen) <= 0:
            h.links = self._known_links(h) - len(h.seen)
            if h.links + len(h.seen) == 0:
                del self.held[h.origin]

    def _known_links(self, h: Held) -> int:
        """How many names surely lead to a base object: those given in the overlay, and its place if that shows."""
        return sum(other is h for _, other in self._all_names()) + self._is_in_sight(h.origin or b"/")

    def _is_in_sight(self, place: bytes) -> bool:
        at = place
        while at != b"/":
            directory, name = self.held.get(parent_of(at)), at.rpartition(b"/")[2]
            if directory is not None and name in directory.hidden:
                return at != place and at in self.held and self._is_named(self.held[at])
            at = parent_of(at)
        return True

    def rename(self, directory: Held, name: bytes, to: Held, new: bytes, *, exchange: bool = False) -> None:
        h, target = self.child(directory, name), self.child(to, new)
        if h is None or (exchange and target is None):
            raise OSError(errno.ENOENT, "rename")
        if h.kind == "dir" and self._is_below(to, h):
            raise OSError(errno.EINVAL, "rename")
        if target is not None and target.kind == "dir" and self._is_below(directory, target):
            raise OSError(errno.EINVAL if exchange else errno.ENOTEMPTY, "rename")
        if target is not None and self._identity(target) == self._identity(h):
            return
        if target is not None and not exchange:
            if target.kind == "dir" and h.kind != "dir":
                raise OSError(errno.EISDIR, "rename")
            if h.kind == "dir" and target.kind != "dir":
                raise OSError(errno.ENOTDIR, "rename")
            if target.kind == "dir" and self.children(target):
                raise OSError(errno.ENOTEMPTY, "rename")
            self._remove(to, new, target)
        self._unbind(directory, name)
        if exchange:
            self._unbind(to, new)
        self._vacate(to, new)
        self.hold(h)
        self._bind(h, to, new)
        if exchange and target is not None:
            self._vacate(directory, name)
            self.hold(target)
            self._bind(target, directory, name)
        self._touch(directory)
        self._touch(to)

    def _is_below(self, directory: Held, above: Held) -> bool:
        if self._same(directory, above):
            return True
        return above.kind == "dir" and any(
            self._is_below(directory, h) for h in self.children(above).values() if h.kind == "dir"
        )

    def _same(self, one: Held, other: Held) -> bool:
        return one is other or (one.origin is not None and (one.kind, one.origin) == (other.kind, other.origin))

    # -- attributes and bytes

    @staticmethod
    def no_bytes() -> Bytes:
        """Those of a new file."""
        return Bytes(None)

    def chmod(self, h: Held, mode: int) -> None:
        h = self._own(h)
        assert h.owner is not None
        h.owner = (h.owner[0] & ~0o7777 | mode, *h.owner[1:])

    def chown(self, h: Held, uid: int) -> None:
        h = self._own(h)
        assert h.owner is not None
        h.owner = (h.owner[0], uid, h.owner[2])

    def utimens(self, h: Held, mtime: int) -> None:
        self._own(h).mtime = mtime

    def setxattr(self, h: Held, name: bytes, value: bytes) -> None:
        xattrs = self.xattrs(h)
        self._own(h).xattrs = {**xattrs, name: value}

    def _content(self, h: Held) -> Bytes:
        """The bytes of a file that is about to be changed."""
        xattrs = self.xattrs(h)
        h = self._own(h)
        h.xattrs = xattrs
        h.mtime = NOW
        if h.bytes is None:
            h.bytes = Bytes(self.thing(h))
        if self.whole and self.is_readable(h):
            h.bytes.make_whole()
        return h.bytes

    def write(self, h: Held, offset: int, data: bytes) -> None:
        content = self._content(h)
        based = len(content.data) if all(content.ours) else content.ours.rfind(0) + 1
        if not content.in_parts and based <= self._copied and self.is_readable(h):
            content.make_whole()
        if not all(content.ours):
            content.in_parts = True
        content.put(offset, data)

    def truncate(self, h: Held, size: int) -> None:
        before = h.bytes or Bytes(self.thing(h))
        if size != len(before.data):
            content = self._content(h)
            content.resize(size)
            as_before = content.version is not None and size == len(content.version.data) and not any(content.ours)
            if as_before and not content.in_parts and self._has_version(h):
                h.bytes = None  # all its bytes are the base's again

    def punch(self, h: Held, offset: int, size: int) -> None:
        before = h.bytes or Bytes(self.thing(h))
        end = min(offset + size, len(before.data))
        if offset < end:
            content = self._content(h)
            content.put(offset, bytes(end - offset))
            content.in_parts = content.in_parts or not all(content.ours)
        else:
            self._own(h).mtime = NOW
