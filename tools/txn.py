"""``minifo txn``: what a command changes in an overlay is there as a whole, or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import click

from ..engine.errors import MinifoError, StateError, UsageError
from ..fusefront.control.client import ControlClient, listens
from ..fusefront.mount import mount_table
from . import _common
from ._around import CANNOT_RUN, CONTEXT, EXIT_CODES, FAILED, NOT_FOUND, Around
from ._checkpoints import Told, refused
from ._common import printable
from ._complete import targets
from ._target import opened, storage_of


@click.command(
    "txn",
    cls=Around,
    context_settings=CONTEXT,
    epilog="""\b
Examples:
  minifo txn /mnt/etc -- sh -c 'sed -i s/80/8080/ hosts && grep -q . hosts'
  minifo txn --quiet /mnt/etc -- cp -a /usr/share/dict /mnt/etc/dict
  minifo txn --json /var/lib/etc-changes -- touch new   # mounted for the time of the command

\b
CMD runs in the mount: in TARGET if that is a directory there, else at its top; MINIFO_MOUNT is its path. If CMD ends
with 0, all changes become durable in one step, and minifo undo takes them back. If it fails or is killed, or minifo
or the daemon is, or the power goes, the overlay is as before: at once, or at the next mount.
What other programs change in the overlay meanwhile is part of it. There is one transaction at a time, and none while
a trial runs.
"""
    + EXIT_CODES,
)
@click.option("-q", "--quiet", is_flag=True, help="Do not say what changed.")
@click.option("--json", "as_json", is_flag=True, help="The summary as one line of JSON, at the end of stdout.")
@click.option("--base", metavar="DIR", help="The base of an overlay that is not mounted, where it has moved.")
@click.argument("target", shell_complete=targets)
@click.argument("words", metavar="CMD...", nargs=-1, required=True, type=click.UNPROCESSED)
def command(quiet: bool, as_json: bool, base: str | None, target: str, words: tuple[str, ...]) -> int:
    """Run CMD in the overlay TARGET: all of its changes, or none."""
    _common.log_to_stderr("minifo")
    words = words[1:] if words[0] == "--" else words
    try:
        if not words:
            raise UsageError("there is no command", "give one after TARGET")
        storage = storage_of(target)
        with _mounted(storage, base, target) as place:
            outcome = _run(place, words, storage)
        if not quiet:
            _report(outcome, target, base, as_json=as_json)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (MinifoError, OSError) as error:
        _common.fail("minifo txn", error, FAILED)
        return FAILED
    return outcome.code


class _Place(NamedTuple):
    """Where the command runs."""

    mountpoint: str
    directory: str


class _Outcome(NamedTuple):
    """How it ended.

    Attributes:
        code: the exit code.
        killed_by: the number of the signal that killed the command; None if none did.
        is_committed: whether its changes are there.
        checkpoint: of what there was before, or of what was taken back; None if nothing was changed.
    """

    code: int
    killed_by: int | None
    is_committed: bool
    checkpoint: str | None


# -- the mount


@contextlib.contextmanager
def _mounted(storage: str, base: str | None, target: str) -> Iterator[_Place]:
    """Find the mount of an overlay, or mount it where only the command sees it."""
    if listens(storage):
        with ControlClient(storage) as client:
            mountpoint = client.call("Identity")["mountpoint"]
        entry = mount_table.find_mount(mountpoint)
        source = mount_table.overlay_of(entry) if entry is not None else None
        if source is None or not os.path.samefile(source.storage, storage):
            raise StateError(f"{mountpoint}, where {storage} is mounted, cannot be seen from here", "run it there")
        real, above = mount_table.locate(target)
        yield _Place(mountpoint, real if above == entry and os.path.isdir(real) else mountpoint)
        return
    with opened(storage, base) as overlay:
        trial = overlay.trial.state()
    if trial.verdict == "indeterminate" and not trial.txn:
        raise StateError("a trial is running", "end it first: minifo confirm, or minifo trial abandon")
    with _private_mount(storage, base) as mountpoint:
        yield _Place(mountpoint, mountpoint)


@contextlib.contextmanager
def _private_mount(storage: str, base: str | None) -> Iterator[str]:
    """Mount an overlay for the time of the block; of root's, other processes see nothing.

    The daemon ends with this process.
    """
    from ..engine.queries.at_rest import last_base
    from ..fusefront.launch import launch_bound
    from ..fusefront.mount.options import MountOptions
    from ..fusefront.sandbox import namespaces

    options = MountOptions(base or last_base(storage), storage)
    with tempfile.TemporaryDirectory(prefix="minifo-txn-") as directory:
        if os.geteuid() == 0:
            namespaces.unshare(namespaces.CLONE_NEWNS)
            namespaces.make_private()
        daemon = launch_bound(options, directory)
        try:
            yield directory
        finally:
            os.kill(daemon, signal.SIGTERM)
            _, status = os.waitpid(daemon, 0)
    if status:
        raise StateError(f"the daemon of {storage} has failed", "see the system log, and run minifo-fsck")


# -- the command


def _run(place: _Place, words: Sequence[str], storage: str) -> _Outcome:
    """Run a command as a transaction."""
    with ControlClient(storage, timeout=None) as client:
        refused(client, "BeginTransaction")
        code, message = _call(words, place)
        if message is not None:
            print(f"minifo txn: {printable(words[0])}: {message}", file=sys.stderr)
        killed_by = -code if code < 0 else None
        code = 128 - code if code < 0 else code
        method, answer = ("Commit", "before") if code == 0 else ("TakeBack", "left")
        told: Told | None = refused(client, method)[answer]
    return _Outcome(code, killed_by, code == 0, None if told is None else told["name"])


def _call(words: Sequence[str], place: _Place) -> tuple[int, str | None]:
    """Run a command to its end; return its exit code, negative of a signal, and why it could not be run."""
    child: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, frame: object) -> None:
        # of what a terminal sends, the command has got its own
        if child is not None and number in (signal.SIGTERM, signal.SIGHUP):
            child.send_signal(number)

    # a function, not SIG_IGN: the command begins with what this process began with
    watched = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP)
    old = {number: signal.getsignal(number) for number in watched}
    for number, handler in old.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, pass_on)
    try:
        environment = {**os.environ, "MINIFO_MOUNT": place.mountpoint}
        child = subprocess.Popen(words, cwd=place.directory, env=environment)
        return child.wait(), None
    except FileNotFoundError as error:
        return NOT_FOUND, error.strerror
    except (OSError, ValueError) as error:
        return CANNOT_RUN, str(getattr(error, "strerror", None) or error)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


# -- what is said


def _report(outcome: _Outcome, target: str, base: str | None, *, as_json: bool) -> None:
    from ._changes import Changed, json_of, lines_of
    from ._compare import compared

    found: list[Changed] = []
    if outcome.is_committed and outcome.checkpoint is not None:
        changed = compared(target, outcome.checkpoint, None, base, identical=False)
        found = [Changed("/", change) for change in changed]
    if as_json:
        word = "unchanged" if outcome.checkpoint is None else "committed" if outcome.is_committed else "taken back"
        ended = {"exit_code": outcome.code, "signal": outcome.killed_by}
        click.echo(json.dumps({"command": ended, **json_of(found), "outcome": word, "checkpoint": outcome.checkpoint}))
        return
    undo = f"minifo undo {shlex.quote(target)}"
    if outcome.is_committed:
        lines = lines_of(found)
        if outcome.checkpoint is not None:
            lines.append(f"What was there is kept as {outcome.checkpoint}; {undo} takes this back.")
    elif outcome.checkpoint is None:
        lines = ["the command failed; it had changed nothing"]
    else:
        lines = ["the command failed, and the overlay is as before"]
        lines.append(f"What it did is kept as {outcome.checkpoint}; {undo} brings that back.")
    for number, line in enumerate(lines):
        click.echo(line if number else f"minifo: {line}", err=True)
