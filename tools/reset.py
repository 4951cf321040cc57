"""``minifo reset``: take away all that an overlay holds, but for what is to be kept."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import click

from ..engine.errors import UsageError
from . import _common
from ._checkpoints import Told, changeable
from ._complete import keep_lists
from ._keeping import patterns_in
from ._on_overlay import on_overlay
from ._progress import waiting
from ._size import size
from ._target import opened, storage_of

if TYPE_CHECKING:
    from ..engine.queries.changes import Change


@click.command(
    "reset",
    epilog="""\b
Examples:
  minifo reset --dry-run --keep hosts --keep /ssh /mnt/etc   # what would go
  minifo reset --keep hosts --keep '/ssh/*.pub' /mnt/etc
  minifo reset --keep-file /etc/reset.keep /mnt/etc          # a pattern in each line
  minifo reset --all --discard /var/lib/etc-changes          # not mounted, and for good

\b
The overlay is as its base again. What matches a PATTERN stays as it is, with the directories that it is in; patterns
are those of minifo diff, as in .gitignore. Without --keep, --keep-file and --keep-list, the keep-list named default
is used, if there is one (minifo keep-list). A deleted file that matches stays deleted; one that was renamed and is
kept does not come back at its old place.
Nothing is lost: what was there is kept as a checkpoint, and minifo undo takes the reset back. What it takes in
storage is freed when that checkpoint goes, or with --discard at once.""",
)
@click.option("--keep", metavar="PATTERN", multiple=True, help="Keep paths that match; may be given several times.")
@click.option("--keep-file", metavar="FILE", multiple=True, help="Keep what a file names, a pattern in each line.")
@click.option(
    "--keep-list", metavar="NAME", multiple=True, shell_complete=keep_lists, help="Keep what a keep-list names."
)
@click.option("--all", "keeps_nothing", is_flag=True, help="Keep nothing, whatever keep-lists there are.")
@click.option("-n", "--dry-run", is_flag=True, help="List what would be taken back, as minifo diff does.")
@click.option("--discard", is_flag=True, help="Free the space at once: no checkpoint is left, and no undo possible.")
@on_overlay
def command(
    target: str,
    keep: tuple[str, ...],
    keep_file: tuple[str, ...],
    keep_list: tuple[str, ...],
    keeps_nothing: bool,
    dry_run: bool,
    discard: bool,
    as_json: bool,
    base: str | None,
) -> int:
    """Take away all that the overlay TARGET holds, in one step."""
    if keeps_nothing and (keep or keep_file or keep_list):
        raise UsageError("--all keeps nothing", "leave it out, or leave out what to keep")
    _common.log_to_stderr("minifo")
    patterns = [*keep, *(pattern for file in keep_file for pattern in patterns_in(file))]
    if keep_file and not patterns:
        raise UsageError("there is no pattern in the files", "give --all to keep nothing")
    lists, default = list(keep_list), not (keeps_nothing or patterns)
    if dry_run:
        from .diff import write_changes

        write_changes(_going(target, base, patterns, lists, default=default), as_json=as_json)
        return 0
    with changeable(target, base) as found:
        with waiting("taking back what the overlay holds"):
            told = found.reset(patterns, lists, default=default)
        is_live = found.is_live
    bytes_ = _bytes_of(target, base, told)
    if discard and told["left"] is not None:
        with changeable(target, base) as found:
            found.delete([told["left"]["name"]])
    if as_json:
        click.echo(json.dumps({**told, "left": None if discard else told["left"], "bytes": bytes_}))
    else:
        _report(target, told, bytes_, is_live=is_live, is_discarded=discard)
    return 0


def _going(target: str, base: str | None, patterns: list[str], lists: list[str], *, default: bool) -> list[Change]:
    """Return the changes that a reset would take back, by path; a directory stands for all that is in it."""
    from ..engine.queries.changes import Kind, changes
    from ..fusefront.control.patterns import Choice

    with opened(storage_of(target), base) as overlay:
        choice = Choice(overlay.keep_lists.chosen(patterns, lists, default=default)[0])
        every = sorted(changes(overlay, recursive=True), key=lambda change: change.path.split(b"/"))
    chosen = [change.path != b"/" and choice.match(change.path) for change in every]
    needed = {path for change, is_kept in zip(every, chosen, strict=True) if is_kept for path in _above(change.path)}
    going: list[Change] = []
    whole: set[bytes] = set()  # directories that go with all that is in them
    for change, is_kept in zip(every, chosen, strict=True):
        if (
            is_kept
            or (change.kind is Kind.ADDED and change.path in needed)
            or not whole.isdisjoint(_above(change.path))
        ):
            continue
        going.append(change)
        if change.is_dir and change.kind in (Kind.ADDED, Kind.DELETED):
            whole.add(change.path)
    return going


def _above(path: bytes) -> list[bytes]:
    """Return the paths of all directories above a path but the root."""
    parts = path.split(b"/")
    return [b"/".join(parts[:end]) for end in range(2, len(parts))]


def _bytes_of(target: str, base: str | None, told: Told) -> int:
    """Return the bytes that the deletion of the checkpoint frees which a reset left."""
    if told["left"] is None:
        return 0
    from ..engine.queries.checkpoint_sizes import sizes

    with opened(storage_of(target), base) as overlay:
        found = sizes(overlay).get(told["left"]["id"])
        return found.own if found is not None else 0


def _report(target: str, told: Told, bytes_: int, *, is_live: bool, is_discarded: bool) -> None:
    for name in told["lists"]:
        click.echo(f"Keep-list {_common.printable(name)} was used.")
    if told["left"] is None:
        click.echo("Nothing was there to take back.")
        return
    taken, kept = told["taken"], told["kept"]
    words = "change was taken back" if taken == 1 else "changes were taken back"
    click.echo(f"{taken} {words}, and {kept} {'is' if kept == 1 else 'are'} kept.")
    left, where = told["left"]["name"], shlex.quote(target)
    if is_discarded:
        click.echo(f"{size(bytes_)} were freed.")
    else:
        undo = _common.printable(f"minifo undo {where}")
        click.echo(f"What was there is kept as {_common.printable(left)}; {undo} takes this back.")
        delete = _common.printable(f"minifo checkpoint delete {where} {left}")
        click.echo(f"When that goes, {size(bytes_)} are freed: {delete}.")
    if is_live and told["objects"]:
        click.echo("Programs that have a changed file open get errors (EIO, ESTALE) until they open it again.")
