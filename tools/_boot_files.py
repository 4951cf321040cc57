"""Puts the scripts that overlay the root at boot where initramfs-tools and dracut look, and removes them again."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib import resources

from . import _placed_files

_CHROOT = {"minifo-chroot": "usr/local/sbin/minifo-chroot"}
#: For each kind of initramfs: the files of the package, and where they go, from the root directory on.
FILES = {
    "initramfs": {
        "initramfs-tools/hooks/minifo": "etc/initramfs-tools/hooks/minifo",
        "initramfs-tools/scripts/local-bottom/minifo": "etc/initramfs-tools/scripts/local-bottom/minifo",
        "minifo-root.sh": "etc/initramfs-tools/scripts/minifo-root.sh",
        **_CHROOT,
    },
    "dracut": {
        "dracut/90minifo/module-setup.sh": "usr/lib/dracut/modules.d/90minifo/module-setup.sh",
        "dracut/90minifo/minifo-pre-pivot.sh": "usr/lib/dracut/modules.d/90minifo/minifo-pre-pivot.sh",
        "minifo-root.sh": "usr/lib/dracut/modules.d/90minifo/minifo-root.sh",
        **_CHROOT,
    },
}
#: A file of each kind that a package of a distribution has.
_PACKAGED = {
    "initramfs": "/usr/share/initramfs-tools/scripts/minifo-root.sh",
    "dracut": "/usr/lib/dracut/modules.d/90minifo/minifo-root.sh",
}
#: The command after which they take effect, by the directory that they are in.
NEXT = {"initramfs-tools": "update-initramfs -u", "dracut": "dracut --force --add minifo"}


def are_packaged(kinds: Iterable[str]) -> bool:
    """Return whether a package of the distribution has brought the scripts of some kinds."""
    return all(os.path.exists(_PACKAGED[kind]) for kind in kinds)


def plan(kinds: Iterable[str], root: str, *, remove: bool) -> dict[str, bytes | None]:
    """Return what to do so that *root* has our scripts of some kinds, or has none of them.

    Args:
        kinds: of ``FILES``.
        root: the root directory of the system.
        remove: whether to remove them.

    Returns:
        For each path its new content, or None to remove it; empty if nothing is to be done.

    Raises:
        StateError: a file that is not ours has the name of a script.
        OSError: a file cannot be read.
    """
    top = resources.files(__package__) / "system"
    wanted = {item for kind in kinds for item in FILES[kind].items()}
    files = {os.path.join(root, target): top.joinpath(source).read_bytes() for source, target in wanted}
    return _placed_files.plan(files, "script", remove=remove)


def apply(steps: dict[str, bytes | None]) -> None:
    """Do what ``plan`` has returned, as ``_placed_files.apply`` does."""
    _placed_files.apply(steps, 0o755, "--initramfs")


def next_steps(steps: dict[str, bytes | None]) -> list[str]:
    """Return what the user has to do when what ``plan`` has returned is done, a line each."""
    return [
        f"this takes effect after: {command}"
        for place, command in NEXT.items()
        if any(f"/{place}/" in path for path in steps)
    ]
