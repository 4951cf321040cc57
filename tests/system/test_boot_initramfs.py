"""Debian 13 with initramfs-tools boots from a squashfs image below an overlay, at times on trial; its power is cut."""

from __future__ import annotations

import pytest

from tests.system.overlaid_root import INITRAMFS, OverlaidRoot, await_shell

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def overlaid(tmp_path_factory: pytest.TempPathFactory, fuse_required: None) -> OverlaidRoot:
    return OverlaidRoot.make(tmp_path_factory.mktemp("boot"), ["initramfs-tools"], INITRAMFS)


def test_power_cuts(overlaid: OverlaidRoot) -> None:
    """After each of four power cuts there is what was acknowledged, but for a trial that nobody has confirmed."""
    word = "minifo.root=LABEL=data"
    with overlaid.shell(word) as machine:
        await_shell(machine)
        assert "a new overlay begins: there was none in /dev/vdb" in machine.said
        assert " / fuse.minifo " in machine.must("cat /proc/mounts")
        assert "base /run/minifo/base, storage /run/minifo/storage" in machine.must("minifo list")
        machine.must("dpkg -i /var/packages/hello_*.deb; echo good >/etc/app; sync /")
        assert "/run/minifo/storage" in machine.must("minifo status /")
        machine.must("minifo checkpoint create / installed")
        machine.must("echo not acknowledged >/etc/motd")
        machine.power_cut()
    with overlaid.shell(word, "minifo.trial") as machine:
        await_shell(machine)
        assert "a new overlay begins" not in machine.said
        assert machine.must("hello; cat /etc/app") == "Hello, world!\ngood\n"
        machine.must("echo broken >/etc/app; sync /etc/app")
        machine.power_cut()
    with overlaid.shell(word) as machine:
        machine.expect("its changes were not confirmed, and it is back at checkpoint confirmed")
        await_shell(machine)
        assert machine.must("hello; cat /etc/app") == "Hello, world!\ngood\n"
        assert "M  /etc/app" in machine.must("minifo checkpoint diff / confirmed before-trial")
        machine.must("echo acknowledged >/etc/later; sync /etc/later")
        machine.power_cut()
    with overlaid.shell(word, "minifo.trial") as machine:
        await_shell(machine)
        assert machine.must("cat /etc/later") == "acknowledged\n"
        machine.must("echo better >/etc/app; sync /etc/app")
        print(machine.must("minifo trial status / || [ $? = 1 ]"))
        print(machine.must("minifo trial confirm /"))
        machine.power_cut()
    with overlaid.shell(word) as machine:
        await_shell(machine)
        assert machine.must("cat /etc/app /etc/later") == "better\nacknowledged\n"
        assert "installed" in machine.must("minifo checkpoint list /")
