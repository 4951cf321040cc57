"""``minifo metrics``: the counters of mounted overlays, for Prometheus."""

from __future__ import annotations

import click

from ..engine.errors import StateError
from ..fusefront.control.client import ControlClient
from ..fusefront.mount import mount_table
from . import _common
from ._target import storage_of

_PATIENCE = 5.0  # seconds that one daemon may take to answer


@click.command(
    "metrics",
    epilog="""\b
Examples:
  minifo metrics                  # every mounted overlay
  minifo metrics /mnt/usr
  minifo metrics | grep minifo_errors_total

\b
Exit codes: 0 success, 2 a daemon does not answer; what the others say is printed.""",
)
@click.argument("target", required=False)
def command(target: str | None) -> int:
    """Print counters of mounted overlays for Prometheus.

    Without TARGET those of all. The counters begin anew with each mount: requests by their kind and the time they took,
    replies from the cache, errors, commits, bytes and rows written, memory. Times are in seconds, sizes in bytes.
    """
    from ..fusefront.control.exposition import exposition

    _common.log_to_stderr("minifo")
    if target is not None:
        storages = [storage_of(target)]
    else:
        known = [mount_table.overlay_of(entry) for entry in mount_table.minifo_mounts()]
        storages = list(dict.fromkeys(source.storage for source in known if source is not None and source.at is None))
    code, mounts = 0, []
    for storage in storages:
        try:
            with ControlClient(storage, _PATIENCE) as client:
                said = client.call("Metrics")
                mounts.append((said["mountpoint"], said["metrics"]))
        except StateError as error:
            code = _common.fail("minifo", error, _common.SYSTEM)
    for line in exposition(mounts):
        click.echo(line)
    return code
