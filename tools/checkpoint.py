"""``minifo checkpoint``: states of an overlay that it can be brought back to."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from ..engine.errors import UsageError
from ..fusefront.control.patterns import Patterns
from . import _common, _compare
from ._checkpoints import changeable
from ._complete import checkpoints, targets
from ._on_overlay import BASE, JSON
from ._size import age, moment, parse_size, size
from ._target import opened, place_of, storage_of

if TYPE_CHECKING:
    from ..engine import Overlay

_TARGET = click.argument("target", shell_complete=targets)
_NAME = click.argument("name", shell_complete=checkpoints)
_NAMES = click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=checkpoints)


_MARKS = ("pinned", "mounted", "undo", "redo", "fallback", "next_mount")


@click.group("checkpoint", invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """Keep states of an overlay that it can be brought back to."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@command.command(
    "create",
    epilog="""\b
Examples:
  minifo checkpoint create /mnt/etc                          # its name is made of the time
  minifo checkpoint create /mnt/etc before-update -m 'works' --pin
  minifo checkpoint create /var/lib/etc-changes night        # not mounted

\b
A name has up to 64 letters, digits and . _ + : -, and begins with a letter or a digit.""",
)
@click.option("-m", "--note", metavar="TEXT", default="", help="What to say of it.")
@click.option("--pin", "pinned", is_flag=True, help="No policy is to delete it.")
@JSON
@BASE
@_TARGET
@click.argument("name", required=False)
def create(target: str, name: str | None, note: str, pinned: bool, as_json: bool, base: str | None) -> int:
    """Make a checkpoint of the overlay TARGET as it is now, durable with all that was done before."""
    _common.log_to_stderr("minifo")
    with changeable(target, base) as found:
        made = found.create(name, note, pinned=pinned)
    click.echo(json.dumps(made) if as_json else made["name"])
    return 0


