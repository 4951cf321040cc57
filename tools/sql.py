"""``minifo sql``: asks an overlay in SQL, on views that stay the same in later versions."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import apsw
import click

from ..engine import UsageError
from ..engine.queries.views import Views
from . import _common
from ._complete import targets
from ._output import json_name, plain
from ._target import opened

_MEMORY = 256 << 20  # bytes that SQLite may take

Row = tuple[Any, ...]


@click.command(
    "sql",
    epilog="""\b
Views (version 1):
  v_overlay  key, value: views (their version), uuid, base, storage, counts of the lists, bytes
  v_changes  change, also (letters of minifo diff), path, old_path, directory, ino
  v_objects  ino, type, mode, uid, gid, links, size, atime, mtime, ctime, stored
  v_storage  path, bytes: what each object takes
  v_drift    standing (see minifo status --drift), path, base_path, held, became, shows, ino
  Times in ns, sizes in bytes. A path that is not UTF-8 is a BLOB. Each use of a view computes it anew:
  to join views, begin with WITH c AS MATERIALIZED (SELECT * FROM v_changes).

\b
Examples:
  minifo sql /mnt/usr                     # a console, on a terminal
  minifo sql /mnt/usr "SELECT change, count(*) FROM v_changes GROUP BY change"
  minifo sql --csv /var/lib/usr-changes "SELECT path, bytes FROM v_storage ORDER BY bytes DESC LIMIT 10"
  echo 'SELECT * FROM v_drift' | minifo sql --json /mnt/usr

\b
Exit codes: 0, 1 a wrong call, 2 failure: also of a statement that is refused, or takes too long.""",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each row, in a line.")
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values (RFC 4180), with a header.")
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    help="The longest that a statement may take.",
)
@click.option("--base", metavar="DIR", help="The base, where it is not the one of the last mount.")
@click.argument("target", default=".", shell_complete=targets)
@click.argument("statement", required=False)
def command(target: str, statement: str | None, as_json: bool, as_csv: bool, timeout: float, base: str | None) -> int:
    """Answer STATEMENT, in SQL, about the overlay TARGET.

    Without STATEMENT it is a console on a terminal, and otherwise reads the statement from standard input. Statements
    only read, and only views: no table of the storage, no file, no pragma.
    """
    if as_json and as_csv:
        raise UsageError("--json and --csv exclude each other", "give one of them")
    _common.log_to_stderr("minifo")
    is_console = statement is None and sys.stdin.isatty() and not (as_json or as_csv)
    if statement is None and not is_console:
        statement = sys.stdin.read()
    before = apsw.hard_heap_limit(_MEMORY)
    with opened(target, base) as overlay:
        views = Views(overlay, timeout)
        try:
            if is_console:
                from ._console import Console  # only where it is needed

                Console(views).talk(f"The overlay in {_common.printable(overlay.storage_path)}.\n")
            else:
                names, rows = views.run(statement or "")
                for piece in _FORMS["json" if as_json else "csv" if as_csv else "text"](names, rows):
                    sys.stdout.buffer.write(piece)
        finally:
            views.close()
            apsw.hard_heap_limit(before)
    return 0


def _json(names: list[str], rows: Iterator[Row]) -> Iterator[bytes]:
    for row in rows:
        members: dict[str, Any] = {}
        for name, value in zip(names, row, strict=True):
            members |= json_name(name, value) if isinstance(value, bytes) else {name: value}
        yield f"{json.dumps(members)}\n".encode()


def _csv(names: list[str], rows: Iterator[Row]) -> Iterator[bytes]:
    """Values as they are, bytes among them."""
    text = io.StringIO()
    writer = csv.writer(text)
    for row in chain([names] if names else [], rows):
        writer.writerow(
            value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value for value in row
        )
        yield text.getvalue().encode("utf-8", "surrogateescape")
        text.seek(0)
        text.truncate()


def _text(names: list[str], rows: Iterator[Row]) -> Iterator[bytes]:
    """For people: a tab between values, and names that a terminal can show."""
    for row in chain([names] if names else [], rows):
        yield ("\t".join(map(_shown, row)) + "\n").encode()


def _shown(value: Any) -> str:
    if isinstance(value, bytes):
        return plain(value)
    return "" if value is None else _common.printable(str(value))


_FORMS: dict[str, Callable[[list[str], Iterator[Row]], Iterator[bytes]]] = {"json": _json, "csv": _csv, "text": _text}
