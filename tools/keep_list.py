"""``minifo keep-list``: what a reset of an overlay keeps, under a name, in its storage."""

from __future__ import annotations

import json

import click

from . import _common
from ._checkpoints import changeable
from ._complete import keep_lists, targets
from ._keeping import patterns_in
from ._on_overlay import BASE, JSON, on_overlay
from ._target import opened, storage_of

_TARGET = click.argument("target", shell_complete=targets)
_NAME = click.argument("name", shell_complete=keep_lists)


@click.group(
    "keep-list",
    epilog="""\b
The list named default is what minifo reset keeps if it is told nothing else. A list belongs to the storage: neither a
reset nor a return to a checkpoint changes it.""",
)
def command() -> None:
    """Name what a reset of an overlay keeps."""
    _common.log_to_stderr("minifo")


@command.command(
    "set",
    epilog="""\b
Examples:
  minifo keep-list set /mnt/etc default hosts /ssh '*.key'
  minifo keep-list set /mnt/etc network --file /etc/reset.keep    # a pattern in each line

\b
A name has up to 64 letters, digits and . _ + : -, and begins with a letter or a digit. Patterns are those of
minifo diff, as in .gitignore.""",
)
@click.option("--file", metavar="FILE", help="Take the patterns from a file, one in each line.")
@BASE
@_TARGET
@_NAME
@click.argument("patterns", metavar="[PATTERN]...", nargs=-1)
def set_(target: str, name: str, patterns: tuple[str, ...], file: str | None, base: str | None) -> int:
    """Make the keep-list NAME of the overlay TARGET, or give it other patterns."""
    wanted = [*patterns, *(patterns_in(file) if file is not None else ())]
    with changeable(target, base) as found:
        found.set_keep_list(name, wanted)
    return 0


@command.command(
    "show",
    epilog="""\b
Examples:
  minifo keep-list show /mnt/etc default""",
)
@JSON
@BASE
@_TARGET
@_NAME
def show(target: str, name: str, as_json: bool, base: str | None) -> int:
    """Print the patterns of the keep-list NAME of the overlay TARGET."""
    with opened(storage_of(target), base) as overlay:
        patterns = overlay.keep_lists.find(name)
    if as_json:
        click.echo(json.dumps({"name": name, "patterns": patterns}))
    else:
        for pattern in patterns:
            click.echo(_common.printable(pattern))
    return 0


@command.command(
    "list",
    epilog="""\b
Examples:
  minifo keep-list list /mnt/etc
  minifo keep-list list --json /mnt/etc | jq .default""",
)
@on_overlay
def list_(target: str, as_json: bool, base: str | None) -> int:
    """List the keep-lists of the overlay TARGET."""
    with opened(storage_of(target), base) as overlay:
        found = overlay.keep_lists.all()
    if as_json:
        click.echo(json.dumps(found))
        return 0
    for name, patterns in found.items():
        click.echo(f"{name}  {_common.printable(' '.join(patterns))}")
    if not found:
        click.echo(f"no keep-list yet; make one: minifo keep-list set {_common.printable(target)} default PATTERN...")
    return 0


@command.command(
    "delete",
    epilog="""\b
Examples:
  minifo keep-list delete /mnt/etc network""",
)
@BASE
@_TARGET
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=keep_lists)
def delete(target: str, names: tuple[str, ...], base: str | None) -> int:
    """Delete keep-lists of the overlay TARGET."""
    with changeable(target, base) as found:
        found.delete_keep_lists(list(names))
    return 0
