"""What the verbs that change an overlay's checkpoints, or go back to one, take alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from ._complete import targets

Command = TypeVar("Command", bound=Callable[..., Any])

JSON = click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
BASE = click.option("--base", metavar="DIR", help="The base of an overlay that is not mounted, where it has moved.")
_TARGET = click.argument("target", default=".", shell_complete=targets)


def on_overlay(command: Command) -> Command:
    """Add these options and this argument to a command: as_json, base and target, after its own."""
    return JSON(BASE(_TARGET(command)))
