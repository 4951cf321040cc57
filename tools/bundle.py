"""``minifo bundle``: what changed between two checkpoints, as one file for devices that have the first one."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from ..engine.errors import StateError, UsageError
from ..engine.model import TRIAL_MOUNTS
from ..fusefront.control.patterns import Choice
from . import _common
from ._complete import checkpoints, targets
from ._on_overlay import BASE, JSON
from ._output import json_name, plain
from ._progress import Progress
from ._size import size
from ._target import opened_pair, place_of

if TYPE_CHECKING:
    from ..migrations.bundle.apply import Applied
    from ..migrations.bundle.check import Mismatch
    from ..migrations.bundle.delta import PathChange
    from ..migrations.bundle.parts import BundleReader

SIGNERS = "/etc/minifo/allowed_signers"  # if it is there, bundles must be signed
_SHOWN = 50  # paths that differ, on a terminal

_FILE = click.argument("file", metavar="FILE", type=click.Path())
_TARGET = click.argument("target", shell_complete=targets)
_SIGNERS = click.option(
    "--signers", metavar="FILE", help=f"Whom to trust (ssh-keygen(1)).  [default: {SIGNERS}, if it is there]"
)
_UNSIGNED = click.option("--unsigned", is_flag=True, help="Take a bundle from anybody.")


@click.group("bundle", invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """Ship what changed between two checkpoints to other devices."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@command.command(
    "create",
    epilog="""\b
Examples:
  minifo bundle create -o /tmp/update.bundle /mnt/etc before-update         # to what it is now
  minifo bundle create -o /tmp/update.bundle --force /mnt/etc before-update night
  minifo bundle create -o - --exclude /hosts /mnt/etc before-update night | minifo bundle show -

\b
What is new or changed is in it as a whole, also what was renamed. For a device whose paths are as in A it is what
makes them as in B; minifo bundle apply refuses it elsewhere.""",
)
@click.option("-o", "--output", metavar="FILE", required=True, help="The file to write; - is stdout.")
@click.option("-m", "--note", metavar="TEXT", default="", help="What to say of it.")
@click.option("--sign", "key", metavar="KEY", help="Sign it, with a key of ssh-keygen.")
@click.option("--exclude", metavar="PATH", multiple=True, help="Leave this out; wildcards as in .gitignore.")
@click.option(
    "--compress",
    type=click.Choice(["none", "gzip", "zstd"]),
    default="gzip",
    show_default=True,
    help="How; zstd needs the program of that name.",
)
@click.option("--lossy", is_flag=True, help="Leave out what an archive cannot carry, such as sockets.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@JSON
@BASE
@_TARGET
@click.argument("first", metavar="A", shell_complete=checkpoints)
@click.argument("second", metavar="[B]", required=False, shell_complete=checkpoints)
def create(
    target: str,
    first: str,
    second: str | None,
    output: str,
    note: str,
    key: str | None,
    exclude: tuple[str, ...],
    compress: str,
    lossy: bool,
    force: bool,
    as_json: bool,
    base: str | None,
) -> int:
    """Write what changed in the overlay TARGET from checkpoint A to checkpoint B, or until now."""
    _common.log_to_stderr("minifo")
    _refuse_terminal(output)
    from ..migrations.bundle.create import CreateOptions, State, create_bundle
    from ..migrations.exchange.compression import Compression

    left_out = Choice(exclude).match if exclude else lambda path: False
    options = CreateOptions(Compression(compress), key, note, left_out, lossy, force)
    progress = Progress(None, output, quiet=False)
    try:
        with _pair(target, first, second, base) as (before, after):
            states = [
                State(overlay, overlay.checkpoints.find(name) if name is not None else None)
                for overlay, name in ((before, first), (after, second))
            ]
            report = create_bundle(states[0], states[1], output, options, progress)
    finally:
        progress.clear()
    for loss in report.losses:
        click.echo(f"{loss.kind}: {plain(loss.place)}: {_common.printable(loss.detail)}", err=True)
    if not report.written:
        raise UsageError(
            f"a bundle cannot carry {report.lost} things; nothing was written", "give --lossy to leave them out"
        )
    if as_json:
        told = {"paths": report.paths, "size": report.size, "lost": report.lost, "signed": key is not None}
        click.echo(json.dumps(told), err=output == "-")
    else:
        where = "were written" if output == "-" else f"are in {_common.printable(output)}"
        click.echo(f"{report.paths:,} paths {where} ({size(report.size)})", err=output == "-")
    return 0


@contextmanager
def _pair(target: str, first: str, second: str | None, base: str | None) -> Iterator[Any]:
    """Open two states; today's, of a mounted overlay, stays as it is meanwhile."""
    from ._held import opened_held
    from ._target import opened

    if second is not None:
        with opened_pair(target, first, second, base) as pair:
            yield pair
        return
    place_of(target)
    with opened(target, base, at=first) as before, opened_held(target, base) as after:
        yield before, after


@command.command(
    "sign",
    epilog="""\b
Examples:
  minifo bundle sign --key /etc/keys/release /tmp/update.bundle
  minifo bundle sign --key /etc/keys/release.pub /tmp/update.bundle    # the agent has the key

\b
The signature is one of ssh-keygen -Y sign, of what FILE says of its parts, digests among it.""",
)
@click.option("--key", metavar="KEY", required=True, help="The file of a key of ssh-keygen.")
@click.option("-o", "--output", metavar="OUT", help="Write another file.  [default: replace FILE]")
@_FILE
def sign(file: str, key: str, output: str | None) -> int:
    """Sign the bundle FILE, in the place of an earlier signature."""
    _common.log_to_stderr("minifo")
    from ..migrations.bundle.create import sign_bundle

    _refuse_terminal(output or file)
    with _opened(file) as stream:
        sign_bundle(stream, file, output or file, key)
    return 0


@command.command(
    "show",
    epilog="""\b
Examples:
  minifo bundle show /tmp/update.bundle
  minifo bundle show --paths /tmp/update.bundle
  minifo bundle show --json /tmp/update.bundle | jq .layer

\b
Letters: A added   M changed   D deleted   m another time   h another name of a file.
A signature is checked where --signers or the list of the device says whom to trust.""",
)
@click.option("--paths", "by_path", is_flag=True, help="List the paths, too.")
@_SIGNERS
@JSON
@_FILE
def show(file: str, by_path: bool, signers: str | None, as_json: bool) -> int:
    """Say what the bundle FILE is."""
    _common.log_to_stderr("minifo")
    from ..migrations.bundle.apply import trusted

    with _opened(file) as stream:
        reader = _reader(stream, file)
        who = trusted(reader, _trusted(signers)) if reader.signature is not None else None
        paths = reader.paths()
    signature = "none" if reader.signature is None else who or "not checked"
    if as_json:
        listed = {"changes": [change.told() for change in paths]} if by_path else {}
        click.echo(json.dumps({**reader.header, "signature": signature, **listed}))
        return 0
    for line in _described(reader, paths, signature):
        click.echo(line)
    for change in paths if by_path else ():
        if not change.touched:
            click.echo(f"{_letter(change)}  {plain(change.path)}")
    return 0


def _described(reader: BundleReader, paths: list[PathChange], signature: str) -> Iterator[str]:
    header = reader.header
    for key in ("from", "to"):
        state = header[key]
        name = state["checkpoint"] if state["checkpoint"] is not None else "no checkpoint"
        yield f"{key:10} {_common.printable(str(name))}, of overlay {_common.printable(str(state['overlay']))}"
    if header.get("note"):
        yield f"{'note':10} {_common.printable(str(header['note']))}"
    letters = [_letter(change) for change in paths if not change.touched]
    counts = ", ".join(f"{letters.count(letter):,} {letter}" for letter in "AMDmh" if letter in letters)
    yield f"{'paths':10} {counts or 'none'}"
    grown = sum(change.after.size for change in paths if change.after is not None and change.mtime is None)
    yield f"{'layer':10} {size(header['layer']['size'])}, with {size(grown)} in files"
    yield f"{'signature':10} {_common.printable(signature)}"


def _letter(change: PathChange) -> str:
    if change.before is None:
        return "A"
    if change.after is None:
        return "D"
    if change.mtime is not None:
        return "m"
    return "M" if change.before != change.after else "h"


@command.command(
    "apply",
    epilog="""\b
Examples:
  minifo bundle apply --check /tmp/update.bundle /var/lib/etc-device      # would it fit?
  minifo bundle apply --signers /etc/trusted /tmp/update.bundle /var/lib/etc-device
  minifo bundle apply --trial /tmp/update.bundle /var/lib/etc-device      # confirm, or it falls back

\b
All of it or nothing: after a failure, a kill or a power cut the overlay is as before, at the latest at the next
mount. If a path is not as the bundle expects, it is named, and nothing is changed. minifo undo takes it back.
If all of it is there already, that is said, and the exit code is 0.""",
)
@click.option("--check", "only_check", is_flag=True, help="Change nothing; say what differs.")
@click.option("--trial", "on_trial", is_flag=True, help="Fall back at a later mount, unless minifo confirm is given.")
@click.option("--mounts", metavar="N", type=int, help=f"How many mounts a trial may take.  [default: {TRIAL_MOUNTS}]")
@_SIGNERS
@_UNSIGNED
@JSON
@BASE
@_FILE
@_TARGET
def apply(
    file: str,
    target: str,
    only_check: bool,
    on_trial: bool,
    mounts: int | None,
    signers: str | None,
    unsigned: bool,
    as_json: bool,
    base: str | None,
) -> int:
    """Make the changes of the bundle FILE in the overlay TARGET."""
    _common.log_to_stderr("minifo")
    from ._bundle import applied, checked

    if mounts is not None and not on_trial:
        raise UsageError("--mounts is of a trial", "give --trial, too")
    trying = (TRIAL_MOUNTS if mounts is None else mounts) if on_trial else None
    trust = None if unsigned else _trusted(signers)
    progress = Progress(None, file, quiet=False)
    try:
        with _opened(file) as stream:
            if only_check:
                result = checked(stream, file, target, base, trust, progress)
            else:
                result = applied(stream, file, target, base, trust, trying, progress)
    finally:
        progress.clear()
    return _tell(result, target, only_check=only_check, as_json=as_json)


def _tell(result: Applied, target: str, *, only_check: bool, as_json: bool) -> int:
    outcome = "differs" if result.mismatches else "there already" if result.is_done else "applied"
    outcome = "fits" if only_check and outcome == "applied" else outcome
    if as_json:
        found = {"outcome": outcome, "paths": result.paths, "signed_by": result.signed_by}
        differing = [{**json_name("path", found.path), **found.told()} for found in result.mismatches]
        click.echo(json.dumps({**found, "checkpoint": result.checkpoint, "mismatches": differing}))
    else:
        _list(result.mismatches)
        where = _common.printable(target)
        by = f", signed by {_common.printable(result.signed_by)}" if result.signed_by is not None else ""
        kept = f"; what was there is kept as {result.checkpoint}" if result.checkpoint is not None else ""
        said = {
            "there already": f"all {result.paths:,} paths are in {where} already",
            "fits": f"{result.paths:,} paths fit {where}{by}",
            "applied": f"{result.paths:,} paths are applied to {where}{by}{kept}",
        }
        if outcome in said:
            click.echo(said[outcome])
    if result.mismatches:
        click.echo(
            f"minifo: {len(result.mismatches):,} paths are not as the bundle expects; nothing was changed", err=True
        )
        return 1
    return 0


def _list(mismatches: list[Mismatch]) -> None:
    shown = mismatches[:_SHOWN] if sys.stderr.isatty() else mismatches
    for mismatch in shown:
        click.echo(f"{plain(mismatch.path)}: {mismatch.why}", err=True)
    if len(shown) < len(mismatches):
        click.echo(f"and {len(mismatches) - len(shown):,} more", err=True)


# -- files


def _refuse_terminal(output: str) -> None:
    if output == "-" and sys.stdout.isatty():
        raise UsageError("a bundle is not for a terminal", "give -o FILE, or a pipe")


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    if file == "-":
        yield sys.stdin.buffer
        return
    try:
        stream = open(file, "rb")  # noqa: SIM115  # closed below; its errors are those of the file alone
    except OSError as error:
        raise StateError(f"{file} cannot be read ({error.strerror})", "check the path") from error
    with stream:
        yield stream


def _reader(stream: BinaryIO, file: str) -> BundleReader:
    from ..migrations.bundle.parts import BundleReader

    return BundleReader(stream, file)


def _trusted(signers: str | None) -> str | None:
    """Return the file that says whom to trust; None if there is none."""
    if signers is not None:
        return signers
    return SIGNERS if os.path.lexists(SIGNERS) else None
