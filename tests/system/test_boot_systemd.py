"""Debian 13 boots into systemd from an ext4 base below an overlay; its base is updated, and used alone."""

from __future__ import annotations

import re
import time

import pytest

from tests.system.overlaid_root import INITRAMFS, OverlaidRoot, at_once, await_shell
from tests.system.virtual_machine import UP, VirtualMachine

pytestmark = pytest.mark.timeout(1800)
_ROOT = "minifo.root=LABEL=data:/system"


@pytest.fixture(scope="module")
def overlaid(tmp_path_factory: pytest.TempPathFactory, fuse_required: None) -> OverlaidRoot:
    return OverlaidRoot.make(tmp_path_factory.mktemp("boot"), ["initramfs-tools"], INITRAMFS, writable=True)


def test_system(overlaid: OverlaidRoot) -> None:
    """It comes up without a failed unit; after a reboot the last write is there, and what the base was given."""
    start = time.monotonic()
    with overlaid.system(_ROOT, "minifo.options=commit=3600", keep=True) as machine:
        machine.wait_until_up()
        print(f"up with the overlay after {time.monotonic() - start:.0f} s (emulated)")
        assert machine.must("systemctl --failed --plain --no-legend") == ""
        assert "The root is overlaid by minifo" in machine.must("systemctl status minifo-root")
        _update_base(machine)
        machine.must("echo synced >/etc/synced; sync; echo 'not synced' >/etc/written")
        machine.send("systemctl reboot")
        assert re.search(r"reboot: Restarting system", machine.wait_until_off())
    at_once(lambda: _go_back(overlaid), lambda: _fail(overlaid), lambda: _switch_off(overlaid))


def _update_base(machine: VirtualMachine) -> None:
    """minifo-chroot installs a package in the base, and leaves nothing there but that."""
    mounts = "findmnt -rno TARGET,OPTIONS,FSTYPE"
    before = machine.must(mounts)
    assert "minifo-chroot: it asks before" in machine.run("minifo-chroot true")[0]
    assert machine.run("minifo-chroot --yes sh -c 'exit 7'")[1] == 7
    said = machine.must("minifo-chroot --yes sh -ec 'dpkg -i /var/packages/hello_*.deb; echo of the base >/etc/base'")
    assert "the base is read-only again; restart" in said
    assert machine.must(mounts) == before
    assert machine.must("cat /run/minifo/base/etc/base") == "of the base\n"
    assert "Read-only file system" in machine.run("echo more >/run/minifo/base/etc/base")[0]
    assert "/etc/base" not in machine.must("minifo diff /")


def _go_back(overlaid: OverlaidRoot) -> None:
    """Nothing is changed with ``minifo.ro``; ``minifo.reset`` takes all back, and an undo brings it again."""
    with overlaid.shell(_ROOT, "minifo.ro") as machine:
        await_shell(machine)
        assert machine.must("cat /etc/synced /etc/written /etc/base; hello") == (
            "synced\nnot synced\nof the base\nHello, world!\n"
        )
        assert "Read-only file system" in machine.run("echo more >/etc/synced")[0]
    with overlaid.shell(_ROOT, "minifo.reset") as machine:
        machine.expect("minifo.reset: .* taken back")
        await_shell(machine)
        assert machine.run("test -e /etc/written")[1] == 1
        machine.must("minifo undo /")
        assert machine.must("cat /etc/written") == "not synced\n"


def _fail(overlaid: OverlaidRoot) -> None:
    """With ``minifo.fail=base`` the base is as writable as without minifo."""
    with overlaid.shell("rw", "minifo.root=LABEL=data", "minifo.fail=base", "minifo.wait=1", alone=True) as machine:
        machine.expect("minifo: the root is NOT overlaid: there is no LABEL=data")
        machine.expect("minifo: minifo.fail=base: going on without the overlay; changes go into the base")
        await_shell(machine)
        assert re.search(r" / ext4 rw", machine.must("cat /proc/mounts"))
        assert machine.must("echo written >/etc/written; cat /etc/written /etc/base") == "written\nof the base\n"
        assert "/run/minifo" not in machine.must("cat /proc/mounts")


def _switch_off(overlaid: OverlaidRoot) -> None:
    """With ``minifo.root=off`` the system is as without minifo."""
    start = time.monotonic()
    with overlaid.machine(*UP, "minifo.root=off", alone=True) as machine:
        machine.wait_until_up()
        print(f"up without it after {time.monotonic() - start:.0f} s (emulated, beside another machine)")
        assert " / ext4 " in machine.must("cat /proc/mounts")
        assert "the root is not overlaid, for the kernel's command line says minifo.root=off" in machine.must("dmesg")
