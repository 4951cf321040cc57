"""What changed from one state of an overlay to another, path by path, and the layer that makes the second of the first.

The layer is one of OCI: an object is in it as a whole, and so is what was renamed.  Of a file with several names of
which one is in it, all are, so that they stay names of one file.
"""

from __future__ import annotations

import base64
import stat
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeGuard

from ...engine import Overlay, StateError
from ...engine.checkpoint_values import Checkpoint
from ...engine.model import Attr, Ino
from ...engine.queries.changes import Kind
from ...engine.queries.checkpoint_changes import changes_between
from ...engine.queries.other_names import names_of
from ...engine.queries.walk import shown_below
from ...engine.store.base_view import split
from ..exchange.changed_tree import Item
from ..exchange.formats import Format, Loss, is_own_xattr, why_lost
from .known import Known, KnownState


class PathChange(NamedTuple):
    """One path of a bundle.

    Attributes:
        path: absolute, in the merged tree.
        before, after: what it has in the first state, and in the second one; None: nothing.
        touched: True of a directory of which only the time is set, because something in it changes: whatever else it
            has counts neither before nor after.
        mtime: of what differs in nothing but this time, in ns; the layer does not have it.  None of everything else.
    """

    path: bytes
    before: Known | None
    after: Known | None
    touched: bool = False
    mtime: int | None = None

    def told(self) -> dict[str, Any]:
        """Return it as JSON; a path that is no UTF-8 is in base64 beside its readable form."""
        found: dict[str, Any] = {"path": self.path.decode("utf-8", "replace")}
        if found["path"].encode() != self.path:
            found["path_b64"] = base64.b64encode(self.path).decode()
        if self.touched:
            return {**found, "touched": True}
        before, after = (None if known is None else known.told() for known in (self.before, self.after))
        time = {"mtime": self.mtime} if self.mtime is not None else {}
        return {**found, "before": before, "after": after, **time}


