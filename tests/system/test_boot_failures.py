"""What a system says on its console if its root cannot be overlaid, and what it does then; a disk grows full."""

from __future__ import annotations

import subprocess

import pytest

from tests.system.overlaid_root import INITRAMFS, OverlaidRoot, at_once, await_shell
from tests.system.virtual_machine import VirtualMachine, make_ext4

pytestmark = pytest.mark.timeout(1800)
#: What the console says with ``minifo.fail=ro``, which is the default.
_READ_ONLY = "minifo.fail=ro: going on without the overlay; the base is read-only, and no change is kept"
_BASE = "chroot /run/minifo/base"


@pytest.fixture(scope="module")
def overlaid(tmp_path_factory: pytest.TempPathFactory, fuse_required: None) -> OverlaidRoot:
    return OverlaidRoot.make(tmp_path_factory.mktemp("boot"), ["initramfs-tools"], INITRAMFS, writable=True)


def test_boots(overlaid: OverlaidRoot) -> None:
    """All of them, two machines side by side."""
    at_once(
        lambda: _one_after_the_other(overlaid),
        lambda: _grows_full(overlaid),
        lambda: _is_missing(overlaid),
        lambda: _has_a_wrong_word(overlaid),
    )


def _one_after_the_other(overlaid: OverlaidRoot) -> None:
    """With ``minifo.fail=shell`` each failure is put right in the shell, but for the next one; at last all is well."""
    storage = make_ext4(overlaid.place / "damaged.img", 64, "data")
    for request in ("clri <2>", "set_super_value state 2"):
        subprocess.run(["debugfs", "-w", "-R", request, storage], check=True, capture_output=True, timeout=60)
    words = ["init=/bin/sh", "quiet", "minifo.root=/dev/vdb:/sto", "minifo.fail=shell"]
    with overlaid.machine(*words, storage=storage) as machine:
        _gives_a_shell(
            machine,
            "the file system of the storage, /dev/vdb, needs repair",
            "UNEXPECTED INCONSISTENCY; RUN fsck MANUALLY",
            "boot with minifo.fail=shell; in the shell: chroot /run/minifo/base fsck -y /dev/vdb; exit",
        )
        machine.run(f"{_BASE} fsck -y /dev/vdb")
        _put_into_storage(machine, "mkdir /mnt/sto; echo dear >/mnt/sto/letter")
        machine.send("exit")
        _gives_a_shell(machine, "minifo cannot mount the overlay", "letter", "put that right, or boot with")
        _put_into_storage(machine, 'test "`ls /mnt/sto`" = letter; rm -r /mnt/sto; ! cat /dev/zero >/mnt/fill')
        machine.send("exit")
        _gives_a_shell(
            machine, "minifo cannot mount the overlay", "database or disk is full", "put that right, or boot"
        )
        # It is mounted until the shell ends.
        machine.must("umount /run/minifo/base/run/minifo/storage; umount /run/minifo/storage")
        machine.must(f"{_BASE} dd if=/dev/zero of=/dev/vdb bs=1M count=4")
        machine.send("exit")
        _gives_a_shell(
            machine,
            "/dev/vdb cannot be used as storage",
            "it has no file system that is known",
            "make one if nothing is lost by that: mkfs.ext4 -L data /dev/vdb",
        )
        machine.must(f"{_BASE} mkswap /dev/vdb")
        machine.send("exit")
        _gives_a_shell(
            machine, "/dev/vdb cannot be mounted", "mount: /run/minifo/storage: ", "look at the kernel's messages"
        )
        machine.must(f"{_BASE} mkfs.ext4 -qFL data /dev/vdb; mount -o remount,rw none /root")
        machine.must("mv /root/usr/local/bin/minifo /root/usr/local/bin/away")
        machine.send("exit")
        _gives_a_shell(machine, "minifo is not installed in the root file system", "", "install it there")
        machine.must("mount -o remount,rw none /root; mv /root/usr/local/bin/away /root/usr/local/bin/minifo")
        machine.send("exit")
        await_shell(machine)
        assert " / fuse.minifo " in machine.must("cat /proc/mounts")
        machine.must("echo well >/etc/app; sync /etc/app; minifo status /")


def _gives_a_shell(machine: VirtualMachine, what: str, why: str, to_do: str) -> None:
    """The console says what is wrong, why (a regular expression), and what to do; then there is the shell."""
    start = len(machine.said)
    machine.expect(f"minifo: the root is NOT overlaid: {what}")
    machine.expect(f"minifo: .*(?:{why})" if why else "")
    machine.expect(f"minifo: what to do: {to_do}")
    machine.expect(r"\(initramfs\) ")
    print("\n".join(line for line in machine.said[start:].splitlines() if "minifo: " in line))


def _put_into_storage(machine: VirtualMachine, command: str) -> None:
    """Run a command in the base with the storage's file system mounted at ``/mnt``."""
    machine.must(f"{_BASE} sh -ec 'mount /dev/vdb /mnt; trap \"umount /mnt\" EXIT; {command}'")


def _goes_on_read_only(machine: VirtualMachine, what: str, to_do: str) -> None:
    """The console says what is wrong and what to do; then the base is the root, read-only, and a file has the words."""
    machine.expect(f"minifo: the root is NOT overlaid: {what}")
    machine.expect(f"minifo: what to do: {to_do}")
    machine.expect(_READ_ONLY)
    await_shell(machine)
    assert " / ext4 ro" in machine.must("cat /proc/mounts")
    assert f"The root is not overlaid: {what}" in machine.must("cat /run/minifo/failed")
    assert "Read-only file system" in machine.run("echo more >/etc/more")[0]
    print("\n".join(line for line in machine.said.splitlines() if "minifo: " in line))


def _is_missing(overlaid: OverlaidRoot) -> None:
    """The disk is not there; not even a base that was asked for as writable is written."""
    with overlaid.shell("rw", "minifo.root=LABEL=data", "minifo.wait=2", alone=True) as machine:
        _goes_on_read_only(machine, "there is no LABEL=data", "attach the disk with the storage")


def _has_a_wrong_word(overlaid: OverlaidRoot) -> None:
    """A typing error in the boot loader is not taken for nothing."""
    with overlaid.shell("minifo.root=LABEL=data", "minifo.raed") as machine:
        _goes_on_read_only(machine, "the kernel's command line is wrong", "correct it in the boot loader")
        assert "minifo.raed is not known; there are minifo.root=" in machine.said


def _grows_full(overlaid: OverlaidRoot) -> None:
    """The disk grows full in the running system, then its power is cut: what was acknowledged is there."""
    storage = make_ext4(overlaid.place / "full.img", 32, "data")
    with overlaid.shell("minifo.root=LABEL=data", storage=storage) as machine:
        await_shell(machine)
        machine.must("echo acknowledged >/etc/app; sync /etc/app")
        said, code = machine.run("dd if=/dev/zero of=/fill bs=64k count=1000 conv=fsync")
        assert (code, "No space left on device" in said) == (1, True), said
        assert machine.must("cat /etc/app") == "acknowledged\n"
        machine.power_cut()
    with overlaid.shell("minifo.root=LABEL=data", storage=storage) as machine:
        await_shell(machine)
        assert " / fuse.minifo " in machine.must("cat /proc/mounts")
        assert machine.must("cat /etc/app") == "acknowledged\n"
        machine.must("rm -f /fill; echo again >/etc/again; sync /etc/again")
        machine.power_cut()
    with overlaid.shell("minifo.root=LABEL=data", storage=storage) as machine:
        await_shell(machine)
        assert machine.must("cat /etc/app /etc/again") == "acknowledged\nagain\n"
