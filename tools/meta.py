"""``minifo meta``: import, export and show mini_fo's storages and META files."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

import click

from ..engine import StateError, UsageError
from ..engine.store.base_view import split
from ..engine.store.confined_dir import open_file
from ..engine.tree.row_checks import is_name
from ..migrations.meta import codec
from ..migrations.meta.codec import Whiteout
from ..migrations.meta.exporter import export_storage
from ..migrations.meta.import_plan import DOverR
from ..migrations.meta.importer import ImportReport, import_storage, plan_import, restore
from ..migrations.meta.storage_tree import META_MAX, Note
from . import _common
from ._output import plain

_NAME = codec.META_NAME.decode()
_JSON = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object; bytes that are not UTF-8 as \\udcXX."
)


def _check_name(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if not is_name(os.fsencode(value)):
        raise click.BadParameter("it is not a valid file name")
    return value


_META_NAME = click.option(
    "--meta-name",
    metavar="NAME",
    default=_NAME,
    callback=_check_name,
    help="The name of META files, if your mini_fo was built with a name of its own.",
)


class _Progress:
    """Shows the progress of long work on one line of the terminal; shows nothing if stderr is not a terminal."""

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
        """Erase the line."""
        if self._dirty:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _text(value: bytes | None) -> str | None:
    return os.fsdecode(value) if value is not None else None


@click.group("meta", invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """Import and export mini_fo storages, and show META files."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


# -- show


@command.command(
    "show",
    epilog=f"""\b
Examples:
  minifo meta show /overlay/etc/{_NAME}
  minifo meta show /overlay/etc         # the META file in that directory
  minifo meta show --json /overlay""",
)
@_JSON
@_META_NAME
@click.argument("path")
def show(path: str, meta_name: str, as_json: bool) -> int:
    """Print the records of a META file, and every line that is not a valid record.

    The exit code is 1 if the file has lines that are not valid.
    """
    if os.path.isdir(path):
        directory, path = path, os.path.join(path, meta_name)
        if not os.path.lexists(path):
            raise StateError(
                f"{directory} holds no file {meta_name}", "in this directory mini_fo deleted and renamed nothing"
            )
    meta = codec.parse(_read_meta(path))
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
                click.echo(f"D {plain(record.name)}")
            else:
                click.echo(f"R {plain(record.old)} -> {plain(record.new)}")
        for line in meta.skipped:
            click.echo(f"line {line.line}: {line.reason}: {plain(line.raw)}", err=True)
    return _common.USAGE if any(line.raw for line in meta.skipped) else 0


def _read_meta(path: str) -> bytes:
    """Return the bytes of a META file: a mini_fo storage may come from anywhere, and so have anything in its place.

    Raises:
        StateError: it is larger than any that mini_fo wrote.
        OSError: it cannot be read, or is no file of its own: a link, a FIFO, a device.
    """
    with open(open_file(path), "rb") as file:
        data = file.read(META_MAX + 1)
    if len(data) > META_MAX:
        raise StateError(f"{path} has over {META_MAX:,} bytes: mini_fo cannot have written that", "inspect it by hand")
    return data


# -- import


@command.command(
    "import",
    epilog="""\b
Examples:
  minifo meta import /overlay --base /rom --sto /var/lib/new --dry-run
  minifo meta import /overlay --base /rom --sto /var/lib/new
  minifo meta import /overlay --base /rom --in-place     # the old files are kept in /overlay/mini_fo-backup
  minifo meta restore /overlay                           # undo an import in place

To finish an import that was interrupted, run the same command again. Run again after its end, it changes nothing.""",
)
@click.option("--base", metavar="DIR", required=True, help="The base that mini_fo was mounted with.")
@click.option("--sto", metavar="DIR", help="The new storage: an empty directory, or one that does not exist yet.")
@click.option(
    "--in-place", is_flag=True, help="Convert LEGACY_STO itself; its old files are kept in a backup inside it."
)
@click.option("--dry-run", "-n", is_flag=True, help="Print what would be done; change nothing.")
@click.option(
    "--d-over-r",
    type=click.Choice(["kernel", "intent"]),
    default="kernel",
    help="If a name has both a D and an R line: kernel (default) lets D count, as mini_fo showed it after a mount;"
    " intent lets R count, as the user had renamed it.",
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
    """Convert a mini_fo storage to a storage of minifo.

    Names, contents, owners, modes, times and extended attributes are kept. Without --in-place LEGACY_STO is only read.
    The import succeeds only if the new overlay shows, entry by entry, what mini_fo would have shown.
    """
    if (sto is None) == (not in_place) and not (dry_run and sto is None):
        raise UsageError("the place of the new storage is not given", "give either --sto DIR or --in-place")
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
            source = f"  (from {plain(step.origin)})" if step.kind in ("move", "link") and step.origin else ""
            echo(f"{step.state.value:13} {plain(step.place)}{source}")
    for note in report.notes:
        where = f"{plain(note.file)} line {note.line}" if note.file is not None else plain(note.place)
        raw = f" [{plain(note.raw)}]" if note.raw is not None else ""
        echo(f"{note.kind}: {where}: {_common.printable(note.detail)}{raw}")
    if report.already:
        echo("this storage is already imported; nothing was changed")
        return
    total = ", ".join(f"{count} {state}" for state, count in sorted(report.counts.items()))
    echo(f"{'would import' if dry_run else 'imported'}: {total or 'the rest of an interrupted import'}")
    if report.compared is not None:
        echo(f"compared with what mini_fo showed: {report.compared.entries} entries, no difference")
    if report.backup is not None:
        name = split(os.fsencode(report.backup))
        echo(f"the old files are in {plain(name[0])}/{plain(name[1])}; to undo the import: minifo meta restore")


# -- export


@command.command(
    "export",
    epilog="""\b
Examples:
  minifo meta export /var/lib/changes --base /rom /tmp/overlay
  minifo meta export /var/lib/changes --base /rom --lossy /tmp/overlay""",
)
@click.option("--base", metavar="DIR", required=True, help="The base of the overlay.")
@click.option("--lossy", is_flag=True, help="Export even if the old format cannot express everything.")
@_META_NAME
@_JSON
@click.argument("storage", metavar="STO")
@click.argument("destination", metavar="DEST")
def export(storage: str, destination: str, base: str, lossy: bool, meta_name: str, as_json: bool) -> int:
    """Write the overlay in STO to DEST as a mini_fo storage, over which mini_fo would show the same tree.

    Everything that the old format cannot express is listed. If that list is not empty, nothing is written unless
    --lossy is given.
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
            click.echo(f"{loss.kind}: {plain(loss.place)}: {_common.printable(loss.detail)}")
        if report.written:
            click.echo(f"exported: {report.objects} objects, {report.metas} META files, {len(report.losses)} losses")
    if not report.written:
        raise UsageError(
            f"the old format cannot express {len(report.losses)} things; nothing was written",
            "give --lossy to export without them",
        )
    return 0


# -- restore


@command.command(
    "restore",
    epilog="""\b
Examples:
  minifo meta restore /overlay
  minifo meta restore --discard /overlay     # and lose all changes made since the import""",
)
@click.option("--discard", is_flag=True, help="Restore even if changes made since the import are lost.")
@click.argument("storage", metavar="STO")
def restore_(storage: str, discard: bool) -> int:
    """Undo an import in place: restore the mini_fo storage in STO from its backup."""
    restore(storage, discard=discard)
    click.echo(f"the mini_fo storage in {_common.printable(storage)} is restored")
    return 0
