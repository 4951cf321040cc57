"""Seeded faults: each takes one step out of the order that keeps the promises.  The explorer must find every one.

A fault is planted by patching the engine (or what stands in for SQLite's I/O) while a workload is recorded and while
its crash states are mounted.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count
from typing import Any
from unittest.mock import patch

from minifo.engine import commit, overlay, recovery
from minifo.engine.store import content_objects, database_file, object_paths, redo_replay, storage
from minifo.engine.tree import content, copy_up, freed_blocks, namespace
from tests.crash import recorder
from tests.crash.checkpoint_faults import CHECKPOINT_FAULTS
from tests.crash.fault import Fault


def _nothing(true: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, *args, **kwargs: None


def _as_if_done(true: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, *args, **kwargs: True  # closing an overlay goes on until all is deleted


def _no_entries(true: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self: self.changed_dirs.clear()


def _sealed_and(step: Callable[[Any, Any], None]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def wrong(true: Callable[..., Any]) -> Callable[..., Any]:
        def seal(self: commit.GroupCommit) -> commit.Sealed:
            sealed: commit.Sealed = true(self)
            step(self, sealed)
            return sealed

        return seal

    return wrong


def _late_sync(true: Callable[..., Any]) -> Callable[..., Any]:
    def seal(self: commit.GroupCommit) -> commit.Sealed:
        dirty = set(self._objects.dirty) | self._presyncing
        with patch.object(content_objects.ObjectStore, "sync", lambda self, numbers: None):
            sealed: commit.Sealed = true(self)
        self._late = dirty  # type: ignore[attr-defined]
        return sealed

    return seal


def _then_sync(true: Callable[..., Any]) -> Callable[..., Any]:
    def harden(self: commit.GroupCommit) -> None:
        true(self)
        late: set[int] = getattr(self, "_late", set())
        self._objects.sync({n for n in late if self._storage.exists(object_paths.object_name(n))})

    return harden


def _unlink_now(true: Callable[..., Any]) -> Callable[..., Any]:
    def drop(self: content_objects.ObjectStore, number: int) -> None:
        self._db.on_success(lambda: self._delete(number))

    return drop


def _use_again(true: Callable[..., Any]) -> Callable[..., Any]:
    def unlink(self: content_objects.ObjectStore, number: int) -> None:
        true(self, number)
        self.next_object = min(self.next_object, number)

    return unlink


def _cut_in_place(true: Callable[..., Any]) -> Callable[..., Any]:
    def resize(self: content.Content, row: Any, path: bytes | None, size: int) -> None:
        if row.object and size < row.size:
            self._objects.truncate(row.object, size)
        true(self, row, path, size)

    return resize


def _cut_to_zero(true: Callable[..., Any]) -> Callable[..., Any]:
    def resize(self: content.Content, row: Any, path: bytes | None, size: int) -> None:
        if size == 0 and row.object and not row.mapped:
            self._objects.truncate(row.object, 0)
            self._inodes.save(row._replace(size=0, bound=None))
        else:
            true(self, row, path, size)

    return resize


def _beyond_the_end(true: Callable[..., Any]) -> Callable[..., Any]:
    """Write into the cut-off bytes of an object, as if they were free already."""

    def writable(self: copy_up.CopyUp, *args: Any) -> Any:
        backing = true(self, *args)
        return backing._replace(bound=None) if backing.object else backing

    return writable


def _punch_now(true: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, ino, number, start, end: self.punch(number, end - start, start)


def _format_in_place(true: Callable[..., Any]) -> Callable[..., Any]:
    def make(self: storage.Storage, facts: Any, vfs: str | None = None) -> None:
        database_file.format_database(self.database, facts, vfs)
        self.sync_dir(".")

    return make


def _unsynced(suffix: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def wrong(true: Callable[..., Any]) -> Callable[..., Any]:
        def sync(self: Any, flags: int) -> None:
            if not self._name.endswith(suffix):
                true(self, flags)

        return sync

    return wrong


def _no_reservation(true: Callable[..., Any]) -> Callable[..., Any]:
    times = count(2)

    def claim_space(self: overlay.Overlay, size: int) -> None:
        if self.objects.free_ids() < 2 * object_paths.ID_BLOCK:
            # as if so many had been made and deleted; each time others, for no name may be taken
            jump = 2 * next(times) * object_paths.ID_BLOCK
            self.objects.limit += jump + 2 * object_paths.ID_BLOCK
            self.objects.next_object += jump
        true(self, size)

    return claim_space


def _swept_but_there(true: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, numbers: self.swept.update(numbers)


def _deletions_unsynced(true: Callable[..., Any]) -> Callable[..., Any]:
    def unlink(self: content_objects.ObjectStore, number: int) -> None:
        before = set(self.changed_dirs)
        true(self, number)
        self.changed_dirs = before

    return unlink


def _sweep_unsynced(true: Callable[..., Any]) -> Callable[..., Any]:
    def sweep(self: content_objects.ObjectStore, replayed: bool) -> int:
        before = set(self.changed_dirs)
        count: int = true(self, replayed)
        self.changed_dirs = before
        return count

    return sweep


def _trust_directories(true: Callable[..., Any]) -> Callable[..., Any]:
    def create(self: content_objects.ObjectStore) -> int:
        before = set(self.changed_dirs)
        there = {d for d in (".", "content") if self._storage.exists("content" if d == "." else self_dir(self))}
        number: int = true(self)
        self.changed_dirs -= there - before
        return number

    def self_dir(store: content_objects.ObjectStore) -> str:
        return os.path.dirname(object_paths.object_name(store.next_object))

    return create


def _trust_log(true: Callable[..., Any]) -> Callable[..., Any]:
    def clean_up(self: recovery.Recovery, *args: Any, **keywords: Any) -> None:
        commits = self._commits
        harden = commits.harden
        commits.harden = lambda: setattr(commits, "harden", harden)  # type: ignore[method-assign]
        true(self, *args, **keywords)

    return clean_up


def _trust_names(true: Callable[..., Any]) -> Callable[..., Any]:
    def sync_dir(self: storage.Storage, name: str) -> None:
        if name != "." or self._lock is None or not os.path.exists(self.database):
            true(self, name)

    return sync_dir


def _keep_names(true: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, name: None if name == "." else true(self, name)


def _forget_presync(true: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, numbers: self._presyncing.clear()


_STORE = content_objects.ObjectStore
_COMMIT = commit.GroupCommit

FAULTS: dict[str, Fault] = {
    "objects-unsynced": Fault("rows are committed, objects never synced", "untar", ((_STORE, "sync", _nothing),)),
    "objects-late": Fault(
        "objects are synced after the rows are durable",
        "upgrade",
        ((_COMMIT, "seal", _late_sync), (_COMMIT, "harden", _then_sync)),
    ),
    "presync-forgotten": Fault(
        "objects taken for the early sync are not synced", "upgrade", ((_COMMIT, "presync", _forget_presync),)
    ),
    "names-unsynced": Fault("new objects' names are not synced", "untar", ((_STORE, "sync_entries", _no_entries),)),
    "log-unsynced": Fault("a commit is acknowledged before its log is synced", "git", ((_COMMIT, "harden", _nothing),)),
    "garbage-early": Fault(
        "garbage is deleted before the log is durable",
        "upgrade",
        ((_COMMIT, "seal", _sealed_and(lambda self, sealed: self._objects.collect(sealed.garbage))),),
    ),
    "trim-early": Fault(
        "files are trimmed before the log is durable",
        "shrink_grow",
        ((_COMMIT, "seal", _sealed_and(lambda self, sealed: self._content.trim(sealed.trims))),),
    ),
    "punched-early": Fault(
        "holes are punched before the log is durable",
        "ranges",
        ((_COMMIT, "seal", _sealed_and(lambda self, sealed: self._freed.hand_back(sealed.operation))),),
    ),
    "punched-at-once": Fault(
        "holes are punched with their operation, whoever names the bytes",
        "ranges",
        ((freed_blocks.FreedBlocks, "_add_range", _punch_now),),
    ),
    "ids-reused": Fault("ids of deleted objects are used again", "open_files", ((_STORE, "_unlink", _use_again),)),
    "unlinked-at-once": Fault(
        "an object that a commit names is deleted with its file", "upgrade", ((_STORE, "drop", _unlink_now),)
    ),
    "cut-in-place": Fault(
        "a shrink cuts the object at once", "shrink_grow", ((content.Content, "resize", _cut_in_place),)
    ),
    "emptied-in-place": Fault(
        "truncation to nothing keeps the object", "pages", ((content.Content, "resize", _cut_to_zero),)
    ),
    "written-beyond": Fault(
        "bytes cut off are written over before the cut is durable",
        "shrink_grow",
        ((copy_up.CopyUp, "writable", _beyond_the_end),),
    ),
    "cut-reused": Fault(
        "ranges that were cut off are written over before the cut is durable",
        "copy_up",
        ((_STORE, "note_cut", _nothing),),
    ),
    "formatted-in-place": Fault(
        "a new database is made under its final name", "xattrs", ((storage.Storage, "format", _format_in_place),)
    ),
    "format-unsynced": Fault(
        "a new database is renamed before it is synced", "xattrs", ((recorder._File, "xSync", _unsynced(".db.new")),)
    ),
    "checkpoint-unsynced": Fault(
        "the log begins anew before the database is synced",
        "checkpoints",
        ((recorder._File, "xSync", _unsynced("minifo.db")),),
    ),
    "restart-unsynced": Fault(
        "the log's header is not synced when it begins anew, nor is the log before a checkpoint, nor by a commit",
        "checkpoints",
        ((recorder._File, "xSync", _unsynced("-wal")), (_COMMIT, "harden", _nothing)),
    ),
    "not-swept": Fault(
        "uncommitted objects are not swept", "git", ((_STORE, "sweep_uncommitted", lambda true: lambda *a: 0),)
    ),
    "sweep-unsynced": Fault(
        "swept objects' names are not synced", "kills", ((_STORE, "sweep_uncommitted", _sweep_unsynced),)
    ),
    "orphans-kept": Fault(
        "orphans are not deleted at mount", "open_files", ((namespace.Namespace, "reap", _as_if_done),)
    ),
    "garbage-forgotten": Fault(
        "garbage is forgotten, not deleted", "upgrade", ((_STORE, "collect", _swept_but_there),)
    ),
    "deletions-unsynced": Fault(
        "deleted objects are forgotten before their deletion is durable",
        "open_files",
        ((_STORE, "_unlink", _deletions_unsynced),),
    ),
    "ids-not-reserved": Fault(
        "ids are used that no durable commit has reserved",
        "kills",
        ((overlay.Overlay, "_claim_space", _no_reservation),),
    ),
    "directories-trusted": Fault(
        "content directories of a killed daemon are taken for durable",
        "kills",
        ((_STORE, "create", _trust_directories),),
    ),
    "replay-unsynced": Fault(
        "what a killed daemon wrote is not synced when its redo log is replayed",
        "kills_redo",
        ((redo_replay, "_sync", _nothing),),
    ),
    "log-trusted": Fault(
        "the log of a killed daemon is taken for durable", "kills", ((recovery.Recovery, "clean_up", _trust_log),)
    ),
    **CHECKPOINT_FAULTS,
}
