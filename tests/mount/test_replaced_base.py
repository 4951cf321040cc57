"""A base that is replaced between two mounts, as users see it: programs, listings, options and messages."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess

import pytest

from tests.mount.mount_sandbox import MountSandbox, OverlayMount, differences, minifo, run, tree
from tests.shared.old_formats import write_as_format

BIG = 1 << 20  # bytes


@pytest.fixture(params=["hook", "plain"])
def overlay(request: pytest.FixtureRequest, sandbox: MountSandbox) -> OverlayMount:
    """An overlay over an image with a little of everything."""
    made = sandbox.overlay(*(["plain"] if request.param == "plain" else []))
    for name in ("conf", "c", "linked", "dropped", "dir/old", "dir/kept", "kind/in"):
        path = made.base / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode() * 10)
    (made.base / "large").write_bytes(b"1" * BIG)
    return made


def replace(overlay: OverlayMount, *changes: str) -> None:
    """Unmount, and put the next version of the image in the place of this one, by shell commands run in it."""
    overlay.umount()
    new = overlay.base.with_name("next")
    run("cp", "-a", overlay.base, new)
    for change in changes:
        subprocess.run(["sh", "-ec", change], cwd=new, check=True)
    shutil.move(overlay.base, overlay.base.with_name("before"))
    new.rename(overlay.base)


def put_back(overlay: OverlayMount) -> None:
    """Unmount, and put the version of before in its place again."""
    overlay.umount()
    shutil.rmtree(overlay.base)
    overlay.base.with_name("before").rename(overlay.base)


def test_an_update_of_the_base(overlay: OverlayMount) -> None:
    """Renamed, linked, written and new files over an image that lacks their base files, and back again."""
    overlay.mount()
    mnt = overlay.mnt
    (mnt / "c").rename(mnt / "C")
    os.link(mnt / "linked", mnt / "link")
    (mnt / "conf").write_bytes(b"ours")
    (mnt / "dir" / "new").write_bytes(b"new")
    (mnt / "kind" / "new").write_bytes(b"new")
    (mnt / "dropped").chmod(0o600)
    with (mnt / "large").open("r+b") as file:
        file.write(b"2")
    before = tree(mnt)
    replace(
        overlay,
        "rm -r c linked dropped conf dir kind; echo file >kind; echo next >fresh",
        "tr 1 3 <large >l; mv l large",
    )
    overlay.mount("base_check=ignore")
    assert sorted(os.listdir(mnt)) == ["conf", "dir", "fresh", "kind", "large"]
    assert run("ls", "-l", mnt).stdout.count("\n") == 6
    assert (mnt / "conf").read_bytes() == b"ours"
    assert os.listdir(mnt / "dir") == ["new"]
    assert (mnt / "kind" / "new").read_bytes() == b"new"
    with (mnt / "large").open("rb") as file, pytest.raises(OSError, match="Input/output error") as raised:
        file.read()
    assert raised.value.errno == errno.EIO
    put_back(overlay)
    overlay.mount("base_check=ignore")
    # copying the images has read them
    assert [line for line in differences(before, tree(mnt)) if " atime: " not in line] == []
    shutil.rmtree(mnt / "dir")
    assert minifo("fsck", "-n", overlay.sto, check=False).returncode in (0, 8)
    overlay.umount()
    assert minifo("fsck", "-n", "--base", overlay.base, overlay.sto).returncode == 0


def test_everything_can_be_removed(overlay: OverlayMount) -> None:
    """``rm -r`` of all that shows over another image leaves nothing, there and then and after the next mount."""
    overlay.mount()
    mnt = overlay.mnt
    (mnt / "dir" / "kept").write_bytes(b"ours")
    (mnt / "dir" / "new").mkdir()
    (mnt / "dir" / "old").chmod(0o600)
    (mnt / "conf").write_bytes(b"ours")
    replace(overlay, "rm -r dir conf; mkdir conf dir2; touch conf/a dir2/b")
    overlay.mount("base_check=ignore")
    for name in os.listdir(mnt):
        run("rm", "-r", mnt / name)
    assert os.listdir(mnt) == []
    overlay.umount()
    assert overlay.violations() == []
    overlay.mount()
    assert os.listdir(mnt) == []


def test_whole_files_outlive_their_base(overlay: OverlayMount) -> None:
    """With copy_up=whole a byte that is written keeps the file as it was, over any base."""
    overlay.mount("copy_up=whole")
    with (overlay.mnt / "large").open("r+b") as file:
        file.write(b"2")
    replace(overlay, "rm large")
    overlay.mount("copy_up=whole")
    assert (overlay.mnt / "large").read_bytes() == b"2" + b"1" * (BIG - 1)


def test_a_wrong_base(overlay: OverlayMount) -> None:
    """A typo in the mount line is refused with what to do, whatever options come with it; the right base mounts."""
    overlay.mount()
    for name in ("conf", "c", "linked", "dropped", "dir/old"):
        (overlay.mnt / name).write_bytes(b"ours")
    overlay.umount()
    right, wrong = overlay.base, overlay.base.with_name("wrong")
    wrong.mkdir()
    overlay.base = wrong
    for option in ("ro", "rw"):
        refused = overlay.mount(option, check=False)
        assert refused.returncode == 32
        assert "is likely the wrong one" in refused.stderr
        assert "base_check=ignore" in refused.stderr
        assert "Traceback" not in refused.stderr
    overlay.base = right
    overlay.mount("base_check=strict")
    assert (overlay.mnt / "conf").read_bytes() == b"ours"
    replace(overlay, "touch anything")
    refused = overlay.mount("base_check=strict", check=False)
    assert (refused.returncode, "base_check=warn" in refused.stderr) == (32, True)


def test_a_storage_of_an_earlier_format(overlay: OverlayMount) -> None:
    """Is upgraded by the mount itself, for at boot there is nobody else to do it."""
    overlay.mount()
    (overlay.mnt / "conf").write_bytes(b"ours")
    overlay.umount()
    write_as_format(overlay.sto, 1)
    refused = overlay.mount("ro", check=False)
    assert (refused.returncode, "minifo upgrade" in refused.stderr) == (32, True)
    overlay.mount()
    assert (overlay.mnt / "conf").read_bytes() == b"ours"
    assert (overlay.sto / "minifo.db.bak-v1").exists()
