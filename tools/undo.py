"""``minifo undo``: take back the last command that took something away."""

from __future__ import annotations

import click

from . import _common
from ._checkpoints import changeable
from ._going_back import DRY_RUN, report, try_out
from ._on_overlay import on_overlay


@click.command(
    "undo",
    epilog="""\b
Examples:
  minifo undo --dry-run /mnt/etc     # what would change
  minifo undo /mnt/etc
  minifo undo --json /var/lib/etc-changes

\b
It returns to the checkpoint that the command made by itself; undo again takes back the command before it. What was
done since is kept as a checkpoint, too, and minifo redo returns to it.""",
)
@DRY_RUN
@on_overlay
def command(target: str, dry_run: bool, as_json: bool, base: str | None) -> int:
    """Take back the last command that took something away."""
    _common.log_to_stderr("minifo")
    if dry_run:
        from ..engine.checkpoint_values import to_undo

        try_out(target, base, to_undo, as_json=as_json)
        return 0
    with changeable(target, base) as found:
        report("undo", target, found.undo(), is_live=found.is_live, as_json=as_json)
    return 0
