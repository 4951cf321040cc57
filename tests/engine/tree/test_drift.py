"""A base that was replaced: what shows of each kind of change if the base object has changed or is gone.

In all cases the old base, put back, shows the old tree again.
"""

from __future__ import annotations

import logging
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from minifo.engine import RenameFlags
from minifo.engine.recovery import BaseCheck
from tests.shared.overlay_sandbox import PAST, OverlaySandbox

pytestmark = pytest.mark.logs("is not the one of the last mount", always=False)

BIG = 200_000  # bytes; more than is copied whole
_BACK = "kept"


@pytest.fixture(autouse=True)
def any_base(sandbox: OverlaySandbox) -> None:
    """Accept any base; test_base_match.py tests how a likely wrong one is refused."""
    sandbox.base_check = BaseCheck.IGNORE


def swap(sandbox: OverlaySandbox, change: Callable[[Path], object]) -> None:
    """Close the overlay, and replace its base by a changed copy; keep the old base."""
    sandbox.close()
    kept = sandbox.base.with_name(_BACK)
    subprocess_copy(sandbox.base, kept)
    new = sandbox.base.with_name("new")
    subprocess_copy(sandbox.base, new)
    shutil.rmtree(sandbox.base)
    new.rename(sandbox.base)
    change(sandbox.base)


def swap_back(sandbox: OverlaySandbox) -> None:
    """Close the overlay, and put the old base back."""
    sandbox.close()
    shutil.rmtree(sandbox.base)
    sandbox.base.with_name(_BACK).rename(sandbox.base)


def subprocess_copy(source: Path, target: Path) -> None:
    """Copy a tree with its hard links, times and owners."""
    assert os.spawnlp(os.P_WAIT, "cp", "cp", "-a", str(source), str(target)) == 0


def tree(sandbox: OverlaySandbox, path: str = "") -> dict[str, object]:
    """Return types, attributes and bytes of all objects by path, or the errno of reading them."""
    seen: dict[str, object] = {}
    for name in sandbox.names(path):
        place = os.path.join(path, name)
        attr = sandbox.attr(place)
        facts: tuple[object, ...] = (attr.mode, attr.uid, attr.gid, attr.nlink)
        if stat.S_ISDIR(attr.mode):
            seen[place] = facts
            seen |= tree(sandbox, place)
        elif stat.S_ISREG(attr.mode):
            try:
                seen[place] = (*facts, attr.size, attr.mtime, sandbox.read(place))
            except OSError as error:
                seen[place] = (*facts, attr.size, error.errno)
        else:
            seen[place] = facts
    assert sandbox.ov.check() == []
    return seen


def rewrite(base: Path, name: str, data: bytes) -> None:
    """Replace a base file by a new one with other bytes and an mtime one second later."""
    path = base / name
    old = path.stat()
    path.unlink()
    path.write_bytes(data)
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns + 10**9))


# -- attributes only


def test_attributes_over_new_bytes(sandbox: OverlaySandbox) -> None:
    """A file with a changed mode keeps it, and shows bytes, size and mtime of the new base."""
    sandbox.put("f", b"old")
    sandbox.set("f", mode=0o640)
    before = tree(sandbox)
    swap(sandbox, lambda base: rewrite(base, "f", b"newer bytes"))
    assert stat.S_IMODE(sandbox.attr("f").mode) == 0o640
    assert (sandbox.attr("f").size, sandbox.attr("f").mtime, sandbox.read("f")) == (11, PAST + 10**9, b"newer bytes")
    sandbox.set("f", uid=7)  # the row is saved over the new base
    sandbox.reopen()
    assert (sandbox.attr("f").size, sandbox.attr("f").uid, sandbox.read("f")) == (11, 7, b"newer bytes")
    sandbox.set("f", uid=0)
    swap_back(sandbox)
    assert tree(sandbox) == before


def test_mtime_that_was_set_stays(sandbox: OverlaySandbox) -> None:
    """An mtime that was set in the overlay stays, and does not follow the new base."""
    sandbox.put("f", b"old")
    sandbox.set("f", mtime=12345)
    swap(sandbox, lambda base: rewrite(base, "f", b"newer"))
    assert (sandbox.attr("f").mtime, sandbox.read("f")) == (12345, b"newer")


