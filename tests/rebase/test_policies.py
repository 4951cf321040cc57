"""What each policy does to each thing that an overlay holds, over each thing that may become of the base."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path

import pytest
from room import BIG, Room, remove, rewrite

from minifo.engine import UsageError
from minifo.migrations.rebase.plan import Action, Policies, Policy

LINES = [b"line %d\n" % number for number in range(30)]
TEXT = b"".join(LINES)


def actions(report: object) -> dict[str, str]:
    """What is done, by path."""
    return {os.fsdecode(d.entry.path): d.action.name.lower() for d in report.decisions}  # type: ignore[attr-defined]


# -- which policy counts


def test_last_match_wins() -> None:
    """Rules in order; a pattern stands for what is below it, too, and * for slashes; ours where none matches."""
    rules = Policies(["theirs", "merge:/etc/*.conf", "keep-both:/etc/a", "ours:/etc/a/b.conf"])
    assert rules.of(b"/usr/x") is Policy.THEIRS
    assert rules.of(b"/etc/x.conf") is Policy.MERGE
    assert rules.of(b"/etc/deep/x.conf") is Policy.MERGE
    assert rules.of(b"/etc/a") is Policy.BOTH
    assert rules.of(b"/etc/a/x.conf") is Policy.BOTH
    assert rules.of(b"/etc/a/b.conf") is Policy.OURS
    assert rules.of(b"/etc/ab") is Policy.THEIRS
    assert Policies(["theirs:/x/"]).of(b"/x/\xff") is Policy.THEIRS
    assert Policies([]).of(b"/x") is Policy.OURS


@pytest.mark.parametrize("rule", ["", "mine", "ours:", "merge:etc/*.conf", "Ours"])
def test_what_is_no_policy(rule: str) -> None:
    """It is refused, and the answer shows how one looks."""
    with pytest.raises(UsageError, match=r"merge:/etc/\*\.conf"):
        Policies([rule])


# -- the base has another version


def changed(room: Room) -> None:
    """Files written here, of which the base has new versions."""
    for name in ("config", "clash", "binary"):
        room.put(name, TEXT)
        (room.base / name).chmod(0o640)
    room.write("config", b"LINE")
    room.write("clash", b"LINE")
    room.write("binary", b"\0")
    room.put("mode")
    room.set("mode", mode=0o600)
    room.put("name")
    room.rename("name", "NAME")
    room.put("same")
    room.write("same", b"OURS")

    def update(base: Path) -> None:
        rewrite(base, "config", b"".join(LINES[:-1]) + b"last\n")
        rewrite(base, "clash", b"other" + TEXT[6:])
        rewrite(base, "binary", b"longer " + TEXT)
        rewrite(base, "mode", b"new bytes")
        rewrite(base, "name", b"new bytes, too")

    room.replace(update)


def test_ours_over_a_new_version(room: Room) -> None:
    """What shows stays, and is no drift any more; a plan changes nothing."""
    changed(room)
    before = room.shown()
    plan = room.rebase(apply=False)
    assert actions(plan) == dict.fromkeys(["/config", "/clash", "/binary", "/mode", "/NAME"], "keep")
    assert room.rebase(apply=False).decisions == plan.decisions
    report = room.rebase()
    assert (actions(report), report.conflicts) == (actions(plan), [])
    assert room.shown() == before
    assert room.rebase().decisions == []
    assert room.shown() == before


def test_theirs_over_a_new_version(room: Room) -> None:
    """The base shows, with its attributes; names stay, and so does what the base did not touch."""
    changed(room)
    room.rebase("theirs")
    for name in ("config", "clash", "binary", "mode"):
        assert room.read(name) == (room.base / name).read_bytes()
        assert room.attr(name).mode == (room.base / name).stat().st_mode
    assert (room.names(), room.read("NAME")) == (
        ["NAME", "binary", "clash", "config", "mode", "same"],
        b"new bytes, too",
    )
    assert room.read("same") == b"OURS"
    assert room.rows("modified") == 1
    assert len(room.objects()) == 0
    assert room.rebase().decisions == []


def test_both_over_a_new_version(room: Room) -> None:
    """Ours stays at the path, and the base's is beside it with its attributes, but for set-id bits."""
    changed(room)
    (room.base / "config").chmod(0o4755)
    os.setxattr(room.base / "config", "user.colour", b"blue")
    before = room.shown()
    report = room.rebase("keep-both")
    assert report.size == sum((room.base / name).stat().st_size for name in ("config", "clash", "binary"))
    shown = room.shown()
    for name in ("config", "clash", "binary"):
        assert shown.pop(f"{name}.minifo-new")[-1] == (room.base / name).read_bytes()
    assert shown == before
    beside = room.attr("config.minifo-new")
    assert (stat.S_IMODE(beside.mode), beside.mtime) == (0o755, (room.base / "config").stat().st_mtime_ns)
    assert room.ov.getxattr(room.ino("config.minifo-new"), b"user.colour") == b"blue"
    assert room.rebase("keep-both").decisions == []


