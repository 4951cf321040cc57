"""Debian 13 with initramfs-tools boots from a squashfs image below an overlay; its power is cut."""

from __future__ import annotations

import re
import time

import pytest

from tests.system.overlaid_root import INITRAMFS, OverlaidRoot, await_shell

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def overlaid(tmp_path_factory: pytest.TempPathFactory, fuse_required: None) -> OverlaidRoot:
    return OverlaidRoot.make(tmp_path_factory.mktemp("boot"), ["initramfs-tools"], INITRAMFS)


def test_power_cuts(overlaid: OverlaidRoot) -> None:
    """What was acknowledged is there after each of three power cuts; minifo's verbs know the root; dpkg works."""
    for number in range(4):
        with overlaid.shell("minifo.root=LABEL=data") as machine:
            await_shell(machine)
            assert " / fuse.minifo " in machine.must("cat /proc/mounts")
            assert (f"a new overlay begins: there was none in {'/dev/vdb'}" in machine.said) == (number == 0)
            for earlier in range(number):
                assert machine.must(f"cat /etc/cut-{earlier}") == f"acknowledged {earlier}\n"
            machine.must(f"echo acknowledged {number} >/etc/cut-{number}; sync /etc/cut-{number}")
            if number == 0:
                machine.must("dpkg -i /var/packages/hello_*.deb; sync /")
                assert "base /run/minifo/base, storage /run/minifo/storage" in machine.must("minifo list")
            else:
                assert machine.must("hello") == "Hello, world!\n"
            machine.must("echo not acknowledged >/etc/motd")
            machine.power_cut()


def test_systemd(overlaid: OverlaidRoot) -> None:
    """systemd comes up without a failed unit; what was written just before a reboot is there, also without a sync."""
    start = time.monotonic()
    with overlaid.system("minifo.root=LABEL=data:/system", "minifo.options=commit=3600") as machine:
        machine.wait_until_up()
        print(f"up with the overlay after {time.monotonic() - start:.0f} s (emulated)")
        assert machine.must("systemctl --failed --plain --no-legend") == ""
        assert "The root is overlaid by minifo" in machine.must("systemctl status minifo-root")
        machine.must("echo synced >/etc/synced; sync; echo 'not synced' >/etc/written")
        machine.send("systemctl reboot")
        assert re.search(r"reboot: Restarting system", machine.wait_until_off())
    with overlaid.shell("minifo.root=LABEL=data:/system", "minifo.ro") as machine:
        await_shell(machine)
        assert machine.must("cat /etc/synced /etc/written") == "synced\nnot synced\n"
        assert "Read-only file system" in machine.run("echo more >/etc/synced")[0]
    with overlaid.shell("minifo.root=LABEL=data:/system", "minifo.reset") as machine:
        machine.expect("minifo.reset: .* taken back")
        await_shell(machine)
        assert machine.run("test -e /etc/written")[1] == 1
        machine.must("minifo undo /")
        assert machine.must("cat /etc/written") == "not synced\n"
    start = time.monotonic()
    with overlaid.system("minifo.root=off") as machine:
        machine.wait_until_up()
        print(f"up without it after {time.monotonic() - start:.0f} s (emulated)")
        assert " / squashfs " in machine.must("cat /proc/mounts")
        assert "the root is not overlaid, for the kernel's command line says minifo.root=off" in machine.must("dmesg")
