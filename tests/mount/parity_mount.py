"""Parity: the same system calls on a mount and on a plain directory, and the same outcome.

A ``ParityMount`` mounts one overlay for all tests of a module.  Its base holds many equal trees; each test takes one
and its plain twin, a ``Pair``.  Base and twins lie on one file system, so that what differs is due to the overlay.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from tests.mount.mount_sandbox import MountSandbox, differences, fingerprint, in_child, populate, run, tree

TREES = 140


class Pair:
    """Two trees with equal content.

    Args:
        parity_mount: where they are.
        name: name of the trees in mount and twin.
        user: the test that has it.
    """

    def __init__(self, parity_mount: ParityMount, name: str, user: str) -> None:
        self.parity_mount = parity_mount
        self.name = name
        self.user = user
        self.plain_mode = parity_mount.plain_mode
        self.since = time.time_ns() - 10**9
        self.excused: set[str] = set()
        self.good = False  # True once the trees were found alike

    @property
    def mounted(self) -> str:
        """Path of the tree on the mount."""
        return str(self.parity_mount.overlay.mnt / self.name)

    @property
    def plain(self) -> str:
        """Path of the plain tree."""
        return str(self.parity_mount.twin / self.name)

    def same(self, action: Callable[[str], Any], **user: Any) -> Any:
        """Call *action* in each tree, in a process of its own that stands there, and compare what it returns.

        Args:
            action: gets the tree's path; its result must not hold inode or device numbers or times of now.
            user: who does it: ``uid``, ``gid`` and ``groups`` as for ``in_child``.

        Returns:
            What both returned.
        """

        def there(root: str) -> Callable[[], Any]:
            def act() -> Any:
                os.chdir(root)
                return action(root)

            return act

        expected = in_child(there(self.plain), **user)
        found = in_child(there(self.mounted), **user)
        if found != expected:
            raise AssertionError("\n".join(_unlike(found, expected, "result")))
        return found

    def compare(self) -> None:
        """Check that both trees look alike."""
        left, right = tree(self.mounted, since=self.since), tree(self.plain, since=self.since)
        found = [line for line in differences(left, right) if not any(word in line for word in self.excused)]
        assert not found, "mount (left) and plain directory (right) differ:\n" + "\n".join(found)
        self.good = True

    def remount(self) -> None:
        """Unmount and mount, and compare."""
        self.parity_mount.overlay.remount()
        self.compare()


class ParityMount:
    """An overlay whose base holds many equal trees, and a plain copy of the base.

    Args:
        sandbox: what it is made with; whoever has made that closes it.
        plain_mode: mount without the session hook.
        trees: how many.
    """

    def __init__(self, sandbox: MountSandbox, *, plain_mode: bool, trees: int = TREES) -> None:
        self.sandbox = sandbox
        self.plain_mode = plain_mode
        self.pairs: list[Pair] = []
        self.names = iter([f"tree{number}" for number in range(trees)])
        # Copying must not change access times, nor may reading the twin: the overlay never does that either.
        home = self.sandbox.file_system("ext4", options="noatime,data=writeback,barrier=0")
        base, self.twin = home / "base", home / "twin"
        base.mkdir()
        self.overlay = self.sandbox.overlay("rootfs", *(["plain"] if plain_mode else []), base=base)
        for number in range(trees):
            (base / f"tree{number}").mkdir()
            populate(base / f"tree{number}")
        run("cp", "-a", base, self.twin)
        self.untouched = fingerprint(self.overlay.base)
        self.overlay.mount()

    def take(self, user: str) -> Pair:
        """The next pair of trees."""
        if not os.path.exists(self.overlay.mnt / "tree0"):
            self.overlay.clear()  # a test before this one has ended the daemon
            self.overlay.mount()
        pair = Pair(self, next(self.names), user)
        self.pairs.append(pair)
        return pair

    def survive(self) -> None:
        """Check that everything is there after a new mount, that no invariant is broken and the base is untouched."""
        self.overlay.umount()
        assert self.overlay.violations() == []
        self.overlay.mount()
        for pair in (pair for pair in self.pairs if pair.good):
            try:
                pair.compare()
            except AssertionError as error:
                raise AssertionError(f"after {pair.user} and a new mount: {error}") from None
        assert fingerprint(self.overlay.base) == self.untouched


def _unlike(mounted: Any, plain: Any, where: str) -> list[str]:
    """Where two results differ, the smallest parts that do."""
    both = (list, tuple)
    if isinstance(mounted, both) and isinstance(plain, both) and len(mounted) == len(plain):
        parts = [_unlike(*items, f"{where}[{at}]") for at, items in enumerate(zip(mounted, plain, strict=True))]
        return [line for lines in parts for line in lines]
    return [] if mounted == plain else [f"{where}: mount {mounted!r:.300}, plain {plain!r:.300}"]
