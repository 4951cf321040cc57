"""``minifo which``: what backs a path: a base file, a row, content objects."""

from __future__ import annotations

import json

import click

from ..engine import StateError
from ..engine.queries import objects
from . import _common
from ._complete import paths
from ._output import json_name, plain
from ._path import located

_WORDS = {
    "base": "the base",
    "row": "a row of the database",
    "object": "a content object",
    "none": "nothing: it has no bytes",
}


@click.command(
    "which",
    epilog="""\b
Examples:
  minifo which /mnt/usr/share/dict/words
  minifo which --json /mnt/usr/bin/tool | jq .extents""",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--sto", metavar="DIR", help="A storage directory; PATH is then from the root of its overlay.")
@click.option("--base", metavar="DIR", help="The base, where it is not the one of the last mount.")
@click.argument("path", metavar="PATH", shell_complete=paths)
def command(path: str, as_json: bool, sto: str | None, base: str | None) -> int:
    """Show what backs PATH in an overlay.

    Its base object, its row, and where its bytes lie in storage.
    """
    _common.log_to_stderr("minifo")
    with located(path, sto, base) as (overlay, place):
        found = objects.backing(overlay, place)
    if found is None:
        raise StateError(f"the overlay has nothing at {plain(place)}", "minifo state says whether it was deleted")
    under = found.pop("base")
    if as_json:
        told = json_name("base", under) if under is not None else {"base": None}
        click.echo(json.dumps({**json_name("path", place), **told, **found}))
        return 0
    click.echo(f"path:     {plain(place)}")
    click.echo(f"state:    {found['state']}")
    click.echo(f"inode:    {found['ino']}")
    click.echo(f"base:     {plain(under) if under is not None else 'none: it was made here'}")
    visible = f", {found['visible']:,} bytes of it" if found["visible"] is not None else ""
    where = f" ({found['object']})" if found["object"] else ""
    click.echo(f"bytes in: {_WORDS[found['backing']]}{where}{visible}")
    for start, end, name in found["extents"]:
        click.echo(f"          {start:,} to {end:,}: {name or 'a hole'}")
    return 0
