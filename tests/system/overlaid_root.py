"""A system whose root is overlaid at boot: its image, its storage, and virtual machines that start it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.system.debian_root import DebianRoot
from tests.system.virtual_machine import UNNEEDED, UP, Disk, VirtualMachine, give_console, make_ext4, make_squashfs

_PACKAGES = (
    *("linux-image-cloud-amd64", "systemd-sysv", "udev", "kmod", "e2fsprogs", "fuse3", "zstd"),
    *("python3-apsw", "python3-click", "python3-pathspec", "python3-pyfuse3", "python3-trio"),
    *("gcc", "libc6-dev", "libfuse3-dev", "pkgconf", "python3-dev", "python3-pip", "python3-setuptools"),
)
_INSTALL = "pip install -q --no-deps --no-build-isolation --break-system-packages --root-user-action=ignore /src/minifo"
#: Of an ordinary file system: what systemd would do with this line fails on an overlay.
_FSTAB = "LABEL=root / ext4 errors=remount-ro 0 1\n"
#: What installs minifo for initramfs-tools.
INITRAMFS = "minifo install-helpers --initramfs --anyway\nupdate-initramfs -u"
#: A shell is all that starts: services would take most of a minute.
SHELL = ("init=/bin/sh", "quiet", "panic=-1", "systemd.show_status=0")


@dataclass
class OverlaidRoot:
    """A Debian 13 as an image, with minifo in it.

    Attributes:
        place: a directory for images.
        root: what is in the image, and the kernel.
        image: the image.
        storage: an ext4 image labelled ``data``, empty at first.
    """

    place: Path
    root: DebianRoot
    image: Path
    storage: Path

    @classmethod
    def make(
        cls,
        place: Path,
        packages: Iterable[str],
        install: str,
        without: tuple[str, ...] = UNNEEDED,
        writable: bool = False,
    ) -> OverlaidRoot:
        """Make one.

        Args:
            place: an empty directory.
            packages: those that make the initramfs.
            install: the command that installs minifo's scripts and makes the initramfs anew.
            without: patterns of paths that a squashfs image lacks.
            writable: the image is ext4 instead of squashfs.
        """
        root = DebianRoot.make("trixie", place / "root", [*_PACKAGES, *packages])
        root.take_checkout()
        (root.path / "etc/fstab").write_text(_FSTAB)
        root.must("sh", "-ec", f"{_INSTALL}\n{install}")
        root.must("sh", "-ec", "mkdir /var/packages; cd /var/packages; apt-get -q update; apt-get -q download hello")
        give_console(root)
        made = cls(place, root, place / "root.img", place / "storage.img")
        if writable:
            make_ext4(made.image, 1536, "root", root.path)
        else:
            make_squashfs(root, made.image, without)
        make_ext4(made.storage, 256, "data")
        return made

    def machine(self, *words: str, storage: Path | None = None, alone: bool = False) -> VirtualMachine:
        """Return a machine that is to boot it; what it changes in the base is gone when it is off.

        Args:
            words: of the kernel's command line.
            storage: another image of a storage.
            alone: without a storage.
        """
        disks = [Disk(self.image, forgetful=True)]
        if not alone:
            disks.append(Disk(storage or self.storage))
        return VirtualMachine.of(self.root, disks, ["root=/dev/vda", "ro", *words])

    def shell(self, *words: str, storage: Path | None = None, alone: bool = False) -> VirtualMachine:
        """Return a machine that is to boot into nothing but a shell; its arguments are those of ``machine``."""
        return self.machine(*SHELL, *words, storage=storage, alone=alone)

    def system(self, *words: str, keep: bool = False) -> VirtualMachine:
        """Return a machine that is to boot into systemd.

        Args:
            words: of the kernel's command line.
            keep: keep what it changes in the base.
        """
        machine = self.machine(*UP, *words)
        if keep:
            machine.disks = [Disk(self.image), *machine.disks[1:]]
        return machine


def at_once(*tasks: Callable[[], None]) -> None:
    """Run tasks side by side, two at a time; at the end, raise the first error of them."""
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(task) for task in tasks]:
            done.result()


def await_shell(machine: VirtualMachine, timeout: float = 600) -> None:
    """Wait for the prompt of ``SHELL``."""
    machine.expect(r"(?:^|\x1b\[[^a-zA-Z]*[a-zA-Z])# ", timeout=timeout)
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    machine.send(f"stty -echo; export PATH={path} NO_COLOR=1 PS1= PS2=; mount -t tmpfs t /tmp")
    machine.must("true")
