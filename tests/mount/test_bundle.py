"""minifo bundle on real mounts: an update under programs that run, all of it or nothing, whoever is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.mount.mount_sandbox import MountSandbox, OverlayMount, daemon_of, minifo, minifo_program, run
from tests.mount.test_checkpoints import tree as tree_with_numbers
from tests.shared.waiting import wait_until

TAKEN_BACK = "a transaction that was not committed was taken back"
FILES = 200
CAPABILITY = struct.pack("<5I", 0x0200_0001, 1 << 13, 0, 0, 0)  # cap_net_raw+ep (capabilities(7))


def tree(top: Path) -> str:
    """What shows below a directory, but for inode numbers, in lines."""
    found = tree_with_numbers(top)
    lines = (f"{name}: {seen[:4]} {seen[5]} {seen[6][:40]}" for name, seen in sorted(found.items()))  # type: ignore[index]
    return "\n".join(lines)


class Update(NamedTuple):
    """A mounted overlay that has the first state, a bundle, and what it leads to."""

    device: OverlayMount
    bundle: Path
    before: str
    after: str
    digest: str

    @property
    def mnt(self) -> Path:
        """The mount point."""
        return self.device.mnt

    def apply(self, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Give the command."""
        return minifo("bundle", "apply", *words, self.bundle, self.mnt, check=check)

    def start(self) -> subprocess.Popen[bytes]:
        """Give it, and go on."""
        words = [minifo_program(), "bundle", "apply", self.bundle, self.mnt]
        return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.fixture
def update(sandbox: MountSandbox) -> Update:
    """A device that is mounted; the maker's overlay is gone."""
    maker = sandbox.overlay("commit=0.2")
    for name in ("lib/old", "lib/same", "etc/conf", "etc/gone", "doc/a/b/c"):
        (maker.base / name).parent.mkdir(parents=True, exist_ok=True)
        (maker.base / name).write_text(name)
    maker.mount()
    mnt = maker.mnt
    (mnt / "mine").write_text("mine")
    minifo("checkpoint", "create", mnt, "first")
    minifo("clone", mnt, maker.sto.parent / "device")
    before = tree(mnt)
    (mnt / "lib/old").write_text("new")
    (mnt / "etc/conf").chmod(0o640)
    (mnt / "etc/gone").unlink()
    shutil.rmtree(mnt / "doc")
    (mnt / "many").mkdir()
    for number in range(FILES):
        (mnt / f"many/{number}").write_text(str(number))
    os.link(mnt / "many/1", mnt / "one")
    (mnt / "big").write_bytes(os.urandom(3 << 20))
    os.setxattr(mnt / "big", "user.key", b"value")
    run("setfacl", "-m", "u:7:rw", mnt / "mine")
    os.setxattr(mnt / "big", "security.capability", CAPABILITY)
    (mnt / "tool").write_text("#!")
    (mnt / "tool").chmod(0o4755)
    os.mknod(mnt / "null", 0o020666, os.makedev(1, 3))
    (mnt / "turns").symlink_to("/etc")
    minifo("checkpoint", "create", mnt, "second")
    bundle = maker.sto.parent / "up.bundle"
    minifo("bundle", "create", "-o", bundle, mnt, "first", "second")
    after, digest = tree(mnt), minifo("digest", mnt).stdout
    maker.umount()
    device = sandbox.overlay("commit=0.2", base=maker.base, sto=maker.sto.parent / "device")
    device.mount()
    assert tree(device.mnt) == before
    return Update(device, bundle, before, after, digest)


def test_it_arrives_under_programs(update: Update) -> None:
    """A file is the old or the new one for whoever looks, and what is open stays; undo takes all of it back."""
    code = "while :; do [ $(cat old | wc -c) != 0 ] || exit 1; done"
    looking = subprocess.Popen(["sh", "-c", code], cwd=update.mnt / "lib")
    with open(update.mnt / "lib/old", encoding="ascii") as old:
        assert f"{FILES}" < update.apply().stdout.replace(",", "")
        assert old.read() == "lib/old"
    assert looking.poll() is None
    looking.kill()
    looking.wait()
    assert tree(update.mnt) == update.after
    assert minifo("digest", update.mnt).stdout == update.digest
    assert os.getxattr(update.mnt / "big", "security.capability") == CAPABILITY
    assert "there already" not in update.apply("--check").stdout
    assert json.loads(update.apply("--json").stdout)["outcome"] == "there already"
    os.kill(daemon_of(update.device.sto), signal.SIGKILL)
    update.device.umount()
    update.device.mount()
    assert tree(update.mnt) == update.after
    minifo("undo", update.mnt)
    assert tree(update.mnt) == update.before


