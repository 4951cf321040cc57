"""What the verbs that list paths of an overlay take alike: which overlay, which paths, and how they are written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from ._complete import checkpoints, targets

Command = TypeVar("Command", bound=Callable[..., Any])

AT = click.option(
    "--at", metavar="CHECKPOINT", shell_complete=checkpoints, help="The overlay as it was at a checkpoint."
)

_OPTIONS = (
    click.option("--json", "as_json", is_flag=True, help="One JSON object in each line."),
    click.option("-z", "--null", "null", is_flag=True, help="End each field with a NUL; paths as they are."),
    click.option("--base", metavar="DIR", help="The base, where it is not the one of the last mount."),
    click.argument("target", default=".", shell_complete=targets),
    click.argument("patterns", metavar="[PATH]...", nargs=-1),
)


def listing(command: Command) -> Command:
    """Add these options and arguments to a command: as_json, null, base, target and patterns, after its own."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
