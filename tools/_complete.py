"""What a shell may complete TARGETs, PATHs and mount options to; nothing where that cannot be told at once.

Every verb names these functions, and only a shell that completes calls them: so they import what they need.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

from ..engine.errors import MinifoError

_MOST = 500  # names; nobody reads more


def targets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a TARGET: the mount points of overlays, and directories."""
    from click.shell_completion import CompletionItem

    from ..fusefront.mount import mount_table

    found = [entry.mountpoint for entry in mount_table.minifo_mounts()]
    return [CompletionItem(incomplete, type="dir"), *_items(path for path in found if path.startswith(incomplete))]


def paths(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a PATH: files, and what an overlay has deleted; with --sto what the overlay has and had."""
    from click.shell_completion import CompletionItem

    from ..engine.queries.objects import gone_names, names
    from ._path import located

    storage = ctx.params.get("sto")
    directory, prefix = os.path.split(incomplete)
    found: list[str] = []
    try:
        with located(directory or ".", storage, None, quick=True) as (overlay, place):
            told = gone_names(overlay, place) + (names(overlay, place) if storage is not None else [])
        found += (os.path.join(directory, name) for name in map(os.fsdecode, told) if name.startswith(prefix))
    except (MinifoError, OSError):
        pass  # in no overlay, or its daemon does not answer: files are all there is
    items = _items(found)
    return items if storage is not None else [CompletionItem(incomplete, type="file"), *items]


def mount_options(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the last of some mount options: its name, or its value where there is a choice, or a directory."""
    from ..fusefront.mount import options

    before, comma, last = incomplete.rpartition(",")
    name, equals, value = last.partition("=")
    if not equals:
        found = [word for word in options.words() if word.startswith(last)]
    elif name in options.CHOICES:
        found = [f"{name}={choice}" for choice in options.CHOICES[name] if choice.startswith(value)]
    elif name == "at":
        found = [f"at={checkpoint}" for checkpoint in _checkpoints_of(ctx, before) if checkpoint.startswith(value)]
    elif name in ("base", "lowerdir", "sto", "upperdir", "metrics"):
        found = [f"{name}={path}/" for path in _directories(value)]
    else:
        found = []
    return _items(before + comma + word for word in found)


def _checkpoints_of(ctx: click.Context, text: str) -> list[str]:
    """The names of the checkpoints of the storage that a command line for a mount names."""
    from ..fusefront.mount.source import split

    values = [ctx.params.get(name) for name in ("storage", "sto")]
    values += [item.partition("=")[2] for item in split(text) if item.startswith(("sto=", "upperdir="))]
    for value in values:
        if isinstance(value, str) and value:
            return _names_in(value, None) or []
    return []


def _names_in(target: str, base: str | None) -> list[str] | None:
    """The names of the checkpoints of an overlay; None if it is none, or cannot be asked at once."""
    from ._target import opened, place_of

    try:
        with opened(place_of(target).storage, base, quick=True) as overlay:
            return [checkpoint.name for checkpoint in overlay.checkpoints.all()]
    except (MinifoError, OSError):
        return None


def _directories(beginning: str) -> Iterator[str]:
    """Directories whose paths begin like that, and need no backslash in an option."""
    above, prefix = os.path.split(beginning)
    try:
        with os.scandir(above or ".") as entries:
            for entry in entries:
                if entry.name.startswith(prefix) and entry.is_dir() and not {",", "\\"} & {*entry.name}:
                    yield os.path.join(above, entry.name)
    except OSError:
        pass  # there is nothing to offer


def checkpoints(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a checkpoint of the overlay that the command line means."""
    for target in _meant(ctx):
        found = _names_in(target, ctx.params.get("base"))
        if found is not None:
            return _items(name for name in found if name.startswith(incomplete))
    return []


def keep_lists(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a keep-list of the overlay that the command line means."""
    from ._target import opened, place_of

    for target in _meant(ctx):
        try:
            with opened(place_of(target).storage, ctx.params.get("base"), quick=True) as overlay:
                return _items(name for name in overlay.keep_lists.all() if name.startswith(incomplete))
        except (MinifoError, OSError):
            continue
    return []


def _meant(ctx: click.Context) -> Iterator[str]:
    """What the overlay may be that a command line means."""
    for name in ("sto", "target", "path"):
        value = ctx.params.get(name)
        if isinstance(value, str) and value != ".":
            yield value
    # click reads no argument while the value of an option is missing, but the shell has told it all words
    from click.shell_completion import split_arg_string

    for word in split_arg_string(os.environ.get("COMP_WORDS", "")):
        if os.path.exists(word):
            yield word
    yield "."


def _items(found: Iterable[str]) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(text) for text in sorted(set(_sendable(found)))[:_MOST]]


def _sendable(found: Iterable[str]) -> Iterator[str]:
    """Names that can be sent to a shell, which has a line for each."""
    for text in found:
        if text.isprintable():
            yield text
