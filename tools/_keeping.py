"""Files with patterns of what a reset keeps."""

from __future__ import annotations

import click

from ..engine.errors import UsageError


def patterns_in(file: str) -> list[str]:
    """Return the patterns in a file, one in each line; empty lines and those that begin with # say nothing.

    Args:
        file: its path, or ``-`` for standard input.

    Raises:
        UsageError: it cannot be read, or is no text.
    """
    try:
        with click.open_file(file, encoding="utf-8") as stream:
            lines = stream.read().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read ({error})", "name a text file with a pattern in each line") from error
    return [line for line in (line.rstrip("\r") for line in lines) if line.strip() and not line.startswith("#")]