def test_attributes_of_what_is_gone(sandbox: OverlaySandbox) -> None:
    """A file with changed attributes only does not show while the base lacks it, and shows again with the old base."""
    sandbox.put("d/f")
    sandbox.put("d/g")
    sandbox.set("d/f", mode=0o640)
    before = tree(sandbox)
    swap(sandbox, lambda base: (base / "d" / "f").unlink())
    assert sandbox.names("d") == ["g"]
    assert sandbox.find("d/f") is None
    swap_back(sandbox)
    assert tree(sandbox) == before


def test_removing_what_holds_the_gone(sandbox: OverlaySandbox) -> None:
    """Removing a directory also removes the rows of objects in it that do not show."""
    sandbox.put("d/f")
    sandbox.set("d/f", mode=0o640)
    swap(sandbox, lambda base: (base / "d" / "f").unlink())
    sandbox.rmdir("d")
    assert sandbox.names() == []
    assert sandbox.ov.check() == []
    sandbox.reopen()
    assert sandbox.names() == []
    assert sandbox.rows("inode") == 1  # the root's, whose times moved


# -- bytes of our own


def test_whole_content(sandbox: OverlaySandbox) -> None:
    """A file that the overlay holds completely stays unchanged, whatever the new base has at its path."""
    for name in ("changed", "gone", "d/gone", "kind"):
        sandbox.put(name, b"old")
        os.setxattr(sandbox.base / name, "user.colour", b"blue")
        sandbox.write(name, b"ours, and longer")
    sandbox.set("gone", uid=5, mode=0o600)
    sandbox.link("gone", "link")
    before = tree(sandbox)

    def change(base: Path) -> None:
        rewrite(base, "changed", b"the base's")
        shutil.rmtree(base / "d")
        (base / "gone").unlink()
        (base / "kind").unlink()
        (base / "kind").mkdir()

    swap(sandbox, change)
    assert tree(sandbox) == before
    assert sandbox.ov.getxattr(sandbox.ino("gone"), b"user.colour") == b"blue"
    assert sandbox.attr("link").nlink == 2
    sandbox.reopen()
    assert tree(sandbox) == before
    swap_back(sandbox)
    assert tree(sandbox) == before


def test_removing_what_stands_by_itself(sandbox: OverlaySandbox) -> None:
    """A file that shows although its base object is gone can be removed and renamed, also for the old base."""
    for name in ("f", "g", "d/h"):
        sandbox.put(name, b"old")
        sandbox.write(name, b"ours!")
    swap(sandbox, lambda base: [shutil.rmtree(base / "d"), (base / "f").unlink(), (base / "g").unlink()])
    sandbox.unlink("f")
    sandbox.rename("g", "moved")
    held = sandbox.ino("d/h")
    sandbox.ov.unlink(sandbox.ino("d"), b"h")  # somebody has it open
    assert sandbox.names() == ["d", "moved"]
    sandbox.rmdir("d")
    assert sandbox.ov.check() == []
    assert sandbox.ov.read(held, 0, 9) == b"ours!"
    sandbox.ov.forget([held])
    assert (sandbox.names(), sandbox.read("moved")) == (["moved"], b"ours!")
    assert sandbox.ov.check() == []
    swap_back(sandbox)
    assert (sandbox.names(), sandbox.read("moved")) == (["moved"], b"ours!")


def test_kept_directory_stays(sandbox: OverlaySandbox) -> None:
    """A directory that the base has lost stays when the last created name in it is removed."""
    sandbox.put("d/f")
    sandbox.create("d/mine")
    swap(sandbox, lambda base: shutil.rmtree(base / "d"))
    sandbox.unlink("d/mine")
    assert sandbox.names() == ["d"]
    sandbox.reopen()
    assert (sandbox.names(), sandbox.names("d")) == (["d"], [])


# -- some bytes of our own


