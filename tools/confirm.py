"""``minifo confirm``: the present state of an overlay is good."""

from __future__ import annotations

import click

from . import _common
from ._checkpoints import changeable
from ._on_overlay import on_overlay
from ._trial import show


@click.command(
    "confirm",
    epilog="""\b
Examples:
  minifo confirm /mnt/etc          # when the system is up and works
  minifo confirm --json /mnt/etc

\b
minifo mark-good does the same. A trial ends with it. With the mount option trial=N a new one begins: the next N mounts
may come up without another confirmation, and only what is changed from now on would be taken back.""",
)
@on_overlay
def command(target: str, as_json: bool, base: str | None) -> int:
    """Confirm the present state of the overlay TARGET as good."""
    _common.log_to_stderr("minifo")
    with changeable(target, base) as found:
        show(found.confirm(), as_json=as_json)
    return 0