def test_a_device_that_differs(update: Update) -> None:
    """Each path is named, nothing is changed, and no checkpoint is left."""
    (update.mnt / "etc/conf").write_text("mine")
    (update.mnt / "doc/a/notes").write_text("mine")
    before = tree(update.mnt)
    for words in ((), ("--check",)):
        done = update.apply(*words, check=False)
        assert done.returncode == 1
        assert done.stderr.splitlines() == [
            "/doc/a/notes: it is in a directory that goes, expected nothing",
            "/etc/conf: has 4 bytes, expected 8",
            "minifo: 2 paths are not as the bundle expects; nothing was changed",
        ]
    found = json.loads(update.apply("--json", check=False).stdout)
    assert [found["outcome"], found["mismatches"][1]["expected"]["size"]] == ["differs", 8]
    assert tree(update.mnt) == before
    assert minifo("checkpoint", "list", "--json", update.mnt).stdout == ""


@pytest.mark.parametrize("whom", ["the command", "the daemon"])
def test_a_kill_in_the_middle(update: Update, whom: str) -> None:
    """All of it is taken back: at once, or by the next mount.  Given again, it arrives."""
    running = update.start()
    wait_until(lambda: (update.mnt / "many/100").exists(), "it is in the middle", 30)
    if whom == "the command":
        running.kill()
        running.wait()
        wait_until(lambda: not (update.mnt / "many").exists(), "it is taken back", 30)
    else:
        os.kill(daemon_of(update.device.sto), signal.SIGKILL)
        running.wait()
        update.device.umount()
        done = update.device.mount()
        assert TAKEN_BACK in done.stderr or not (update.mnt / "many").exists()
    assert tree(update.mnt) == update.before
    update.apply()
    assert tree(update.mnt) == update.after


def test_on_trial(update: Update) -> None:
    """Two mounts without a confirmation, and it is as before; with the option trial=N that trial goes on."""
    update.apply("--trial", "--mounts", "1")
    assert json.loads(minifo("trial", "status", "--json", update.mnt).stdout)["left"] == 1
    for expected in (update.after, update.before):
        update.device.remount()
        assert tree(update.mnt) == expected
    update.device.umount()
    update.device.mount("trial=2")
    minifo("confirm", update.mnt)
    update.apply("--trial")
    update.device.umount()
    for expected in (update.after, update.after, update.before):
        update.device.mount("trial=2")
        assert tree(update.mnt) == expected
        update.device.umount()
    update.device.mount("trial=2")
    update.apply("--trial")
    minifo("confirm", update.mnt)
    for _ in range(3):
        update.device.umount()
        update.device.mount("trial=2")
        minifo("confirm", update.mnt)
    assert tree(update.mnt) == update.after


def test_what_another_mount_covers(update: Update) -> None:
    """The update reaches what is beneath, and leaves alone what is above."""
    run("mount", "-t", "tmpfs", "none", update.mnt / "lib")
    try:
        (update.mnt / "lib/old").write_text("above")
        update.apply()
        assert (update.mnt / "lib/old").read_text() == "above"
    finally:
        run("umount", update.mnt / "lib")
    assert tree(update.mnt) == update.after


def test_a_full_storage(sandbox: MountSandbox, update: Update) -> None:
    """The overlay is as before, and there is as much room as before."""
    update.device.umount()
    update.device.mount("max_size=2m")
    done = update.apply(check=False)
    assert (done.returncode, "No space left" in done.stderr) == (2, True)
    assert tree(update.mnt) == update.before
    assert minifo("checkpoint", "list", "--json", update.mnt).stdout == ""
    (update.mnt / "room").write_bytes(bytes(range(256)) * 4096)


def test_signed(update: Update, tmp_path: Path) -> None:
    """By whom the device trusts, and by nobody else; a list that is there makes signatures needed."""
    for name in ("maker", "other"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name)
    signers = tmp_path / "signers"
    signers.write_text("maker " + (tmp_path / "maker.pub").read_text())
    done = update.apply("--signers", signers, check=False)
    assert (done.returncode, "not signed" in done.stderr) == (2, True)
    minifo("bundle", "sign", "--key", tmp_path / "other", update.bundle)
    done = update.apply("--signers", signers, check=False)
    assert (done.returncode, "signed by nobody whom" in done.stderr) == (2, True)
    assert tree(update.mnt) == update.before
    minifo("bundle", "sign", "--key", tmp_path / "maker", update.bundle)
    shown = json.loads(minifo("bundle", "show", "--json", "--signers", signers, update.bundle).stdout)
    assert shown["signature"] == "maker"
    assert "signed by maker" in update.apply("--signers", signers).stdout
    assert tree(update.mnt) == update.after


def test_a_mount_that_is_read_only(update: Update) -> None:
    """It is refused, and says so."""
    update.device.umount()
    update.device.mount("ro")
    started = time.monotonic()
    assert update.apply("--check").returncode == 0
    done = update.apply(check=False)
    assert done.returncode == 2, done.stdout
    assert "Traceback" not in done.stderr
    assert time.monotonic() - started < 20
