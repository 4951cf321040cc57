"""``minifo meta``: mini_fo's storages and META files, in and out."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

import click

from ..engine import StateError, UsageError
from ..engine.store.base_view import split
from ..engine.tree.row_checks import is_name
from ..migrations.meta import codec
from ..migrations.meta.codec import Whiteout
from ..migrations.meta.exporter import export_storage
from ..migrations.meta.import_plan import DOverR
from ..migrations.meta.importer import ImportReport, import_storage, plan_import, restore
from ..migrations.meta.storage_tree import Note
from . import _common

_NAME = codec.META_NAME.decode()
_JSON = click.option(
    "--json", "as_json", is_flag=True, help="Write one JSON object; bytes that are no UTF-8 as \\udcXX."
)


def _check_name(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if not is_name(os.fsencode(value)):
        raise click.BadParameter("it is no file name")
    return value


_META_NAME = click.option(
    "--meta-name",
    metavar="NAME",
    default=_NAME,
    callback=_check_name,
    help="The name of META files, where mini_fo was built with another.",
)


class _Progress:
    """A line on the terminal that tells how far a long piece of work is; nothing where stderr is none."""

    def __init__(self) -> None:
        self._shows = sys.stderr.isatty()
        self._next = 0.0
        self._dirty = False

    def __call__(self, what: str, done: int, total: int) -> None:
        if self._shows and time.monotonic() >= self._next:
            share = f"{100 * done // total:3} %" if total else ""
            print(f"\r\033[K{what} {done} {share}", end="", file=sys.stderr, flush=True)
            self._next = time.monotonic() + 0.1
            self._dirty = True

    def end(self) -> None:
        """Clear the line."""
        if self._dirty:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _text(value: bytes | None) -> str | None:
    return os.fsdecode(value) if value is not None else None


def _plain(value: bytes) -> str:
    return _common.printable(os.fsdecode(value))


@click.group("meta", invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """Bring mini_fo storages over, take them back, and look into META files."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


# -- show


@command.command(
    "show",
    epilog=f"""\b
Examples:
  minifo meta show /overlay/etc/{_NAME}
  minifo meta show /overlay/etc         # the file in that directory
  minifo meta show --json /overlay""",
)
@_JSON
@_META_NAME
@click.argument("path")
def show(path: str, meta_name: str, as_json: bool) -> int:
    """Print the records of a META file, and the lines that hold none.

    Exits with 1 if there are such lines.
    """
    if os.path.isdir(path):
        directory, path = path, os.path.join(path, meta_name)
        if not os.path.lexists(path):
            raise StateError(f"{directory} holds no {meta_name}", "nothing was deleted or renamed there")
    with open(path, "rb") as file:
        meta = codec.parse(file.read())
    if as_json:
        records = [
            {"line": line, "type": "D", "name": os.fsdecode(record.name)}
            if isinstance(record, Whiteout)
            else {"line": line, "type": "R", "old": os.fsdecode(record.old), "new": os.fsdecode(record.new)}
            for line, record in zip(meta.lines, meta.records, strict=True)
        ]
        skipped = [{"line": s.line, "raw": s.raw.hex(), "reason": s.reason} for s in meta.skipped]
        click.echo(json.dumps({"file": path, "records": records, "skipped": skipped}))
    else:
        for record in meta.records:
            if isinstance(record, Whiteout):
                click.echo(f"D {_plain(record.name)}")
            else:
                click.echo(f"R {_plain(record.old)} -> {_plain(record.new)}")
        for line in meta.skipped:
            click.echo(f"line {line.line}: {line.reason}: {_plain(line.raw)}", err=True)
    return _common.USAGE if any(line.raw for line in meta.skipped) else 0


# -- import


@command.command(
    "import",
    epilog="""\b
Examples:
  minifo meta import /overlay --base /rom --sto /var/lib/new --dry-run
  minifo meta import /overlay --base /rom --sto /var/lib/new
  minifo meta import /overlay --base /rom --in-place     # the old files go to /overlay/mini_fo-backup
  minifo meta restore /overlay                           # and come back from there

A run that was cut short goes on when the same command is given again, and one that had come to its end says so.""",
)
@click.option("--base", metavar="DIR", required=True, help="The base mini_fo was mounted with.")
@click.option("--sto", metavar="DIR", help="The new storage: an empty directory, or one that does not exist yet.")
@click.option("--in-place", is_flag=True, help="Turn the storage itself into the new one, keeping a backup in it.")
@click.option("--dry-run", "-n", is_flag=True, help="Print what would be done, and change nothing.")
@click.option(
    "--d-over-r",
    type=click.Choice(["kernel", "intent"]),
    default="kernel",
    help="Where a name has a D and an R line: D counts, as mini_fo showed it after a mount (kernel, the default), or"
    " R, as the user had renamed it (intent).",
)
@_META_NAME
@_JSON
@click.argument("storage", metavar="LEGACY_STO")
def import_(
    storage: str,
    base: str,
    sto: str | None,
    in_place: bool,
    dry_run: bool,
    d_over_r: str,
    meta_name: str,
    as_json: bool,
) -> int:
    """Turn a mini_fo storage into one of minifo's.

    Names, contents, owners, modes, times and extended attributes come over; LEGACY_STO itself is only read. The result
    is compared with what mini_fo would have shown, entry by entry, before it counts.
    """
    if (sto is None) == (not in_place) and not (dry_run and sto is None):
        raise UsageError("where the new storage goes is not said", "give either --sto DIR or --in-place")
    policy: DOverR = "intent" if d_over_r == "intent" else "kernel"
    name = os.fsencode(meta_name)
    progress = _Progress()
    if dry_run:
        report = plan_import(storage, base, storage if in_place else sto, meta_name=name, d_over_r=policy)
    else:
        try:
            report = import_storage(
                storage, base, None if in_place else sto, meta_name=name, d_over_r=policy, progress=progress
            )
        finally:
            progress.end()
    if as_json:
        click.echo(json.dumps(_report(report, dry_run)))
    else:
        _print_report(report, dry_run, click.echo)
    return 0


