"""Applies a bundle: what goes is removed, then the layer is laid down, and then all of it is compared with the bundle.

The caller makes it one: a transaction that is taken back if anything fails.  Nothing goes that the bundle does not
know: a directory is removed only when it is empty.  What is replaced is replaced by a rename, so programs see the old
or the new file, and never none.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from ...engine import Overlay, StateError
from ...engine.store.base_view import join, split
from ..effects import DISK_ACCESS, DiskAccess
from ..exchange.entries import Entry, What, impossible
from .check import Mismatch, Standing, deepest_first
from .delta import PathChange
from .known import Known, letter_of
from .parts import BundleReader
from .places import OpenPlace, Place
from .signing import signer

if TYPE_CHECKING:
    from collections.abc import Iterator

_NEW = b".minifo-bundle-new"  # of what is about to get its name
_SET_ID = stat.S_ISUID | stat.S_ISGID

Progress = Callable[[str, int, int], object]


@dataclass
class Applied:
    """What became of a bundle.

    Attributes:
        mismatches: paths that are not as it expects; if there are any, nothing was changed.
        is_done: it was applied before, and nothing was changed.
        paths: how many paths it has.
        signed_by: who has signed it; None if nobody was asked for.
        checkpoint: of what there was before, if it was applied; else None.
    """

    mismatches: list[Mismatch] = field(default_factory=list)
    is_done: bool = False
    paths: int = 0
    signed_by: str | None = None
    checkpoint: str | None = None


def trusted(reader: BundleReader, signers: str | None) -> str | None:
    """Return who has signed a bundle.

    Args:
        reader: of the bundle.
        signers: the file that says who is trusted; None to take it from anybody.

    Raises:
        StateError: it is signed by nobody who is trusted.
    """
    if signers is None:
        return None
    if reader.signature is None:
        raise StateError("the bundle is not signed", f"it must be by one whom {signers} names")
    return signer(reader.header_bytes, reader.signature, signers)


def check_privileges(paths: Sequence[PathChange]) -> None:
    """Raise StateError if only root may apply a bundle: it has devices or set-id files."""
    if os.geteuid() == 0:
        return
    for change in paths:
        after = change.after
        if after is not None and (after.type in "cb" or (after.type == "f" and after.mode & _SET_ID)):
            raise StateError(
                f"the bundle has a device or a set-id file ({os.fsdecode(change.path)})", "apply it as root"
            )


def lay_down(
    place: Place,
    paths: Sequence[PathChange],
    found: Sequence[Known | None],
    entries: Iterable[Entry],
    progress: Progress = lambda what, done, total: None,
) -> None:
    """Make the changes of a bundle.

    Args:
        place: where.
        paths: of the bundle, sorted.
        found: what each of them has now.
        entries: of its layer.
        progress: called with the name of the step, the number of paths that are done, and of all.

    Raises:
        StateError: the layer is damaged, or is not that of these paths; or a change failed.  The caller takes back what
            is done.
    """
    worker = _Worker(place, paths, found)
    with _explained():
        worker.remove()
        for count, entry in enumerate(entries):
            if not count % 64:
                progress("applying", count, len(paths))
            worker.apply(entry)
        worker.finish()


class _Worker:
    """See ``lay_down``."""

    def __init__(self, place: Place, paths: Sequence[PathChange], found: Sequence[Known | None]) -> None:
        self._place = place
        self._paths, self._found = paths, found
        self._gone = {change.path for change in paths if change.after is None and not change.touched}
        self._waiting = {c.path: c for c in paths if c.path not in self._gone and c.mtime is None}
        self._there = {c.path for c, known in zip(paths, found, strict=True) if known and known.type == "d"}
        self._files: set[bytes] = set()  # that the layer has brought, and that other names may lead to
        self._directories: list[tuple[Entry, bool]] = []  # each with whether only its times are set

    def remove(self) -> None:
        """Remove what goes, and what is in the way."""
        for path, is_dir in deepest_first(self._paths, self._found):
            self._place.remove(path, is_dir=is_dir)
            self._there.discard(path)

    def apply(self, entry: Entry) -> None:
        """Apply one entry of the layer."""
        path = entry.place
        if entry.what is What.WHITEOUT:
            if path not in self._gone:
                raise _foreign(path)
            return
        change = self._waiting.pop(path, None)
        if change is None or entry.what is What.OPAQUE:
            raise _foreign(path)
        after = change.after
        if entry.what is What.LINK:
            if entry.target not in self._files or after is None or after.type == "d":
                raise _foreign(path)
            self._bring(path, lambda new: self._place.link(entry.target, new))
            return
        letter = letter_of(entry.mode)
        if letter != ("d" if after is None else after.type) or (after is not None and after.size != entry.size):
            raise _foreign(path)
        if letter == "d":
            if path not in self._there and not change.touched:
                self._place.mkdir(path)
            self._directories.append((entry, change.touched))
            return
        self._files.add(path)

        def make(new: bytes) -> None:
            self._place.make(new, entry)
            self._place.dress(new, entry)

        self._bring(path, make)

    def _bring(self, path: bytes, make: Callable[[bytes], None]) -> None:
        """Make something beside a path, and rename it to that."""
        new = join(split(path)[0], _NEW)
        make(new)
        self._place.rename(new, path)

    def finish(self) -> None:
        """Give directories their attributes, which come last, because what comes into them changes their times."""
        if self._waiting:
            raise _foreign(min(self._waiting))
        for change in self._paths:
            if change.mtime is not None:
                self._place.set_times(change.path, change.mtime, change.mtime)
        for entry, only_times in reversed(self._directories):
            if only_times:
                self._place.set_times(entry.place, entry.atime, entry.mtime)
            else:
                self._place.dress(entry.place, entry)


def _foreign(path: bytes) -> StateError:
    return impossible("the layer of the bundle", path, "where its paths have another one, or none")


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f" {os.fsdecode(error.filename)}" if error.filename is not None else ""
        hint = "all of it is taken back; see the free space, the permissions, and what programs do there"
        raise StateError(f"the bundle cannot be applied ({error.strerror}{what})", hint) from error


# -- an overlay that is not mounted


def apply_at_rest(
    source: BinaryIO,
    name: str,
    base: str,
    storage: str,
    *,
    signers: str | None = None,
    mounts: int | None = None,
    progress: Progress = lambda what, done, total: None,
    disk: DiskAccess = DISK_ACCESS,
) -> Applied:
    """Apply a bundle to an overlay that is not mounted: all of it, or nothing.

    A run that was cut short is taken back, by the next one or by the next mount.

    Args:
        source: its bytes.
        name: of it, for messages.
        base, storage: the overlay.
        signers: the file that says who is trusted; None to take it from anybody.
        mounts: begin a trial of it with so many mounts; None for none.
        progress: called with the name of the step, the number of paths that are done, and of all.
        disk: reads and writes the disk (see ``DiskAccess``).

    Raises:
        StateError: it cannot be applied; the overlay is as before.
        NotDurable: it is applied, but a power cut may take it away.
    """
    reader = BundleReader(source, name)
    result = Applied(signed_by=trusted(reader, signers))
    paths = reader.paths()
    check_privileges(paths)
    result.paths = len(paths)
    disk.finish_killed(base, storage)
    with closing(disk.overlay(base, storage)) as overlay:
        if overlay.trial.state().txn:
            overlay.trial.abandon()  # nobody else has it open: what has begun this was killed, or the power went
        standing = Standing(overlay, paths, lambda done, total: progress("checking", done, total))
        result.mismatches, result.is_done = standing.mismatches, standing.is_after
        if standing.mismatches or standing.is_after:
            return result
        overlay.trial.begin()
        try:
            lay_down(OpenPlace(overlay), paths, standing.found, reader.layer(), progress)
            check_result(standing, overlay)
            before = overlay.trial.commit(mounts)
        except BaseException:
            with suppress(StateError):  # there is none any more, or the next mount takes it back
                taken_back = overlay.trial.take_back()
                if taken_back is not None:
                    overlay.checkpoints.discard(taken_back.left)  # nobody wants a part of a bundle, and it takes space
            raise
    result.checkpoint = before.name if before is not None else None
    return result


def check_result(standing: Standing, overlay: Overlay) -> None:
    """Raise StateError if a path has not what the bundle gives it.

    Args:
        standing: how the overlay stood to it before.
        overlay: it, now.
    """
    path = standing.different(overlay)
    if path is not None:
        raise StateError(
            f"the layer of the bundle does not give {os.fsdecode(path)} what its paths say",
            "all of it is taken back; did a program write there meanwhile?",
        )
