"""``minifo undo``: take back the last command that took something away."""

from __future__ import annotations

import click

from . import _common
from ._checkpoints import changeable
from ._complete import targets
from ._going_back import report


@click.command(
    "undo",
    epilog="""\b
Examples:
  minifo undo /mnt/etc
  minifo undo --json /var/lib/etc-changes

\b
It returns to the checkpoint that the command made by itself; undo again takes back the command before it. What was
done since is kept as a checkpoint, too, and minifo redo returns to it.""",
)
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
@click.option("--base", metavar="DIR", help="The base of an overlay that is not mounted, where it has moved.")
@click.argument("target", default=".", shell_complete=targets)
def command(target: str, as_json: bool, base: str | None) -> int:
    """Take back the last command that took something away."""
    _common.log_to_stderr("minifo")
    with changeable(target, base) as found:
        report("undo", target, found.undo(), is_live=found.is_live, as_json=as_json)
    return 0