def test_both_where_the_name_is_taken(room: Room) -> None:
    """What lies beside from the last time is not overwritten."""
    changed(room)
    room.create("config.minifo-new", b"of the last update")
    report = room.rebase("keep-both")
    assert [os.fsdecode(d.entry.path) for d in report.conflicts] == ["/config"]
    assert "config.minifo-new is there already" in report.conflicts[0].why
    assert room.read("config.minifo-new") == b"of the last update"
    room.unlink("config.minifo-new")
    assert room.rebase("keep-both").conflicts == []
    assert room.read("config.minifo-new") == (room.base / "config").read_bytes()


def test_merging(room: Room) -> None:
    """Changes of both come together, with our attributes; what cannot be merged is left alone and told."""
    changed(room)
    room.set("config", mode=0o600, uid=7)
    before = room.shown()
    report = room.rebase("merge", old=True)
    assert {os.fsdecode(d.entry.path): d.why for d in report.conflicts} == {
        "/clash": "both changed the same lines",
        "/binary": "it is no text",
    }
    shown = room.shown()
    assert shown["config"][-1] == b"LINE" + TEXT[4 : -len(LINES[-1])] + b"last\n"
    assert (shown["config"][0], shown["config"][1]) == (stat.S_IFREG | 0o600, 7)
    del shown["config"], before["config"]
    assert shown == before
    assert room.rebase("merge", "keep-both:/clash", "theirs:/binary", old=True).conflicts == []
    assert room.read("clash") == b"LINE" + TEXT[4:]
    assert room.rebase("merge", old=True).decisions == []


def test_merging_needs_the_old_version(room: Room) -> None:
    """Without an old base, or with one that has yet another version, there is nothing to merge from."""
    changed(room)
    report = room.rebase("merge:/config")
    assert "give --old-base" in report.conflicts[0].why
    rewrite(room.old, "config", b"something else")
    report = room.rebase("merge:/config", old=True)
    assert report.conflicts[0].why == "the old version is not known"


def test_the_same_bytes(room: Room) -> None:
    """Ours and the base's have become one: noted, and given up only where that is asked for."""
    room.put("f", b"old")
    room.write("f", b"new")
    room.put("empty", b"not yet")
    room.set("empty", size=0)
    room.replace(lambda base: [rewrite(base, "f", b"new"), rewrite(base, "empty", b"")])
    report = room.rebase(apply=False)
    assert {d.entry.became.value for d in report.decisions} == {"identical"}
    room.rebase()
    assert (room.read("f"), room.read("empty")) == (b"new", b"")
    room.close()
    rewrite(room.base, "empty", b"not any more")
    rewrite(room.base, "f", b"newer")
    assert (room.read("f"), room.read("empty")) == (b"new", b"")  # ours still
    room.rebase("theirs")
    assert (room.read("f"), room.read("empty")) == (b"newer", b"not any more")


def test_images_whose_files_have_one_mtime(room: Room) -> None:
    """Another version of the same size and mtime is told by the old base, if that is at hand."""
    room.put("f", b"port = 80\n\n\nlevel = info\n")
    room.write("f", b"port = 88")
    room.replace(lambda base: rewrite(base, "f", b"port = 80\n\n\nlevel = warn\n", later=0))
    assert room.rebase("merge").decisions == []
    assert room.rebase("merge", old=True).conflicts == []
    assert room.read("f") == b"port = 88\n\n\nlevel = warn\n"


# -- written in part


