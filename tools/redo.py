"""``minifo redo``: take back the last undo."""

from __future__ import annotations

import click

from . import _common
from ._checkpoints import changeable
from ._going_back import DRY_RUN, report, try_out
from ._on_overlay import on_overlay


@click.command(
    "redo",
    epilog="""\b
Examples:
  minifo redo /mnt/etc
  minifo redo --json /var/lib/etc-changes

\b
After another command that can be undone there is nothing to redo; the checkpoints are there nevertheless.""",
)
@DRY_RUN
@on_overlay
def command(target: str, dry_run: bool, as_json: bool, base: str | None) -> int:
    """Take back the last undo of the overlay TARGET."""
    _common.log_to_stderr("minifo")
    if dry_run:
        from ..engine.checkpoint_values import to_redo

        try_out(target, base, to_redo, as_json=as_json)
        return 0
    with changeable(target, base) as found:
        report("redo", target, found.redo(), is_live=found.is_live, as_json=as_json)
    return 0
