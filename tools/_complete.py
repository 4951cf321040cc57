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
    elif name in ("base", "lowerdir", "sto", "upperdir", "metrics"):
        found = [f"{name}={path}/" for path in _directories(value)]
    else:
        found = []
    return _items(before + comma + word for word in found)


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
    """Complete the name of a checkpoint of the overlay that the argument TARGET means."""
    from ._target import opened

    target = ctx.params.get("target")
    try:
        with opened(target if isinstance(target, str) else ".", ctx.params.get("base"), quick=True) as overlay:
            found = [checkpoint.name for checkpoint in overlay.checkpoints.all()]
    except (MinifoError, OSError):
        return []  # it is no overlay, or its daemon does not answer
    return _items(name for name in found if name.startswith(incomplete))


def _items(found: Iterable[str]) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(text) for text in sorted(set(_sendable(found)))[:_MOST]]


def _sendable(found: Iterable[str]) -> Iterator[str]:
    """Names that can be sent to a shell, which has a line for each."""
    for text in found:
        if text.isprintable():
            yield text