def parts(room: Room) -> bytes:
    """Three files of which some blocks were written; one has another version now, one none, one is a directory."""
    data = os.urandom(BIG)
    for name in ("changed", "gone", "kind"):
        room.put(name, data)
        room.write(name, b"ours", 4096)

    def update(base: Path) -> None:
        rewrite(base, "changed", b"n" * BIG)
        remove(base, "gone")
        remove(base, "kind")
        (base / "kind").mkdir()

    room.replace(update)
    return data[:4096] + b"ours" + data[4100:]


def test_part_without_the_old_base(room: Room) -> None:
    """Ours cannot be had, and zeros are no answer: a conflict, until somebody says theirs."""
    parts(room)
    before = room.shown()
    for policy in ("ours", "keep-both", "merge"):
        report = room.rebase(policy)
        assert [d.action for d in report.decisions] == [Action.CONFLICT] * 3
        assert all("give --old-base, or the policy theirs" in d.why for d in report.decisions)
    assert room.shown() == before
    assert before["changed"][-1] == errno.EIO
    assert room.rebase("theirs").conflicts == []
    assert room.read("changed") == b"n" * BIG
    assert room.names() == ["changed", "kind"]
    assert room.names("kind") == []
    assert len(room.objects()) == 0


def test_part_with_the_old_base(room: Room) -> None:
    """The rest is copied from the version it was written over."""
    whole = parts(room)
    report = room.rebase(old=True)
    assert (report.conflicts, all(d.completes for d in report.decisions)) == ([], True)
    assert [room.read(name) for name in ("changed", "gone", "kind")] == [whole] * 3
    shutil.rmtree(room.old)
    assert room.rebase().decisions == []


def test_part_with_a_wrong_old_base(room: Room) -> None:
    """A version is told by its samples, if size and mtime are the same."""
    parts(room)
    for name in ("changed", "gone", "kind"):
        st = (room.old / name).stat()
        (room.old / name).write_bytes(b"w" * BIG)
        os.utime(room.old / name, ns=(st.st_atime_ns, st.st_mtime_ns))
    report = room.rebase(old=True)
    assert {d.why for d in report.conflicts} == {
        "the old base given has not the version that some blocks were written over"
    }
    assert len(report.conflicts) == 3


