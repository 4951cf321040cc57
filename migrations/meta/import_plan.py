"""The plan of an import: a list of steps, in order, that turn a mini_fo storage tree into an overlay.

Each place has one of mini_fo's states (b: the base has an object, s: storage has one, d: there is a D line):

    b s -  MODIFIED        the base object, changed         - s -  CREATED   a new object
    b s d  DEL_REWRITTEN   a new object over a hidden one   b - d  DELETED   hidden
    - s d  mini_fo listed the object and could not open it: it is kept as CREATED, with a note

An R line makes another base directory the base side of a name.  If a base directory shows at two places, a rename can
express only one of them; the second place, with everything below it, becomes a copy.  mini_fo treated the hard links of
a base file as separate files, so a changed one becomes a new file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ...engine.model import State
from ...engine.store.base_view import join, split
from .storage_tree import LegacyTree, Note, is_directory

DOverR = Literal["kernel", "intent"]
Kind = Literal["hide", "modify", "move", "make", "link", "unlink"]


class Step(NamedTuple):
    """One change of the new overlay.

    Attributes:
        kind: ``hide``: hide a base name; ``modify``: change a base object at its own path; ``move``: move a base
            directory to this place; ``make``: create an object; ``link``: add a name for an object of an earlier step;
            ``unlink``: set the link count of a base file that has lost names.
        place: the place to change; for ``unlink`` the base path.
        state: mini_fo's state of the place.
        stored: True if attributes and content come from storage, False if they come from the base at ``origin``.
        origin: for ``modify``, ``move`` and copies the base path; for ``link`` the place of the first name.
        over: True if the object covers a base name, which must be hidden.
        links: the link count of a directory, or of the file of ``unlink``.
    """

    kind: Kind
    place: bytes
    state: State
    stored: bool = True
    origin: bytes | None = None
    over: bool = False
    links: int = 0


@dataclass(slots=True)
class _Entry:
    """A place that differs from the base, with its step.

    Attributes:
        step: the step, which is still incomplete for a directory (``links``).
        is_dir: True for a directory.
        base: for a directory the base directory whose entries it shows, or None.
        owned: True if the place is that base directory itself, False if it is a copy.
    """

    step: Step
    is_dir: bool
    base: bytes | None = None
    owned: bool = False


class ImportPlan:
    """The steps that turn a mini_fo storage into an overlay.

    Args:
        tree: the mini_fo storage over its base; making the plan adds notes to it.
        d_over_r: which line counts if a name has both a D and an R line.  ``kernel``: D, as mini_fo showed it after a
            mount; ``intent``: R, as the user had renamed it.

    Attributes:
        steps: the steps in order.
    """

    def __init__(self, tree: LegacyTree, d_over_r: DOverR = "kernel") -> None:
        self.tree = tree
        self._intent = d_over_r == "intent"
        self._moved_to: dict[bytes, list[bytes]] = {}
        self._homes: dict[bytes, bytes | None] = {b"/": b"/"}
        self._first_links: dict[tuple[int, int], bytes] = {}
        self._lost: list[bytes] = []  # base paths at which the base object does not show
        self._find_moves()
        self.steps = [*self._walk(), *self._unlinked()]

    def _note(self, kind: str, place: bytes, detail: str) -> None:
        self.tree.notes.append(Note(kind, place, detail))

    # -- where base directories show

    def _find_moves(self) -> None:
        """Record for each base directory the places to which R lines move it."""
        pending = [b"/"]
        while pending:
            place = pending.pop()
            below = [join(place, name) for name in self.tree.names(place)]
            pending += [path for path in reversed(below) if is_directory(self.tree.stat(path))]
            for name in sorted(self.tree.meta(place).moved):
                old = self._redirect(place, name)
                st = self.tree.stat(join(place, name))
                if old is not None and is_directory(self.tree.base_stat(old)) and (st is None or is_directory(st)):
                    self._moved_to.setdefault(old, []).append(join(place, name))

    def _redirect(self, place: bytes, name: bytes) -> bytes | None:
        """Return the old path of the R line that counts for a name, or None if none counts."""
        meta = self.tree.meta(place)
        old = meta.moved.get(name)
        if old is None or (name in meta.hidden and not self._intent):
            return None
        if self.tree.stat(join(place, name)) is None and not is_directory(self.tree.base_stat(old)):
            return None  # neither base nor storage has the directory
        return old

    def _is_hidden(self, place: bytes, name: bytes) -> bool:
        """Return whether a D line counts for a name."""
        return name in self.tree.meta(place).hidden and self._redirect(place, name) is None

    def home(self, path: bytes) -> bytes | None:
        """Return the place at which a base directory shows as itself, or None if it does not.

        This is its own path if it shows there, else the first place that it was moved to.
        """
        unknown = []
        while path not in self._homes:
            unknown.append(path)
            path = split(path)[0]
        found = self._homes[path]
        for below in reversed(unknown):  # a path may have more directories than Python allows calls within each other
            name = split(below)[1]
            if found is not None and self._shows_own(found, name, below):
                found = join(found, name)
            else:
                found = self._moved_to.get(below, [None])[0]
            self._homes[below] = found
        return found

    def _shows_own(self, at: bytes, name: bytes, path: bytes) -> bool:
        """Return whether the base directory *path* shows at its own name in the place *at*."""
        if self._is_hidden(at, name):
            return False
        old = self._redirect(at, name)
        if old is not None and old != path:
            return False
        st = self.tree.stat(join(at, name))
        return st is None or is_directory(st)

    # -- the walk

    def _walk(self) -> Iterator[Step]:
        """Yield the steps for all places, each directory before its entries."""
        root = Step("modify", b"/", State.MODIFIED, origin=b"/")
        pending = [_Entry(root, True, b"/", True)]
        while pending:
            entry = pending.pop()
            below, subdirectories = self._children(entry)
            links = 2 + subdirectories
            if entry.owned:
                assert entry.base is not None
                before = self.tree.base.stat(entry.base).st_nlink
                links = before + subdirectories if before > 1 else before  # btrfs: always 1, not a count
            yield entry.step._replace(links=links)
            # files before subdirectories: then the step for a file's first name precedes those for its other names
            yield from (child.step for child in below if not child.is_dir)
            pending += [child for child in reversed(below) if child.is_dir]

    def _children(self, entry: _Entry) -> tuple[list[_Entry], int]:
        """Return the places in a directory that need a step, and the number of its subdirectories.

        If the place is the base directory itself (``owned``), the number is the difference to that in the base.
        """
        place, base, owned = entry.step.place, entry.base, entry.owned
        meta = self.tree.meta(place)
        stored = set(self.tree.names(place)) if is_directory(self.tree.stat(place)) else set()
        names = stored | meta.hidden | set(meta.moved)
        if base is not None and not owned:
            names |= set(self.tree.base.names(base)) - {self.tree.meta_name}
        found = []
        subdirectories = 0
        for name in sorted(names - {self.tree.meta_name}):
            under = self.tree.base_stat(join(base, name)) if base is not None else None
            child = self._child(entry, name, under)
            if child is not None:
                found.append(child)
            if owned:
                after = child.is_dir if child is not None else is_directory(under)
                subdirectories += after - is_directory(under)
            elif child is not None:
                subdirectories += child.is_dir
        found += self._hide_meta(entry)
        return found, subdirectories

    def _hide_meta(self, entry: _Entry) -> list[_Entry]:
        """Return the step that hides a base object with the name of META files, because mini_fo never showed one."""
        if entry.base is None or not entry.owned:
            return []
        path = join(entry.base, self.tree.meta_name)
        if self.tree.base_stat(path) is None:
            return []
        place = join(entry.step.place, self.tree.meta_name)
        self._note("meta-name", place, "the base has an object of this name; mini_fo hid it, and so does the overlay")
        self._lost.append(path)
        return [_Entry(Step("hide", place, State.DELETED), False)]

    def _child(self, parent: _Entry, name: bytes, under: os.stat_result | None) -> _Entry | None:
        """Return the step for one name, or None if the base shows it unchanged or mini_fo showed nothing.

        Args:
            parent: the directory.
            name: the name in it.
            under: the attributes of the object with this name in the directory's base side, or None.
        """
        place = join(parent.step.place, name)
        meta = self.tree.meta(parent.step.place)
        if name in meta.hidden and name in meta.moved:
            detail = "R counts, as the user had it" if self._intent else "D counts, as mini_fo showed it after a mount"
            self._note("d-over-r", place, f"both a D and an R line ({os.fsdecode(meta.moved[name])!r}); {detail}")
        stored = self.tree.stat(place)
        old = self._redirect(parent.step.place, name)
        if name in meta.moved and stored is None and not is_directory(self.tree.base_stat(meta.moved[name])):
            self._note("broken", place, "an R line for an object that neither base nor storage has; it is left out")
        if old is not None:
            return self._moved(parent, name, under, stored, old)
        over = parent.owned and under is not None
        if self._is_hidden(parent.step.place, name):
            return self._hidden(parent, name, under, stored, over)
        if stored is None:
            return self._copy(parent, name, under) if not parent.owned and under is not None else None
        if under is None:
            return self._make(place, stored, State.CREATED, over=False)
        return self._modified(parent, name, under, stored)

    def _moved(
        self, parent: _Entry, name: bytes, under: os.stat_result | None, stored: os.stat_result | None, old: bytes
    ) -> _Entry | None:
        """Return the step for a name with an R line that counts."""
        place = join(parent.step.place, name)
        over = parent.owned and under is not None
        if stored is not None and not is_directory(self.tree.base_stat(old)):
            self._note("broken", place, f"renamed from {os.fsdecode(old)!r}, which is not a directory of the base")
            return self._over(self._make(place, stored, State.CREATED, over=over), parent, name)
        if stored is not None and not is_directory(stored):
            self._note("clash", place, "an R line for an object that is not a directory in storage; storage counts")
            return self._over(self._make(place, stored, State.MODIFIED, over=over), parent, name)
        state = State.MODIFIED
        if stored is None:
            state = State.UNMODIFIED
            self._note("unlisted", place, "mini_fo could open this renamed directory but did not list it; it shows now")
        if self.home(old) != place:
            self._note("twice", place, f"{os.fsdecode(old)!r} shows at another place as well; this one is a copy")
            step = Step("make", place, state, stored is not None, old, over)
            return self._over(_Entry(step, True, old, False), parent, name)
        if parent.owned and parent.base is not None and old == join(parent.base, name):
            if stored is None:
                return None
            return _Entry(Step("modify", place, state, origin=old), True, old, True)
        return self._over(
            _Entry(Step("move", place, state, stored is not None, old, over), True, old, True), parent, name
        )

    def _over(self, entry: _Entry, parent: _Entry, name: bytes) -> _Entry:
        """Record the base object that *entry* covers as not shown, and return *entry*."""
        if entry.step.over:
            assert parent.base is not None
            self._lost.append(join(parent.base, name))
        return entry

    def _hidden(
        self, parent: _Entry, name: bytes, under: os.stat_result | None, stored: os.stat_result | None, over: bool
    ) -> _Entry | None:
        """Return the step for a name with a D line that counts, or None."""
        place = join(parent.step.place, name)
        old = self.tree.meta(parent.step.place).moved.get(name)
        known = under is not None if old is None else self.tree.base_stat(old) is not None
        if stored is not None:
            state = State.DEL_REWRITTEN if known else State.CREATED
            if not known:
                self._note("broken", place, "a D line for a name that the base lacks; mini_fo could not open it")
            return self._over(self._make(place, stored, state, over=over), parent, name)
        if over:
            return self._over(_Entry(Step("hide", place, State.DELETED, over=True), False), parent, name)
        if under is None:
            self._note("hides-nothing", place, "a D line for a name that the base does not have")
        return None

    def _modified(self, parent: _Entry, name: bytes, under: os.stat_result, stored: os.stat_result) -> _Entry:
        """Return the step for a name that both base and storage have."""
        assert parent.base is not None
        place, path = join(parent.step.place, name), join(parent.base, name)
        if is_directory(under) and is_directory(stored):
            kind: Kind = "modify" if parent.owned else "make"
            return _Entry(Step(kind, place, State.MODIFIED, origin=path), True, path, parent.owned)
        if stat.S_IFMT(under.st_mode) != stat.S_IFMT(stored.st_mode):
            self._note("clash", place, "another type in storage than in the base; storage counts")
        elif parent.owned and under.st_nlink == 1 == stored.st_nlink and self._is_same_kind(place, path, under, stored):
            return _Entry(Step("modify", place, State.MODIFIED, origin=path), False)
        return self._over(self._make(place, stored, State.MODIFIED, over=parent.owned), parent, name)

    def _is_same_kind(self, place: bytes, path: bytes, under: os.stat_result, stored: os.stat_result) -> bool:
        """Return whether a change of attributes and bytes can turn the base object into the stored one."""
        if stat.S_ISLNK(under.st_mode):
            return self.tree.base.readlink(path) == self.tree.storage.readlink(place)
        return under.st_rdev == stored.st_rdev

    def _make(self, place: bytes, stored: os.stat_result, state: State, *, over: bool) -> _Entry:
        """Return the step that creates an object from storage, or a link if its file has a step already."""
        if is_directory(stored):
            return _Entry(Step("make", place, state, over=over), True)
        if stored.st_nlink > 1:
            first = self._first_links.setdefault((stored.st_dev, stored.st_ino), place)
            if first != place:
                return _Entry(Step("link", place, state, origin=first, over=over), False)
        return _Entry(Step("make", place, state, over=over), False)

    def _copy(self, parent: _Entry, name: bytes, under: os.stat_result) -> _Entry:
        """Return the step that copies an object of the base; needed below the second place of a base directory."""
        assert parent.base is not None
        path = join(parent.base, name)
        step = Step("make", join(parent.step.place, name), State.UNMODIFIED, False, path)
        return _Entry(step, is_directory(under), path if is_directory(under) else None, False)

    # -- link counts of base files

    def _unlinked(self) -> Iterator[Step]:
        """Yield a step for each base file with several hard links of which some, but not all, no longer show."""
        lost: dict[tuple[int, int], tuple[bytes, int, int]] = {}
        pending = list(self._lost)
        while pending:
            path = pending.pop()
            st = self.tree.base.stat(path)
            if is_directory(st):
                if self.home(path) is None:
                    pending += [join(path, name) for name in self.tree.base.names(path)]
            elif st.st_nlink > 1:
                key = (st.st_dev, st.st_ino)
                _, count, _ = lost.get(key, (path, 0, 0))
                lost[key] = (path, count + 1, st.st_nlink)
        for path, count, links in lost.values():
            if links > count:
                yield Step("unlink", path, State.UNMODIFIED, False, path, links=links - count)
