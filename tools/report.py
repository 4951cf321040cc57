"""``minifo report``: a page that shows how an overlay is and what it changed, for a browser."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
import time

import click

from ..engine import StateError, UsageError
from ..fusefront.mount import mount_table
from . import _common
from ._complete import targets
from ._target import opened, status
from .status import attention

_HEAD = 1024  # bytes at the start of a page in which its generator is named


@click.command(
    "report",
    epilog="""\b
Examples:
  minifo report /mnt/usr -o usr.html
  minifo report /var/lib/usr-changes -o - | ssh admin@example.org 'cat > usr.html'

\b
Exit codes: 0 the page is written, 2 failure (also if a part of the overlay cannot be read: the page says which).""",
)
@click.option("-o", "--output", "place", metavar="FILE", required=True, help="Where the page goes; - for stdout.")
@click.option("--base", metavar="DIR", help="The base, where it is not the one of the last mount.")
@click.argument("target", default=".", shell_complete=targets)
def command(target: str, place: str, base: str | None) -> int:
    """Write a page about the overlay TARGET, for a browser.

    One HTML file that needs no network: what takes the space, what changed and when, what became of the base, and how
    the overlay is. A file of an earlier report is replaced; no other one is.
    """
    _common.log_to_stderr("minifo")
    from .page.document import page  # these take a while to import
    from .page.findings import find_out

    with opened(target, base) as overlay:
        known, mounted = status(target, base)
        known["mounted"] = mounted
        known["attention"] = attention(known)
        if place != "-":
            _check(place, known["storage"], known["base"])
        found = find_out(overlay, known, time.time())
    _write(place, page(found).encode())
    for problem in found.problems.values():
        print(f"minifo: the page is not complete: {_common.printable(problem)}", file=sys.stderr)
    return _common.SYSTEM if found.problems else 0


def _check(place: str, storage: str, base: str) -> None:
    """Refuse a file in a part of the overlay, which the report would change, and one that is no report.

    A system that runs on its overlay has all its files in it, so there nothing is refused but storage.

    Args:
        place: the file.
        storage, base: of the overlay that the report is about.

    Raises:
        UsageError: that is what it is.
        StateError: its directory cannot be reached.
    """
    true = os.path.realpath(place)
    try:
        real, entry = mount_table.locate(os.path.dirname(true))
    except OSError as error:
        raise StateError(f"{place} cannot be written ({error.strerror})", "name a file in another directory") from error
    known = mount_table.overlay_of(entry) if entry is not None else None
    is_mounted_here = entry is not None and entry.mountpoint != "/" and known is not None and known.storage == storage
    for part, is_there in (
        ("the storage of the overlay", _is_in(real, storage)),
        ("the overlay itself", is_mounted_here),
        ("the base of the overlay", base != "/" and _is_in(real, base)),
    ):
        if is_there:
            raise UsageError(f"{place} is in {part}", "name a file elsewhere, or - for standard output")
    with contextlib.suppress(FileNotFoundError):
        _check_old(place, true)


def _is_in(path: str, directory: str) -> bool:
    directory = os.path.realpath(directory)
    return os.path.commonpath((path, directory)) == directory


def _check_old(place: str, true: str) -> None:
    """Refuse to replace a file that is not empty and no report."""
    from .page.document import GENERATOR

    st = os.stat(true)
    if not stat.S_ISREG(st.st_mode) or not st.st_size:
        return
    with open(true, "rb") as file:
        if GENERATOR.encode() not in file.read(_HEAD):
            raise UsageError(f"{place} exists, and is no report", "remove it first, or name another file")


def _write(place: str, text: bytes) -> None:
    """Write the page, at once if it is a file; only its owner may read it, for it has names of files.

    Raises:
        OSError: it cannot be written; a file that was there is as it was.
    """
    if place == "-":
        sys.stdout.buffer.write(text)
        return
    true = os.path.realpath(place)
    if os.path.lexists(true) and not os.path.isfile(true):  # a pipe, a device
        with open(true, "wb") as file:
            file.write(text)
        return
    number, name = tempfile.mkstemp(dir=os.path.dirname(true), prefix=".minifo-report-")
    try:
        with open(number, "wb") as file:
            file.write(text)
        with contextlib.suppress(FileNotFoundError):
            os.chmod(name, stat.S_IMODE(os.stat(true).st_mode))
        os.replace(name, true)
    except BaseException:
        os.unlink(name)
        raise
