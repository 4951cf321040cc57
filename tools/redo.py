"""``minifo redo``: take back the last undo."""

from __future__ import annotations

import click

from . import _common
from ._checkpoints import changeable
from ._complete import targets
from ._going_back import report


@click.command(
    "redo",
    epilog="""\b
Examples:
  minifo redo /mnt/etc
  minifo redo --json /var/lib/etc-changes

\b
After another command that can be undone there is nothing to redo; the checkpoints are there nevertheless.""",
)
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
@click.option("--base", metavar="DIR", help="The base of an overlay that is not mounted, where it has moved.")
@click.argument("target", default=".", shell_complete=targets)
def command(target: str, as_json: bool, base: str | None) -> int:
    """Take back the last undo of the overlay TARGET."""
    _common.log_to_stderr("minifo")
    with changeable(target, base) as found:
        report("redo", target, found.redo(), is_live=found.is_live, as_json=as_json)
    return 0
