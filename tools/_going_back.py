"""What rollback, undo and redo say: where the overlay is now, what was left, and how to take it back."""

from __future__ import annotations

import json
import shlex

import click

from . import _common
from ._checkpoints import Told
from ._size import moment


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
