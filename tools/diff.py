"""``minifo diff``: what an overlay changed, as a list of names or as a patch."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from operator import attrgetter

import click

from ..engine import Overlay, UsageError
from ..engine.queries.changes import Change, Kind, changes
from ..fusefront.control.patterns import Patterns
from . import _colour, _common
from ._changes import line_of, name_of
from ._listing import AT, listing
from ._output import json_name, plain
from ._target import opened

log = logging.getLogger(__name__)

_PIECE = 4096  # lines written together
_LARGEST = 4  # MiB of a file whose lines a patch shows

#: What a letter means.
WORDS = {
    Kind.ADDED: "added",
    Kind.MODIFIED: "modified",
    Kind.DELETED: "deleted",
    Kind.RENAMED: "renamed",
    Kind.TYPE: "another type",
    Kind.METADATA: "metadata only",
}


_STYLES = {
    Kind.ADDED: "added",
    Kind.MODIFIED: "modified",
    Kind.DELETED: "deleted",
    Kind.RENAMED: "renamed",
    Kind.TYPE: "type",
    Kind.METADATA: "",
}


@click.command(
    "diff",
    epilog="""\b
Letters:
  A added   M modified   D deleted   R renamed   T another type   m metadata only (owner, mode, times, xattrs)
  RM, Rm: renamed, and modified or with other metadata.
  A directory that is new or gone as a whole is one line; -r lists what is in it, too.