def _note(note: Note) -> dict[str, object]:
    return {
        "kind": note.kind,
        "path": _text(note.place),
        "detail": note.detail,
        "file": _text(note.file),
        "line": note.line,
        "raw": note.raw.hex() if note.raw is not None else None,
    }


def _report(report: ImportReport, dry_run: bool) -> dict[str, object]:
    compared = report.compared
    return {
        "dry_run": dry_run,
        "states": report.counts,
        "steps": [
            {
                "kind": step.kind,
                "path": _text(step.place),
                "state": step.state.value,
                "from": _text(step.origin) if step.kind in ("move", "link") else None,
            }
            for step in report.steps
        ],
        "notes": [_note(note) for note in report.notes],
        "resumed": report.resumed,
        "already": report.already,
        "compared": compared.entries if compared is not None else None,
        "backup": report.backup,
    }


def _print_report(report: ImportReport, dry_run: bool, echo: Callable[[str], None]) -> None:
    if dry_run:
        for step in report.steps:
            if step.kind == "unlink":
                continue
            source = f"  (from {_plain(step.origin)})" if step.kind in ("move", "link") and step.origin else ""
            echo(f"{step.state.value:13} {_plain(step.place)}{source}")
    for note in report.notes:
        where = f"{_plain(note.file)} line {note.line}" if note.file is not None else _plain(note.place)
        raw = f" [{_plain(note.raw)}]" if note.raw is not None else ""
        echo(f"{note.kind}: {where}: {_common.printable(note.detail)}{raw}")
    if report.already:
        echo("imported already: nothing was left to do")
        return
    total = ", ".join(f"{count} {state}" for state, count in sorted(report.counts.items()))
    echo(f"{'would import' if dry_run else 'imported'}: {total or 'the rest of an import that was cut short'}")
    if report.compared is not None:
        echo(f"compared with what mini_fo showed: {report.compared.entries} entries, no difference")
    if report.backup is not None:
        name = split(os.fsencode(report.backup))
        echo(f"the old files are in {_plain(name[0])}/{_plain(name[1])}; the way back: minifo meta restore")


# -- export


@command.command(
    "export",
    epilog="""\b
Examples:
  minifo meta export /var/lib/changes --base /rom /tmp/overlay
  minifo meta export /var/lib/changes --base /rom --lossy /tmp/overlay""",
)
@click.option("--base", metavar="DIR", required=True, help="The base of the overlay.")
@click.option("--lossy", is_flag=True, help="Write even if something cannot be said in the old format.")
@_META_NAME
@_JSON
@click.argument("storage", metavar="STO")
@click.argument("destination", metavar="DEST")
def export(storage: str, destination: str, base: str, lossy: bool, meta_name: str, as_json: bool) -> int:
    """Write an overlay as a mini_fo storage tree, which mini_fo would show the same.

    What the old format cannot say is listed, and without --lossy nothing is written then.
    """
    progress = _Progress()
    try:
        report = export_storage(
            storage, base, destination, lossy=lossy, meta_name=os.fsencode(meta_name), progress=progress
        )
    finally:
        progress.end()
    if as_json:
        losses = [{"kind": loss.kind, "path": _text(loss.place), "detail": loss.detail} for loss in report.losses]
        click.echo(
            json.dumps({"written": report.written, "objects": report.objects, "metas": report.metas, "losses": losses})
        )
    else:
        for loss in report.losses:
            click.echo(f"{loss.kind}: {_plain(loss.place)}: {_common.printable(loss.detail)}")
        if report.written:
            click.echo(f"exported: {report.objects} objects, {report.metas} META files, {len(report.losses)} losses")
    if not report.written:
        raise UsageError(f"{len(report.losses)} things cannot be said in the old format", "give --lossy to go on")
    return 0


# -- restore


@command.command(
    "restore",
    epilog="""\b
Examples:
  minifo meta restore /overlay
  minifo meta restore --discard /overlay     # although something was changed since the import""",
)
@click.option("--discard", is_flag=True, help="Give up what was changed since the import.")
@click.argument("storage", metavar="STO")
def restore_(storage: str, discard: bool) -> int:
    """Undo an import in place: bring the mini_fo storage back from its backup."""
    restore(storage, discard=discard)
    click.echo(f"the mini_fo storage is back in {_common.printable(storage)}")
    return 0
