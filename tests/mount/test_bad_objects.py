"""One bad object never hides or breaks its neighbours: a lost content object, a base file that cannot be looked at."""

from __future__ import annotations

import json
import os
from pathlib import Path

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


def read_at(path: Path, offset: int) -> bytes:
    """Open a file, and read ten bytes of it."""
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        return file.read(10)


class Image:
    """A base in a file system of its own, some of whose objects get damaged.

    Args:
        sandbox: where it is made.
    """

    def __init__(self, sandbox: MountSandbox) -> None:
        self._image = sandbox.directory_on_disk() / "base.img"
        run("truncate", "-s", "16M", self._image)
        run("mkfs.ext4", "-q", "-F", self._image)
        self.path = sandbox.directory() / "image"
        self.path.mkdir()
        self.mount()
        sandbox.undo(lambda: run("umount", "-l", self.path, check=False))

    def mount(self, options: str = "loop") -> None:
        """Mount it."""
        run("mount", "-o", options, self._image, self.path)

    def damage(self, *names: str) -> None:
        """Spoil the inodes of some paths; the image is read-only then."""
        numbers = [(self.path / name).stat().st_ino for name in names]
        run("umount", self.path)
        for number in numbers:
            run("debugfs", "-w", "-R", f"set_inode_field <{number}> checksum 0x1234", self._image)
        self.mount("loop,ro")
        for name in names:
            with pytest.raises(OSError, match="Bad message"):
                (self.path / name).stat()


def test_a_base_file_that_cannot_be_looked_at(overlay: OverlayMount, sandbox: MountSandbox) -> None:
    """It is listed among its neighbours, the base's own and ours; to use it gives its own error."""
    image = Image(sandbox)
    for name in ("bad", "good", "other"):
        (image.path / "d").mkdir(exist_ok=True)
        (image.path / "d" / name).write_bytes(name.encode())
    image.damage("d/bad")
    overlay.base = image.path
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


def test_a_changed_base_object_that_cannot_be_looked_at(overlay: OverlayMount, sandbox: MountSandbox) -> None:
    """What was changed, renamed or linked is listed, and what the overlay holds of it can be read, and removed."""
    image = Image(sandbox)
    for name in ("d", "e"):
        (image.path / name).mkdir()
    for name in ("file", "linked", "written", "d/good"):
        (image.path / name).write_bytes(name.encode())
    (image.path / "partly").write_bytes(b"b" * BIG)
    overlay.base = image.path
    overlay.mount()
    directory = overlay.mnt / "d"
    (overlay.mnt / "file").rename(directory / "renamed")
    (overlay.mnt / "e").rename(directory / "moved")
    os.link(overlay.mnt / "linked", directory / "link")
    (overlay.mnt / "written").write_bytes(b"ours")
    with (overlay.mnt / "partly").open("r+b") as file:
        file.write(b"o" * 4096)
    overlay.umount()
    image.damage("file", "linked", "written", "partly", "e")
    overlay.mount()
    assert sorted(os.listdir(directory)) == ["good", "link", "moved", "renamed"]
    assert (directory / "good").read_bytes() == b"d/good"
    assert (directory / "renamed").stat().st_size == 4
    assert (overlay.mnt / "written").read_bytes() == b"ours"
    for path, at in ((directory / "renamed", 0), (directory / "link", 0), (overlay.mnt / "partly", BIG - 10)):
        with pytest.raises(OSError, match=r"Bad message|Input/output error"):
            read_at(path, at)
    with pytest.raises(OSError, match="Bad message"):
        os.listdir(directory / "moved")
    (directory / "new").write_bytes(b"new")
    (directory / "new").rename(directory / "renamed")
    for path in (directory / "link", overlay.mnt / "partly", overlay.mnt / "written"):
        path.unlink()
    assert sorted(os.listdir(directory)) == ["good", "moved", "renamed"]
    assert sorted(os.listdir(overlay.mnt)) == ["d", "linked", "lost+found"]
    assert minifo("diff", overlay.mnt).stdout.splitlines() == [
        "R  /e/ -> /d/moved/",
        "A  /d/renamed",
        "D  /file",
        "D  /partly",
        "D  /written",
    ]
    overlay.umount()
    checked = minifo("fsck", "-n", "-f", "--json", "--base", image.path, overlay.sto)
    assert {found["code"] for found in json.loads(checked.stdout)["findings"]} == {"W507"}
