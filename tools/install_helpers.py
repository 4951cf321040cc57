"""``minifo install-helpers``: links in /sbin to the helpers that mount(8), umount(8) and fsck(8) look for there.

pip installs the helpers beside the python of its environment, where mount(8) does not look.  The rule: only links of
minifo are replaced or removed, and nothing is changed unless every step is possible.  A link of minifo is a symbolic
link to a file that has the name of one of our helpers.  A package of a distribution has its own links, which belong to
the package manager: they are left alone.
"""

from __future__ import annotations

import os
import sys
import sysconfig

import click

from ..engine.errors import MinifoError, StateError
from . import _boot_files, _common, _unit_files
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
#: Where a package of a distribution puts the helpers that its links lead to.
PACKAGED = "/usr/lib/minifo"


@click.command(
    "install-helpers",
    short_help="Make mount(8) and fstab find minifo.",
    epilog="""\b
Examples:
  sudo minifo install-helpers --dry-run
  sudo minifo install-helpers
  sudo minifo install-helpers --systemd      # and the units minifo@NAME.service, minifo-confirm@PATH.service
  sudo minifo install-helpers --initramfs    # and the scripts that overlay the root at boot, for initramfs-tools
  sudo minifo install-helpers --remove

\b
After that, a line like this in /etc/fstab works (with the paths of your base and storage):
  none /mnt/etc mini_fo base=/etc,sto=/var/lib/etc-changes 0 0""",
)
@click.option("--remove", is_flag=True, help="Remove the links of this installation.")
@click.option(
    "--dir", "directory", default="/sbin", show_default=True, metavar="DIR", help="The directory for the links."
)
@click.option("--systemd", "with_units", is_flag=True, help="Install the units of systemd, too.")
@click.option(
    "--unit-dir", "units", default=_unit_files.DIRECTORY, show_default=True, metavar="DIR", help="The place for them."
)
@click.option("--initramfs", "kinds", multiple=True, flag_value="initramfs", help="Overlay the root: initramfs-tools.")
@click.option("--dracut", "kinds", multiple=True, flag_value="dracut", help="Overlay the root: dracut.")
@click.option("--root", default="/", show_default=True, metavar="DIR", help="The system that gets these scripts.")
@click.option("-n", "--dry-run", is_flag=True, help="Print what would be done; change nothing.")
@click.option(
    "--anyway", is_flag=True, help="Link helpers even if users other than root can change them, and so become root."
)
def command(
    remove: bool,
    directory: str,
    with_units: bool,
    units: str,
    kinds: tuple[str, ...],
    root: str,
    dry_run: bool,
    anyway: bool,
) -> int:
    """Make 'mount -t mini_fo', umount(8), fsck(8) and /etc/fstab find minifo.

    Makes links in /sbin to the helpers: mount.TYPE and umount.TYPE for the types mini_fo, minifo and fuse.minifo,
    fsck.TYPE for the last two. A second run changes nothing. Files in /sbin that are not links of minifo are never
    changed. With --systemd it puts unit files where systemd looks for them, with --initramfs or --dracut the scripts
    that overlay the root at boot; --remove removes them, too. The command refuses an installation that users other than
    root can change, because mount(8) would run it as root.
    """
    try:
        scripts = find_scripts()
        steps = plan_removal(directory, scripts) if remove else plan_links(directory, scripts)
        unit_steps = _plan_units(units, remove=remove) if with_units or remove else {}
        boot_steps = _plan_boot_files(kinds, root, remove=remove)
        if not remove and not anyway:
            check_trust(scripts)
        if not dry_run:
            apply(directory, steps)
            _unit_files.apply(unit_steps)
            _boot_files.apply(boot_steps)
    except (MinifoError, OSError) as exc:
        return _common.fail("minifo", exc, _common.SYSTEM)
    for name, target in steps.items():
        done = "remove" if target is None else "link"
        arrow = "" if target is None else f" -> {target}"
        click.echo(_common.printable(f"{done} {os.path.join(directory, name)}{arrow}"))
    for path, content in (unit_steps | boot_steps).items():
        click.echo(_common.printable(f"{'remove' if content is None else 'write'} {path}"))
    lines = _unit_files.next_steps(removed=remove) if unit_steps else []
    for line in [*lines, *_boot_files.next_steps(boot_steps)]:
        click.echo(_common.printable(line))
    if not (steps or unit_steps or boot_steps):
        click.echo("nothing to do")
    return 0


def _plan_units(directory: str, *, remove: bool) -> dict[str, bytes | None]:
    """Return what to do about units; nothing if this minifo came with a package that has them."""
    if is_packaged() and directory == _unit_files.DIRECTORY and (remove or _unit_files.are_packaged()):
        return {}
    return _unit_files.plan(directory, remove=remove)


