"""``minifo revert``: let single paths show again what the base has there, or what they showed at a checkpoint."""

from __future__ import annotations

import json
import os
import shlex

import click

from ..engine.errors import StateError
from . import _common
from ._checkpoints import changeable
from ._complete import checkpoints
from ._complete import paths as overlay_paths
from ._output import plain
from ._path import place_of
from ._progress import waiting


@click.command(
    "revert",
    epilog="""\b
Examples:
  minifo revert /mnt/etc/hosts                # a file that was edited, deleted, made or renamed
  minifo revert --dry-run /mnt/etc             # a directory with all that is in it
  minifo revert --to before-update /mnt/etc/hosts      # as it was at a checkpoint
  minifo revert --sto /var/lib/etc-changes hosts

\b
What was made is removed, what was renamed goes back to its place, what was deleted shows again, and what was edited
has the base's bytes and attributes. With --to, all of this is as of that checkpoint. Nothing is lost: what was there
is kept as a checkpoint, and minifo undo takes the revert back.""",
)
@click.option("--to", metavar="NAME", shell_complete=checkpoints, help="Let them be as at this checkpoint.")
@click.option("-n", "--dry-run", is_flag=True, help="Change nothing, and list what would be done.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
@click.option("--sto", metavar="DIR", help="A storage directory; PATHs are then from the root of its overlay.")
@click.option("--base", metavar="DIR", help="The base, where it is not the one of the last mount.")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, shell_complete=overlay_paths)
def command(
    paths: tuple[str, ...], to: str | None, dry_run: bool, as_json: bool, sto: str | None, base: str | None
) -> int:
    """Let each PATH in an overlay be as in the base again."""
    _common.log_to_stderr("minifo")
    if sto is not None:
        target = sto
        places = [os.path.normpath(b"/" + os.fsencode(path)).replace(b"//", b"/") for path in paths]
    else:
        located = [place_of(path) for path in paths]
        target = located[0][0]
        places = [place for _, place in located]
        if len({mountpoint for mountpoint, _ in located}) > 1:
            raise StateError("the paths are in different overlays", "name the paths of one overlay at a time")
    with changeable(target, base) as found:
        with waiting("comparing" if dry_run else "reverting"):
            told = found.revert(places, to=to, dry_run=dry_run)
        is_live = found.is_live
    if as_json:
        click.echo(json.dumps(told))
        return 0
    for action in told["actions"]:
        other = action["other"]
        arrow = f" -> {plain(os.fsencode(other))}" if other is not None else ""
        click.echo(f"{action['what']:12} {plain(os.fsencode(action['path']))}{arrow}")
    if not told["actions"]:
        click.echo(f"Nothing was changed there: it is as {'in the base' if to is None else f'at {to}'}.")
    elif told["left"] is not None:
        undo = _common.printable(f"minifo undo {shlex.quote(target)}")
        click.echo(f"What was there is kept as {_common.printable(told['left']['name'])}; {undo} takes this back.")
        if is_live and told["objects"]:
            click.echo("Programs that have a changed file open get errors (EIO, ESTALE) until they open it again.")
    return 0
