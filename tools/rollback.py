"""``minifo rollback``: bring an overlay back to a checkpoint."""

from __future__ import annotations

import click

from . import _common, _compare
from ._checkpoints import changeable
from ._complete import checkpoints, targets
from ._going_back import DRY_RUN, report
from ._on_overlay import BASE


@click.command(
    "rollback",
    epilog="""\b
Examples:
  minifo rollback --dry-run /mnt/etc before-update     # what would change
  minifo rollback /mnt/etc before-update
  minifo rollback /var/lib/etc-changes night     # not mounted

\b
Nothing is lost: what was there is kept as a checkpoint, and minifo undo takes it back. Files that did not change stay
open as if nothing had happened; of the others, programs get EIO or ESTALE until they open them again.""",
)
@DRY_RUN
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object; with --dry-run one for each change.")
@BASE
@click.argument("target", shell_complete=targets)
@click.argument("name", shell_complete=checkpoints)
def command(target: str, name: str, dry_run: bool, as_json: bool, base: str | None) -> int:
    """Bring the overlay TARGET back to the checkpoint NAME."""
    _common.log_to_stderr("minifo")
    if dry_run:
        from .diff import write_changes

        write_changes(_compare.compared(target, None, name, base), as_json=as_json)
        return 0
    with changeable(target, base) as found:
        report("rollback", target, found.rollback(name), is_live=found.is_live, as_json=as_json)
    return 0
