"""Asks what to do with the changes of a command: keep them, drop them, or apply them to the base."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from ..engine.errors import MinifoError
from ._changes import Changed, line_of
from ._common import printable
from ._output import plain

if TYPE_CHECKING:
    from ..fusefront.sandbox.place import Place


class Outcome(NamedTuple):
    """What became of the changes.

    Attributes:
        word: discarded, kept or merged.
        storages: the storages that are kept, by their base.
    """

    word: str
    storages: Mapping[str, str]

    def lines(self) -> list[str]:
        """Return it in printable lines."""
        if self.word != "kept":
            return [f"the changes are {self.word}"]
        lines = []
        for base, storage in self.storages.items():
            where, of = printable(storage), printable(base)
            lines += [f"kept in {where}: minifo diff {where}; minifo merge {where} --base {of}"]
        return lines


def decide(found: list[Changed], storages: Mapping[str, str], place: Place, *, may_merge: bool) -> Outcome:
    """Ask the user, and do it.

    Args:
        found: what the command changed.
        storages: the storage of each overlay, by its base, in the directory of the sandbox.
        place: that directory.
        may_merge: offer to apply them to the base.
    """
    can_merge = may_merge and all(_may_merge(base) for base in _touched(found))
    merge = ", [m]erge into the base" if can_merge else ""
    while True:
        answer = _answer(f"[k]eep the changes{merge}, [l]ist them, or [D]iscard? ")
        if answer.startswith("l"):
            print("".join(f"{line_of(changed.change)}\n" for changed in found), end="", file=sys.stderr, flush=True)
        elif answer.startswith("k"):
            return Outcome("kept", _moved(storages, place))
        elif answer.startswith("m") and can_merge:
            outcome = _merge(found, storages, place)
            if outcome is not None:
                return outcome
        elif answer.startswith("d") or not answer:
            return Outcome("discarded", {})


def _answer(question: str) -> str:
    """Return what the user types, in small letters; an empty text at the end of the input."""
    print(question, end="", file=sys.stderr, flush=True)
    if sys.stdin.isatty():
        _await_input()
    line = sys.stdin.readline()
    if not line:
        print(file=sys.stderr)
    return line.strip().lower()


def _await_input() -> None:
    """Wait until a line was typed, or for a signal: one that comes just before a read(2) would not end that."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    before = signal.set_wakeup_fd(writer)
    try:
        while sys.stdin not in select.select([sys.stdin, reader], [], [])[0]:
            os.read(reader, 512)  # of Ctrl-C: KeyboardInterrupt follows
    finally:
        signal.set_wakeup_fd(before)
        os.close(reader)
        os.close(writer)


def _touched(found: list[Changed]) -> list[str]:
    return list(dict.fromkeys(changed.base for changed in found))


def _may_merge(base: str) -> bool:
    """Return whether this user may set owners and times in a base."""
    return os.geteuid() == 0 or os.stat(base).st_uid == os.geteuid()


def _moved(storages: Mapping[str, str], place: Place) -> dict[str, str]:
    """Move the storages out of the directory of the sandbox, which goes away."""
    return {base: place.keep(os.path.basename(storage)) for base, storage in storages.items()}


def _merge(found: list[Changed], storages: Mapping[str, str], place: Place) -> Outcome | None:
    """Show the plan, ask again, and apply the changes; return None if the user does not want it."""
    from ..migrations.merge.apply import merge

    bases = _touched(found)
    for base in bases:
        for change in merge(storages[base], base).changes:
            source = f"  (from {plain(change.old)})" if change.old is not None else ""
            print(f"{change.letter} {plain(change.path)}{source}", file=sys.stderr)
    where = ", ".join(printable(base) for base in bases)
    if not _answer(f"apply this to {where}? [y/N] ").startswith("y"):
        return None
    kept = _moved({base: storages[base] for base in bases}, place)  # what fails half-way must be there to go on with
    for base in bases:
        try:
            merge(kept[base], base, apply=True)
        except (MinifoError, OSError) as error:
            print(f"minifo run: {printable(str(error))}", file=sys.stderr)
            print(f"minifo run: go on with: minifo merge {kept[base]} --base {base} --apply", file=sys.stderr)
            return Outcome("kept", kept)
        with contextlib.suppress(OSError):
            shutil.rmtree(kept[base])
        del kept[base]
    return Outcome("merged", {})
