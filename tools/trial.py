"""``minifo trial``: changes that are taken back by themselves unless they are confirmed."""

from __future__ import annotations

import click

from ..engine.model import TRIAL_MOUNTS
from . import _common
from ._checkpoints import changeable
from ._going_back import report
from ._on_overlay import on_overlay
from ._trial import show


@click.group(
    "trial",
    epilog="""\b
Unless it is confirmed, the overlay falls back by itself at a mount, before anything is served. What did not work is
kept as a checkpoint. With the mount option trial=N there is always a trial.""",
)
def command() -> None:
    """Try changes that are taken back unless they are confirmed."""
    _common.log_to_stderr("minifo")


@command.command(
    "start",
    epilog="""\b
Examples:
  minifo trial start /mnt/etc               # then update, reboot, and minifo confirm /mnt/etc
  minifo trial start --mounts 1 /mnt/etc""",
)
@click.option("--mounts", metavar="N", type=int, default=TRIAL_MOUNTS, show_default=True, help="Mounts it may take.")
@on_overlay
def start(target: str, mounts: int, as_json: bool, base: str | None) -> int:
    """Begin a trial: the present state of the overlay TARGET is what it falls back to."""
    with changeable(target, base) as found:
        show(found.start_trial(mounts), as_json=as_json)
    return 0


@command.command(
    "status",
    epilog="""\b
Examples:
  minifo trial status /mnt/etc
  minifo trial status --json /mnt/etc | jq -r .verdict""",
)
@on_overlay
def status(target: str, as_json: bool, base: str | None) -> int:
    """Say how the trial of the overlay TARGET stands: good, indeterminate or bad."""
    with changeable(target, base) as found:
        show(found.trial(), as_json=as_json)
    return 0


@command.command(
    "confirm",
    epilog="""\b
Examples:
  minifo trial confirm /mnt/etc             # as minifo confirm /mnt/etc""",
)
@on_overlay
def confirm(target: str, as_json: bool, base: str | None) -> int:
    """Confirm the present state of the overlay TARGET, as minifo confirm does."""
    with changeable(target, base) as found:
        show(found.confirm(), as_json=as_json)
    return 0


@command.command(
    "abandon",
    epilog="""\b
Examples:
  minifo trial abandon /mnt/etc             # it does not work: take it back now""",
)
@on_overlay
def abandon(target: str, as_json: bool, base: str | None) -> int:
    """Take back now what the overlay TARGET has on trial."""
    with changeable(target, base) as found:
        report("trial abandon", target, found.abandon_trial(), is_live=found.is_live, as_json=as_json)
    return 0