\b
Examples:
  minifo diff /var/lib/usr-changes            # a storage directory that is not mounted
  minifo diff /mnt/usr share lib/*.conf       # a mounted overlay, these paths only
  minifo diff --at night /mnt/etc             # what it had changed at a checkpoint
  minifo diff --json /mnt/usr | jq .path
  minifo diff --exit-code --ignore-identical /mnt/usr || echo changed
  minifo diff -u /mnt/usr > usr.patch         # for patch -p1 in a copy of the base

\b
A patch has texts, symlinks, names, and whether a file may be executed. A binary file is one line in it, and so is a
device. A base file with several names is listed by each of them: a change shows at all.

\b
Exit codes: 0, or with --exit-code 1 where something differs; 2 failure.""",
)
@click.option("-u", "--unified", "as_patch", is_flag=True, help="A patch: the lines that differ, for patch -p1.")
@click.option(
    "--max-file",
    metavar="MIB",
    type=click.IntRange(1),
    default=_LARGEST,
    show_default=True,
    help="With -u: the largest file whose lines to show.",
)
@click.option("-r", "--recursive", is_flag=True, help="List every name in directories that are new or gone.")
@click.option("--ignore-identical", is_flag=True, help="Compare, and leave out what makes no difference.")
@click.option("--name-only", is_flag=True, help="Paths without letters.")
@click.option("--stat", "as_stat", is_flag=True, help="Counts only.")
@click.option("--exit-code", is_flag=True, help="Exit with 1 where something differs.")
@AT
@listing
def command(
    target: str,
    patterns: tuple[str, ...],
    as_patch: bool,
    max_file: int,
    recursive: bool,
    ignore_identical: bool,
    name_only: bool,
    as_stat: bool,
    null: bool,
    as_json: bool,
    exit_code: bool,
    at: str | None,
    base: str | None,
) -> int:
    """List what the overlay TARGET changed.

    TARGET is a storage directory, or any path in a mounted overlay. PATHs limit the list to these and what is below
    them; they may hold wildcards as in .gitignore.
    """
    if sum((name_only, as_stat, as_json, as_patch)) > 1:
        raise UsageError("-u, --name-only, --stat and --json exclude each other", "give one of them")
    if as_patch and null:
        raise UsageError("-u and -z exclude each other", "a patch quotes names itself")
    _common.log_to_stderr("minifo")
    if as_patch:
        with opened(target, base, at=at) as overlay:
            differs, failed = _write_patch(overlay, patterns, max_file << 20)
        return _common.SYSTEM if failed else int(exit_code and differs)
    with opened(target, base, at=at) as overlay, _uncollected():
        every = changes(overlay, recursive=recursive, identical=not ignore_identical)
        wanted = Patterns(patterns)
        found = sorted((change for change in every if wanted.match(change.path, change.old)), key=attrgetter("path"))
    write_changes(found, as_stat=as_stat, as_json=as_json, null=null, name_only=name_only, recursive=recursive)
    return 1 if exit_code and found else 0


def write_changes(
    found: list[Change],
    *,
    as_stat: bool = False,
    as_json: bool = False,
    null: bool = False,
    name_only: bool = False,
    recursive: bool = False,
) -> None:
    """Write changes to stdout; the options are those of the command."""
    if as_stat:
        _print_counts(found, recursive=recursive)
        return
    told = partial(_fields if null else _lines, name_only=name_only) if not as_json else _json_lines
    for at in range(0, len(found), _PIECE):
        sys.stdout.buffer.write(told(found[at : at + _PIECE]))
    sys.stdout.flush()


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Look for no cycles among a hundred thousand records, which have none: that takes a sixth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _write_patch(overlay: Overlay, patterns: tuple[str, ...], largest: int) -> tuple[bool, bool]:
    """Write what changed as a patch; return whether anything differs, and whether a file could not be read."""
    from ..engine.queries.file_pairs import FilePairs  # only where it is needed
    from ._patch import Patch

    pairs = FilePairs(overlay)
    patch = Patch(pairs, largest)
    differs = failed = False
    coloured, on_terminal = _colour.are_wanted(), sys.stdout.isatty()
    wanted = Patterns(patterns)
    for pair in pairs.of(changes(overlay, recursive=True)):
        if not wanted.match(pair.path, pair.old):
            continue
        try:
            told = patch.of(pair)
        except OSError as error:
            log.error("%s is not in the patch: it cannot be read (%s)", plain(pair.path), error.strerror or error)
            failed = True
            continue
        sys.stdout.buffer.write(_colour.shown_patch(told, coloured=coloured) if on_terminal else told)
        differs = differs or bool(told)
    return differs, failed


def _json_lines(found: list[Change]) -> bytes:
    return "".join(f"{json.dumps(_members(change))}\n" for change in found).encode()


def _members(change: Change) -> dict[str, object]:
    known = {"change": change.letters, "directory": change.is_dir, **json_name("path", change.path)}
    return known if change.old is None else {**known, **json_name("old_path", change.old)}


def _fields(found: list[Change], *, name_only: bool) -> bytes:
    fields = []
    for change in found:
        if not name_only:
            fields.append(change.letters.encode())
            if change.kind is Kind.RENAMED and change.old is not None:
                fields.append(change.old)
        fields.append(change.path)
    return b"".join(field + b"\0" for field in fields)


def _lines(found: list[Change], *, name_only: bool) -> bytes:
    told = name_of if name_only else _coloured_line if _colour.are_wanted() else line_of
    return "".join([f"{told(change)}\n" for change in found]).encode()


def _coloured_line(change: Change) -> str:
    line = line_of(change)
    return _colour.painted(_STYLES[change.kind], line[: len(change.letters)]) + line[len(change.letters) :]


def _print_counts(found: list[Change], *, recursive: bool) -> None:
    counts = Counter(change.kind for change in found)
    width = len(f"{len(found):,}")
    coloured = _colour.are_wanted()
    for kind in Kind:
        if counts[kind]:
            letter = _colour.painted(_STYLES[kind], kind.value) if coloured else kind.value
            click.echo(f"{letter}  {counts[kind]:>{width},}  {WORDS[kind]}")
    click.echo(f"   {len(found):>{width},}  in all")
    whole = sum(change.is_dir and change.kind in (Kind.ADDED, Kind.DELETED) for change in found)
    if whole and not recursive:
        what, them = ("is a directory", "it") if whole == 1 else ("are directories", "them")
        click.echo(f"{whole:,} of them {what}, new or gone as a whole; -r counts what is in {them}.")
