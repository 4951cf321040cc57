"""``minifo overlay``: mount an overlay of a directory, with default places (the successor of mini_fo-overlay)."""

from __future__ import annotations

import contextlib
import os

import click

from ..engine.errors import MinifoError, UsageError
from . import _common
from ._format import bring_up


@click.command(
    "overlay",
    epilog="""\b
Examples:
  minifo overlay /usr                      # storage /tmp/sto-usr, mounted at /mnt/mini_fo-usr
  minifo overlay -s test /usr              # /tmp/sto-usr-test, /mnt/mini_fo-usr-test
  minifo overlay -d /var/lib -m /srv /usr  # /var/lib/sto-usr, /srv/mini_fo-usr
A reboot empties /tmp on most systems: give -d to keep the changes.""",
)
@click.option(
    "-s", "--suffix", metavar="SUFFIX", help="A suffix of both names, to make a second overlay of the same name."
)
@click.option(
    "-d", "--sto-parent", metavar="DIR", default="/tmp", help="The directory to make the storage in (default /tmp)."
)
@click.option(
    "-m", "--mnt-parent", metavar="DIR", default="/mnt", help="The directory to make the mount point in (default /mnt)."
)
@click.argument("directory", metavar="DIR")
def command(directory: str, suffix: str | None, sto_parent: str, mnt_parent: str) -> int:
    """Mount an overlay of DIR, with everything chosen for you.

    It makes a storage and a mount point for DIR, and prints the mount point. A storage that was made for another
    directory with the same name is refused.
    """
    from ..fusefront.launch import launch
    from ..fusefront.mount.options import MountOptions

    _common.log_to_stderr("minifo")
    try:
        storage, mountpoint = make_directories(directory, suffix, sto_parent, mnt_parent)
        bring_up(storage)
        launch(MountOptions(base=os.path.realpath(directory), storage=storage), mountpoint)
    except (MinifoError, OSError) as exc:
        return _common.fail("minifo", exc, _common.MOUNT_FAILED)
    click.echo(f"{_common.printable(mountpoint)} (storage {_common.printable(storage)})")
    return 0


def make_directories(directory: str, suffix: str | None, sto_parent: str, mnt_parent: str) -> tuple[str, str]:
    """Make the directories for storage and mount point where they do not exist, and return their paths.

    Args:
        directory: the base.
        suffix: appended to the names of both; None for no suffix.
        sto_parent: the directory to make the storage in.
        mnt_parent: the directory to make the mount point in.

    Returns:
        The paths of storage and mount point.

    Raises:
        UsageError: *directory* is not a directory, or the storage belongs to another user or another base.
        OSError: one of the directories cannot be made.
    """
    base = os.path.realpath(directory)
    if not os.path.isdir(base):
        raise UsageError(f"{directory} is not a directory", "give the directory to overlay")
    name = (os.path.basename(base) or "root") + (f"-{suffix}" if suffix else "")
    if suffix is not None and "/" in suffix:
        raise UsageError(f"the suffix {suffix} contains a slash", "give a suffix without a slash")
    storage = os.path.join(sto_parent, f"sto-{name}")
    mountpoint = os.path.join(mnt_parent, f"mini_fo-{name}")
    with contextlib.suppress(FileExistsError):
        os.mkdir(storage, 0o700)
    _check_owner(storage)
    known = _base_of(storage)
    if known is not None and known != base:
        raise UsageError(
            f"storage {storage} was made for {known}, not for {base}",
            "give another suffix with -s, or delete that storage",
        )
    os.makedirs(mountpoint, exist_ok=True)
    return storage, mountpoint


def _check_owner(storage: str) -> None:
    """Refuse a storage that is not a directory of this user: in /tmp another user may have made it first.

    Raises:
        UsageError: it is a symlink, not a directory, or belongs to another user.
    """
    st = os.lstat(storage)
    if st.st_uid != os.geteuid() or not os.path.isdir(storage) or os.path.islink(storage):
        raise UsageError(f"{storage} is not a directory that you own", "give another place with -d")


def _base_of(storage: str) -> str | None:
    """Return the base that a storage was last mounted with, or None if it is new or cannot be read."""
    from ..engine.queries.at_rest import last_base

    try:
        return last_base(storage) or None
    except MinifoError:
        return None  # there is none yet, or the mount that follows reports the error
