"""Whether an overlay has what a bundle expects: each path that it has not, with what is there and what should be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from ...engine import Overlay
from ...engine.store.base_view import join
from .delta import PathChange
from .known import WORDS, Known, KnownState


class Mismatch(NamedTuple):
    """A path that is not as a bundle expects it.

    Attributes:
        path: the path.
        why: in words.
        expected, found: what should be there, and what is; None: nothing.
    """

    path: bytes
    why: str
    expected: Known | None
    found: Known | None

    def told(self) -> dict[str, Any]:
        """Return it as JSON, without the path."""
        expected, found = (None if known is None else known.told() for known in (self.expected, self.found))
        return {"why": self.why, "expected": expected, "found": found}


class Standing:
    """How an overlay stands to a bundle.

    Args:
        overlay: nothing of it may change meanwhile.
        paths: of the bundle.
        progress: called with the number of paths that are done, and of all.

    Attributes:
        found: what each path has, in their order.
        mismatches: the paths that differ.
        is_after: True if each path has what the bundle gives it.
    """

    def __init__(
        self,
        overlay: Overlay,
        paths: Sequence[PathChange],
        progress: Callable[[int, int], object] = lambda done, total: None,
    ) -> None:
        self._state = KnownState(overlay)
        self._paths = paths
        self._gone = {change.path for change in paths if change.before is not None and change.after is None}
        self.found: list[Known | None] = []
        self.mismatches: list[Mismatch] = []
        changing = [change for change in paths if not change.touched and change.before != change.after]
        self.is_after = bool(changing) or all(change.touched for change in paths)  # else it is about hard links alone
        for count, change in enumerate(paths):
            if not count % 64:
                progress(count, len(paths))
            found = self._state.known(change.path)
            self.found.append(found)
            self.mismatches += self._look(change, found)
        progress(len(paths), len(paths))

    def _look(self, change: PathChange, found: Known | None) -> Iterator[Mismatch]:
        path, before, after = change.path, change.before, change.after
        if change.touched:
            if found is None or found.type != "d":
                what = "nothing" if found is None else WORDS[found.type]
                yield Mismatch(path, f"there is {what}, expected a directory", None, found)
            return
        if found == after:
            return
        self.is_after = False
        if found != before:
            if found is None:
                yield Mismatch(path, f"there is nothing, expected {WORDS[before.type] if before else ''}", before, None)
            elif before is None:
                yield Mismatch(path, f"there is {WORDS[found.type]}, expected nothing", None, found)
            else:
                yield Mismatch(path, ", ".join(found.other_than(before)), before, found)
        elif before is not None and before.type == "d" and (after is None or after.type != "d"):
            yield from self._others_in(path)

    def _others_in(self, directory: bytes) -> Iterator[Mismatch]:
        """Yield what is in a directory that goes, and that the bundle does not know."""
        for name in self._state.names(directory):
            path = join(directory, name)
            if path not in self._gone:
                yield Mismatch(path, "it is in a directory that goes, expected nothing", None, self._state.known(path))

    def different(self, overlay: Overlay) -> bytes | None:
        """Return the first path that has not what the bundle gives it, once it is applied; None if all have.

        Args:
            overlay: the overlay, opened again.
        """
        state = KnownState(overlay)
        return next((c.path for c in self._paths if not c.touched and state.known(c.path) != c.after), None)


def deepest_first(paths: Sequence[PathChange], found: Sequence[Known | None]) -> Iterator[tuple[bytes, bool]]:
    """Yield the paths that must go before others can come, each with whether it is a directory.

    Args:
        paths: of a bundle, sorted.
        found: what each of them has.
    """
    for change, known in zip(reversed(paths), reversed(found), strict=True):
        if known is None or change.touched:
            continue
        is_dir = known.type == "d"
        if change.after is None or is_dir != (change.after.type == "d"):
            yield change.path, is_dir