@command.command(
    "list",
    epilog="""\b
Examples:
  minifo checkpoint list /mnt/etc
  minifo checkpoint list --json /var/lib/etc-changes | jq -r .name

\b
Columns:
  by       user, or the command that made it by itself before it took something away
  own      bytes that its deletion frees: content, and an estimate for rows
  shared   bytes of content that it needs, and another one or the overlay needs, too
  undo, redo: where these commands would return to
  fallback    what a trial falls back to; next mount: the next one takes it""",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object in each line: times in ns, sizes in bytes.")
@BASE
@click.argument("target", default=".", shell_complete=targets)
def list_(target: str, as_json: bool, base: str | None) -> int:
    """List the checkpoints of the overlay TARGET, in the order in which they were made."""
    _common.log_to_stderr("minifo")
    with opened(place_of(target).storage, base) as overlay:
        found = _listed(overlay)
    if as_json:
        for checkpoint in found:
            click.echo(json.dumps(checkpoint))
    elif found:
        _print(found)
    else:
        click.echo(f"no checkpoint yet; make one: minifo checkpoint create {_common.printable(target)}")
    return 0


def _listed(overlay: Overlay) -> list[dict[str, Any]]:
    from ..engine.checkpoint_values import redo_target, undo_target
    from ..engine.queries.checkpoint_sizes import sizes
    from ..fusefront.control.checkpoints import told

    every = overlay.checkpoints.all()
    bytes_of = sizes(overlay)
    undo, redo = undo_target(every), redo_target(every)
    trial = overlay.trial.state()
    return [
        {
            **told(checkpoint),
            "mounted": overlay.checkpoints.is_shown(checkpoint),
            "own": bytes_of[checkpoint.id].own,
            "shared": bytes_of[checkpoint.id].shared,
            "undo": checkpoint is undo,
            "redo": checkpoint is redo,
            "fallback": checkpoint.name == trial.fallback,
            "next_mount": checkpoint.name == trial.fallback and trial.left == 0,
        }
        for checkpoint in every
    ]


def _print(found: list[dict[str, Any]]) -> None:
    now = time.time_ns()
    rows = [("name", "made", "age", "by", "own", "shared", "")]
    for checkpoint in found:
        marks = [word.replace("_", " ") for word in _MARKS if checkpoint[word]]
        rows.append(
            (
                checkpoint["name"],
                moment(checkpoint["time"]),
                age(now - checkpoint["time"]),
                checkpoint["cause"] or "user",
                size(checkpoint["own"]),
                size(checkpoint["shared"]),
                "  ".join(filter(None, (", ".join(marks), checkpoint["note"]))),
            )
        )
    widths = [max(len(_common.printable(row[at])) for row in rows) for at in range(6)]
    for row in rows:
        words = [_common.printable(word) for word in row]
        line = "  ".join(
            f"{word:>{width}}" if at in (2, 4, 5) else f"{word:{width}}"
            for at, (word, width) in enumerate(zip(words, widths, strict=False))
        )
        click.echo(f"{line}  {words[6]}".rstrip())


@command.command(
    "diff",
    epilog="""\b
Letters are those of minifo diff, with A in the place of the base:
  A added   M modified   D deleted   R renamed   T another type   m metadata only
An object is the same if it was never deleted, whatever its name is.

\b
Examples:
  minifo checkpoint diff /mnt/etc before-update           # what changed since
  minifo checkpoint diff /mnt/etc before-update night     # what changed from one to the other
  minifo checkpoint diff --path ssl /mnt/etc night         # only there
  minifo checkpoint diff --exit-code --json /mnt/etc night | jq .path

\b
Exit codes: 0, or with --exit-code 1 where something differs; 2 failure.""",
)
@click.option("-r", "--recursive", is_flag=True, help="List every name in directories that are new or gone.")
@click.option("--ignore-identical", is_flag=True, help="Compare, and leave out what makes no difference.")
@click.option("--name-only", is_flag=True, help="Paths without letters.")
@click.option("--stat", "as_stat", is_flag=True, help="Counts only.")
@click.option("-z", "--null", "null", is_flag=True, help="End each field with a NUL; paths as they are.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object in each line.")
@click.option("--exit-code", is_flag=True, help="Exit with 1 where something differs.")
@click.option("--path", "patterns", metavar="PATH", multiple=True, help="Only this; wildcards as in .gitignore.")
@BASE
@_TARGET
@click.argument("first", metavar="A", shell_complete=checkpoints)
@click.argument("second", metavar="[B]", required=False, shell_complete=checkpoints)
def diff(
    target: str,
    first: str,
    second: str | None,
    recursive: bool,
    ignore_identical: bool,
    name_only: bool,
    as_stat: bool,
    null: bool,
    as_json: bool,
    exit_code: bool,
    patterns: tuple[str, ...],
    base: str | None,
) -> int:
    """List what changed in the overlay TARGET from checkpoint A to checkpoint B, or until now."""
    if sum((name_only, as_stat, as_json)) > 1:
        raise UsageError("--name-only, --stat and --json exclude each other", "give one of them")
    _common.log_to_stderr("minifo")
    from .diff import write_changes

    every = _compare.compared(target, first, second, base, recursive=recursive, identical=not ignore_identical)
    wanted = Patterns(patterns)
    found = [change for change in every if wanted.match(change.path, change.old)]
    write_changes(found, as_stat=as_stat, as_json=as_json, null=null, name_only=name_only, recursive=recursive)
    return 1 if exit_code and found else 0


@command.command(
    "delete",
    epilog="""\b
Examples:
  minifo checkpoint delete /mnt/etc factory before-update

\b
All are deleted, or none. What nothing else needs is freed.""",
)
@BASE
@_TARGET
@_NAMES
def delete(target: str, names: tuple[str, ...], base: str | None) -> int:
    """Delete checkpoints of the overlay TARGET; the overlay stays as it is."""
    _common.log_to_stderr("minifo")
    with changeable(target, base) as found:
        found.delete(list(names))
    return 0


@command.command(
    "rename",
    epilog="""\b
Examples:
  minifo checkpoint rename /mnt/etc night factory""",
)
@BASE
@_TARGET
@_NAME
@click.argument("new_name", metavar="NEW")
def rename(target: str, name: str, new_name: str, base: str | None) -> int:
    """Give the checkpoint NAME of the overlay TARGET the name NEW."""
    _common.log_to_stderr("minifo")
    with changeable(target, base) as found:
        found.rename(name, new_name)
    return 0


@command.command(
    "pin",
    epilog="""\b
Examples:
  minifo checkpoint pin /mnt/etc factory""",
)
@BASE
@_TARGET
@_NAMES
def pin(target: str, names: tuple[str, ...], base: str | None) -> int:
    """Let no policy delete checkpoints of the overlay TARGET."""
    return _set_pins(target, names, base, pinned=True)


@command.command(
    "unpin",
    epilog="""\b
Examples:
  minifo checkpoint unpin /mnt/etc factory""",
)
@BASE
@_TARGET
@_NAMES
def unpin(target: str, names: tuple[str, ...], base: str | None) -> int:
    """Let policies delete checkpoints of the overlay TARGET again."""
    return _set_pins(target, names, base, pinned=False)


def _set_pins(target: str, names: tuple[str, ...], base: str | None, *, pinned: bool) -> int:
    _common.log_to_stderr("minifo")
    with changeable(target, base) as found:
        for name in names:
            found.pin(name, pinned=pinned)
    return 0


@command.command(
    "prune",
    epilog="""\b
Examples:
  minifo checkpoint prune /mnt/etc --keep-last 3 --keep-daily 7 --keep-weekly 4
  minifo checkpoint prune /mnt/etc --max-bytes 64m --dry-run

\b
A checkpoint is kept if one of the rules keeps it; a period in which none was made does not count. Pinned
and mounted ones stay, and do not count. So do those that commands made by themselves, of which the last
ten are kept; but --max-bytes takes the oldest of all that are not pinned.""",
)
@click.option("--keep-last", metavar="N", type=click.IntRange(1), default=None, help="Keep the last N.")
@click.option("--keep-hourly", metavar="N", type=click.IntRange(1), help="Keep the last one of each of N hours.")
@click.option("--keep-daily", metavar="N", type=click.IntRange(1), help="Keep the last one of each of N days.")
@click.option("--keep-weekly", metavar="N", type=click.IntRange(1), help="Keep the last one of each of N weeks.")
@click.option("--max-bytes", metavar="SIZE", help="Then delete the oldest until all together take so much: 64m, 2g.")
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each that is deleted.")
@BASE
@_TARGET
def prune(
    target: str,
    keep_last: int | None,
    keep_hourly: int | None,
    keep_daily: int | None,
    keep_weekly: int | None,
    max_bytes: str | None,
    dry_run: bool,
    as_json: bool,
    base: str | None,
) -> int:
    """Delete checkpoints of the overlay TARGET that no rule keeps."""
    from ..engine.queries.retention import Policy

    policy = Policy(keep_last or 0, keep_hourly or 0, keep_daily or 0, keep_weekly or 0)
    limit = parse_size("--max-bytes", max_bytes) if max_bytes is not None else None
    if not policy.keeps_any and limit is None:
        raise UsageError("no rule says what to keep", "give --keep-last, another --keep-... or --max-bytes")
    _common.log_to_stderr("minifo")
    from ..engine.queries.checkpoint_sizes import oldest_beyond
    from ..fusefront.control.checkpoints import told

    with opened(storage_of(target), base) as overlay:
        points = overlay.checkpoints
        free = [c for c in points.all() if not c.pinned and not points.is_shown(c)]
        ours = [c for c in free if c.cause is None]
        kept = policy.kept(ours) if policy.keeps_any else {c.id for c in ours}
        ids = [c.id for c in ours if c.id not in kept]
        if limit is not None:
            ids += oldest_beyond(overlay, ids, [c.id for c in free if c.id not in ids], limit)
        chosen = [told(checkpoint) for checkpoint in free if checkpoint.id in ids]
    if chosen and not dry_run:
        with changeable(target, base) as found:
            chosen = found.prune(ids)
    for checkpoint in chosen:
        said = "would be deleted" if dry_run else "deleted"
        made = f"{moment(checkpoint['time'])}  {_common.printable(checkpoint['name'])}"
        click.echo(json.dumps(checkpoint) if as_json else f"{said}  {made}")
    if not chosen and not as_json:
        click.echo("nothing to delete")
    return 0
