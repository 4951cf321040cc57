"""What a system says on its console if its root cannot be overlaid, and how an update that fails is taken back."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.system.overlaid_root import INITRAMFS, OverlaidRoot, await_shell
from tests.system.virtual_machine import VirtualMachine, make_ext4

pytestmark = pytest.mark.timeout(1800)
#: What the console says with ``minifo.fail=ro``, which is the default.
_READ_ONLY = "minifo.fail=ro: going on without the overlay; the base is read-only, and no change is kept"


@pytest.fixture(scope="module")
def overlaid(tmp_path_factory: pytest.TempPathFactory, fuse_required: None) -> OverlaidRoot:
    return OverlaidRoot.make(tmp_path_factory.mktemp("boot"), ["initramfs-tools"], INITRAMFS)


def goes_on_read_only(machine: VirtualMachine, what: str, to_do: str) -> None:
    """The console says what is wrong and what to do; then the base is the root, read-only, and a file has the words."""
    machine.expect(f"minifo: the root is NOT overlaid: {what}")
    machine.expect(f"minifo: what to do: {to_do}")
    machine.expect(_READ_ONLY)
    await_shell(machine)
    assert " / squashfs ro" in machine.must("cat /proc/mounts")
    assert f"The root is not overlaid: {what}" in machine.must("cat /run/minifo/failed")
    print("\n".join(line for line in machine.said.splitlines() if "minifo: " in line))


def test_missing(overlaid: OverlaidRoot) -> None:
    """The disk is not there."""
    with overlaid.shell("minifo.root=LABEL=data", "minifo.wait=2", alone=True) as machine:
        goes_on_read_only(machine, "there is no LABEL=data", "attach the disk with the storage")


def test_wrong_word(overlaid: OverlaidRoot) -> None:
    """A typing error in the boot loader is not taken for nothing."""
    with overlaid.shell("minifo.root=LABEL=data", "minifo.raed") as machine:
        goes_on_read_only(machine, "the kernel's command line is wrong", "correct it in the boot loader")
        assert "minifo.raed is not known; there are minifo.root=" in machine.said


def test_foreign(overlaid: OverlaidRoot) -> None:
    """The file system has something else: nothing is put beside it."""
    content = overlaid.place / "letters"
    content.mkdir()
    (content / "letter").write_text("dear\n")
    storage = make_ext4(overlaid.place / "foreign.img", 64, "data", content)
    with overlaid.shell("minifo.root=LABEL=data", storage=storage) as machine:
        goes_on_read_only(machine, "minifo cannot mount the overlay", "put that right")
        machine.must("mkdir /tmp/s; mount /dev/vdb /tmp/s")
        assert machine.must("ls /tmp/s").split() == ["letter", "lost+found"]


def test_full(overlaid: OverlaidRoot) -> None:
    """There is no room for a new overlay."""
    content = overlaid.place / "fill"
    content.mkdir()
    (content / "fill").write_bytes(bytes(1))
    storage = make_ext4(overlaid.place / "full.img", 16, "data", content)
    _fill(storage)
    with overlaid.shell("minifo.root=LABEL=data:/sto", storage=storage) as machine:
        goes_on_read_only(machine, "", "")


def _fill(image: Path) -> None:
    """Leave no block free in an ext4 image."""
    mount = 'mount -o loop "$0" /mnt && { cat /dev/zero >/mnt/fill 2>/dev/null; sync; umount /mnt; }'
    subprocess.run(["unshare", "-m", "sh", "-c", mount, image], check=True, timeout=60)


def test_repair_in_the_shell(overlaid: OverlaidRoot) -> None:
    """A damaged file system is not mounted; with minifo.fail=shell it is repaired there, and the boot goes on."""
    storage = make_ext4(overlaid.place / "damaged.img", 64, "data")
    for request in ("clri <2>", "set_super_value state 2"):
        subprocess.run(["debugfs", "-w", "-R", request, storage], check=True, capture_output=True, timeout=60)
    words = ["init=/bin/sh", "quiet", "minifo.root=LABEL=data", "minifo.fail=shell"]
    with overlaid.machine(*words, storage=storage) as machine:
        machine.expect("the root is NOT overlaid: the file system of the storage, /dev/vdb, needs repair")
        machine.expect("what to do: boot with minifo.fail=shell")
        machine.expect(r"\(initramfs\) ")
        print("\n".join(line for line in machine.said.splitlines() if "minifo: " in line))
        machine.run("chroot /run/minifo/base fsck.ext4 -y /dev/vdb")
        machine.send("exit")
        await_shell(machine)
        assert " / fuse.minifo " in machine.must("cat /proc/mounts")


def test_trial(overlaid: OverlaidRoot) -> None:
    """A boot on trial that nobody confirms is the last one with what was changed in it."""
    storage = make_ext4(overlaid.place / "trial.img", 128, "data")
    with overlaid.shell("minifo.root=LABEL=data", storage=storage) as machine:
        await_shell(machine)
        machine.must("echo good >/etc/app; sync /etc/app")
    with overlaid.shell("minifo.root=LABEL=data", "minifo.trial", storage=storage) as machine:
        await_shell(machine)
        machine.must("echo broken >/etc/app; sync /etc/app")
        machine.power_cut()
    with overlaid.shell("minifo.root=LABEL=data", storage=storage) as machine:
        machine.expect("its changes were not confirmed, and it is back at checkpoint confirmed")
        await_shell(machine)
        assert machine.must("cat /etc/app") == "good\n"
        assert "M  /etc/app" in machine.must("minifo checkpoint diff / confirmed before-trial")
