"""What a crash may leave of a recorded load: the states a directory went through, and whether a tree is one of them.

A worker (load.py) does one operation after another in a directory of its own and records when each began and when it
was acknowledged.  From that record this module knows every state the directory was in, those in the middle of an
operation included, and the time in which each of them was the current one.  Standard library only, and quick to
import: the workers use it too.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

NEVER = 1 << 62  # ns; after every time
_BLOCK = 4096

Op = list[str | int]


def text(tag: str, size: int) -> bytes:
    """Bytes that tell where they come from: the tag again and again."""
    unit = tag.encode() + b"|"
    return (unit * (size // len(unit) + 1))[:size]


class Partial(NamedTuple):
    """A file in the middle of a write: each byte is of one of these versions, or zero where it is new."""

    versions: tuple[bytes, ...]


class Link(NamedTuple):
    """A symbolic link."""

    target: str


Object = bytes | Partial | Link | None  # None: a directory


@dataclass
class State:
    """A directory tree: objects by number, and names that lead to them (hard links lead to one)."""

    names: dict[str, int] = field(default_factory=dict)
    objects: dict[int, Object] = field(default_factory=dict)
    next: int = 1

    def copy(self) -> State:
        """A state of its own, equal to this one."""
        return State(dict(self.names), dict(self.objects), self.next)

    def add(self, path: str, made: Object) -> State:
        """This state with one more object."""
        new = self.copy()
        new.names[path] = new.next
        new.objects[new.next] = made
        new.next += 1
        return new

    def put(self, path: str, made: Object) -> State:
        """This state with another object of the same number: a file that was changed in place."""
        new = self.copy()
        new.objects[new.names[path]] = made
        return new

    def without(self, path: str) -> State:
        """This state with one name less."""
        new = self.copy()
        number = new.names.pop(path)
        if number not in new.names.values():
            del new.objects[number]
        return new

    def moved(self, old: str, new_path: str) -> State:
        """This state after a rename, over what had the new name."""
        new = self.without(new_path) if new_path in self.names else self.copy()
        for path in [path for path in new.names if path == old or path.startswith(old + "/")]:
            new.names[new_path + path[len(old) :]] = new.names.pop(path)
        return new

    def content(self, path: str) -> bytes:
        """The bytes of a file."""
        found = self.objects[self.names[path]]
        assert isinstance(found, bytes), f"{path} is {found!r:.80}"
        return found

    def files(self) -> list[str]:
        """Paths of regular files."""
        return [path for path, number in self.names.items() if isinstance(self.objects[number], bytes)]

    def directories(self) -> list[str]:
        """Paths of directories."""
        return [path for path, number in self.names.items() if self.objects[number] is None]


def steps(state: State, op: Op) -> list[State]:
    """The states an operation goes through, the last one being its outcome."""
    kind, path = str(op[0]), str(op[1])
    if kind in ("fsync", "fsyncdir"):
        return [state]
    if kind in ("create", "ghost"):
        made = text(str(op[2]), int(op[3]))
        begun = state.add(path, b"")
        done = [begun, begun.put(path, Partial((b"", made))), begun.put(path, made)]
        return [*done, done[-1].without(path)] if kind == "ghost" else done
    if kind == "replace":
        temporary, made = path + ".tmp", text(str(op[2]), int(op[3]))
        begun = state.add(temporary, b"")
        full = begun.put(temporary, made)
        return [begun, begun.put(temporary, Partial((b"", made))), full, full.moved(temporary, path)]
    if kind in ("append", "overwrite"):
        old = state.content(path)
        at = len(old) if kind == "append" else int(op[2])
        made = text(str(op[3]), int(op[4]))
        new = old[:at] + made + old[at + len(made) :]
        return [state.put(path, Partial((old, new))), state.put(path, new)]
    if kind == "truncate":
        old, size = state.content(path), int(op[2])
        return [state.put(path, old[:size] + bytes(max(0, size - len(old))))]
    if kind == "mkdir":
        return [state.add(path, None)]
    if kind == "symlink":
        return [state.add(path, Link(str(op[2])))]
    if kind in ("unlink", "rmdir"):
        return [state.without(path)]
    if kind == "rename":
        return [state.moved(path, str(op[2]))]
    if kind == "link":
        new = state.copy()
        new.names[str(op[2])] = new.names[path]
        return [new]
    raise ValueError(kind)


class Event(NamedTuple):
    """One recorded operation; ``acknowledged`` is ``NEVER`` where it was not."""

    op: Op
    begun: int
    acknowledged: int


def read_record(path: Path) -> list[Event]:
    """The events a worker has recorded; times are CLOCK_MONOTONIC, in ns."""
    events: list[Event] = []
    for line in path.read_text().splitlines(keepends=True):
        if not line.endswith("\n"):
            break  # the worker was killed while it wrote this
        word, when, *rest = line.rstrip("\n").split(" ", 2)
        if word == "b":
            events.append(Event(json.loads(rest[0]), int(when), NEVER))
        elif word == "a":
            events[-1] = events[-1]._replace(acknowledged=int(when))
        # "e": the operation failed, and the worker ended
    return events


class Moment(NamedTuple):
    """A state, and the time in which it may have been the current one."""

    state: State
    since: int
    until: int
    later: dict[int, tuple[bytes, ...]]  # what was written to files in place afterwards, by object


def moments(first: State, events: Sequence[Event], floor: int) -> Iterator[Moment]:
    """Every state from the one after *floor* operations on, in order.

    Args:
        first: the state before the first event.
        events: what was done.
        floor: how many of the operations must be there.
    """
    found: list[tuple[State, int, int]] = []
    state, since = first, 0
    for number, event in enumerate(events):
        if number >= floor:
            found.append((state, since, event.acknowledged))
            found += [(step, event.begun, event.acknowledged) for step in steps(state, event.op)[:-1]]
        state, since = steps(state, event.op)[-1], event.begun
    found.append((state, since, NEVER))
    later: dict[int, tuple[bytes, ...]] = {}
    backwards = []
    for state, since, until in reversed(found):
        backwards.append(Moment(state, since, until, later))
        later = dict(later)
        for number, held in state.objects.items():
            versions = held.versions if isinstance(held, Partial) else (held,) if isinstance(held, bytes) else ()
            known = later.get(number, ())
            later[number] = known + tuple(v for v in versions if v not in known)
    return reversed(backwards)


def floor_of(events: Sequence[Event], before: int) -> int:
    """How many operations were acknowledged before a time."""
    return sum(event.acknowledged < before for event in events)


def durable_floor(events: Sequence[Event], before: int) -> int:
    """How many operations an fsync covers that was acknowledged before a time."""
    floor = 0
    for number, (op, _, acknowledged) in enumerate(events):
        if acknowledged < before:
            if op[0] in ("fsync", "fsyncdir") or (op[-1] == "fsync" and op[0] in ("create", "append", "overwrite")):
                floor = number + 1
            elif op[-1] == "fsync":
                floor = number  # synced before its last step
    return floor


# ----------------------------------------------------------------------------------------------------------------------
# Trees that are found


class Found(NamedTuple):
    """One name of a tree."""

    object: Object
    ino: int
    nlink: int


def scan(root: Path) -> dict[str, Found]:
    """Everything below a directory."""
    found = {}
    for where, names, files in os.walk(root):
        for name in names + files:
            path = os.path.join(where, name)
            st = os.lstat(path)
            held: Object = None
            if stat.S_ISREG(st.st_mode):
                held = Path(path).read_bytes()
                assert len(held) == st.st_size, f"{path}: {len(held)} bytes, stat says {st.st_size}"
            elif stat.S_ISLNK(st.st_mode):
                held = Link(os.readlink(path))
            found[os.path.relpath(path, root)] = Found(held, st.st_ino, st.st_nlink)
    return found


def state_of(found: dict[str, Found]) -> State:
    """The state that a tree is in."""
    state = State()
    numbers: dict[int, int] = {}
    for path, (held, ino, _) in found.items():
        if ino not in numbers:
            numbers[ino] = state.next
            state.next += 1
        state.names[path] = numbers[ino]
        state.objects[numbers[ino]] = held
    return state


def difference(found: dict[str, Found], state: State, later: dict[int, tuple[bytes, ...]]) -> str:
    """How a tree differs from a state; empty if it does not.

    Args:
        found: the tree.
        state: the state it should be in.
        later: versions of files whose bytes may be there already, block by block (promise P1).
    """
    lines = [f"{path} is missing" for path in sorted(state.names.keys() - found.keys())]
    lines += [f"{path} should not be there" for path in sorted(found.keys() - state.names.keys())]
    if lines:
        return "; ".join(lines)
    numbers: dict[int, int] = {}
    for path, (held, ino, nlink) in found.items():
        number = state.names[path]
        if numbers.setdefault(ino, number) != number:
            return f"{path} has become a hard link of something else"
        expected = state.objects[number]
        if isinstance(held, bytes) and isinstance(expected, bytes | Partial):
            reason = _bytes_differ(held, expected, later.get(number, ()))
            if reason:
                return f"{path}: {reason}"
        elif held != expected:
            return f"{path} is {held!r:.80}, expected {expected!r:.80}"
        links = sum(other == number for other in state.names.values())
        if held is not None and nlink != links:
            return f"{path} has {nlink} links, expected {links}"
    if len(numbers) != len(set(numbers.values())):
        return "a hard link has become a file of its own"
    return ""


def _bytes_differ(held: bytes, expected: bytes | Partial, later: tuple[bytes, ...]) -> str:
    if held == expected:
        return ""
    versions = expected.versions if isinstance(expected, Partial) else (expected,)
    sizes = [len(version) for version in versions]
    if not min(sizes) <= len(held) <= max(sizes):
        return f"{len(held)} bytes, expected {sorted(set(sizes))}"
    versions += later
    grows = min(sizes) if len(set(sizes)) > 1 else len(held)  # from here on bytes may not be written yet
    for at in range(0, len(held), _BLOCK):
        block = held[at : at + _BLOCK]
        if any(version[at : at + len(block)] == block for version in versions):
            continue
        for offset, byte in enumerate(block, at):
            known = any(version[offset : offset + 1] == bytes((byte,)) for version in versions)
            if not known and not (byte == 0 and offset >= grows):
                return f"byte {offset} is of no version: {held[offset : offset + 40]!r}, of {len(held)}"
    return ""
