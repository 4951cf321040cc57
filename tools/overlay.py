"""``minifo overlay``: mount over a directory with everything defaulted (mini_fo-overlay, without its defects)."""

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
What is in /tmp is gone after a boot: give -d for changes that are to stay.""",
)
@click.option("-s", "--suffix", metavar="SUFFIX", help="Added to both names, for a second overlay of one name.")
@click.option("-d", "--sto-parent", metavar="DIR", default="/tmp", help="Where the storage is made (default /tmp).")
@click.option("-m", "--mnt-parent", metavar="DIR", default="/mnt", help="Where the mount point is made (default /mnt).")
@click.argument("directory", metavar="DIR")
def command(directory: str, suffix: str | None, sto_parent: str, mnt_parent: str) -> int:
    """Mount an overlay of DIR, making storage and mount point, and print where it is.

    A storage that was made for another directory of the same name is refused.
    """
    from ..fusefront.launch import launch
    from ..fusefront.mount.options import MountOptions

    _common.log_to_stderr("minifo")
    try:
        storage, mountpoint = places(directory, suffix, sto_parent, mnt_parent)
        bring_up(storage)
        launch(MountOptions(base=os.path.realpath(directory), storage=storage), mountpoint)
    except (MinifoError, OSError) as exc:
        return _common.fail("minifo", exc, _common.MOUNT_FAILED)
    click.echo(f"{_common.printable(mountpoint)} (storage {_common.printable(storage)})")
    return 0


def places(directory: str, suffix: str | None, sto_parent: str, mnt_parent: str) -> tuple[str, str]:
    """Make storage and mount point, as far as they are not there.

    Args:
        directory: the base.
        suffix: added to both names, or None.
        sto_parent, mnt_parent: where they are made.

    Returns:
        Both paths.

    Raises:
        UsageError: the directory is none, or the storage belongs to another base.
        OSError: they cannot be made.
    """
    base = os.path.realpath(directory)
    if not os.path.isdir(base):
        raise UsageError(f"{directory} is not a directory", "give the directory to overlay")
    name = (os.path.basename(base) or "root") + (f"-{suffix}" if suffix else "")
    if suffix is not None and "/" in suffix:
        raise UsageError(f"the suffix {suffix} holds a slash", "it is a part of a name")
    storage = os.path.join(sto_parent, f"sto-{name}")
    mountpoint = os.path.join(mnt_parent, f"mini_fo-{name}")
    with contextlib.suppress(FileExistsError):
        os.mkdir(storage, 0o700)
    _check_owner(storage)
    known = _base_of(storage)
    if known is not None and known != base:
        raise UsageError(
            f"storage {storage} was made for {known}, not for {base}", "give another suffix with -s, or delete it"
        )
    os.makedirs(mountpoint, exist_ok=True)
    return storage, mountpoint


def _check_owner(storage: str) -> None:
    """In /tmp anybody may have made the directory before us."""
    st = os.lstat(storage)
    if st.st_uid != os.geteuid() or not os.path.isdir(storage) or os.path.islink(storage):
        raise UsageError(f"{storage} is not a directory of yours", "give another place with -d")


def _base_of(storage: str) -> str | None:
    """The base a storage was last mounted with, or None if it is new."""
    import apsw

    from ..engine.store.database import DB_NAME
    from ..engine.store.database_file import connect

    path = os.path.join(storage, DB_NAME)
    if not os.path.exists(path):
        return None
    try:
        con = connect(path, read_only=True)
    except apsw.Error:
        return None  # mounting it will say what is wrong
    try:
        row = con.execute("SELECT value FROM overlay WHERE key = 'base'").fetchone()
    except apsw.Error:
        return None
    finally:
        con.close()
    value = row[0] if row is not None else None
    text = os.fsdecode(value) if isinstance(value, bytes) else value
    return text or None
