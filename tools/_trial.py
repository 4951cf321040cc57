"""How a trial stands, in words."""

from __future__ import annotations

import json
from typing import Any

import click

from . import _common


def show(trial: dict[str, Any], *, as_json: bool) -> None:
    """Say how a trial stands.

    Args:
        trial: what org.minifo.Overlay says of it.
        as_json: for a program.
    """
    click.echo(json.dumps(trial) if as_json else words(trial))


def words(trial: dict[str, Any]) -> str:
    """Return how a trial stands, as one sentence for each thing to know."""
    lines = []
    if trial["verdict"] == "bad":
        failed = _common.printable(trial["failed"])
        lines.append(f"bad: the overlay fell back; what was not confirmed is in checkpoint {failed}.")
    elif trial["verdict"] == "indeterminate":
        lines.append("indeterminate: on trial, and not confirmed yet.")
    else:
        lines.append("good: no trial is running.")
    if trial["left"] is not None:
        fallback = _common.printable(trial["fallback"])
        left, mounts = trial["left"], trial["mounts"]
        lines.append(f"{left} of {mounts} mounts are left; then it falls back to checkpoint {fallback}.")
    return "\n".join(lines)
