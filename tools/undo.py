"""``minifo undo``: take back the last command that took something away."""

from __future__ import annotations

import click

from . import _common
from ._checkpoints import changeable
from ._going_back import report
from ._on_overlay import on_overlay


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
@on_overlay
def command(target: str, as_json: bool, base: str | None) -> int:
    """Take back the last command that took something away."""
    _common.log_to_stderr("minifo")
    with changeable(target, base) as found:
        report("undo", target, found.undo(), is_live=found.is_live, as_json=as_json)
    return 0
