"""What rollback, undo and redo say: where the overlay is now, what was left, and how to take it back.

A dry run of them says what would change.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from . import _common, _compare
from ._checkpoints import Told
from ._size import moment
from ._target import opened, place_of

if TYPE_CHECKING:
    from ..engine.checkpoint_values import Checkpoint

DRY_RUN = click.option("--dry-run", is_flag=True, help="Change nothing, and list what would, as minifo diff does.")


def report(verb: str, target: str, told: Told, *, is_live: bool, as_json: bool) -> None:
    """Say what came of a return.

    Args:
        verb: rollback, undo or redo.
        target: as the user named it.
        told: the answer of org.minifo.Overlay.Rollback.
        is_live: whether programs may have files of it open.
        as_json: for a program.
    """
    back = f"minifo {'redo' if verb == 'undo' else 'undo'} {shlex.quote(target)}"
    if as_json:
        click.echo(json.dumps({**told, "take_back": back}))
        return
    to, left = told["to"], told["left"]
    click.echo(f"The overlay is as it was at {_common.printable(to['name'])}, {moment(to['time'])}.")
    click.echo(
        f"What was there is kept as {_common.printable(left['name'])}; {_common.printable(back)} takes this back."
    )
    if is_live and told["objects"]:
        click.echo("Programs that have a changed file open get errors (EIO, ESTALE) until they open it again.")


def try_out(target: str, base: str | None, pick: Callable[[list[Checkpoint]], Checkpoint], *, as_json: bool) -> None:
    """Say what a return would change.

    Args:
        target: as the user named it.
        base: the base of an overlay that is not mounted; None for that of its last mount.
        pick: returns the checkpoint to return to, of all there are in their order.
        as_json: for a program.
    """
    from .diff import write_changes

    with opened(place_of(target).storage, base) as overlay:
        wanted = pick(overlay.checkpoints.all())
    write_changes(_compare.compared(target, None, wanted.name, base), as_json=as_json)
