"""``minifo du``: what uses an overlay's storage."""

from __future__ import annotations

import json
from collections import defaultdict

import click

from ..engine.queries.objects import Usage, usage
from . import _common
from ._complete import targets
from ._listing import AT
from ._output import json_name, plain
from ._size import size
from ._target import opened


@click.command(
    "du",
    epilog="""\b
Examples:
  minifo du /mnt/usr                    # directories, the largest first
  minifo du --top 20 /mnt/usr           # the twenty largest files
  minifo du --json /var/lib/usr-changes | jq -s 'map(.size) | add'""",
)
@click.option("--depth", metavar="N", type=click.IntRange(0), default=2, show_default=True, help="Directory levels.")
@click.option("--top", metavar="N", type=click.IntRange(1), help="The N largest files instead.")
@click.option("--json", "as_json", is_flag=True, help="Every file as a JSON object in a line; sizes in bytes.")
@click.option("--base", metavar="DIR", help="The base, where it is not the one of the last mount.")
@AT
@click.argument("target", default=".", shell_complete=targets)
def command(target: str, depth: int, top: int | None, as_json: bool, base: str | None, at: str | None) -> int:
    """Show what uses storage in the overlay TARGET.

    Bytes of contents and extended attributes are counted, holes are not.
    """
    _common.log_to_stderr("minifo")
    with opened(target, base, at=at) as overlay:
        found = sorted(usage(overlay), key=lambda entry: (-entry.size, entry.path))
    if as_json:
        for entry in found[:top]:
            click.echo(json.dumps({"size": entry.size, **json_name("path", entry.path)}))
        return 0
    for entry in found[:top] if top is not None else _directories(found, depth):
        click.echo(f"{size(entry.size):>12}  {plain(entry.path)}")
    return 0


def _directories(found: list[Usage], depth: int) -> list[Usage]:
    """The totals of directories down to a depth, the root among them, the largest first."""
    totals: dict[bytes, int] = defaultdict(int)
    for entry in found:
        parts = entry.path.split(b"/")[1:-1]
        for count in range(min(depth, len(parts)) + 1):
            totals[b"/" + b"/".join(parts[:count])] += entry.size
    return sorted((Usage(path, total) for path, total in totals.items()), key=lambda entry: (-entry.size, entry.path))
