"""What a mounted overlay answers: the methods of org.minifo.Overlay (org.minifo.Overlay.varlink)."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from typing import TYPE_CHECKING, Any

import trio

from ...engine import VERSION, FsError, Overlay, StateError
from ...engine.errors import errno_of
from ...engine.model import JournalEntry
from ...engine.queries.figures import CommittedContent, content, figures, identity
from ...engine.tree.activity import Activity, Busy
from ..extension import loader
from ..serve.committer import Committer

if TYPE_CHECKING:
    from ..serve.live_checkpoints import LiveCheckpoints
from . import checkpoints
from .metrics import collect, resident
from .transactions import Transaction
from .varlink import SERVICE, Answer, Service, VarlinkError

INTERFACE = "org.minifo.Overlay"

_BUSIEST = 100  # paths in one answer at most


@dataclass(frozen=True)
class Mounted:
    """What the daemon knows of its mount.

    Attributes:
        overlay: the open overlay.
        committer: commits it.
        checkpoints: makes checkpoints of it, and returns to them.
        base: the base directory as the user named it.
        mountpoint: where it is mounted.
    """

    overlay: Overlay
    committer: Committer
    checkpoints: LiveCheckpoints
    base: str
    mountpoint: str


def service(mounted: Mounted) -> Service:
    """Return the service that answers for a mount."""
    found = Service(VERSION)
    text = resources.files(__package__).joinpath(INTERFACE + ".varlink").read_text("utf-8")
    found.descriptions[INTERFACE] = text

    committed = CommittedContent(mounted.overlay)

    async def status(parameters: Mapping[str, Any]) -> Answer:
        size = committed.known()
        if size is None:
            size = await trio.to_thread.run_sync(committed.measure)
        if size is None:
            size = content(mounted.overlay)
        return _status(mounted, size)

    async def sync(parameters: Mapping[str, Any]) -> Answer:
        try:
            await mounted.committer.commit_all()
        except StateError as error:
            raise VarlinkError(INTERFACE + ".CommitFailed", reason=str(error), errno=errno_of(error)) from error
        return {}

    async def metrics(parameters: Mapping[str, Any]) -> Answer:
        return {"mountpoint": mounted.mountpoint, "metrics": collect(mounted.overlay, mounted.committer)}

    async def journal(parameters: Mapping[str, Any]) -> Answer:
        return _journal(mounted.overlay, parameters)

    found.methods[INTERFACE + ".Journal"] = journal

    async def identify(parameters: Mapping[str, Any]) -> Answer:
        return identity(mounted.overlay) | _of_mount(mounted)

    found.methods[INTERFACE + ".Identity"] = identify
    found.methods[INTERFACE + ".Status"] = status
    found.methods[INTERFACE + ".Metrics"] = metrics
    found.methods[INTERFACE + ".Sync"] = sync
    found.methods |= checkpoints.methods(INTERFACE, mounted.overlay, mounted.checkpoints)
    return found


@contextlib.asynccontextmanager
async def conversation(shared: Service, mounted: Mounted) -> AsyncIterator[Service]:
    """The service for one connection: it counts what is changed most from the first question for it on.

    A transaction that the connection has begun is taken back at its end.
    """
    activity: Activity | None = None
    transaction = Transaction(INTERFACE, mounted.overlay, mounted.checkpoints)

    async def busiest(parameters: Mapping[str, Any]) -> Answer:
        nonlocal activity
        most = parameters.get("most")
        if type(most) not in (int, type(None)):
            raise VarlinkError(SERVICE + ".InvalidParameter", parameter="most")
        if activity is None:
            activity = mounted.overlay.journal.watch()
        found, others = activity.take(_BUSIEST if most is None else max(0, min(most, _BUSIEST)))
        unknown = [busy.ino for busy in found]
        while unknown := mounted.overlay.journal.look_up(unknown):
            await trio.lowlevel.checkpoint()  # a search takes some ms in a large overlay
        return {"paths": [_busy(mounted.overlay, busy) for busy in found], "others": others}

    try:
        try:
            yield replace(shared, methods=shared.methods | transaction.methods | {INTERFACE + ".Busiest": busiest})
        except trio.Cancelled:
            raise  # the mount ends: the next one takes it back
        except BaseException:
            await transaction.end()
            raise
        await transaction.end()
    finally:
        if activity is not None:
            mounted.overlay.journal.unwatch(activity)


def _busy(overlay: Overlay, busy: Busy) -> Answer:
    path, is_dir = overlay.journal.path_of(busy.ino) or (None, False)
    return {
        "path": None if path is None else os.fsdecode(path),
        "directory": is_dir,
        "changes": busy.changes,
        "written": busy.written,
    }


def _of_mount(mounted: Mounted) -> Answer:
    return {"version": VERSION, "base": mounted.base, "mountpoint": mounted.mountpoint}


def _status(mounted: Mounted, content: int) -> Answer:
    overlay, committer = mounted.overlay, mounted.committer
    held = sorted(committer.held)
    last = committer.last_commit
    hook = loader.verify()
    known = figures(overlay, content) | _of_mount(mounted)
    return known | {
        "mode": "hooked" if hook.active else "plain",
        "mode_reason": hook.reason,
        "commits": {
            "pending": known.pop("pending"),
            "age_ns": None if last is None else time.monotonic_ns() - last,
            "count": len(held),
            "median_ns": _percentile(held, 50),
            "p99_ns": _percentile(held, 99),
            "longest_ns": held[-1] if held else 0,
        },
        "memory": resident(),
    }


def _journal(overlay: Overlay, parameters: Mapping[str, Any]) -> Answer:
    for name, kind in (("first", int), ("end", int), ("backward", bool)):
        if type(parameters.get(name)) not in (kind, type(None)):
            raise VarlinkError(SERVICE + ".InvalidParameter", parameter=name)
    journal = overlay.journal
    first, end = parameters.get("first"), parameters.get("end")
    try:
        kept, known_end = journal.bounds()
        first = kept if first is None else min(max(first, kept), known_end)
        end = known_end if end is None else max(min(end, known_end), first)
        found = journal.read(first, end, backward=bool(parameters.get("backward")))
    except FsError as error:
        raise VarlinkError(INTERFACE + ".JournalDamaged", reason=str(error)) from error
    return {
        "limit": journal.limit,
        "first": kept,
        "end": known_end,
        "next": found.next,
        "impossible": found.impossible,
        "entries": [_told(entry) for entry in found.entries],
    }


def _told(entry: JournalEntry) -> dict[str, Any]:
    return {name: os.fsdecode(value) if isinstance(value, bytes) else value for name, value in entry._asdict().items()}


def _percentile(ordered: list[int], percent: int) -> int:
    """Return a percentile of ordered numbers, 0 of none."""
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else 0
