"""A base that is another one: what shows of each kind of change, over a base object that changed or is gone.

Whatever shows over the new base, the old one shows the old tree again when it is back.
"""

from __future__ import annotations

import logging
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from lab import PAST, Lab

from minifo.engine import RenameFlags
from minifo.engine.recovery import BaseCheck

BIG = 200_000  # bytes; more than is copied whole
_BACK = "kept"


@pytest.fixture(autouse=True)
def any_base(lab: Lab) -> None:
    """Mounts whatever base there is; how a likely wrong one is refused is in test_anchor.py."""
    lab.base_check = BaseCheck.IGNORE


def swap(lab: Lab, change: Callable[[Path], object]) -> None:
    """Close the overlay, and put a changed copy of the base in its place; the old one is kept."""
    lab.close()
    kept = lab.base.with_name(_BACK)
    subprocess_copy(lab.base, kept)
    new = lab.base.with_name("new")
    subprocess_copy(lab.base, new)
    shutil.rmtree(lab.base)
    new.rename(lab.base)
    change(lab.base)


def swap_back(lab: Lab) -> None:
    """Close the overlay, and put the old base back."""
    lab.close()
    shutil.rmtree(lab.base)
    lab.base.with_name(_BACK).rename(lab.base)


def subprocess_copy(source: Path, target: Path) -> None:
    """A copy with hard links, times and owners as they are."""
    assert os.spawnlp(os.P_WAIT, "cp", "cp", "-a", str(source), str(target)) == 0


def tree(lab: Lab, path: str = "") -> dict[str, object]:
    """All that shows: types, attributes and bytes by path; what cannot be read is its errno."""
    seen: dict[str, object] = {}
    for name in lab.names(path):
        place = os.path.join(path, name)
        attr = lab.attr(place)
        facts: tuple[object, ...] = (attr.mode, attr.uid, attr.gid, attr.nlink)
        if stat.S_ISDIR(attr.mode):
            seen[place] = facts
            seen |= tree(lab, place)
        elif stat.S_ISREG(attr.mode):
            try:
                seen[place] = (*facts, attr.size, attr.mtime, lab.read(place))
            except OSError as error:
                seen[place] = (*facts, attr.size, error.errno)
        else:
            seen[place] = facts
    assert lab.ov.check() == []
    return seen


def rewrite(base: Path, name: str, data: bytes) -> None:
    """Give a base file other bytes, by a new file in its place; its mtime moves on by a second."""
    path = base / name
    old = path.stat()
    path.unlink()
    path.write_bytes(data)
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns + 10**9))


# -- attributes only


def test_attributes_over_new_bytes(lab: Lab) -> None:
    """chmod keeps the mode, and the bytes, size and mtime are those of the new base."""
    lab.put("f", b"old")
    lab.set("f", mode=0o640)
    before = tree(lab)
    swap(lab, lambda base: rewrite(base, "f", b"newer bytes"))
    assert stat.S_IMODE(lab.attr("f").mode) == 0o640
    assert (lab.attr("f").size, lab.attr("f").mtime, lab.read("f")) == (11, PAST + 10**9, b"newer bytes")
    lab.set("f", uid=7)  # the row is saved over the new base
    lab.reopen()
    assert (lab.attr("f").size, lab.attr("f").uid, lab.read("f")) == (11, 7, b"newer bytes")
    lab.set("f", uid=0)
    swap_back(lab)
    assert tree(lab) == before


def test_mtime_that_was_set_stays(lab: Lab) -> None:
    """utimens is an attribute of ours; it does not follow the base."""
    lab.put("f", b"old")
    lab.set("f", mtime=12345)
    swap(lab, lambda base: rewrite(base, "f", b"newer"))
    assert (lab.attr("f").mtime, lab.read("f")) == (12345, b"newer")


