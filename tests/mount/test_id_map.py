"""Mounts that show owners by other numbers than base and storage have."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from minifo.engine.errors import FsError
from minifo.fusefront.mount.id_map import Ids
from tests.mount.mount_sandbox import MountSandbox, OverlayMount, attempt, in_child, minifo

MAP = "uidmapping=0:100000:1000:1000:0:1,gidmapping=0:200000:1000"


def owners(root: Path) -> dict[str, tuple[int, int]]:
    """The owner of each object, by readdir and by stat."""
    return {path.name: (path.lstat().st_uid, path.lstat().st_gid) for path in root.iterdir()}


@pytest.fixture(params=[(), ("plain",)], ids=["hook", "plain"])
def overlay(sandbox: MountSandbox, request: pytest.FixtureRequest) -> OverlayMount:
    """An overlay of files of several owners, not mounted."""
    found = sandbox.overlay(*request.param)
    for number in (0, 5, 999, 1000, 5000):
        path = found.base / str(number)
        path.touch()
        os.chown(path, number, number)
    return found


def test_ranges(overlay: OverlayMount) -> None:
    """Owners are shown and stored by ranges; a number that no range has shows as the overflow number."""
    overlay.mount(MAP)
    expected = {
        "0": (100000, 200000),
        "5": (100005, 200005),
        "999": (100999, 200999),
        "1000": (0, 65534),
        "5000": (65534, 65534),
    }
    assert owners(overlay.mnt) == expected
    os.chown(overlay.mnt / "5", 100007, 200008)
    (overlay.mnt / "0").chmod(0o600)
    expected["5"] = (100007, 200008)
    assert owners(overlay.mnt) == expected
    assert attempt(lambda: os.chown(overlay.mnt / "5", 4711, -1)) == errno.errorcode[errno.EINVAL]
    os.chown(overlay.mnt / "5", -1, 200009)
    expected["5"] = (100007, 200009)
    assert owners(overlay.mnt) == expected
    overlay.umount()
    overlay.mount(MAP)
    assert owners(overlay.mnt) == expected
    overlay.umount()
    overlay.mount()
    assert owners(overlay.mnt)["5"] == (7, 9)
    assert owners(overlay.mnt)["1000"] == (1000, 1000)
    overlay.umount()


def test_what_is_created(overlay: OverlayMount) -> None:
    """A new object has the caller's owner; one whose number no range has creates for the overflow number."""
    overlay.mount(MAP)
    os.chown(overlay.mnt, 100000, 200000)
    overlay.mnt.chmod(0o777)

    def create() -> dict[str, tuple[int, int]]:
        os.umask(0)
        (overlay.mnt / "file").touch()
        (overlay.mnt / "directory").mkdir()
        (overlay.mnt / "link").symlink_to("file")
        os.mkfifo(overlay.mnt / "fifo")
        os.link(overlay.mnt / "file", overlay.mnt / "hard")
        fd = os.open(overlay.mnt, os.O_TMPFILE | os.O_WRONLY, 0o600) if "plain" not in overlay.options else None
        assert fd is None or os.fstat(fd).st_uid == 100007
        names = ("file", "directory", "link", "fifo", "hard")
        return {name: found for name, found in owners(overlay.mnt).items() if name in names}

    made = in_child(create, uid=100007, gid=200008)
    assert made == dict.fromkeys(("file", "directory", "link", "fifo", "hard"), (100007, 200008))
    in_child((overlay.mnt / "strange").touch, uid=4711, gid=4711)
    os.lchown(overlay.mnt / "strange", 100009, 200009)  # root may give it away, as podman does
    in_child((overlay.mnt / "stays").touch, uid=4711, gid=4711)
    assert owners(overlay.mnt)["strange"] == (100009, 200009)
    assert owners(overlay.mnt)["stays"] == (65534, 65534)
    overlay.umount()
    overlay.mount()
    assert owners(overlay.mnt)["hard"] == (7, 8)
    assert owners(overlay.mnt)["strange"] == (9, 9)
    assert owners(overlay.mnt)["stays"] == (65534, 65534)
    overlay.umount()


def test_group_of_a_set_group_id_file(overlay: OverlayMount) -> None:
    """A process in the shown group keeps the set-group-ID bit at chmod, as on any file system."""
    overlay.mount(MAP)
    path = overlay.mnt / "5"
    in_child(lambda: path.chmod(0o2775), uid=100005, gid=200005)
    assert path.stat().st_mode & stat.S_ISGID
    overlay.umount()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("squash_to_root",), (0, 0)),
        (("squash_to_uid=7", "squash_to_gid=8"), (7, 8)),
        (("squash_to_uid=7", "squash_to_root"), (7, 0)),
        (("squash_to_uid=7", MAP.split(",")[1]), (7, None)),
    ],
)
def test_squash(overlay: OverlayMount, words: tuple[str, ...], expected: tuple[int, int | None]) -> None:
    """All objects have one owner; storage keeps the true ones."""
    overlay.mount(*words)
    for uid, gid in owners(overlay.mnt).values():
        assert uid == expected[0]
        assert gid == expected[1] or expected[1] is None
    (overlay.mnt / "5").chmod(0o600)
    assert (overlay.mnt / "5").stat().st_uid == expected[0]
    overlay.umount()
    overlay.mount()
    assert owners(overlay.mnt)["5"] == (5, 5)
    overlay.umount()


def test_commands_say_the_stored_numbers(overlay: OverlayMount) -> None:
    """``minifo diff`` looks at base and storage, so a changed mode is all that it sees."""
    overlay.mount(MAP)
    (overlay.mnt / "5").chmod(0o600)
    assert "uid" not in minifo("diff", "--json", overlay.mnt).stdout
    overlay.umount()


@pytest.mark.parametrize(
    "word",
    ["uidmapping=0:1", "uidmapping=a:b:c", "gidmapping=0:0:0", "uidmapping=0:4294967290:10", "squash_to_uid=-1"],
)
def test_wrong_values(sandbox: MountSandbox, word: str) -> None:
    """A wrong value is refused by name."""
    done = sandbox.overlay().mount(word, check=False)
    assert done.returncode
    assert word.partition("=")[0] in done.stderr


def test_both_ways_are_each_others_contrary() -> None:
    """A number that is shown is stored as what it was."""
    ids = Ids(((0, 100, 10), (50, 0, 5)))
    for number in (0, 9, 50, 54):
        assert ids.given(ids.shown(number)) == number
    assert ids.shown(10) == 65534
    assert ids.of_caller(110) == 65534
    with pytest.raises(FsError):
        ids.given(110)
