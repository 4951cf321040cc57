"""What commands have in common that run one of the user: exit codes, and how wrong requests end."""

from __future__ import annotations

import sys
from typing import Any

import click

from ._common import printable

FAILED = 125  # of minifo itself, before or beside the command (as env(1), timeout(1))
CANNOT_RUN, NOT_FOUND = 126, 127  # of a command, as the shell has them
#: What --help says of them.
EXIT_CODES = """\
Exit codes: the command's; 128+N if signal N killed it; 126 it cannot be run; 127 not found; 125 minifo failed."""
#: What follows the command's name is the command's.
CONTEXT: dict[str, Any] = {"allow_interspersed_args": False, "ignore_unknown_options": False}


class Around(click.Command):
    """A command whose wrong requests have an exit code that is not one of the command that it runs."""

    def make_context(self, *arguments: Any, **keywords: Any) -> click.Context:
        try:
            return super().make_context(*arguments, **keywords)
        except click.UsageError as error:
            text = printable(error.format_message().rstrip("."))
            print(f"minifo {self.name}: {text}; see --help", file=sys.stderr)
            raise click.exceptions.Exit(FAILED) from error