def test_attributes_of_what_is_gone(lab: Lab) -> None:
    """A file of which the overlay has attributes only does not show, and is there again with the old base."""
    lab.put("d/f")
    lab.put("d/g")
    lab.set("d/f", mode=0o640)
    before = tree(lab)
    swap(lab, lambda base: (base / "d" / "f").unlink())
    assert lab.names("d") == ["g"]
    assert lab.find("d/f") is None
    swap_back(lab)
    assert tree(lab) == before


def test_removing_what_holds_the_gone(lab: Lab) -> None:
    """A directory goes with what does not show in it."""
    lab.put("d/f")
    lab.set("d/f", mode=0o640)
    swap(lab, lambda base: (base / "d" / "f").unlink())
    lab.rmdir("d")
    assert lab.names() == []
    assert lab.ov.check() == []
    lab.reopen()
    assert lab.names() == []
    assert lab.rows("inode") == 1  # the root's, whose times moved


# -- bytes of our own


def test_whole_content(lab: Lab) -> None:
    """What was written as a whole is ours, whatever the base has there now."""
    for name in ("changed", "gone", "d/gone", "kind"):
        lab.put(name, b"old")
        os.setxattr(lab.base / name, "user.colour", b"blue")
        lab.write(name, b"ours, and longer")
    lab.set("gone", uid=5, mode=0o600)
    lab.link("gone", "link")
    before = tree(lab)

    def change(base: Path) -> None:
        rewrite(base, "changed", b"the base's")
        shutil.rmtree(base / "d")
        (base / "gone").unlink()
        (base / "kind").unlink()
        (base / "kind").mkdir()

    swap(lab, change)
    assert tree(lab) == before
    assert lab.ov.getxattr(lab.ino("gone"), b"user.colour") == b"blue"
    assert lab.attr("link").nlink == 2
    lab.reopen()
    assert tree(lab) == before
    swap_back(lab)
    assert tree(lab) == before


def test_removing_what_stands_by_itself(lab: Lab) -> None:
    """What shows although its base object is gone can be removed and renamed, and stays so with the old base."""
    for name in ("f", "g", "d/h"):
        lab.put(name, b"old")
        lab.write(name, b"ours!")
    swap(lab, lambda base: [shutil.rmtree(base / "d"), (base / "f").unlink(), (base / "g").unlink()])
    lab.unlink("f")
    lab.rename("g", "moved")
    held = lab.ino("d/h")
    lab.ov.unlink(lab.ino("d"), b"h")  # somebody has it open
    assert lab.names() == ["d", "moved"]
    lab.rmdir("d")
    assert lab.ov.check() == []
    assert lab.ov.read(held, 0, 9) == b"ours!"
    lab.ov.forget([held])
    assert (lab.names(), lab.read("moved")) == (["moved"], b"ours!")
    assert lab.ov.check() == []
    swap_back(lab)
    assert (lab.names(), lab.read("moved")) == (["moved"], b"ours!")


def test_kept_directory_stays(lab: Lab) -> None:
    """A directory that was worked in over a base without it is there at the next mount, though it is empty."""
    lab.put("d/f")
    lab.create("d/mine")
    swap(lab, lambda base: shutil.rmtree(base / "d"))
    lab.unlink("d/mine")
    assert lab.names() == ["d"]
    lab.reopen()
    assert (lab.names(), lab.names("d")) == (["d"], [])


# -- some bytes of our own


