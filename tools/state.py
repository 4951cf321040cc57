"""``minifo state``: what happened to a path, in mini_fo's words."""

from __future__ import annotations

import json

import click

from ..engine.queries import objects
from . import _common
from ._complete import paths
from ._listing import AT
from ._output import json_name, plain
from ._path import located


@click.command(
    "state",
    epilog="""\b
Words:
  UNMODIFIED     as in the base
  MODIFIED       other bytes or attributes
  CREATED        made here, or moved here
  DEL_REWRITTEN  made here in the place of a base object
  DELETED        the base has it, hidden
  NON_EXISTANT   in neither (mini_fo's spelling)

\b
Examples:
  minifo state /mnt/usr/share/dict/words
  minifo state --sto /var/lib/usr-changes share/dict/words
  minifo state --at night /mnt/etc/hosts""",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object in each line.")
@click.option("--sto", metavar="DIR", help="A storage directory; PATHs are then from the root of its overlay.")
@click.option("--base", metavar="DIR", help="The base, where it is not the one of the last mount.")
@AT
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, shell_complete=paths)
def command(paths: tuple[str, ...], as_json: bool, sto: str | None, base: str | None, at: str | None) -> int:
    """Say what happened to each PATH in an overlay."""
    _common.log_to_stderr("minifo")
    for path in paths:
        with located(path, sto, base, at=at) as (overlay, place):
            word = objects.state(overlay, place).value
        click.echo(json.dumps({"state": word, **json_name("path", place)}) if as_json else f"{word:13}  {plain(place)}")
    return 0
