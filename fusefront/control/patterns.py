"""Patterns that choose paths: wildcards as in .gitignore, from the root of the overlay.

``diff`` and ``log`` limit lists by them, and a reset keeps what they match (engine/reset.py).  To ask the patterns for
a path takes long if they are many, and a reset has many paths: ``Choice.scope`` says first which patterns can match in
a directory.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import TYPE_CHECKING

from ...engine.errors import UsageError
from ...engine.store.base_view import join

if TYPE_CHECKING:
    import pathspec

_PLAIN = re.compile(r"[\w.+:@%=,~/-]*", re.ASCII)  # of a pattern: characters that stand for themselves
_AFTER = re.compile(r"[^/]*\*([\w.+:@%=,~-]+)", re.ASCII)  # a name pattern that ends in plain characters


class Patterns:
    """Chooses some paths and what is below them.

    Args:
        patterns: as the user wrote them; none of them means all paths.

    Raises:
        UsageError: one of them cannot be a pattern.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._spec = _spec(map(_anchored, patterns)) if patterns else None

    def match(self, *paths: bytes | None) -> bool:
        """Return whether one of some paths is among those wanted; None is no path."""
        if self._spec is None:
            return True
        return any(_matches(self._spec, path) for path in paths if path is not None)


class Choice:
    """Chooses paths as ``Patterns`` does, for many patterns and many paths; no pattern chooses nothing.

    Args:
        patterns: as the user wrote them.

    Raises:
        UsageError: one of them cannot be a pattern.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        lines = list(map(_anchored, patterns))
        for pattern, line in zip(patterns, lines, strict=True):
            if not line.strip("/ "):
                raise UsageError(f"the pattern {pattern!r} matches nothing", "write it as in .gitignore: * for all")
        self._whole = _spec(lines)
        self._has_exceptions = any(line.startswith("!") for line in lines)
        self._always: list[str] = []  # patterns that must always be asked
        self._heads: dict[bytes, list[str]] = defaultdict(list)  # by the path before the first wildcard
        self._names: dict[bytes, list[str]] = defaultdict(list)  # by the only name that matches
        self._ends: dict[bytes, list[str]] = defaultdict(list)  # by the end of all names that match
        self._here: dict[bytes, set[bytes]] = defaultdict(set)  # the last names of those paths, by directory
        self._above: set[bytes] = set()  # all directories above those paths
        for line in lines:
            self._sort_in(line)
        self._suffixes = tuple(self._ends)
        self._last: Scope | None = None  # which ``match`` has used last
        self._specs: dict[str, pathspec.GitIgnoreSpec] = {}

    def _sort_in(self, line: str) -> None:
        if line.startswith("!"):
            return  # an exception only: it matches nothing
        if line.startswith("/"):
            head = "/".join(_plain_part(line))
            if not head:
                self._always.append(line)
                return
            path = os.fsencode(head)
            self._heads[path].append(line)
            self._here[path.rpartition(b"/")[0] or b"/"].add(path.rpartition(b"/")[2])
            while head:
                head = head.rpartition("/")[0]
                self._above.add(os.fsencode(head or "/"))
        elif _PLAIN.fullmatch(line):
            self._names[os.fsencode(line)].append(line)
        elif (found := _AFTER.fullmatch(line)) is not None:
            self._ends[os.fsencode(found[1])].append(line)
        else:
            self._always.append(line)

    def match(self, path: bytes) -> bool:
        """Return whether the patterns match a path, or a directory above it."""
        directory, _, name = path.rpartition(b"/")
        if self._last is None or self._last.directory != (directory or b"/"):
            self._last = self.scope(directory or b"/")
        return self._last.match(name)

    def scope(self, directory: bytes) -> Scope:
        """Return what the patterns say of the names in a directory."""
        lines = list(self._always)
        path = b""
        for name in directory.split(b"/")[1:] if directory != b"/" else ():
            path += b"/" + name
            lines += self._heads.get(path, ())
            lines += self._by_name(name)
        if self._has_exceptions:
            return Scope(self, directory, [self._whole] if lines else [], directory in self._above, is_whole=False)
        specs = [self._spec_of(line) for line in lines]
        is_whole = directory != b"/" and any(_matches(spec, directory) for spec in specs)
        return Scope(self, directory, specs, directory in self._above, is_whole=is_whole)

    def _by_name(self, name: bytes) -> Iterator[str]:
        yield from self._names.get(name, ())
        if self._suffixes and name.endswith(self._suffixes):
            for end, lines in self._ends.items():
                if name.endswith(end):
                    yield from lines

    def _spec_of(self, line: str) -> pathspec.GitIgnoreSpec:
        if line not in self._specs:
            self._specs[line] = _spec([line])
        return self._specs[line]

    def asked(self, path: bytes, name: bytes, *, is_above: bool) -> list[pathspec.GitIgnoreSpec]:
        """Return the patterns that may match a path by its own name.

        Args:
            path: the path.
            name: its last name.
            is_above: whether a pattern begins with the directory that it is in.
        """
        lines = list(self._heads.get(path, ())) if is_above else []
        lines += self._by_name(name)
        if lines and self._has_exceptions:
            return [self._whole]
        return [self._spec_of(line) for line in lines]

    def may_name(self, name: bytes) -> bool:
        """Return whether a pattern may choose a name in any directory."""
        return name in self._names or name.endswith(self._suffixes)

    def begun_in(self, directory: bytes) -> Set[bytes]:
        """Return the names in a directory with which patterns begin."""
        return self._here.get(directory, frozenset())

    @property
    def is_any(self) -> bool:
        """Whether there may be a path that the patterns choose."""
        return bool(self._always or self._heads or self.has_names)

    @property
    def has_names(self) -> bool:
        """Whether some patterns choose by the name alone, in every directory."""
        return bool(self._names or self._ends)


class Scope:
    """What patterns say of one directory.

    Args:
        choice: the patterns.
        directory: its path.
        specs: those that must be asked for each name.
        is_above: whether patterns begin with this directory.
        is_whole: all that is in the directory is chosen.

    Attributes:
        directory, is_whole: as above.
        is_empty: nothing that is in the directory itself is chosen.
    """

    def __init__(
        self, choice: Choice, directory: bytes, specs: list[pathspec.GitIgnoreSpec], is_above: bool, *, is_whole: bool
    ) -> None:
        self._choice = choice
        self.directory = directory
        self._specs = specs
        self._is_above = is_above
        self._here = choice.begun_in(directory) if is_above else frozenset()
        self.is_whole = is_whole
        self.is_empty = not (is_whole or specs or is_above or choice.has_names)

    def match(self, name: bytes) -> bool:
        """Return whether a name in the directory is chosen."""
        if self.is_whole or self.is_empty:
            return self.is_whole
        if not (self._specs or name in self._here or self._choice.may_name(name)):
            return False
        path = join(self.directory, name)
        if any(_matches(spec, path) for spec in self._specs):
            return True
        return any(_matches(spec, path) for spec in self._choice.asked(path, name, is_above=self._is_above))


def _spec(lines: Iterable[str]) -> pathspec.GitIgnoreSpec:
    import pathspec  # only where it is needed

    patterns = list(lines)
    try:
        return pathspec.GitIgnoreSpec.from_lines(patterns)
    except ValueError as error:
        raise UsageError(f"a pattern is impossible ({error})", "write it as in .gitignore") from error


def _matches(spec: pathspec.GitIgnoreSpec, path: bytes) -> bool:
    return bool(spec.match_file(os.fsdecode(path).lstrip("/")))


def _plain_part(line: str) -> Iterator[str]:
    """Yield the parts of an anchored pattern before the first one with a wildcard."""
    for part in line.split("/"):
        if not _PLAIN.fullmatch(part) or part in ("..", "."):
            return
        yield part


def _anchored(pattern: str) -> str:
    """A pattern with a slash stands for a path from the root of the overlay, as in .gitignore at its top."""
    bare = pattern.strip("/")
    return f"/{bare}" if "/" in bare or pattern.startswith("/") else bare