class Delta:
    """The difference between two states.

    Args:
        before, after: the two states; nothing of them may change meanwhile.
        first, second: the checkpoints that they are; None for today's state.
        is_left_out: returns whether a path is left out.  What is below it is asked for by itself.
        lose: called with what the layer cannot carry; it is left out.
        progress: called with the number of paths that were looked at, and of all.

    Attributes:
        paths: all of them, sorted.
    """

    def __init__(
        self,
        before: Overlay,
        after: Overlay,
        first: Checkpoint | None,
        second: Checkpoint | None,
        *,
        is_left_out: Callable[[bytes], bool] = lambda path: False,
        lose: Callable[[Loss], object] = lambda loss: None,
        progress: Callable[[int, int], object] = lambda done, total: None,
    ) -> None:
        self._before, self._after = KnownState(before), KnownState(after)
        self._is_left_out = is_left_out
        self._lose = lose
        self._progress = progress
        self._lost: set[bytes] = set()
        found: dict[bytes, PathChange] = {}
        several: set[int] = set()
        candidates = sorted(self._candidates(first, second))
        for change, ino in self._changed(candidates):
            found[change.path] = change
            if ino is not None:
                several.add(ino)
        for path in self._other_names(several):
            found[path] = PathChange(path, self._before.known(path), self._after.known(path))
        for path in [path for path, change in found.items() if change.mtime is None]:
            above = split(path)[0]
            attr = self._after.attr(above)
            if path != b"/" and above not in found and attr is not None and stat.S_ISDIR(attr.mode):
                found[above] = PathChange(above, None, None, touched=True)
        self.paths = [found[path] for path in sorted(found)]

    def _candidates(self, first: Checkpoint | None, second: Checkpoint | None) -> set[bytes]:
        """Return every path that may differ."""
        before, after = self._before.overlay, self._after.overlay
        found: set[bytes] = set()
        for change in changes_between(before, after, first, second, recursive=True):
            found.add(change.path)
            if change.old is None:
                continue
            found.add(change.old)
            if change.kind is Kind.RENAMED and change.is_dir:
                found.update(path for path, _ in shown_below(after, change.path))
                found.update(path for path, _ in shown_below(before, change.old))
        return found

    def _changed(self, candidates: list[bytes]) -> Iterator[tuple[PathChange, int | None]]:
        """Yield the paths that differ, each with the number of an object that has several names."""
        for count, path in enumerate(candidates):
            if not count % 64:
                self._progress(count, len(candidates))
            if self._is_left_out(path) or self._is_lost(path):
                continue
            old, new = self._before.attr(path), self._after.attr(path)
            change = PathChange(path, self._before.known(path), self._after.known(path))
            if change.before != change.after or _is_other_file(old, new):
                yield change, new.ino if _has_several_names(new) else None
            elif old is not None and new is not None and not stat.S_ISDIR(new.mode) and old.mtime != new.mtime:
                yield change._replace(mtime=new.mtime), None

    def _is_lost(self, path: bytes) -> bool:
        """Return whether the layer cannot have a path, or a directory above it."""
        above = path
        while self._lost and above != b"/":
            above = split(above)[0]
            if above in self._lost:
                return True
        attr = self._after.attr(path)
        loss = why_lost(Format.OCI, path, attr)
        if loss is None:
            names = self._after.overlay.listxattr(Ino(attr.ino)) if attr is not None else ()
            if any(is_own_xattr(Format.OCI, name) for name in names):
                self._lose(Loss("xattr", path, "a name of an extended attribute with = in it is left out"))
            return False
        self._lose(loss)
        self._lost.add(path)
        return True

    def _other_names(self, several: set[int]) -> Iterator[bytes]:
        for paths in names_of(self._after.overlay, several).values():
            for path in paths:
                if not (self._is_left_out(path) or self._is_lost(path)):
                    yield path

    # -- the layer

    def items(self) -> Iterator[Item]:
        """Yield what the layer has: a directory before what is in it, whiteouts among all else.

        Raises:
            OSError: base or storage cannot be read.
        """
        gone: set[bytes] = set()
        firsts: dict[int, bytes] = {}
        for change in (change for change in self.paths if change.mtime is None):
            attr = self._after.attr(change.path)
            if attr is None:
                gone.add(change.path)
                if self._is_whiteout(change.path, gone):
                    yield Item(change.path, None)
                continue
            same = None
            if not stat.S_ISDIR(attr.mode) and attr.nlink > 1:
                first = firsts.setdefault(attr.ino, change.path)
                same = first if first != change.path else None
            yield Item(change.path, attr, same=same)

    def _is_whiteout(self, path: bytes, gone: set[bytes]) -> bool:
        """Return whether a name that is gone needs a whiteout: the directory that it was in is one still."""
        above = split(path)[0]
        attr = None if above in gone else self._after.attr(above)
        return attr is not None and stat.S_ISDIR(attr.mode)


def _has_several_names(attr: Attr | None) -> TypeGuard[Attr]:
    return attr is not None and not stat.S_ISDIR(attr.mode) and attr.nlink > 1


def _is_other_file(old: Attr | None, new: Attr | None) -> bool:
    """Return whether a path became, or ceased to be, one of several names of a file."""
    if old is None or new is None:
        return True
    is_other = old.ino != new.ino
    return (_has_several_names(new) and (is_other or old.nlink != new.nlink)) or (_has_several_names(old) and is_other)


def path_change(told: dict[str, Any]) -> PathChange:
    """Return what the JSON of ``PathChange.told`` says.

    Raises:
        StateError: it says what is impossible.
    """
    try:
        path = base64.b64decode(told["path_b64"], validate=True) if "path_b64" in told else told["path"].encode()
        if told.get("touched", False) is True:
            return PathChange(path, None, None, touched=True)
        before, after = (None if told[key] is None else Known.of(told[key]) for key in ("before", "after"))
        if before is None and after is None:
            raise ValueError("neither before nor after")
        mtime = told.get("mtime")
        if mtime is not None and (type(mtime) is not int or abs(mtime) >= 1 << 63 or before != after):
            raise ValueError(f"the time {mtime!r:.40}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StateError(f"a path of the bundle is impossible ({error})", "nothing was changed") from error
    return PathChange(path, before, after, mtime=mtime)
