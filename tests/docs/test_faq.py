"""The questions people asked about mini_fo in 2005, each answered by something that runs (docs/faq.md)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from minifo.engine import ROOT, Ino, Overlay

pytestmark = pytest.mark.usefixtures("fuse_required")

BOOTINIT = Path(__file__).resolve().parents[2] / "docs" / "examples" / "bootinit"
PROGRAM = [sys.executable, "-m", "minifo.tools.cli"]


@pytest.fixture
def workdir() -> Iterator[Path]:
    """A directory on the root file system with a storage, a mount point and a starter for minifo."""
    path = Path(tempfile.mkdtemp(prefix="minifo-faq-", dir="/var/tmp"))
    for name in ("sto", "mnt", "base"):
        (path / name).mkdir()
    starter = path / "minifo"
    starter.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "import sys; from minifo.tools.cli import main; '
        f'sys.exit(main(sys.argv[1:]))" "$@"\n'
    )
    starter.chmod(0o755)
    yield path
    shutil.rmtree(path)


def script(path: Path, text: str) -> Path:
    """An executable shell script."""
    path.write_text("#!/bin/sh\n" + textwrap.dedent(text))
    path.chmod(0o755)
    return path


def in_namespace(command: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command in mount and pid namespaces of its own, as the first process there."""
    words = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "sh",
        "-c",
        command,
    ]
    return subprocess.run(words, env=os.environ | env, capture_output=True, text=True, timeout=60, check=False)


def test_overlaying_the_root_at_boot(workdir: Path) -> None:
    """bootinit mounts, moves over and hands over to init; all changes are in storage, none in the base."""
    mark = f"minifo-faq-{os.getpid()}"
    init = script(
        workdir / "init",
        f"""
        test $$ = 1 && echo "init is the first process"
        grep -q '^base=/,sto={workdir}/sto / fuse.minifo ' /proc/mounts && echo "the overlay is the root"
        echo kept > /etc/{mark} && echo "the root is writable"
        test -d /rom/etc && ! test -e /rom/etc/{mark} && echo "the old root is as it was"
        test -c /dev/null && test -e /proc/self && test -d /sys/kernel && echo "proc, sys and dev are there"
        sync /etc/{mark}
        """,
    )
    done = in_namespace(
        f"exec {BOOTINIT}",
        MINIFO=str(workdir / "minifo"),
        STO=str(workdir / "sto"),
        MNT=str(workdir / "mnt"),
        INIT=str(init),
        CONSOLE="",
    )
    assert done.stdout.splitlines() == [
        "init is the first process",
        "the overlay is the root",
        "the root is writable",
        "the old root is as it was",
        "proc, sys and dev are there",
    ], done.stderr
    assert done.stderr == ""
    assert not os.path.exists(f"/etc/{mark}")
    # the daemon was killed with the namespace; what fsync had acknowledged is there
    overlay = Overlay.open("/", str(workdir / "sto"))
    try:
        etc = overlay.lookup(ROOT, b"etc")
        assert etc is not None
        found = overlay.lookup(Ino(etc.ino), mark.encode())
        assert found is not None
        assert overlay.read(Ino(found.ino), 0, 10) == b"kept\n"
    finally:
        overlay.close()


def test_boot_goes_on_without_an_overlay_that_cannot_be_mounted(workdir: Path) -> None:
    """A broken storage does not keep the system from coming up."""
    (workdir / "sto" / "foreign").write_text("")
    init = script(workdir / "init", "echo up\n")
    places = {"MINIFO": workdir / "minifo", "STO": workdir / "sto", "MNT": workdir / "mnt", "INIT": init}
    env = {name: str(path) for name, path in places.items()}
    done = in_namespace(f"exec {BOOTINIT}", CONSOLE="", **env)
    assert done.stdout == "up\n"
    assert "foreign files" in done.stderr
    assert "going on without the overlay" in done.stderr


def test_overlaying_the_root_and_going_there(workdir: Path) -> None:
    """base=/ and chroot, with proc, sysfs and dev mounted into it."""
    done = in_namespace(
        f"""
        {workdir}/minifo mount --base / --sto {workdir}/sto {workdir}/mnt || exit 1
        mount -t proc proc {workdir}/mnt/proc
        mount -t sysfs sysfs {workdir}/mnt/sys
        mount --bind /dev {workdir}/mnt/dev
        chroot {workdir}/mnt /bin/sh -c 'test -e /proc/self && test -d /sys/kernel && test -c /dev/null \
            && rm /bin/true && ! test -e /bin/true && echo inside'
        test -x /bin/true && echo outside
        umount {workdir}/mnt/proc {workdir}/mnt/sys {workdir}/mnt/dev
        {workdir}/minifo umount {workdir}/mnt
        """
    )
    assert done.stdout == "inside\noutside\n", done.stderr
    assert done.returncode == 0


def test_overlaying_home_in_place(workdir: Path) -> None:
    """A directory is overlaid where it is; the old line with the base named twice works."""
    home = workdir / "base"
    (home / "me").write_text("old")
    done = in_namespace(
        f"""
        {workdir}/minifo mount --base {home} --sto {workdir}/sto {home} || exit 1
        echo new > {home}/me
        {workdir}/minifo umount {home} && cat {home}/me
        """
    )
    assert done.stdout == "old", done.stderr
    overlay = Overlay.open(str(home), str(workdir / "sto"))
    try:
        found = overlay.lookup(ROOT, b"me")
        assert found is not None
        assert overlay.read(Ino(found.ino), 0, 10) == b"new\n"
    finally:
        overlay.close()


def test_the_old_mount_line(workdir: Path) -> None:
    """base=, sto=, and the base once more as the device nobody looks at."""
    code = "import sys; sys.argv[0] = 'mount.mini_fo'; from minifo.tools.mount_helper import main; sys.exit(main())"
    line = f"{workdir}/base {workdir}/mnt -o rw,base={workdir}/base,sto={workdir}/sto"
    done = in_namespace(
        f"""
        {sys.executable} -c "{code}" {line} || exit 1
        grep -c ' {workdir}/mnt fuse.minifo ' /proc/mounts
        {workdir}/minifo umount {workdir}/mnt
        """
    )
    assert done.stdout == "1\n", done.stderr
