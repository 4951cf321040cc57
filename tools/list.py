"""``minifo list``: all mounted overlays of this machine."""

from __future__ import annotations

import json
from typing import Any

import click

from ..engine.errors import StateError
from ..fusefront.control.client import ControlClient
from ..fusefront.mount import mount_table
from . import _common
from ._size import size

_PATIENCE = 2.0  # seconds that one daemon may take to answer


@click.command(
    "list",
    epilog="""\b
Examples:
  minifo list
  minifo list --json | jq -r .mountpoint""",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object in each line.")
def command(as_json: bool) -> int:
    """List the mounted overlays that can be seen from here.

    Each is one line.
    """
    _common.log_to_stderr("minifo")
    for entry in mount_table.minifo_mounts():
        known = mount_table.overlay_of(entry)
        assert known is not None
        found: dict[str, Any] = {"mountpoint": entry.mountpoint, **known._asdict()}
        if known.at is not None:
            found["read_only"] = True  # its daemon cannot be asked: the socket is that of the overlay itself
        else:
            try:
                with ControlClient(known.storage, _PATIENCE) as client:
                    found |= client.call("Status")
            except StateError as error:
                found["unknown"] = str(error)
        click.echo(json.dumps(found) if as_json else _line(found))
    return 0


def _line(found: dict[str, Any]) -> str:
    where = _common.printable(f"{found['mountpoint']}  (base {found['base']}, storage {found['storage']})")
    if found["at"] is not None:
        return f"{where}  ro, checkpoint {_common.printable(found['at'])}"
    if "unknown" in found:
        return f"{where}  {_common.printable(found['unknown'])}"
    state = "failed" if found["failure"] is not None else "ro" if found["read_only"] else "rw"
    taken = size(found["usage"]["content"] + found["usage"]["database"])
    return f"{where}  {state}, {sum(found['lists'].values()):,} changes, {taken}"
