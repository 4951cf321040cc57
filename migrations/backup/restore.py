"""Makes a storage of a backup, and of the earlier ones that it builds on; a power cut leaves none or a whole one."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing, suppress
from typing import NamedTuple

from ...engine import StateError, UsageError
from ...engine.clone import needed
from ...engine.store.database import DB_NAME
from ...engine.store.database_file import check_header, open_database
from ...engine.store.object_digests import digest_of
from ...engine.store.object_paths import object_name
from ...engine.store.storage import IMPORTING, Storage
from ..directory_lock import locked
from ..effects import Effects
from ..new_storage import check_empty, finish_earlier, make_target, mark_complete, move_up
from .archive import File
from .contents import DATABASE, Header
from .read import files_of

Progress = Callable[[str, int], object]  # a backup, and bytes of it that are restored


class Restored(NamedTuple):
    """The result.

    Attributes:
        header: of the last backup; None if an earlier run of the same restore had come to its end.
        objects: how many content objects the storage has.
        size: their bytes, without holes.
    """

    header: Header | None
    objects: int
    size: int


def restore_backup(
    sources: list[str],
    target: str,
    *,
    max_size: int | None = None,
    progress: Progress = lambda name, done: None,
    effects: Effects | None = None,
) -> Restored:
    """Make a storage of backups.

    Args:
        sources: archives or directories: one that has all, and those that build on it, in their order.
        target: the new storage: an empty directory, or one that does not exist.
        max_size: bytes that it may take; None for the free space there.
        progress: called with the name of the backup that is read, and the bytes that were restored.
        effects: does the system calls (in tests).

    Raises:
        UsageError: the target is taken, or the backups do not follow each other; there is no storage.
        StateError: a backup is damaged, or the storage cannot be written; there is none.
    """
    work_effects = effects or Effects()
    target = os.path.realpath(target)
    if os.path.exists(os.path.join(target, DB_NAME)) and not os.path.exists(os.path.join(target, IMPORTING)):
        raise UsageError(f"{target} is a minifo storage already", "give an empty directory")
    if os.path.lexists(target) and not os.path.isdir(target):
        raise UsageError(f"{target} is not a directory", "give an empty directory, or one that does not exist")
    if not os.path.isdir(os.path.dirname(target)):
        raise UsageError(f"the directory above {target} does not exist", "make it first")
    facts = [_facts(name) for name in sources]
    is_made = not os.path.isdir(target)
    make_target(work_effects, target)
    with locked(target, "in use by another import"):
        work = os.path.join(target, IMPORTING)
        if finish_earlier(work_effects, target, work, facts):
            return Restored(None, 0, 0)
        check_empty(target)
        try:
            work_effects.mkdir(work)
            work_effects.sync(target)
            result = _Restore(work_effects, work, max_size, progress).run(sources)
            work_effects.sync_all(work)
            mark_complete(work_effects, work, facts)
        except BaseException as error:
            with suppress(OSError):  # the first error says more; the next attempt removes the rest
                work_effects.remove_tree(work)
                if is_made:
                    work_effects.rmdir(target)
            if isinstance(error, OSError):
                hint = "nothing was restored; see the free space and the permissions"
                raise StateError(f"{target} cannot be written ({error.strerror})", hint) from error
            raise
        move_up(work_effects, target, work)
    return result


def _facts(name: str) -> object:
    if name == "-":
        return os.urandom(8).hex()
    try:
        st = os.stat(name)
    except OSError as error:
        raise UsageError(f"{name} cannot be read ({error.strerror})", "check the path") from error
    return [os.path.realpath(name), st.st_size, st.st_mtime_ns]


class _Restore:
    """Writes one storage."""

    def __init__(self, effects: Effects, work: str, max_size: int | None, progress: Progress) -> None:
        self._effects, self._work, self._progress = effects, work, progress
        free = os.statvfs(work)
        self._left = max_size if max_size is not None else free.f_bavail * free.f_frsize
        self._most = self._left
        self._sizes: dict[str, int] = {}
        self._made: set[str] = set()
        self._done = 0
        self._source = ""

    def run(self, sources: list[str]) -> Restored:
        """Restore one backup after the other."""
        before: Header | None = None
        for self._source in sources:
            header = files_of(self._source, self._take)
            if header.since != (before.id if before is not None else None):
                raise _out_of_order(self._source, header, before)
            self._drop_others(header)
            before = header
        if before is None:
            raise UsageError("there is no backup", "name one")
        self._check(before)
        objects = len(before.objects)
        return Restored(before, objects, sum(size for name, size in self._sizes.items() if name != DATABASE))

    def _take(self, file: File) -> str:
        path = os.path.join(self._work, file.name)
        self._make_directories(os.path.dirname(file.name))
        if file.name in self._sizes:  # an earlier backup had it
            self._effects.unlink(path)
            self._left += self._sizes.pop(file.name)
        fd = self._effects.create(path)
        size = 0
        try:
            for at, data in file.pieces:
                size += len(data)
                self._left -= len(data)
                if self._left < 0:
                    raise StateError(
                        f"{self._source} brings more than {self._most:,} bytes", "free space there, or see --max-size"
                    )
                self._effects.write(fd, data, at)
                self._progress(self._source, self._done + size)
            self._effects.truncate(fd, file.size)
        finally:
            os.close(fd)
        self._done += size
        self._sizes[file.name] = size
        with open(path, "rb") as written:
            return digest_of(written.fileno()).digest.hex()

    def _make_directories(self, directory: str) -> None:
        for part in ("content", directory) if directory else ():
            if part not in self._made:
                self._effects.mkdir(os.path.join(self._work, part))
                self._made.add(part)

    def _drop_others(self, header: Header) -> None:
        """Remove the objects of earlier backups that this one does not need."""
        wanted = {object_name(entry.number) for entry in header.objects} | {DATABASE}
        for name in self._sizes.keys() - wanted:
            self._effects.unlink(os.path.join(self._work, name))
            self._left += self._sizes.pop(name)
        missing = next((name for name in sorted(wanted) if name not in self._sizes), None)
        if missing is not None:
            raise StateError(f"{self._source} lacks {missing}", "nothing was restored; give the earlier backups, too")

    def _check(self, header: Header) -> None:
        """Raise StateError if the database is none, or needs other objects."""
        path = os.path.join(self._work, DB_NAME)
        check_header(path)
        with closing(Storage(self._work)) as storage, closing(open_database(path, read_only=True)) as db:
            if needed(db, storage) != [entry.number for entry in header.objects]:
                raise StateError(f"the database of {self._source} needs other objects", "nothing was restored")


def _out_of_order(name: str, header: Header, before: Header | None) -> UsageError:
    if header.since is None:
        return UsageError(f"{name} has all by itself, and does not follow another backup", "give it alone")
    if before is None:
        return UsageError(f"{name} builds on an earlier backup", "give that before it, and those that it builds on")
    return UsageError(f"{name} does not follow the backup that is given before it", "give them in their order")
