"""``minifo vacuum``: give back storage of which nothing that an overlay shows depends."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

from ..engine.errors import StateError, UsageError
from . import _common
from ._checkpoints import Told, changeable
from ._on_overlay import on_overlay
from ._progress import waiting
from ._size import size
from ._target import opened, storage_of

if TYPE_CHECKING:
    from ..engine import Overlay

_WORDS = {
    "copies": "copies of files that are as in the base",
    "attributes": "attributes that are as in the base",
    "whiteouts": "deleted names that the base does not have",
    "extents": "files in pieces",
    "objects": "content that no file has",
    "database": "unused parts of the database",
}
_DATABASE = "database"


@click.command(
    "vacuum",
    epilog="""\b
Examples:
  minifo vacuum --dry-run /mnt/etc             # what it would give back
  minifo vacuum -y /mnt/etc
  minifo vacuum -y --skip whiteouts /mnt/etc   # an older base may come back
  minifo vacuum -y /var/lib/etc-changes        # not mounted, it compacts the database as well

\b
Nothing that the overlay shows changes: bytes, attributes, times and inode numbers stay. What a checkpoint or a clone
needs stays in storage; minifo checkpoint prune lets go of checkpoints. It may be interrupted at any time, and run
again.
Kinds: copies, attributes, whiteouts, extents, objects, database. A deleted name that the base does not have shows
again if a later base has it: skip whiteouts where an older base may come back.""",
)
@click.option("-n", "--dry-run", is_flag=True, help="Change nothing, and say what it would give back.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--skip", metavar="KIND", multiple=True, type=click.Choice(list(_WORDS)), help="Leave out a kind; may be repeated."
)
@on_overlay
def command(target: str, dry_run: bool, yes: bool, skip: tuple[str, ...], as_json: bool, base: str | None) -> int:
    """Give back storage that the overlay TARGET does not need."""
    asks = not (dry_run or yes)
    if asks and (as_json or not (sys.stdin.isatty() and sys.stdout.isatty())):
        raise UsageError("minifo vacuum asks on a terminal only", "give -y to do it, or --dry-run to see what it does")
    _common.log_to_stderr("minifo")
    kinds = [kind for kind in _WORDS if kind not in skip]
    if dry_run or asks:
        told = _plan(target, base, kinds)
        if as_json:
            click.echo(json.dumps({**told, "applied": False}))
            return 0
        _table(told, "would free")
        if dry_run or not _total(told):
            _hint(target, told)
            return 0
        if not click.confirm("Do it?"):
            return 0
    told = _apply(target, base, kinds)
    if as_json:
        click.echo(json.dumps({**told, "applied": True}))
    else:
        _table(told, "freed")
        _hint(target, told)
    return 0


def _plan(target: str, base: str | None, kinds: list[str]) -> Told:
    from ..engine.vacuum import Vacuum, unused_bytes
    from ..fusefront.control.checkpoints import told_vacuum

    with opened(storage_of(target), base) as overlay:
        work = Vacuum(overlay, tuple(kinds), apply=False)
        with waiting("looking for what is not needed"):
            work.run()
        told = told_vacuum(work)
        if _DATABASE in kinds:
            told["found"].append(_given(unused_bytes(overlay)))
        return told | _of_checkpoints(overlay)


def _apply(target: str, base: str | None, kinds: list[str]) -> Told:
    from ..engine.vacuum import KINDS, unused_bytes

    with changeable(target, base) as found, waiting("giving back what is not needed"):
        told = found.vacuum([kind for kind in kinds if kind in KINDS])
        is_live = found.is_live
    with opened(storage_of(target), base) as overlay:
        told |= _of_checkpoints(overlay)
        unused = unused_bytes(overlay)
    if _DATABASE in kinds and unused:
        told["found"].append(_given(0 if is_live else _compact(storage_of(target)), left=unused if is_live else 0))
    return told


def _given(freed: int, left: int = 0) -> dict[str, Any]:
    return {"kind": _DATABASE, "count": int(freed > 0), "freed": freed, "kept": left}


def _compact(storage: str) -> int:
    """Write the database anew; return the bytes that this has freed."""
    from ..engine.store.database_file import compact
    from ..engine.store.storage import Storage

    store = Storage(storage)
    try:
        store.lock(exclusive=True)
        before = store.database_bytes()
        if store.space().available < 2 * before:
            raise StateError(
                f"{storage} has no room to compact the database ({size(2 * before)}); the rest is done",
                "free some space, or give --skip database",
            )
        with waiting("compacting the database"):
            compact(store.database)
        return max(0, before - store.database_bytes())
    finally:
        store.close()


def _of_checkpoints(overlay: Overlay) -> Told:
    from ..engine.queries.checkpoint_sizes import taken

    return {"checkpoints": taken(overlay)}


def _total(told: Told) -> int:
    return sum(given["count"] for given in told["found"])


def _table(told: Told, verb: str) -> None:
    found = [given for given in told["found"] if given["count"]]
    if not found:
        click.echo("There is nothing to give back.")
        return
    rows = [(given["kind"], str(given["count"]), size(given["freed"]), _WORDS[given["kind"]]) for given in found]
    rows.append(("total", "", size(sum(given["freed"] for given in found)), ""))
    rows.insert(0, ("kind", "count", verb, ""))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for kind, count, freed, words in rows:
        click.echo(f"{kind:{widths[0]}}  {count:>{widths[1]}}  {freed:>{widths[2]}}  {words}".rstrip())


def _hint(target: str, told: Told) -> None:
    where = _common.printable(shlex.quote(target))
    kept = sum(given["kept"] for given in told["found"] if given["kind"] != _DATABASE)
    if kept:
        click.echo(f"{size(kept)} more stay in storage, because a checkpoint or a clone needs them.")
    if told["checkpoints"]:
        click.echo(f"Checkpoints keep {size(told['checkpoints'])}: minifo checkpoint prune {where}, or delete.")
    for given in told["found"]:
        if given["kind"] == _DATABASE and given["kept"]:
            click.echo(f"{size(given['kept'])} of the database are unused: unmount it, and run minifo vacuum again.")
    if told["skipped"]:
        click.echo(f"{told['skipped']} objects could not be looked at; minifo fsck {where} may say why.")
