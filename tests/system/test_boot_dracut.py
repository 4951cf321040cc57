"""Debian 13 with dracut boots from a squashfs image below an overlay; its power is cut; it goes back through dracut."""

from __future__ import annotations

import pytest

from tests.system.overlaid_root import OverlaidRoot, at_once, await_shell
from tests.system.virtual_machine import UNNEEDED, UP, make_ext4

pytestmark = pytest.mark.timeout(1800)
_INSTALL = """
minifo install-helpers --dracut --anyway
cat >/etc/dracut.conf.d/minifo.conf <<'CONF'
hostonly="no"
add_dracutmodules+=" minifo "
omit_dracutmodules+=" plymouth lvm mdraid multipath nvdimm dmraid crypt dm fido2 pkcs11 i18n console-setup hwdb "
omit_dracutmodules+=" kernel-modules-extra lunmask overlay-root qemu resume terminfo virtfs virtiofs "
omit_dracutmodules+=" systemd-battery-check systemd-cryptsetup systemd-pcrphase "
filesystems+=" squashfs ext4 "
CONF
dracut --quiet --force /boot/initrd.img-$(ls /lib/modules) $(ls /lib/modules)
"""
#: At shutdown dracut unpacks its initramfs, to go back into it.
_WITHOUT = tuple("boot/vmlinuz*" if pattern == "boot/*" else pattern for pattern in UNNEEDED)


@pytest.fixture(scope="module")
def overlaid(tmp_path_factory: pytest.TempPathFactory, fuse_required: None) -> OverlaidRoot:
    return OverlaidRoot.make(tmp_path_factory.mktemp("boot"), ["dracut"], _INSTALL, _WITHOUT)


def test_boots(overlaid: OverlaidRoot) -> None:
    """Two machines side by side: one loses its power, the other one goes the ordinary ways."""
    at_once(lambda: _power_cuts(overlaid), lambda: _reboot(overlaid), lambda: _missing(overlaid))


def _power_cuts(overlaid: OverlaidRoot) -> None:
    """After each of three power cuts there is what was acknowledged, but for a trial that nobody has confirmed."""
    word = "minifo.root=LABEL=data"
    with overlaid.shell(word) as machine:
        await_shell(machine)
        assert " / fuse.minifo " in machine.must("cat /proc/mounts")
        machine.must("echo good >/etc/app; sync /etc/app")
        machine.power_cut()
    with overlaid.shell(word, "minifo.trial") as machine:
        await_shell(machine)
        assert machine.must("cat /etc/app") == "good\n"
        machine.must("echo broken >/etc/app; sync /etc/app")
        machine.power_cut()
    with overlaid.shell(word) as machine:
        machine.expect("its changes were not confirmed, and it is back at checkpoint confirmed")
        await_shell(machine)
        assert machine.must("cat /etc/app") == "good\n"
        machine.must("echo acknowledged >/etc/later; sync /etc/later")
        machine.power_cut()
    with overlaid.shell(word) as machine:
        await_shell(machine)
        assert machine.must("cat /etc/app /etc/later") == "good\nacknowledged\n"
        machine.must("minifo diff / | grep /etc/later")


def _reboot(overlaid: OverlaidRoot) -> None:
    """The daemon outlives systemd's way out of the initramfs and back into it; the last write is there."""
    storage = make_ext4(overlaid.place / "reboot.img", 256, "data")
    words = ["minifo.root=LABEL=data:/system", "minifo.options=commit=3600"]
    with overlaid.machine(*UP, *words, storage=storage) as machine:
        machine.wait_until_up()
        assert machine.must("systemctl --failed --plain --no-legend") == ""
        machine.must("systemctl start dracut-shutdown.service")
        machine.must("echo synced >/etc/synced; sync; echo 'not synced' >/etc/written")
        machine.send("systemctl reboot")
        assert "Restarting system" in machine.wait_until_off()
    with overlaid.shell(*words, storage=storage) as machine:
        await_shell(machine)
        assert machine.must("cat /etc/synced /etc/written") == "synced\nnot synced\n"


def _missing(overlaid: OverlaidRoot) -> None:
    """Without the storage the system says so, and goes on with its base."""
    with overlaid.shell("minifo.root=LABEL=data", "minifo.wait=2", alone=True) as machine:
        machine.expect("minifo: the root is NOT overlaid: there is no LABEL=data")
        await_shell(machine)
        assert " / squashfs ro" in machine.must("cat /proc/mounts")