def test_merging_what_was_written_in_part(room: Room) -> None:
    """A large text is merged, too."""
    text = b"".join(b"line %06d\n" % number for number in range(BIG // 10))
    room.put("f", text)
    room.write("f", b"OURS", 4096)
    room.replace(lambda base: rewrite(base, "f", text + b"one more\n"))
    assert room.rebase("merge", old=True).conflicts == []
    assert room.read("f") == text[:4096] + b"OURS" + text[4100:] + b"one more\n"


# -- gone


def gone(room: Room) -> None:
    """Much and little held of what the base does not have any more."""
    for name in ("whole", "mode", "d/whole", "d/mode", "kept/f", "name", "linked", "lost", "moved/in"):
        room.put(name, b"base")
    room.write("whole", b"ours")
    room.link("whole", "link")
    room.set("mode", mode=0o600)
    room.write("d/whole", b"ours")
    room.set("d/mode", mode=0o600)
    room.create("kept/mine", b"mine")
    room.rename("name", "NAME")
    room.link("linked", "LINK")
    room.unlink("lost")
    room.rename("moved", "MOVED")
    room.create("MOVED/mine", b"mine")
    room.mkdir("MOVED/sub")
    room.create("MOVED/sub/deep", b"deep")
    room.replace(lambda base: [remove(base, name) for name in os.listdir(base)])


def test_ours_where_the_base_has_nothing(room: Room) -> None:
    """What shows is an ordinary created object from now on; what does not waits for the old base."""
    gone(room)
    before = room.shown()
    report = room.rebase()
    assert actions(report) == {
        "/whole": "create",
        "/mode": "wait",
        "/d": "wait",
        "/d/whole": "create",
        "/d/mode": "wait",
        "/kept": "create",
        "/NAME": "wait",
        "/linked": "wait",
        "/lost": "drop",
        "/MOVED": "create",
    }
    assert room.shown() == before
    assert room.lists().created >= {"whole", "link", "d/whole", "kept", "kept/mine", "MOVED"}
    again = room.rebase()
    assert {d.action for d in again.decisions} == {Action.WAIT}
    # what waits is there again with the old base
    room.close()
    shutil.rmtree(room.base)
    room.old.rename(room.base)
    assert stat.S_IMODE(room.attr("mode").mode) == 0o600
    assert stat.S_IMODE(room.attr("d/mode").mode) == 0o600
    assert (room.read("NAME"), room.read("LINK"), room.read("whole")) == (b"base", b"base", b"ours")


def test_theirs_where_the_base_has_nothing(room: Room) -> None:
    """What was a base object goes; what was made in its place, and the directories of that, stay."""
    gone(room)
    report = room.rebase("theirs")
    assert report.conflicts == []
    assert sorted(room.shown()) == ["MOVED", "MOVED/mine", "MOVED/sub", "MOVED/sub/deep", "kept", "kept/mine"]
    assert room.rebase().decisions == []
    room.close()
    assert room.rows("modified") == room.rows("renamed") == room.rows("deleted") == 0


def test_links_become_links(room: Room) -> None:
    """All names of a file that is gone are links of one created file."""
    room.put("a/f", b"base")
    room.write("a/f", b"ours")
    room.link("a/f", "b")
    room.link("a/f", "c")
    room.unlink("a/f")
    before = room.shown()
    room.replace(lambda base: remove(base, "a"))
    room.rebase()
    assert {key: value for key, value in before.items() if key != "a"} == room.shown()
    assert room.attr("b").nlink == 2
    room.write("b", b"OURS")
    assert room.read("c") == b"OURS"


def test_links_that_are_files_of_their_own_now(room: Room) -> None:
    """What was written by one of two links, and lost the name that the overlay knows it by, shows nowhere: it waits."""
    room.put("f", b"base")
    os.link(room.base / "f", room.base / "g")
    room.write("f", b"ours")
    room.unlink("f")
    assert room.read("g") == b"ours"
    room.replace(lambda base: [remove(base, name) for name in "fg"] + [(base / n).write_bytes(b"new") for n in "fg"])
    room.check()
    assert (room.names(), room.read("g")) == (["g"], b"new")
    assert actions(room.rebase()) == {"/f": "wait"}
    assert actions(room.rebase("theirs")) == {"/f": "drop"}
    assert (room.names(), room.rows("modified")) == (["g"], 0)


# -- another kind of object


def kinds(room: Room) -> None:
    """Files that are directories now, and directories that are files."""
    room.put("f", b"base")
    room.write("f", b"ours")
    room.put("little", b"base")
    room.set("little", mode=0o600)
    room.put("d/x", b"base")
    room.create("d/mine", b"mine")

    def update(base: Path) -> None:
        for name in ("f", "little"):
            remove(base, name)
            (base / name).mkdir()
            (base / name / "in").touch()
        remove(base, "d")
        (base / "d").write_bytes(b"a file")

    room.replace(update)


def test_ours_over_another_kind(room: Room) -> None:
    """What shows stays; where the base's shows, what we hold waits."""
    kinds(room)
    before = room.shown()
    assert actions(room.rebase()) == {"/f": "create", "/d": "create", "/little": "wait"}
    assert room.shown() == before
    assert set(before) == {"f", "little", "little/in", "d", "d/mine"}
    room.unlink("d/mine")
    room.rmdir("d")
    room.unlink("f")
    assert room.names() == ["little"]


def test_theirs_over_another_kind(room: Room) -> None:
    """The base's shows, but a directory that holds what was made in it stays."""
    kinds(room)
    room.rebase("theirs")
    assert set(room.shown()) == {"f", "f/in", "little", "little/in", "d", "d/mine"}
    assert room.rebase().decisions == []


def test_both_over_another_kind(room: Room) -> None:
    """A file of the base is put beside our directory; a directory is not."""
    kinds(room)
    report = room.rebase("keep-both")
    assert [d.why for d in report.conflicts] == ["what the base has is no file to put beside ours"]
    assert room.read("d.minifo-new") == b"a file"
    assert room.names("d") == ["mine"]


# -- names that the base has now


def shadows(room: Room) -> None:
    """Names made here that the new base has as well."""
    room.put("x/y")
    room.create("file", b"ours")
    room.create("x/same", b"both")
    room.mkdir("dir")
    room.create("dir/mine", b"mine")
    room.put("from")
    room.rename("from", "to")

    def update(base: Path) -> None:
        (base / "file").write_bytes(b"base's")
        (base / "x" / "same").write_bytes(b"both")
        (base / "dir").mkdir()
        (base / "to").write_bytes(b"base's")

    room.replace(update)


def test_ours_hides_what_the_base_has(room: Room) -> None:
    """Ours stays, and when it is removed the base's does not show."""
    shadows(room)
    before = room.shown()
    assert actions(room.rebase()) == dict.fromkeys(["/file", "/x/same", "/dir", "/to"], "cover")
    assert room.shown() == before
    assert room.rebase().decisions == []
    room.unlink("file")
    assert room.find("file") is None


def test_theirs_where_the_base_has_a_name(room: Room) -> None:
    """A file of ours goes; a directory, or what was moved there, is too much to give up by a word."""
    shadows(room)
    report = room.rebase("theirs")
    assert sorted(os.fsdecode(d.entry.path) for d in report.conflicts) == ["/dir", "/to"]
    assert (room.read("file"), room.read("x/same"), room.names("dir")) == (b"base's", b"both", ["mine"])
    assert room.read("to") == b"base"


def test_both_where_the_base_has_a_name(room: Room) -> None:
    """As with files that both have changed; what is the same in both is not doubled."""
    shadows(room)
    report = room.rebase("keep-both")
    assert [os.fsdecode(d.entry.path) for d in report.conflicts] == ["/dir"]
    assert (room.read("file"), room.read("file.minifo-new")) == (b"ours", b"base's")
    assert (room.read("to"), room.read("to.minifo-new")) == (b"base", b"base's")
    assert room.names("x") == ["same", "y"]


# -- replaced here, as editors do


def replaced(room: Room) -> None:
    """Files that were written anew under another name, and renamed over the base's."""
    for name in ("config", "clash", "same", "both", "link"):
        room.put(name, TEXT)
    for name, data in (("config", b"LINE" + TEXT[4:]), ("clash", b"LINE" + TEXT[4:]), ("same", b"x"), ("both", b"new")):
        room.create("temporary", data)
        room.rename("temporary", name)

    def update(base: Path) -> None:
        rewrite(base, "config", TEXT + b"last\n")
        rewrite(base, "clash", b"other" + TEXT[6:])
        rewrite(base, "same", TEXT)
        rewrite(base, "both", b"new")

    room.replace(update)


def test_replaced_files_need_the_old_base(room: Room) -> None:
    """By it is told which of them the base has another version of; without, nothing is."""
    replaced(room)
    before = room.shown()
    assert room.rebase(apply=False).decisions == []
    plan = room.rebase(apply=False, old=True)
    assert {os.fsdecode(d.entry.path): d.entry.became.value for d in plan.decisions} == {
        "/config": "changed",
        "/clash": "changed",
        "/both": "identical",
    }
    room.rebase(old=True)
    assert room.shown() == before


def test_policies_for_replaced_files(room: Room) -> None:
    """As for files that were changed in place; a second time finds what the first one did."""
    replaced(room)
    for _ in range(2):
        report = room.rebase("merge", "keep-both:/clash", old=True)
        assert report.conflicts == []
        assert room.read("config") == b"LINE" + TEXT[4:] + b"last\n"
        assert room.read("clash") == b"LINE" + TEXT[4:]
        assert room.read("clash.minifo-new") == b"other" + TEXT[6:]
    assert [d.why for d in room.rebase("merge", old=True).conflicts] == ["both changed the same lines"]
    room.rebase("theirs", old=True)
    assert (room.read("config"), room.read("both")) == (TEXT + b"last\n", b"new")
    assert room.lists().created == {"clash.minifo-new", "same"}
    assert room.lists().deleted == {"same"}


def test_places_are_told_as_they_show(room: Room) -> None:
    """Patterns match, and tables name, where things are in the overlay, not where the base has them."""
    room.put("d/e/f", b"base")
    room.put("gone", b"base")
    room.write("d/e/f", b"ours")
    room.mkdir("new")
    room.rename("d", "new/D")
    room.replace(lambda base: rewrite(base, "d/e/f", b"newer"))
    report = room.rebase("theirs:/new/D")
    assert actions(report) == {"/new/D/e/f": "take"}
    assert room.read("new/D/e/f") == b"newer"
