"""``minifo install-helpers``: links in /sbin to the helpers that mount(8) and umount(8) look for there.

pip installs the helpers beside the python of its environment, where mount(8) does not look.  The rule: nothing that is
not ours is touched, and nothing is changed until it is known that everything can be.  Ours is a symbolic link to a
script with the name of one of our helpers.
"""

from __future__ import annotations

import os
import sys
import sysconfig

import click

from ..engine.errors import MinifoError, StateError
from . import _common
from .trust import changeable, what_runs

HELPERS = (
    "mount.mini_fo",
    "mount.minifo",
    "mount.fuse.minifo",
    "umount.mini_fo",
    "umount.minifo",
    "umount.fuse.minifo",
    "fsck.minifo",
    "fsck.fuse.minifo",
)


@click.command(
    "install-helpers",
    short_help="Let mount(8) and fstab find minifo.",
    epilog="""\b
Examples:
  sudo minifo install-helpers --dry-run
  sudo minifo install-helpers
  sudo minifo install-helpers --remove

\b
Then a line in /etc/fstab works (base and storage with your paths):
  none /mnt/etc mini_fo base=/etc,sto=/var/lib/etc-changes 0 0""",
)
@click.option("--remove", is_flag=True, help="Remove the links of this installation.")
@click.option("--dir", "directory", default="/sbin", show_default=True, metavar="DIR", help="Where the links go.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--anyway", is_flag=True, help="Link helpers that others than root can change, and thereby become root.")
def command(remove: bool, directory: str, dry_run: bool, anyway: bool) -> int:
    """Let 'mount -t mini_fo', umount(8) and /etc/fstab find minifo.

    Links the helpers mount.mini_fo, mount.minifo, mount.fuse.minifo and their umount siblings into /sbin. Calling it
    again changes nothing; anything there that is not ours is left as it is. An installation that others than root can
    change is refused, for mount(8) would run it as root.
    """
    try:
        scripts = find_scripts()
        steps = plan_removal(directory, scripts) if remove else plan_links(directory, scripts)
        if not remove and not anyway:
            check_trust(scripts)
        if not dry_run:
            apply(directory, steps)
    except (MinifoError, OSError) as exc:
        return _common.fail("minifo", exc, _common.SYSTEM)
    for name, target in steps.items():
        done = "remove" if target is None else "link"
        arrow = "" if target is None else f" -> {target}"
        click.echo(_common.printable(f"{done} {os.path.join(directory, name)}{arrow}"))
    if not steps:
        click.echo("nothing to do")
    return 0


def find_scripts() -> str:
    """The directory with the helpers of this installation.

    Raises:
        StateError: they are not installed.
    """
    # The script of a virtual environment names its python, so a link to it finds the right one.
    places = [sysconfig.get_path("scripts"), os.path.dirname(sys.executable), os.path.dirname(sys.argv[0])]
    for place in places:
        found = os.path.abspath(place)
        if all(os.path.exists(os.path.join(found, name)) for name in HELPERS):
            return found
    raise StateError(
        f"the helpers are not in {os.path.abspath(places[0])}", "install minifo with pip, then call it again"
    )


def check_trust(scripts: str) -> None:
    """Let root's mount(8) run only what nobody else can change.

    Raises:
        StateError: others than root can change the helpers, their python, or a module.
    """
    place = changeable(what_runs([os.path.join(scripts, name) for name in HELPERS]))
    if place is not None:
        raise StateError(
            f"others than root may change {place}, and mount(8) would run it as root",
            "install minifo as root, say in /opt/minifo, or call it with --anyway",
        )


def plan_links(directory: str, scripts: str) -> dict[str, str | None]:
    """What must be linked in *directory* so that every helper leads to *scripts*: link name to target.

    Raises:
        StateError: a name is taken by something that is not ours, or *directory* is not one.
    """
    _check_directory(directory)
    steps: dict[str, str | None] = {}
    for name in HELPERS:
        path = os.path.join(directory, name)
        target = os.path.join(scripts, name)
        if os.path.lexists(path):
            there = _link_target(path)
            if there is None:
                raise StateError(
                    f"{path} is there and is not a link of minifo", "move it away, or choose another --dir"
                )
            if there == target:
                continue
        steps[name] = target
    return steps


def plan_removal(directory: str, scripts: str) -> dict[str, str | None]:
    """The links in *directory* to remove: those to *scripts*, and those to an installation that is gone.

    Raises:
        StateError: *directory* is not one.
    """
    _check_directory(directory)
    steps: dict[str, str | None] = {}
    for name in HELPERS:
        target = _link_target(os.path.join(directory, name))
        if target is not None and (os.path.dirname(target) == scripts or not os.path.exists(target)):
            steps[name] = None
    return steps


def apply(directory: str, steps: dict[str, str | None]) -> None:
    """Make and remove links as planned.

    Raises:
        StateError: *directory* may not be written.
        OSError: it could not be.
    """
    try:
        for name, target in steps.items():
            path = os.path.join(directory, name)
            if target is None:
                os.unlink(path)
                continue
            # Renamed into place, so that mount(8) finds the old or the new link at any time.
            fresh = f"{path}.{os.getpid()}"
            os.symlink(target, fresh)
            os.rename(fresh, path)
    except PermissionError as exc:
        raise StateError(f"{directory} may not be written", "call it as root: sudo minifo install-helpers") from exc


def _check_directory(directory: str) -> None:
    if not os.path.isdir(directory):
        raise StateError(f"{directory} is not a directory", "name an existing one with --dir")


def _link_target(path: str) -> str | None:
    """Where the link of ours at *path* leads; None if there is none, or what is there is not ours."""
    if not os.path.islink(path):
        return None
    target = os.path.join(os.path.dirname(os.path.abspath(path)), os.readlink(path))
    return target if os.path.basename(target) in HELPERS else None