@pytest.mark.logs("was replaced in the base after a part of it was written here")
@pytest.mark.parametrize("same_size", [False, True])
def test_no_mixture_of_versions(sandbox: OverlaySandbox, same_size: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Of a partly written file only the written bytes can be read while the base has another version."""
    sandbox.put("f", b"o" * BIG)
    sandbox.write("f", b"ours", 4096)
    before = tree(sandbox)
    swap(sandbox, lambda base: rewrite(base, "f", b"n" * (BIG if same_size else BIG + 1)))
    with caplog.at_level(logging.WARNING), pytest.raises(OSError, match="Input/output error"):
        sandbox.ov.read(sandbox.ino("f"), 0, 100)
    assert "/f was replaced in the base" in caplog.text
    assert sandbox.ov.read(sandbox.ino("f"), 4096, 4) == b"ours"
    assert sandbox.attr("f").size == BIG
    sandbox.write("f", b"more", 0)
    assert sandbox.ov.read(sandbox.ino("f"), 0, 4) == b"more"
    swap_back(sandbox)
    assert sandbox.read("f")[4:] == before["f"][-1][4:]  # type: ignore[index]


@pytest.mark.logs("was replaced in the base after a part of it was written here")
def test_same_size_and_mtime(sandbox: OverlaySandbox) -> None:
    """Another version with the same size and mtime is recognised by samples of its bytes."""
    sandbox.put("f", b"o" * BIG)
    sandbox.write("f", b"ours", 4096)

    def change(base: Path) -> None:
        (base / "f").write_bytes(b"n" * BIG)
        os.utime(base / "f", ns=(PAST, PAST))

    swap(sandbox, change)
    with pytest.raises(OSError, match="Input/output error"):
        sandbox.ov.read(sandbox.ino("f"), 0, 100)


@pytest.mark.logs("was replaced in the base after a part of it was written here")
def test_part_of_what_is_gone(sandbox: OverlaySandbox) -> None:
    """A partly written file whose base file is gone shows, and can be written, truncated and removed."""
    sandbox.put("f", b"o" * BIG)
    sandbox.write("f", b"ours", 4096)
    sandbox.put("cut", b"c" * BIG)
    sandbox.set("cut", size=BIG - 1)
    swap(sandbox, lambda base: [(base / "f").unlink(), (base / "cut").unlink()])
    assert sandbox.names() == ["cut", "f"]
    for name in ("f", "cut"):
        with pytest.raises(OSError, match="Input/output error"):
            sandbox.read(name)
    sandbox.set("f", size=0)
    sandbox.write("f", b"all ours")
    assert sandbox.read("f") == b"all ours"
    sandbox.unlink("cut")
    assert sandbox.names() == ["f"]


# -- names


def test_renamed(sandbox: OverlaySandbox) -> None:
    """A renamed file shows bytes and attributes of the new base at its new name, and does not show if it is gone."""
    for name in ("same", "changed", "gone", "d/sub/deep"):
        sandbox.put(name, b"old")
    for name in ("same", "changed", "gone"):
        sandbox.rename(name, name.upper())
    sandbox.rename("d", "D")
    sandbox.create("mine")
    before = tree(sandbox)

    def change(base: Path) -> None:
        rewrite(base, "changed", b"newer")
        (base / "changed").chmod(0o600)
        (base / "gone").unlink()
        shutil.rmtree(base / "d")

    swap(sandbox, change)
    assert sandbox.names() == ["CHANGED", "SAME", "mine"]
    assert (sandbox.read("CHANGED"), stat.S_IMODE(sandbox.attr("CHANGED").mode)) == (b"newer", 0o600)
    swap_back(sandbox)
    assert tree(sandbox) == before


def test_link_of_what_is_gone(sandbox: OverlaySandbox) -> None:
    """A new hard link to a base file that is gone does not show, and the names beside it do."""
    sandbox.put("f")
    sandbox.put("g")
    sandbox.link("f", "link")
    before = tree(sandbox)
    swap(sandbox, lambda base: (base / "f").unlink())
    assert sandbox.names() == ["g"]
    sandbox.create("link", b"taken")  # the user settles it
    assert sandbox.read("link") == b"taken"
    assert sandbox.ov.check() == []
    sandbox.unlink("link")
    assert sandbox.names() == ["g"]
    swap_back(sandbox)
    assert set(sandbox.names()) == {"f", "g"}
    assert before.keys() == {"f", "g", "link"}


def test_name_that_the_new_base_has_too(sandbox: OverlaySandbox) -> None:
    """A created name hides a new base object of the same name; after its removal the name is free."""
    sandbox.mkdir("d")
    sandbox.create("f", b"ours")
    sandbox.put("e/x")
    sandbox.rename("e", "moved")

    def change(base: Path) -> None:
        (base / "f").write_bytes(b"base")
        (base / "d").mkdir()
        (base / "d" / "x").touch()
        (base / "moved").touch()

    swap(sandbox, change)
    assert sandbox.names() == ["d", "f", "moved"]
    assert (sandbox.read("f"), sandbox.names("d"), sandbox.names("moved")) == (b"ours", [], ["x"])
    sandbox.unlink("f")
    sandbox.rmdir("d")
    sandbox.rename("moved", "e")
    assert sandbox.names() == ["e"]
    sandbox.reopen()
    assert sandbox.names() == ["e"]
    assert sandbox.ov.check() == []


def test_deleted(sandbox: OverlaySandbox) -> None:
    """A whiteout hides the new version of a base file too, and does nothing if the file is gone."""
    sandbox.put("f")
    sandbox.put("g")
    sandbox.unlink("f")
    sandbox.unlink("g")
    swap(sandbox, lambda base: [rewrite(base, "f", b"newer"), (base / "g").unlink()])
    assert sandbox.names() == []
    sandbox.create("g")
    assert sandbox.names() == ["g"]


# -- directories


def test_directory_of_another_kind(sandbox: OverlaySandbox) -> None:
    """Objects created in a base directory show, also if the new base has a file or nothing at its path."""
    for name in "def":
        sandbox.put(f"{name}/base")
    sandbox.put("f/deep/er/base")
    (sandbox.base / "f").chmod(0o700)
    for name, kind in (("d", "file"), ("e", "link"), ("f", "none")):
        sandbox.create(f"{name}/mine", kind.encode())
    sandbox.create("f/deep/er/mine", b"deep")
    before = tree(sandbox)

    def change(base: Path) -> None:
        for name in "def":
            shutil.rmtree(base / name)
        (base / "d").write_bytes(b"a file")
        (base / "e").symlink_to("d")

    swap(sandbox, change)
    assert sandbox.names() == ["d", "e", "f"]
    for name, kind in (("d", "file"), ("e", "link")):
        assert sandbox.names(name) == ["mine"]
        assert sandbox.read(f"{name}/mine") == kind.encode()
    assert sandbox.names("f") == ["deep", "mine"]
    assert stat.S_IMODE(sandbox.attr("f").mode) == 0o700
    assert sandbox.read("f/deep/er/mine") == b"deep"
    sandbox.create("f/deep/another")
    sandbox.unlink("d/mine")
    sandbox.rmdir("d")
    assert sandbox.names() == ["e", "f"]
    assert sandbox.ov.check() == []
    sandbox.unlink("f/deep/another")
    swap_back(sandbox)
    assert {key: value for key, value in tree(sandbox).items() if key[0] == "f"} == {
        key: value for key, value in before.items() if key[0] == "f"
    }
    assert sandbox.names() == ["e", "f"]


def test_marked_directory_that_is_gone(sandbox: OverlaySandbox) -> None:
    """A directory that is gone from the base and has no row shows with its old mode and owner."""
    sandbox.put("secret/f", b"old")
    (sandbox.base / "secret").chmod(0o710)
    os.chown(sandbox.base / "secret", 5, 6)
    sandbox.write("secret/f", b"ours")
    swap(sandbox, lambda base: shutil.rmtree(base / "secret"))
    attr = sandbox.attr("secret")
    assert (stat.S_IMODE(attr.mode), attr.uid, attr.gid) == (0o710, 5, 6)
    assert sandbox.read("secret/f") == b"ours"


def test_another_kind_in_the_place_of_little(sandbox: OverlaySandbox) -> None:
    """If the overlay holds attributes only, a new base object of another type shows, and can be changed."""
    sandbox.put("f", b"old")
    sandbox.put("d/sub/x")
    sandbox.set("f", mode=0o600)
    sandbox.set("d/sub/x", mode=0o600)
    sandbox.set("d", mode=0o700)

    def change(base: Path) -> None:
        (base / "f").unlink()
        (base / "f").mkdir()
        (base / "f" / "in").write_bytes(b"in")
        shutil.rmtree(base / "d")
        (base / "d").write_bytes(b"file")

    swap(sandbox, change)
    assert (sandbox.names(), sandbox.names("f"), sandbox.read("d")) == (["d", "f"], ["in"], b"file")
    sandbox.create("f/mine")
    sandbox.write("d", b"ours")
    sandbox.reopen()
    assert (sandbox.names(), sandbox.names("f"), sandbox.read("d")) == (["d", "f"], ["in", "mine"], b"ours")
    sandbox.unlink("d")
    assert sandbox.ov.check() == []
    assert sandbox.names() == ["f"]


# -- numbers


def test_numbers_taken_by_others(sandbox: OverlaySandbox) -> None:
    """An inode number of a file in the overlay may be another file's in the new base: both files stay apart."""
    sandbox.put("a", b"first")
    sandbox.put("b", b"second")
    sandbox.write("a", b"ours!")
    sandbox.close()
    a, b = sandbox.base / "a", sandbox.base / "b"
    c = sandbox.base / "c"
    a.rename(c)  # the same inode number, another path
    b.unlink()
    c.write_bytes(b"other")
    assert sandbox.names() == ["a", "c"]
    assert (sandbox.read("a"), sandbox.read("c")) == (b"ours!", b"other")
    assert sandbox.ino("a") != sandbox.ino("c")
    sandbox.write("c", b"wrote")
    assert (sandbox.read("a"), sandbox.read("c")) == (b"ours!", b"wrote")
    number = sandbox.ino("c")
    sandbox.reopen()
    assert sandbox.ino("c") == number
    assert (sandbox.read("a"), sandbox.read("c")) == (b"ours!", b"wrote")
    assert sandbox.ov.check() == []


def test_link_counts_follow(sandbox: OverlaySandbox) -> None:
    """A base file with more names in the new base keeps its row until the last name is removed."""
    sandbox.put("f", b"old")
    sandbox.rename("f", "g")
    sandbox.close()
    os.link(sandbox.base / "f", sandbox.base / "f2")
    assert sandbox.attr("g").nlink == 2
    sandbox.unlink("f2")
    assert (sandbox.names(), sandbox.attr("g").nlink) == (["g"], 1)
    assert sandbox.ov.check() == []


# -- copy_up=whole


def test_whole_files(sandbox: OverlaySandbox) -> None:
    """With ``whole`` no file depends on two versions of the base, however it was changed."""
    names = ("write", "cut", "grow", "punch")
    data = os.urandom(BIG)
    for name in names:
        sandbox.put(name, data)
    sandbox.ov.content.copy_up.whole = True
    sandbox.write("write", b"ours", 4096)
    sandbox.set("cut", size=150_000)
    sandbox.set("grow", size=BIG + 1)
    sandbox.ov.ranges.fallocate(sandbox.ino("punch"), 3, 0, 4096)
    before = tree(sandbox)
    swap(sandbox, lambda base: [(base / name).unlink() for name in names])
    assert tree(sandbox) == before
    assert sandbox.read("write") == data[:4096] + b"ours" + data[4100:]


def test_completing_later(sandbox: OverlaySandbox) -> None:
    """With ``whole`` the next write completes a file that was partly written without it."""
    data = os.urandom(BIG)
    sandbox.put("f", data)
    sandbox.write("f", b"ours", 4096)
    sandbox.ov.content.copy_up.whole = True
    sandbox.write("f", b"more", 150_000)
    swap(sandbox, lambda base: (base / "f").unlink())
    assert sandbox.read("f") == data[:4096] + b"ours" + data[4100:150_000] + b"more" + data[150_004:]


# -- one bad object


@pytest.mark.logs("bytes of /d/a", "bytes of /d/b")
def test_lost_content_objects(sandbox: OverlaySandbox, caplog: pytest.LogCaptureFixture) -> None:
    """Reading a file whose content object is missing gives EIO; its directory and other files are not affected."""
    sandbox.mkdir("d")
    for name in ("d/a", "d/b", "d/c"):
        sandbox.create(name, b"x" * BIG)
    sandbox.close()
    lost = sorted((sandbox.sto / "content").glob("*/*"))
    lost[0].unlink()
    lost[1].unlink()
    assert sandbox.names("d") == ["a", "b", "c"]
    with pytest.raises(OSError, match="Input/output error"):
        sandbox.read("d/a")
    assert "d/a" in caplog.text
    with pytest.raises(OSError, match="Input/output error"):
        sandbox.write("d/a", b"no", 10)
    assert sandbox.read("d/c") == b"x" * BIG
    sandbox.rename("d/c", "d/a")
    sandbox.unlink("d/b")
    sandbox.unlink("d/a")
    sandbox.rmdir("d")
    sandbox.reopen()
    assert sandbox.names() == []


# -- what random bases found


def test_link_where_a_directory_was(sandbox: OverlaySandbox) -> None:
    """An overlay can be mounted over a base in which a symlink has replaced a directory."""
    sandbox.put("d/e/f", b"old")
    sandbox.set("d/e/f", mode=0o640)
    sandbox.put("other/e/f")

    def change(base: Path) -> None:
        shutil.rmtree(base / "d")
        (base / "d").symlink_to("other")

    swap(sandbox, change)
    assert sandbox.names() == ["d", "other"]
    assert stat.S_ISLNK(sandbox.attr("d").mode)


@pytest.mark.logs("operations of a killed daemon were replayed")
def test_replaced_after_a_kill(sandbox: OverlaySandbox, tmp_path: Path) -> None:
    """A replaced base is recognised also if only the replayed redo log has rows that show it."""
    sandbox.put("a", b"old")
    os.link(sandbox.base / "a", sandbox.base / "b")
    redo = tmp_path / "redo"
    redo.mkdir()
    sandbox.open(redo_directory=str(redo))
    sandbox.set("a", mode=0o640)
    sandbox.kill()
    (sandbox.base / "b").unlink()
    (sandbox.base / "a").rename(sandbox.base / "old")
    subprocess_copy(sandbox.base / "old", sandbox.base / "a")
    os.link(sandbox.base / "a", sandbox.base / "b")
    sandbox.open(redo_directory=str(redo))
    assert [stat.S_IMODE(sandbox.attr(name).mode) for name in "ab"] == [0o640, 0o640]
    assert sandbox.ino("a") == sandbox.ino("b")


def test_links_of_what_took_the_place(sandbox: OverlaySandbox) -> None:
    """An object of another type at a file's path keeps its own inode number and its other links."""
    sandbox.put("f", b"old")
    sandbox.put("g", b"old")
    sandbox.write("f", b"ours!")
    sandbox.set("g", mode=0o640)

    def change(base: Path) -> None:
        for name in ("f", "g"):
            (base / name).unlink()
            os.mkfifo(base / name)
            os.link(base / name, base / (name + "2"))

    swap(sandbox, change)
    for _ in range(2):
        assert sandbox.read("f") == b"ours!"
        assert [stat.S_ISFIFO(sandbox.attr(name).mode) for name in ("f2", "g", "g2")] == [True] * 3
        assert sandbox.ino("g") == sandbox.ino("g2")
        assert sandbox.ov.check() == []
        sandbox.reopen()


def test_two_files_that_became_links(sandbox: OverlaySandbox) -> None:
    """Two files that the new base has made hard links keep their own content; a third link follows the first file."""
    sandbox.put("a", b"a")
    sandbox.put("b", b"b")
    sandbox.write("a", b"ours a")
    sandbox.write("b", b"ours b")

    def change(base: Path) -> None:
        (base / "b").unlink()
        os.link(base / "a", base / "b")
        os.link(base / "a", base / "c")

    swap(sandbox, change)
    for _ in range(3):
        assert [sandbox.read(name) for name in "abc"] == [b"ours a", b"ours b", b"ours a"]
        sandbox.reopen()


def test_link_counts_after_other_bases(sandbox: OverlaySandbox) -> None:
    """A file keeps its row while any name leads to it, however the links in the base change."""
    sandbox.put("a", b"old")
    os.link(sandbox.base / "a", sandbox.base / "b")
    assert sandbox.ino("a") == sandbox.ino("b")
    sandbox.rename("b", "moved")
    sandbox.write("moved", b"ours!")
    swap(sandbox, lambda base: [(base / "b").unlink(), os.link(base / "a", base / "c")])
    assert sandbox.names() == ["a", "c", "moved"]
    sandbox.unlink("a")
    sandbox.unlink("c")
    assert sandbox.read("moved") == b"ours!"
    assert sandbox.ov.check() == []
    sandbox.unlink("moved")
    assert sandbox.names() == []
    assert sandbox.ov.check() == []


def test_unlinking_what_took_a_directory(sandbox: OverlaySandbox) -> None:
    """Unlinking a base file that has replaced a directory deletes the rows of objects in that directory."""
    sandbox.put("d/e/f", b"old")
    sandbox.put("d/e/g", b"old")
    sandbox.set("d/e/f", mode=0o640)
    sandbox.unlink("d/e/g")

    def change(base: Path) -> None:
        shutil.rmtree(base / "d")
        (base / "d").touch()

    swap(sandbox, change)
    sandbox.unlink("d")
    assert sandbox.names() == []
    assert sandbox.ov.check() == []
    assert sandbox.rows("origin") == 1  # the root's


def test_changing_what_took_a_linked_place(sandbox: OverlaySandbox) -> None:
    """A new link to a base file is removed when an object of another type has its path and is changed."""
    sandbox.put("f", b"old")
    sandbox.link("f", "link")

    def change(base: Path) -> None:
        (base / "f").unlink()
        (base / "f").mkdir()

    swap(sandbox, change)
    sandbox.create("f/mine")
    assert sandbox.ov.check() == []
    assert (sandbox.names(), sandbox.names("f")) == (["f"], ["mine"])


def test_removing_a_directory_with_an_open_file(sandbox: OverlaySandbox) -> None:
    """An open file in a removed directory is deleted when it is forgotten, and not before."""
    sandbox.put("d/f", b"o" * BIG)
    sandbox.write("d/f", b"ours", 4096)
    swap(sandbox, lambda base: shutil.rmtree(base / "d"))
    ino = sandbox.ino("d/f")
    sandbox.ov.unlink(*sandbox.split("d/f"))
    sandbox.rmdir("d")
    assert sandbox.ov.check() == []
    assert sandbox.ov.read(ino, 4096, 4) == b"ours"
    sandbox.ov.forget([ino])
    assert sandbox.ov.check() == []


def test_what_a_moved_directory_holds(sandbox: OverlaySandbox) -> None:
    """Removing a directory keeps the rows of objects in a directory that was moved out of it."""
    sandbox.put("d/sub/f", b"old")
    sandbox.put("d/g", b"old")
    sandbox.set("d/sub/f", mode=0o640)
    sandbox.rename("d/sub", "sub")
    before = tree(sandbox, "sub")
    swap(sandbox, lambda base: [(base / "d" / "sub" / "f").unlink(), (base / "d" / "g").unlink()])
    assert sandbox.names("sub") == []
    sandbox.rmdir("d")
    swap_back(sandbox)
    assert tree(sandbox, "sub") == before


@pytest.mark.logs("was replaced in the base after a part of it was written here")
@pytest.mark.parametrize("size", [100, 3000, BIG])
@pytest.mark.parametrize("whole", [False, True])
def test_writing_to_what_was_cut(sandbox: OverlaySandbox, size: int, whole: bool) -> None:
    """A truncated file can be written over another version of its base file; bytes of both are never mixed."""
    sandbox.put("f", b"o" * BIG)
    sandbox.set("f", size=size - 1)
    swap(sandbox, lambda base: rewrite(base, "f", b"new"))
    sandbox.ov.content.copy_up.whole = whole
    for offset in (50, 60, BIG + 10):
        sandbox.write("f", b"ours", offset)
        assert sandbox.ov.read(sandbox.ino("f"), offset, 4) == b"ours"
    with pytest.raises(OSError, match="Input/output error"):
        sandbox.ov.read(sandbox.ino("f"), 0, 10)
    sandbox.ov.ranges.fallocate(sandbox.ino("f"), 3, 0, 10)
    assert sandbox.ov.read(sandbox.ino("f"), 0, 10) == bytes(10)
    sandbox.set("f", size=70)
    assert sandbox.ov.check() == []
    swap_back(sandbox)
    assert sandbox.read("f") == bytes(10) + b"o" * 40 + b"ours" + b"o" * 6 + b"ours" + b"o" * 6


@pytest.mark.parametrize("exchange", [0, RenameFlags.EXCHANGE])
@pytest.mark.parametrize("moved", [False, True])
def test_renaming_to_a_name_of_the_gone(sandbox: OverlaySandbox, exchange: int, moved: bool) -> None:
    """A name of a file that is gone shows the new base's object; a rename over it removes the old row."""
    sandbox.put("f")
    sandbox.put("g")
    (sandbox.rename if moved else sandbox.link)("f", "name")
    sandbox.link("g", "other")

    def change(base: Path) -> None:
        (base / "f").unlink()
        (base / "name").write_bytes(b"base's")

    swap(sandbox, change)
    sandbox.rename("other", "name", exchange)
    for _ in range(2):
        assert sandbox.read("name") == b"base"
        assert not exchange or sandbox.read("other") == b"base's"
        assert sandbox.ov.check() == []
        sandbox.reopen()
    sandbox.unlink("name")
    assert sandbox.names() == (["g", "other"] if exchange else ["g"])


def test_taking_the_name_of_a_gone_directory(sandbox: OverlaySandbox) -> None:
    """The link count of a created directory counts its subdirectories, also those that do not show."""
    sandbox.mkdir("ours")
    sandbox.put("d/f")
    sandbox.rename("d", "ours/name")
    swap(sandbox, lambda base: shutil.rmtree(base / "d"))
    assert sandbox.names("ours") == []
    sandbox.mkdir("ours/name")
    assert sandbox.attr("ours").nlink == 3
    assert sandbox.ov.check() == []


@pytest.mark.logs("was replaced in the base after a part of it was written here")
def test_cutting_to_the_old_size(sandbox: OverlaySandbox) -> None:
    """A file that was extended, and is truncated to its old size after its base file is gone, still shows."""
    sandbox.put("f", b"o" * BIG)
    sandbox.put("none", b"")
    sandbox.set("none", size=10)
    sandbox.set("f", size=BIG + 10)
    swap(sandbox, lambda base: [(base / "f").unlink(), (base / "none").unlink()])
    sandbox.set("f", size=BIG)
    sandbox.set("none", size=0)
    for _ in range(2):
        assert sandbox.attr("none").size == 0
        assert sandbox.attr("f").size == BIG
        with pytest.raises(OSError, match="Input/output error"):
            sandbox.read("f")
        sandbox.reopen()
    swap_back(sandbox)
    assert sandbox.read("f") == b"o" * BIG


def test_removing_what_covers_the_base(sandbox: OverlaySandbox) -> None:
    """Removing a created name also deletes the rows of the base object below it, which came back with its base."""
    sandbox.put("f")
    sandbox.put("d/x")
    sandbox.set("f", mode=0o640)
    sandbox.set("d/x", mode=0o640)
    swap(sandbox, lambda base: [(base / "f").unlink(), shutil.rmtree(base / "d")])
    sandbox.create("f")
    sandbox.create("d")
    swap_back(sandbox)
    sandbox.unlink("f")
    sandbox.unlink("d")
    assert sandbox.names() == []
    assert sandbox.rows("origin") == 1  # the root's
    assert sandbox.ov.check() == []


def test_changing_what_is_below_a_new_directory(sandbox: OverlaySandbox) -> None:
    """A file in a directory that has replaced a file keeps its changes; the rows of the replaced file are deleted."""
    sandbox.put("d", b"file")
    sandbox.set("d", mode=0o640)

    def change(base: Path) -> None:
        (base / "d").unlink()
        (base / "d").mkdir()
        (base / "d" / "x").write_bytes(b"x")

    swap(sandbox, change)
    sandbox.set("d/x", mode=0o600)
    sandbox.reopen()
    assert stat.S_IMODE(sandbox.attr("d/x").mode) == 0o600
    assert sandbox.ov.check() == []


def test_removing_a_directory_whose_file_had_other_links(sandbox: OverlaySandbox) -> None:
    """Removing all names of a file that had other links in the old base leaves no content without a row."""
    sandbox.put("d/f", b"old")
    os.link(sandbox.base / "d" / "f", sandbox.base / "g")
    assert sandbox.ino("d/f") == sandbox.ino("g")
    sandbox.write("d/f", b"o" * BIG)
    swap(sandbox, lambda base: [shutil.rmtree(base / "d"), (base / "g").unlink()])
    for path in ("d/f", "g"):
        if sandbox.find(path):
            sandbox.unlink(path)
    if sandbox.find("d"):
        sandbox.rmdir("d")
    sandbox.reopen()
    assert sandbox.names() == []
    assert sandbox.ov.check() == []
    assert sandbox.rows("inode") > 1 or sandbox.objects() == {}


def test_exchanging_what_became_links(sandbox: OverlaySandbox) -> None:
    """Two files that the new base has made hard links can be exchanged."""
    sandbox.put("a", b"a")
    sandbox.put("b", b"b")
    sandbox.write("a", b"ours a")
    sandbox.write("b", b"ours b")
    swap(sandbox, lambda base: [(base / "b").unlink(), os.link(base / "a", base / "b")])
    sandbox.rename("a", "b", RenameFlags.EXCHANGE)
    for _ in range(2):
        assert [sandbox.read(name) for name in "ab"] == [b"ours b", b"ours a"]
        assert sandbox.ov.check() == []
        sandbox.reopen()


def test_two_gone_that_had_one_number(sandbox: OverlaySandbox) -> None:
    """Objects that two earlier bases had under the same inode number are kept apart."""
    sandbox.put("a", b"old")
    sandbox.set("a", mode=0o640)
    sandbox.close()
    (sandbox.base / "a").rename(sandbox.base / "b")
    sandbox.set("b", mode=0o600)
    sandbox.close()
    (sandbox.base / "b").unlink()
    assert sandbox.names() == []
    assert sandbox.rows("origin") == 3
    sandbox.close()
    sandbox.put("a")
    sandbox.put("b")
    assert [stat.S_IMODE(sandbox.attr(name).mode) for name in "ab"] == [0o640, 0o600]
