"""Debian 13 with dracut boots from a squashfs image below an overlay; its power is cut; it goes back through dracut."""

from __future__ import annotations

import pytest

from tests.system.overlaid_root import OverlaidRoot, await_shell
from tests.system.virtual_machine import UNNEEDED

pytestmark = pytest.mark.timeout(1800)
_INSTALL = """
minifo install-helpers --dracut --anyway
cat >/etc/dracut.conf.d/minifo.conf <<'CONF'
hostonly="no"
add_dracutmodules+=" minifo "
omit_dracutmodules+=" plymouth lvm mdraid multipath nvdimm "
filesystems+=" squashfs ext4 "
CONF
dracut --quiet --force /boot/initrd.img-$(ls /lib/modules) $(ls /lib/modules)
"""
#: At shutdown dracut unpacks its initramfs, to go back into it.
_WITHOUT = tuple("boot/vmlinuz*" if pattern == "boot/*" else pattern for pattern in UNNEEDED)


@pytest.fixture(scope="module")
def overlaid(tmp_path_factory: pytest.TempPathFactory, fuse_required: None) -> OverlaidRoot:
    return OverlaidRoot.make(tmp_path_factory.mktemp("boot"), ["dracut"], _INSTALL, _WITHOUT)


def test_power_cuts(overlaid: OverlaidRoot) -> None:
    """What was acknowledged is there after each of three power cuts."""
    for number in range(4):
        with overlaid.shell("minifo.root=LABEL=data") as machine:
            await_shell(machine)
            assert " / fuse.minifo " in machine.must("cat /proc/mounts")
            for earlier in range(number):
                assert machine.must(f"cat /etc/cut-{earlier}") == f"acknowledged {earlier}\n"
            machine.must(f"echo acknowledged {number} >/etc/cut-{number}; sync /etc/cut-{number}")
            machine.must("minifo diff / | grep cut-")
            machine.power_cut()


def test_systemd(overlaid: OverlaidRoot) -> None:
    """The daemon outlives systemd's way out of the initramfs and back into it; the last write is there."""
    words = ["minifo.root=LABEL=data:/system", "minifo.options=commit=3600"]
    with overlaid.system(*words) as machine:
        machine.wait_until_up()
        assert machine.must("systemctl --failed --plain --no-legend") == ""
        machine.must("systemctl start dracut-shutdown.service")
        machine.must("echo synced >/etc/synced; sync; echo 'not synced' >/etc/written")
        machine.send("systemctl reboot")
        assert "Restarting system" in machine.wait_until_off()
    with overlaid.shell(*words) as machine:
        await_shell(machine)
        assert machine.must("cat /etc/synced /etc/written") == "synced\nnot synced\n"


def test_missing(overlaid: OverlaidRoot) -> None:
    """Without the storage the system says so, and goes on with its base."""
    with overlaid.shell("minifo.root=LABEL=data", "minifo.wait=2", alone=True) as machine:
        machine.expect("minifo: the root is NOT overlaid: there is no LABEL=data")
        await_shell(machine)
        assert " / squashfs ro" in machine.must("cat /proc/mounts")
