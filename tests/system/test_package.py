"""The Debian packages: built and installed in Debian 13, used, upgraded and purged below live mounts."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import pytest

from minifo.tools.install_helpers import HELPERS
from tests.system.debian_root import DebianRoot
from tests.system.newcomer import do_tutorial, files

#: The first of them waits for the packages, of which two are built.
pytestmark = pytest.mark.timeout(1200)

#: Makes an overlay of /etc in /sto, and mounts it as fstab would.
_MOUNT = """
mkdir -p /sto /mnt/etc; chmod 700 /sto
mount -t mini_fo -o base=/etc,sto=/sto none /mnt/etc
"""
#: Waits until the daemon of /sto has ended, for umount(8) without a helper does not; 10 s at most.
_ENDED = 'for i in $(seq 100); do kill -0 "$daemon" 2>/dev/null || break; sleep 0.1; done; ! kill -0 "$daemon"\n'
#: Gives each package another version: what it has stays the same.
_NEXT = """
for package in minifo minifo-root; do
    dpkg-deb -R $package[_]*.deb next
    sed -i "s/^Version: .*/&+next/" next/DEBIAN/control
    dpkg-deb --root-owner-group -b next .
    rm -r next
done
"""
#: A kernel that has no modules, for what makes an initramfs.
_KERNEL = "mkdir -p /lib/modules/6.0.0-test; depmod 6.0.0-test\n"


@dataclass(frozen=True)
class Packages:
    """Two versions of the packages in the clean root, and the root that they were built in.

    Attributes:
        built_in: has all that building takes, and the packages in ``/src``.
        clean: has what the packages depend on, and them in ``/deb``.
        old, new: paths of the package minifo in ``clean``.
    """

    built_in: DebianRoot
    clean: DebianRoot
    old: str
    new: str


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory, fuse_required: None) -> Packages:
    """Built from this checkout by dpkg-buildpackage; the second version differs in its number only."""
    place = tmp_path_factory.mktemp("debian")
    builder = DebianRoot.make("trixie", place / "builder")
    clean = builder.copy(place / "clean")
    builder.take_checkout()
    prepare = "apt-get -qy --no-install-recommends build-dep /src/minifo; apt-get -qy install --no-install-recommends"
    builder.must("sh", "-ec", f"{prepare} lintian python3-venv")
    builder.must("sh", "-ec", f"cd /src/minifo; dpkg-buildpackage --no-sign; cd ..; {_NEXT}")
    (clean.path / "deb").mkdir()
    for path in (builder.path / "src").glob("minifo*.deb"):
        os.link(path, clean.path / "deb" / path.name)
    new, old = sorted(f"/deb/{path.name}" for path in (clean.path / "deb").glob("minifo_*.deb"))
    wanted = f'"$(dpkg-deb -f {old} Depends)" "initramfs-tools, dracut-core, kmod, systemd-sysv"'
    clean.must("sh", "-ec", f"apt-get -qy --no-install-recommends satisfy {wanted}")
    return Packages(builder, clean, old, new)


def install(package: str) -> str:
    """The command that installs a package over whatever version is there."""
    return f"apt-get -qy --allow-downgrades install {package} >/dev/null\n"


def run(packages: Packages, script: str) -> str:
    """What a script says in the clean root, with the older package installed and the rest of the machine forgotten."""
    return packages.clean.must("sh", "-ec", install(packages.old) + script)


def test_lintian_finds_nothing(packages: Packages) -> None:
    """Not even what it thinks to be of little weight."""
    changes = os.path.basename(packages.old).replace(".deb", ".changes")
    told = packages.built_in.must("lintian", "--allow-root", "--pedantic", "--display-info", f"/src/{changes}")
    assert not told, told


def test_it_is_used(packages: Packages) -> None:
    """mount(8), umount(8), fsck(8), fsck.minifo and the shells find what they need; doctor is content."""
    said = run(
        packages,
        _MOUNT
        + """
        echo changed > /mnt/etc/issue; rm /mnt/etc/hostname; echo new > /mnt/etc/NEW
        daemon=$(cat /sto/lock)
        umount /mnt/etc; ! kill -0 "$daemon" 2>/dev/null
        fsck -t minifo /sto; minifo-fsck /sto
        minifo diff /sto
        minifo doctor --try
        bash -c '. /usr/share/bash-completion/completions/minifo; complete -p minifo'
        minifo install-helpers --systemd
        systemd-analyze verify --man=no --recursive-errors=no minifo@x.service minifo-confirm@mnt.service
        rm -r /sto
        """,
    )
    print(said)
    assert {"D  /hostname", "M  /issue", "A  /NEW"} <= set(said.splitlines())
    assert "/sto: clean" in said
    assert re.search(r"ok +helpers +all in /sbin, of this installation", said)
    assert re.search(r"ok +session hook +it fits libfuse 3\.17", said)
    assert "0 problems" in said
    assert said.endswith("nothing to do\n")


def test_tutorial(packages: Packages) -> None:
    """A newcomer installs the package, does the tutorial, and purges the package; nothing is left."""
    packages.clean.run("apt-get", "-qy", "purge", "minifo")
    do_tutorial(packages.clean, f"apt-get install -y {packages.old}", "apt-get purge -y minifo")


def test_scripts_for_the_initramfs(packages: Packages) -> None:
    """They are in an initramfs as soon as minifo-root is installed, and nothing of them is left after its purge."""
    clean, kernel = packages.clean, "-o /tmp/initrd 6.0.0-test"
    without = clean.must("sh", "-ec", f"{_KERNEL}{install(packages.old)}mkinitramfs {kernel}; lsinitramfs /tmp/initrd")
    assert "minifo" not in without
    had = files(clean.path)
    boot = packages.old.replace("minifo_", "minifo-root_").replace("amd64", "all")
    said = clean.must(
        "sh",
        "-ec",
        f"""
        apt-get -qy install {boot}
        echo step; mkinitramfs {kernel}; lsinitramfs /tmp/initrd
        echo step; dracut --quiet --no-kernel --tmpdir /tmp /tmp/dracut 6.0.0-test; lsinitrd /tmp/dracut
        echo step; minifo install-helpers --initramfs --dracut; minifo-chroot --help
        apt-get -qy purge minifo-root
        echo step; minifo install-helpers --dracut || echo "exit $?"
        """,
    )
    print(said)
    installed, with_tools, with_dracut, known, without = said.split("step\n")
    assert "Processing triggers for initramfs-tools" in installed
    assert re.findall("^.*minifo.*$", with_tools, re.M) == ["scripts/local-bottom/minifo", "scripts/minifo-root.sh"]
    assert re.search(r"^minifo$", with_dracut, re.M)
    assert "hooks/pre-pivot/05-minifo-pre-pivot.sh" in with_dracut
    assert known.startswith("nothing to do\n")
    assert "apt install minifo-root" in without
    assert without.endswith("exit 2\n")
    assert files(clean.path) == had


def test_upgrade_below_a_live_mount(packages: Packages) -> None:
    """The mount goes on, listens to the new commands, is unmounted, and nothing is lost."""
    said = run(
        packages,
        _MOUNT
        + f"""
        echo before > /mnt/etc/BEFORE; exec 3>>/mnt/etc/OPEN; echo 1 >&3
        {install(packages.new)}
        dpkg-query -W minifo
        echo 2 >&3; exec 3>&-; echo after > /mnt/etc/AFTER
        minifo checkpoint create /mnt/etc upgraded
        minifo status /mnt/etc
        daemon=$(cat /sto/lock)
        umount /mnt/etc; ! kill -0 "$daemon" 2>/dev/null
        minifo-fsck /sto
        {_MOUNT}
        cat /mnt/etc/BEFORE /mnt/etc/OPEN /mnt/etc/AFTER
        umount /mnt/etc; rm -r /sto
        """,
    )
    print(said)
    assert "+next" in said
    assert "/sto: clean" in said
    assert said.endswith("before\n1\n2\nafter\n")


def test_purge_leaves_nothing_and_ends_no_mount(packages: Packages) -> None:
    """Only what the package brought goes: a live mount serves on, umount(8) ends it, and its storage stays."""
    clean = packages.clean
    clean.run("apt-get", "-qy", "purge", "minifo")
    before = files(clean.path)
    run(
        packages,
        _MOUNT
        + f"""
        echo before > /mnt/etc/BEFORE
        daemon=$(cat /sto/lock)
        apt-get -qy purge minifo >/dev/null
        ls /etc | wc -l; ls /mnt/etc >/dev/null
        mkdir /mnt/etc/DIR; echo after > /mnt/etc/DIR/AFTER; mv /mnt/etc/issue /mnt/etc/ISSUE; rm /mnt/etc/fstab
        sync
        umount /mnt/etc
        {_ENDED}
        """,
    )
    after = files(clean.path)
    kept = {path for path in after.keys() - before.keys() if path.startswith(("./sto", "./mnt/etc"))}
    print("files that purge left:", sorted(after.keys() - before.keys() - kept))
    assert "./sto/minifo.db" in kept
    assert {path: mode for path, mode in after.items() if path not in kept} == before
    said = run(
        packages,
        "minifo-fsck /sto\n" + _MOUNT + "cat /mnt/etc/BEFORE /mnt/etc/DIR/AFTER\n"
        "ls /mnt/etc/ISSUE; ! ls /mnt/etc/fstab 2>/dev/null; umount /mnt/etc; rm -r /sto",
    )
    assert "/sto: clean\nbefore\nafter\n/mnt/etc/ISSUE\n" in said


def test_helpers_that_are_missing(packages: Packages) -> None:
    """doctor names them and the way out; a user who may not write /sbin is told so; root gets them back."""
    said = run(
        packages,
        """
        rm /sbin/umount.minifo
        minifo doctor | grep -A1 helpers
        setpriv --reuid=65534 --regid=65534 --clear-groups minifo install-helpers && exit 1
        apt-get -qy install --reinstall /deb/minifo_*[0-9]_*.deb >/dev/null
        minifo doctor | grep helpers
        """,
    )
    print(said)
    assert "half installed: umount.minifo missing in /sbin" in said
    assert "(Debian: apt install --reinstall" in said
    assert "you may not write /sbin" in said
    assert "all in /sbin, of this installation" in said.splitlines()[-1]


def test_two_installations(packages: Packages) -> None:
    """One by pip beside the package takes none of its helpers, says so, and takes them once the package is gone."""
    root, name = packages.built_in, os.path.basename(packages.old)
    pip = "/opt/minifo/bin/pip install --quiet --no-deps --no-build-isolation --no-index --ignore-installed"
    said = root.must(
        "sh",
        "-ec",
        f"""
        python3 -m venv --system-site-packages /opt/minifo; {pip} /src/minifo
        {install(f"/src/{name}")}
        own=/opt/minifo/bin/minifo
        echo step 1; $own doctor --json | grep "another installation"
        echo step 2; $own install-helpers && exit 1
        {_MOUNT}
        echo step 3; $own status /mnt/etc >/dev/null; $own umount /mnt/etc; minifo-fsck /sto
        apt-get -qy remove minifo >/dev/null
        echo step 4; $own install-helpers | wc -l; readlink /sbin/mount.mini_fo
        {_MOUNT}
        umount /mnt/etc
        {install(f"/src/{name}")}
        echo step 5; readlink /sbin/mount.mini_fo; minifo doctor | grep helpers
        echo step 6; $own install-helpers --remove; $own --version; minifo --version; rm -r /sto
        """,
    )
    print(said)
    steps = re.split(r"step \d\n", said)[1:]
    assert "/usr/lib/minifo (minifo 0." in steps[0]
    assert "belongs to the minifo that a package of this system installed" in steps[1]
    assert "apt remove minifo" in steps[1]
    assert "/sto: clean" in steps[2]
    assert steps[3] == f"{len(HELPERS)}\n/opt/minifo/bin/mount.mini_fo\n"
    assert steps[4].startswith("../lib/minifo/mount.mini_fo\n")
    assert "all in /sbin, of this installation" in steps[4]
    assert steps[5].startswith("nothing to do\n")
