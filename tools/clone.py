"""``minifo clone``: a new storage that starts as another one is, and shares its content."""

from __future__ import annotations

import json
import os

import click

from . import _common
from ._clone import cloned
from ._complete import targets
from ._listing import AT
from ._on_overlay import BASE
from ._output import json_name
from ._size import size


@click.command(
    "clone",
    epilog="""\b
Examples:
  minifo clone /mnt/etc /var/lib/etc-fork            # as it is now, mounted or not
  minifo clone --at before-update /mnt/etc /var/lib/etc-was

\b
On the same file system content is shared, by reflinks or by hard links, so that a clone of any size takes a
moment and little space. Both storages can be changed, moved and deleted; neither sees what happens to the
other one. Checkpoints and the journal stay with TARGET.""",
)
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
@BASE
@AT
@click.argument("target", shell_complete=targets)
@click.argument("new", metavar="NEW", type=click.Path())
def command(target: str, new: str, at: str | None, as_json: bool, base: str | None) -> int:
    """Make NEW, a storage that starts as the overlay TARGET."""
    _common.log_to_stderr("minifo")
    made = cloned(target, new, at, base)
    if as_json:
        click.echo(json.dumps({**json_name("storage", os.fsencode(os.path.realpath(new))), **made._asdict()}))
        return 0
    copied = f", {made.copied} of its content files copied ({size(made.copied_bytes)})" if made.copied else ""
    click.echo(f"{_common.printable(new)} is a clone of {_common.printable(target)}{copied}")
    return 0