@pytest.mark.parametrize("same_size", [False, True])
def test_no_mixture_of_versions(lab: Lab, same_size: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Of a file that was written in part only those bytes can be read while the base has another version."""
    lab.put("f", b"o" * BIG)
    lab.write("f", b"ours", 4096)
    before = tree(lab)
    swap(lab, lambda base: rewrite(base, "f", b"n" * (BIG if same_size else BIG + 1)))
    with caplog.at_level(logging.WARNING), pytest.raises(OSError, match="Input/output error"):
        lab.ov.read(lab.ino("f"), 0, 100)
    assert "/f was replaced in the base" in caplog.text
    assert lab.ov.read(lab.ino("f"), 4096, 4) == b"ours"
    assert lab.attr("f").size == BIG
    lab.write("f", b"more", 0)
    assert lab.ov.read(lab.ino("f"), 0, 4) == b"more"
    swap_back(lab)
    assert lab.read("f")[4:] == before["f"][-1][4:]  # type: ignore[index]


def test_same_size_and_mtime(lab: Lab) -> None:
    """Images whose files all have one mtime: another version is told by samples of its bytes."""
    lab.put("f", b"o" * BIG)
    lab.write("f", b"ours", 4096)

    def change(base: Path) -> None:
        (base / "f").write_bytes(b"n" * BIG)
        os.utime(base / "f", ns=(PAST, PAST))

    swap(lab, change)
    with pytest.raises(OSError, match="Input/output error"):
        lab.ov.read(lab.ino("f"), 0, 100)


def test_part_of_what_is_gone(lab: Lab) -> None:
    """It shows, with the bytes that were written; writing and cutting go on."""
    lab.put("f", b"o" * BIG)
    lab.write("f", b"ours", 4096)
    lab.put("cut", b"c" * BIG)
    lab.set("cut", size=BIG - 1)
    swap(lab, lambda base: [(base / "f").unlink(), (base / "cut").unlink()])
    assert lab.names() == ["cut", "f"]
    for name in ("f", "cut"):
        with pytest.raises(OSError, match="Input/output error"):
            lab.read(name)
    lab.set("f", size=0)
    lab.write("f", b"all ours")
    assert lab.read("f") == b"all ours"
    lab.unlink("cut")
    assert lab.names() == ["f"]


# -- names


def test_renamed(lab: Lab) -> None:
    """At the new name with the new bytes and attributes; gone, it does not show, and its neighbours do."""
    for name in ("same", "changed", "gone", "d/sub/deep"):
        lab.put(name, b"old")
    for name in ("same", "changed", "gone"):
        lab.rename(name, name.upper())
    lab.rename("d", "D")
    lab.create("mine")
    before = tree(lab)

    def change(base: Path) -> None:
        rewrite(base, "changed", b"newer")
        (base / "changed").chmod(0o600)
        (base / "gone").unlink()
        shutil.rmtree(base / "d")

    swap(lab, change)
    assert lab.names() == ["CHANGED", "SAME", "mine"]
    assert (lab.read("CHANGED"), stat.S_IMODE(lab.attr("CHANGED").mode)) == (b"newer", 0o600)
    swap_back(lab)
    assert tree(lab) == before


def test_link_of_what_is_gone(lab: Lab) -> None:
    """A new hard link of a base file that is gone does not show, and hides nothing beside it."""
    lab.put("f")
    lab.put("g")
    lab.link("f", "link")
    before = tree(lab)
    swap(lab, lambda base: (base / "f").unlink())
    assert lab.names() == ["g"]
    lab.create("link", b"taken")  # the user settles it
    assert lab.read("link") == b"taken"
    assert lab.ov.check() == []
    lab.unlink("link")
    assert lab.names() == ["g"]
    swap_back(lab)
    assert set(lab.names()) == {"f", "g"}
    assert before.keys() == {"f", "g", "link"}


def test_name_that_the_new_base_has_too(lab: Lab) -> None:
    """A name made here wins; to remove it removes it."""
    lab.mkdir("d")
    lab.create("f", b"ours")
    lab.put("e/x")
    lab.rename("e", "moved")

    def change(base: Path) -> None:
        (base / "f").write_bytes(b"base")
        (base / "d").mkdir()
        (base / "d" / "x").touch()
        (base / "moved").touch()

    swap(lab, change)
    assert lab.names() == ["d", "f", "moved"]
    assert (lab.read("f"), lab.names("d"), lab.names("moved")) == (b"ours", [], ["x"])
    lab.unlink("f")
    lab.rmdir("d")
    lab.rename("moved", "e")
    assert lab.names() == ["e"]
    lab.reopen()
    assert lab.names() == ["e"]
    assert lab.ov.check() == []


def test_deleted(lab: Lab) -> None:
    """A whiteout hides the new version as well, and nothing where the base has nothing."""
    lab.put("f")
    lab.put("g")
    lab.unlink("f")
    lab.unlink("g")
    swap(lab, lambda base: [rewrite(base, "f", b"newer"), (base / "g").unlink()])
    assert lab.names() == []
    lab.create("g")
    assert lab.names() == ["g"]


# -- directories


def test_directory_of_another_kind(lab: Lab) -> None:
    """What is made in a directory shows, whatever the base has in the directory's place."""
    for name in "def":
        lab.put(f"{name}/base")
    lab.put("f/deep/er/base")
    (lab.base / "f").chmod(0o700)
    for name, kind in (("d", "file"), ("e", "link"), ("f", "none")):
        lab.create(f"{name}/mine", kind.encode())
    lab.create("f/deep/er/mine", b"deep")
    before = tree(lab)

    def change(base: Path) -> None:
        for name in "def":
            shutil.rmtree(base / name)
        (base / "d").write_bytes(b"a file")
        (base / "e").symlink_to("d")

    swap(lab, change)
    assert lab.names() == ["d", "e", "f"]
    for name, kind in (("d", "file"), ("e", "link")):
        assert lab.names(name) == ["mine"]
        assert lab.read(f"{name}/mine") == kind.encode()
    assert lab.names("f") == ["deep", "mine"]
    assert stat.S_IMODE(lab.attr("f").mode) == 0o700
    assert lab.read("f/deep/er/mine") == b"deep"
    lab.create("f/deep/another")
    lab.unlink("d/mine")
    lab.rmdir("d")
    assert lab.names() == ["e", "f"]
    assert lab.ov.check() == []
    lab.unlink("f/deep/another")
    swap_back(lab)
    assert {key: value for key, value in tree(lab).items() if key[0] == "f"} == {
        key: value for key, value in before.items() if key[0] == "f"
    }
    assert lab.names() == ["e", "f"]


def test_marked_directory_that_is_gone(lab: Lab) -> None:
    """A directory without a row of its own shows with the mode it had, never wider."""
    lab.put("secret/f", b"old")
    (lab.base / "secret").chmod(0o710)
    os.chown(lab.base / "secret", 5, 6)
    lab.write("secret/f", b"ours")
    swap(lab, lambda base: shutil.rmtree(base / "secret"))
    attr = lab.attr("secret")
    assert (stat.S_IMODE(attr.mode), attr.uid, attr.gid) == (0o710, 5, 6)
    assert lab.read("secret/f") == b"ours"


def test_another_kind_in_the_place_of_little(lab: Lab) -> None:
    """Where the overlay holds attributes only, the new base's object shows, and can be changed."""
    lab.put("f", b"old")
    lab.put("d/sub/x")
    lab.set("f", mode=0o600)
    lab.set("d/sub/x", mode=0o600)
    lab.set("d", mode=0o700)

    def change(base: Path) -> None:
        (base / "f").unlink()
        (base / "f").mkdir()
        (base / "f" / "in").write_bytes(b"in")
        shutil.rmtree(base / "d")
        (base / "d").write_bytes(b"file")

    swap(lab, change)
    assert (lab.names(), lab.names("f"), lab.read("d")) == (["d", "f"], ["in"], b"file")
    lab.create("f/mine")
    lab.write("d", b"ours")
    lab.reopen()
    assert (lab.names(), lab.names("f"), lab.read("d")) == (["d", "f"], ["in", "mine"], b"ours")
    lab.unlink("d")
    assert lab.ov.check() == []
    assert lab.names() == ["f"]


# -- numbers


def test_numbers_taken_by_others(lab: Lab) -> None:
    """A number that stood for a file of ours may be another file's now: they are not mixed up."""
    lab.put("a", b"first")
    lab.put("b", b"second")
    lab.write("a", b"ours!")
    lab.close()
    a, b = lab.base / "a", lab.base / "b"
    c = lab.base / "c"
    a.rename(c)  # the same inode number, another path
    b.unlink()
    c.write_bytes(b"other")
    assert lab.names() == ["a", "c"]
    assert (lab.read("a"), lab.read("c")) == (b"ours!", b"other")
    assert lab.ino("a") != lab.ino("c")
    lab.write("c", b"wrote")
    assert (lab.read("a"), lab.read("c")) == (b"ours!", b"wrote")
    number = lab.ino("c")
    lab.reopen()
    assert lab.ino("c") == number
    assert (lab.read("a"), lab.read("c")) == (b"ours!", b"wrote")
    assert lab.ov.check() == []


def test_link_counts_follow(lab: Lab) -> None:
    """A base file that has more names in the new base keeps its row as long as it has any."""
    lab.put("f", b"old")
    lab.rename("f", "g")
    lab.close()
    os.link(lab.base / "f", lab.base / "f2")
    assert lab.attr("g").nlink == 2
    lab.unlink("f2")
    assert (lab.names(), lab.attr("g").nlink) == (["g"], 1)
    assert lab.ov.check() == []


# -- copy_up=whole


def test_whole_files(lab: Lab) -> None:
    """With ``whole`` no file depends on two versions, however it was changed."""
    names = ("write", "cut", "grow", "punch")
    data = os.urandom(BIG)
    for name in names:
        lab.put(name, data)
    lab.ov.content.whole = True
    lab.write("write", b"ours", 4096)
    lab.set("cut", size=150_000)
    lab.set("grow", size=BIG + 1)
    lab.ov.ranges.fallocate(lab.ino("punch"), 3, 0, 4096)
    before = tree(lab)
    swap(lab, lambda base: [(base / name).unlink() for name in names])
    assert tree(lab) == before
    assert lab.read("write") == data[:4096] + b"ours" + data[4100:]


def test_completing_later(lab: Lab) -> None:
    """A file that was written in part is completed at its next write once files are to be whole."""
    data = os.urandom(BIG)
    lab.put("f", data)
    lab.write("f", b"ours", 4096)
    lab.ov.content.whole = True
    lab.write("f", b"more", 150_000)
    swap(lab, lambda base: (base / "f").unlink())
    assert lab.read("f") == data[:4096] + b"ours" + data[4100:150_000] + b"more" + data[150_004:]


# -- one bad object


def test_lost_content_objects(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """A content object that is lost is EIO where it is read; its neighbours and its directory go on as ever."""
    lab.mkdir("d")
    for name in ("d/a", "d/b", "d/c"):
        lab.create(name, b"x" * BIG)
    lab.close()
    lost = sorted((lab.sto / "content").glob("*/*"))
    lost[0].unlink()
    lost[1].unlink()
    assert lab.names("d") == ["a", "b", "c"]
    with pytest.raises(OSError, match="Input/output error"):
        lab.read("d/a")
    assert "d/a" in caplog.text
    with pytest.raises(OSError, match="Input/output error"):
        lab.write("d/a", b"no", 10)
    assert lab.read("d/c") == b"x" * BIG
    lab.rename("d/c", "d/a")
    lab.unlink("d/b")
    lab.unlink("d/a")
    lab.rmdir("d")
    lab.reopen()
    assert lab.names() == []


# -- what random bases found


def test_link_where_a_directory_was(lab: Lab) -> None:
    """A base directory that became a symlink keeps nobody from mounting."""
    lab.put("d/e/f", b"old")
    lab.set("d/e/f", mode=0o640)
    lab.put("other/e/f")

    def change(base: Path) -> None:
        shutil.rmtree(base / "d")
        (base / "d").symlink_to("other")

    swap(lab, change)
    assert lab.names() == ["d", "other"]
    assert stat.S_ISLNK(lab.attr("d").mode)


def test_replaced_after_a_kill(lab: Lab, tmp_path: Path) -> None:
    """Numbers are looked at again when the redo log was replayed: it may hold all rows there are."""
    lab.put("a", b"old")
    os.link(lab.base / "a", lab.base / "b")
    redo = tmp_path / "redo"
    redo.mkdir()
    lab.open(redo_directory=str(redo))
    lab.set("a", mode=0o640)
    lab.kill()
    (lab.base / "b").unlink()
    (lab.base / "a").rename(lab.base / "old")
    subprocess_copy(lab.base / "old", lab.base / "a")
    os.link(lab.base / "a", lab.base / "b")
    lab.open(redo_directory=str(redo))
    assert [stat.S_IMODE(lab.attr(name).mode) for name in "ab"] == [0o640, 0o640]
    assert lab.ino("a") == lab.ino("b")


def test_links_of_what_took_the_place(lab: Lab) -> None:
    """Another kind of object in a file's place does not lend its number to the file: its other links are its own."""
    lab.put("f", b"old")
    lab.put("g", b"old")
    lab.write("f", b"ours!")
    lab.set("g", mode=0o640)

    def change(base: Path) -> None:
        for name in ("f", "g"):
            (base / name).unlink()
            os.mkfifo(base / name)
            os.link(base / name, base / (name + "2"))

    swap(lab, change)
    for _ in range(2):
        assert lab.read("f") == b"ours!"
        assert [stat.S_ISFIFO(lab.attr(name).mode) for name in ("f2", "g", "g2")] == [True] * 3
        assert lab.ino("g") == lab.ino("g2")
        assert lab.ov.check() == []
        lab.reopen()


def test_two_files_that_became_links(lab: Lab) -> None:
    """Each keeps what is held of it, and a third link goes with the first, at each mount."""
    lab.put("a", b"a")
    lab.put("b", b"b")
    lab.write("a", b"ours a")
    lab.write("b", b"ours b")

    def change(base: Path) -> None:
        (base / "b").unlink()
        os.link(base / "a", base / "b")
        os.link(base / "a", base / "c")

    swap(lab, change)
    for _ in range(3):
        assert [lab.read(name) for name in "abc"] == [b"ours a", b"ours b", b"ours a"]
        lab.reopen()


def test_link_counts_after_other_bases(lab: Lab) -> None:
    """A file keeps its row as long as a name leads to it, however many links came and went below."""
    lab.put("a", b"old")
    os.link(lab.base / "a", lab.base / "b")
    assert lab.ino("a") == lab.ino("b")
    lab.rename("b", "moved")
    lab.write("moved", b"ours!")
    swap(lab, lambda base: [(base / "b").unlink(), os.link(base / "a", base / "c")])
    assert lab.names() == ["a", "c", "moved"]
    lab.unlink("a")
    lab.unlink("c")
    assert lab.read("moved") == b"ours!"
    assert lab.ov.check() == []
    lab.unlink("moved")
    assert lab.names() == []
    assert lab.ov.check() == []


def test_unlinking_what_took_a_directory(lab: Lab) -> None:
    """With the file that shows in a directory's place goes what was held in that directory."""
    lab.put("d/e/f", b"old")
    lab.put("d/e/g", b"old")
    lab.set("d/e/f", mode=0o640)
    lab.unlink("d/e/g")

    def change(base: Path) -> None:
        shutil.rmtree(base / "d")
        (base / "d").touch()

    swap(lab, change)
    lab.unlink("d")
    assert lab.names() == []
    assert lab.ov.check() == []
    assert lab.rows("origin") == 1  # the root's


def test_changing_what_took_a_linked_place(lab: Lab) -> None:
    """A new link of a base file does not outlast it, where another kind of object shows and is changed."""
    lab.put("f", b"old")
    lab.link("f", "link")

    def change(base: Path) -> None:
        (base / "f").unlink()
        (base / "f").mkdir()

    swap(lab, change)
    lab.create("f/mine")
    assert lab.ov.check() == []
    assert (lab.names(), lab.names("f")) == (["f"], ["mine"])


def test_removing_a_directory_with_an_open_file(lab: Lab) -> None:
    """A file that is still open goes when it is forgotten, not with its directory."""
    lab.put("d/f", b"o" * BIG)
    lab.write("d/f", b"ours", 4096)
    swap(lab, lambda base: shutil.rmtree(base / "d"))
    ino = lab.ino("d/f")
    lab.ov.unlink(*lab.split("d/f"))
    lab.rmdir("d")
    assert lab.ov.check() == []
    assert lab.ov.read(ino, 4096, 4) == b"ours"
    lab.ov.forget([ino])
    assert lab.ov.check() == []


def test_what_a_moved_directory_holds(lab: Lab) -> None:
    """What is held in a directory that was moved away does not go with the directory it came from."""
    lab.put("d/sub/f", b"old")
    lab.put("d/g", b"old")
    lab.set("d/sub/f", mode=0o640)
    lab.rename("d/sub", "sub")
    before = tree(lab, "sub")
    swap(lab, lambda base: [(base / "d" / "sub" / "f").unlink(), (base / "d" / "g").unlink()])
    assert lab.names("sub") == []
    lab.rmdir("d")
    swap_back(lab)
    assert tree(lab, "sub") == before


@pytest.mark.parametrize("size", [100, 3000, BIG])
@pytest.mark.parametrize("whole", [False, True])
def test_writing_to_what_was_cut(lab: Lab, size: int, whole: bool) -> None:
    """A file that was cut, and not written, can be written over another version of it; the two are not mixed."""
    lab.put("f", b"o" * BIG)
    lab.set("f", size=size - 1)
    swap(lab, lambda base: rewrite(base, "f", b"new"))
    lab.ov.content.whole = whole
    for offset in (50, 60, BIG + 10):
        lab.write("f", b"ours", offset)
        assert lab.ov.read(lab.ino("f"), offset, 4) == b"ours"
    with pytest.raises(OSError, match="Input/output error"):
        lab.ov.read(lab.ino("f"), 0, 10)
    lab.ov.ranges.fallocate(lab.ino("f"), 3, 0, 10)
    assert lab.ov.read(lab.ino("f"), 0, 10) == bytes(10)
    lab.set("f", size=70)
    assert lab.ov.check() == []
    swap_back(lab)
    assert lab.read("f") == bytes(10) + b"o" * 40 + b"ours" + b"o" * 6 + b"ours" + b"o" * 6


@pytest.mark.parametrize("exchange", [0, RenameFlags.EXCHANGE])
@pytest.mark.parametrize("moved", [False, True])
def test_renaming_to_a_name_of_the_gone(lab: Lab, exchange: int, moved: bool) -> None:
    """A name that was given to what is gone shows the new base's object; to rename over that settles it."""
    lab.put("f")
    lab.put("g")
    (lab.rename if moved else lab.link)("f", "name")
    lab.link("g", "other")

    def change(base: Path) -> None:
        (base / "f").unlink()
        (base / "name").write_bytes(b"base's")

    swap(lab, change)
    lab.rename("other", "name", exchange)
    for _ in range(2):
        assert lab.read("name") == b"base"
        assert not exchange or lab.read("other") == b"base's"
        assert lab.ov.check() == []
        lab.reopen()
    lab.unlink("name")
    assert lab.names() == (["g", "other"] if exchange else ["g"])


def test_taking_the_name_of_a_gone_directory(lab: Lab) -> None:
    """A directory of ours has as many links as it has directories, those that do not show among them."""
    lab.mkdir("ours")
    lab.put("d/f")
    lab.rename("d", "ours/name")
    swap(lab, lambda base: shutil.rmtree(base / "d"))
    assert lab.names("ours") == []
    lab.mkdir("ours/name")
    assert lab.attr("ours").nlink == 3
    assert lab.ov.check() == []


def test_cutting_to_the_old_size(lab: Lab) -> None:
    """A file that was lengthened, and is cut to what it had in a base that is gone, is still there."""
    lab.put("f", b"o" * BIG)
    lab.put("none", b"")
    lab.set("none", size=10)
    lab.set("f", size=BIG + 10)
    swap(lab, lambda base: [(base / "f").unlink(), (base / "none").unlink()])
    lab.set("f", size=BIG)
    lab.set("none", size=0)
    for _ in range(2):
        assert lab.attr("none").size == 0
        assert lab.attr("f").size == BIG
        with pytest.raises(OSError, match="Input/output error"):
            lab.read("f")
        lab.reopen()
    swap_back(lab)
    assert lab.read("f") == b"o" * BIG


def test_removing_what_covers_the_base(lab: Lab) -> None:
    """With a name that hid a base object, which came back with a base, goes what is held of that object."""
    lab.put("f")
    lab.put("d/x")
    lab.set("f", mode=0o640)
    lab.set("d/x", mode=0o640)
    swap(lab, lambda base: [(base / "f").unlink(), shutil.rmtree(base / "d")])
    lab.create("f")
    lab.create("d")
    swap_back(lab)
    lab.unlink("f")
    lab.unlink("d")
    assert lab.names() == []
    assert lab.rows("origin") == 1  # the root's
    assert lab.ov.check() == []


def test_changing_what_is_below_a_new_directory(lab: Lab) -> None:
    """A file in a directory that took a file's place keeps what is held of it; what was held of that file goes."""
    lab.put("d", b"file")
    lab.set("d", mode=0o640)

    def change(base: Path) -> None:
        (base / "d").unlink()
        (base / "d").mkdir()
        (base / "d" / "x").write_bytes(b"x")

    swap(lab, change)
    lab.set("d/x", mode=0o600)
    lab.reopen()
    assert stat.S_IMODE(lab.attr("d/x").mode) == 0o600
    assert lab.ov.check() == []


def test_removing_a_directory_whose_file_had_other_links(lab: Lab) -> None:
    """A file keeps its row for the other links it had in a base; with its directory goes that, and its content."""
    lab.put("d/f", b"old")
    os.link(lab.base / "d" / "f", lab.base / "g")
    assert lab.ino("d/f") == lab.ino("g")
    lab.write("d/f", b"o" * BIG)
    swap(lab, lambda base: [shutil.rmtree(base / "d"), (base / "g").unlink()])
    for path in ("d/f", "g"):
        if lab.find(path):
            lab.unlink(path)
    if lab.find("d"):
        lab.rmdir("d")
    lab.reopen()
    assert lab.names() == []
    assert lab.ov.check() == []
    assert lab.rows("inode") > 1 or lab.objects() == {}


def test_exchanging_what_became_links(lab: Lab) -> None:
    """Two files that a base made links of one change places all the same."""
    lab.put("a", b"a")
    lab.put("b", b"b")
    lab.write("a", b"ours a")
    lab.write("b", b"ours b")
    swap(lab, lambda base: [(base / "b").unlink(), os.link(base / "a", base / "b")])
    lab.rename("a", "b", RenameFlags.EXCHANGE)
    for _ in range(2):
        assert [lab.read(name) for name in "ab"] == [b"ours b", b"ours a"]
        assert lab.ov.check() == []
        lab.reopen()


def test_two_gone_that_had_one_number(lab: Lab) -> None:
    """Objects that went with different bases are told apart, though their inode numbers were the same."""
    lab.put("a", b"old")
    lab.set("a", mode=0o640)
    lab.close()
    (lab.base / "a").rename(lab.base / "b")
    lab.set("b", mode=0o600)
    lab.close()
    (lab.base / "b").unlink()
    assert lab.names() == []
    assert lab.rows("origin") == 3
    lab.close()
    lab.put("a")
    lab.put("b")
    assert [stat.S_IMODE(lab.attr(name).mode) for name in "ab"] == [0o640, 0o600]