def _plan_boot_files(kinds: tuple[str, ...], root: str, *, remove: bool) -> dict[str, bytes | None]:
    """Return what to do about the scripts that overlay the root; nothing if they came with a package.

    Raises:
        StateError: a package is to bring them.
    """
    if not is_packaged() or root != "/":
        return _boot_files.plan(_boot_files.FILES if remove else kinds, root, remove=remove)
    if not remove and not _boot_files.are_packaged(kinds):
        raise StateError("the scripts come with a package of their own", "install it (Debian: apt install minifo-root)")
    return {}


def find_scripts() -> str:
    """Return the directory with the helpers of this installation.

    Raises:
        StateError: the helpers are not installed.
    """
    # a script in a virtual environment names its python in its first line, so a link to the script runs that python
    candidates = [sysconfig.get_path("scripts"), os.path.dirname(sys.executable), os.path.dirname(sys.argv[0])]
    if is_packaged():
        candidates.insert(0, PACKAGED)
    for candidate in candidates:
        found = os.path.abspath(candidate)
        if all(os.path.exists(os.path.join(found, name)) for name in HELPERS):
            return found
    raise StateError(
        f"the helpers are not in {os.path.abspath(candidates[0])}", "install minifo with pip, then run this again"
    )


def is_packaged() -> bool:
    """Return whether this minifo came with a package of the distribution: pip puts nothing into /usr/lib."""
    return os.path.abspath(__file__).startswith(("/usr/lib/", "/usr/lib64/"))


def check_trust(scripts: str) -> None:
    """Refuse helpers that a user other than root can change, because mount(8) runs them as root.

    Args:
        scripts: the directory with the helpers.

    Raises:
        StateError: a user other than root can change a helper, its python, or a module.
    """
    changeable_path = changeable(what_runs([os.path.join(scripts, name) for name in HELPERS]))
    if changeable_path is not None:
        raise StateError(
            f"users other than root may change {changeable_path}, and mount(8) would run it as root",
            "install minifo as root, for example in /opt/minifo, or give --anyway",
        )


def plan_links(directory: str, scripts: str) -> dict[str, str | None]:
    """Return the links to make in *directory* so that every helper leads to *scripts*, as target by link name.

    Raises:
        StateError: a file that is not a link of minifo, or a link of a package, has the name of a helper, or
            *directory* is not a directory.
    """
    _check_directory(directory)
    steps: dict[str, str | None] = {}
    for name in HELPERS:
        path = os.path.join(directory, name)
        target = os.path.join(scripts, name)
        if os.path.lexists(path):
            old_target = link_target(path)
            if old_target is None:
                raise StateError(f"{path} exists and is not a link of minifo", "move it away, or choose another --dir")
            if old_target == target:
                continue
            _check_ours(path, old_target)
        steps[name] = target
    return steps


def plan_removal(directory: str, scripts: str) -> dict[str, str | None]:
    """Return the links to remove from *directory*: those to *scripts*, and those to files that no longer exist.

    Returns:
        The name of each link, with None for its target.

    Raises:
        StateError: *directory* is not a directory, or the links belong to a package.
    """
    _check_directory(directory)
    steps: dict[str, str | None] = {}
    for name in HELPERS:
        path = os.path.join(directory, name)
        target = link_target(path)
        if target is not None and (os.path.dirname(target) == scripts or not os.path.exists(target)):
            _check_ours(path, target)
            steps[name] = None
    return steps


def apply(directory: str, steps: dict[str, str | None]) -> None:
    """Make and remove links in *directory*.

    Args:
        directory: where the links are.
        steps: for each link its target, or None to remove it.

    Raises:
        StateError: the user may not write *directory*.
        OSError: another system call failed.
    """
    try:
        for name, target in steps.items():
            path = os.path.join(directory, name)
            if target is None:
                os.unlink(path)
                continue
            # renamed into place, so that mount(8) always finds the old or the new link
            fresh = f"{path}.{os.getpid()}"
            os.symlink(target, fresh)
            os.rename(fresh, path)
    except PermissionError as exc:
        raise StateError(f"you may not write {directory}", "run it as root: sudo minifo install-helpers") from exc


def _check_ours(path: str, target: str) -> None:
    """Refuse to touch a link of a package whose helpers are there.

    Raises:
        StateError: it is one.
    """
    if os.path.dirname(target) == PACKAGED and os.path.exists(target):
        raise StateError(
            f"{path} belongs to the minifo that a package of this system installed",
            "remove that package first (Debian: apt remove minifo), or use that minifo",
        )


def _check_directory(directory: str) -> None:
    if not os.path.isdir(directory):
        raise StateError(f"{directory} is not a directory", "give an existing directory with --dir")


def link_target(path: str) -> str | None:
    """Return the absolute target of the link of minifo at *path*, or None if *path* is not a link of minifo."""
    if not os.path.islink(path):
        return None
    # the real directory, for /sbin may itself be a link, and a package has links such as ../lib/minifo/mount.minifo
    directory = os.path.realpath(os.path.dirname(os.path.abspath(path)))
    target = os.path.normpath(os.path.join(directory, os.readlink(path)))
    return target if os.path.basename(target) in HELPERS else None
