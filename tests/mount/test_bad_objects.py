"""One bad object never hides or breaks its neighbours: a lost content object, a base file that cannot be looked at."""

from __future__ import annotations

import os

import pytest

from tests.mount.mount_sandbox import MountSandbox, OverlayMount, minifo, run

BIG = 300_000  # bytes; kept in objects of their own


@pytest.fixture(params=["hook", "plain"])
def overlay(request: pytest.FixtureRequest, sandbox: MountSandbox) -> OverlayMount:
    """An overlay in both modes."""
    return sandbox.overlay(*(["plain"] if request.param == "plain" else []))


def test_a_lost_content_object(overlay: OverlayMount) -> None:
    """EIO where it is read; listed, renamable over, removable, and so is its directory."""
    overlay.mount()
    mnt = overlay.mnt
    (mnt / "d").mkdir()
    for name in "abc":
        (mnt / "d" / name).write_bytes(name.encode() * BIG)
        os.sync()
    overlay.umount()
    objects = sorted((overlay.sto / "content").glob("*/*"), key=lambda path: path.stat().st_ino)
    assert [path.stat().st_size for path in objects] == [BIG] * 3
    for path in objects[:2]:
        path.unlink()
    overlay.mount()
    assert sorted(os.listdir(mnt / "d")) == ["a", "b", "c"]
    assert run("ls", "-l", mnt / "d").stdout.count(str(BIG)) == 3
    for name in "ab":
        with pytest.raises(OSError, match="Input/output error"):
            (mnt / "d" / name).read_bytes()
    assert (mnt / "d" / "c").read_bytes() == b"c" * BIG
    (mnt / "d" / "new").write_bytes(b"new")
    assert minifo("fsck", "-n", overlay.sto, check=False).stdout.count("E301") == 2
    (mnt / "d" / "c").rename(mnt / "d" / "a")
    assert (mnt / "d" / "a").read_bytes() == b"c" * BIG
    run("rm", "-r", mnt / "d")
    assert os.listdir(mnt) == []
    overlay.umount()
    assert minifo("fsck", "-n", overlay.sto).returncode == 0


def test_a_base_file_that_cannot_be_looked_at(overlay: OverlayMount, sandbox: MountSandbox) -> None:
    """It is listed among its neighbours, the base's own and ours; to use it gives its own error."""
    image = sandbox.directory_on_disk() / "base.img"
    run("truncate", "-s", "16M", image)
    run("mkfs.ext4", "-q", "-F", image)
    where = sandbox.directory() / "image"
    where.mkdir()
    run("mount", "-o", "loop", image, where)
    sandbox.undo(lambda: run("umount", "-l", where, check=False))
    for name in ("bad", "good", "other"):
        (where / "d").mkdir(exist_ok=True)
        (where / "d" / name).write_bytes(name.encode())
    number = (where / "d" / "bad").stat().st_ino
    run("umount", where)
    run("debugfs", "-w", "-R", f"set_inode_field <{number}> checksum 0x1234", image)
    run("mount", "-o", "loop,ro", image, where)
    with pytest.raises(OSError, match="Bad message"):
        (where / "d" / "bad").stat()
    overlay.base = where
    overlay.mount()
    directory = overlay.mnt / "d"
    for _ in range(2):  # without overlay state, and with it
        assert sorted(set(os.listdir(directory)) - {"ours"}) == ["bad", "good", "other"]
        assert (directory / "good").read_bytes() == b"good"
        with pytest.raises(OSError, match="Bad message"):
            (directory / "bad").read_bytes()
        assert "bad': Bad message" in run("ls", "-l", directory, check=False).stderr
        (directory / "ours").write_bytes(b"ours")
    assert (directory / "ours").read_bytes() == b"ours"
