"""What each policy does to each thing that an overlay holds, over each thing that may become of the base."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path

import pytest

from minifo.engine import UsageError
from minifo.migrations.rebase.plan import Action, Policies, Policy
from tests.shared.rebase_sandbox import BIG, RebaseSandbox, remove, rewrite

pytestmark = pytest.mark.logs(
    "is not the one of the last mount", "was replaced in the base after a part of it was written here", always=False
)

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


def changed(rebase_sandbox: RebaseSandbox) -> None:
    """Files written here, of which the base has new versions."""
    for name in ("config", "clash", "binary"):
        rebase_sandbox.put(name, TEXT)
        (rebase_sandbox.base / name).chmod(0o640)
    rebase_sandbox.write("config", b"LINE")
    rebase_sandbox.write("clash", b"LINE")
    rebase_sandbox.write("binary", b"\0")
    rebase_sandbox.put("mode")
    rebase_sandbox.set("mode", mode=0o600)
    rebase_sandbox.put("name")
    rebase_sandbox.rename("name", "NAME")
    rebase_sandbox.put("same")
    rebase_sandbox.write("same", b"OURS")

    def update(base: Path) -> None:
        rewrite(base, "config", b"".join(LINES[:-1]) + b"last\n")
        rewrite(base, "clash", b"other" + TEXT[6:])
        rewrite(base, "binary", b"longer " + TEXT)
        rewrite(base, "mode", b"new bytes")
        rewrite(base, "name", b"new bytes, too")

    rebase_sandbox.replace(update)


def test_ours_over_a_new_version(rebase_sandbox: RebaseSandbox) -> None:
    """What shows stays, and is no drift any more; a plan changes nothing."""
    changed(rebase_sandbox)
    before = rebase_sandbox.shown()
    plan = rebase_sandbox.rebase(apply=False)
    assert actions(plan) == dict.fromkeys(["/config", "/clash", "/binary", "/mode", "/NAME"], "keep")
    assert rebase_sandbox.rebase(apply=False).decisions == plan.decisions
    report = rebase_sandbox.rebase()
    assert (actions(report), report.conflicts) == (actions(plan), [])
    assert rebase_sandbox.shown() == before
    assert rebase_sandbox.rebase().decisions == []
    assert rebase_sandbox.shown() == before


def test_theirs_over_a_new_version(rebase_sandbox: RebaseSandbox) -> None:
    """The base shows, with its attributes; names stay, and so does what the base did not touch."""
    changed(rebase_sandbox)
    rebase_sandbox.rebase("theirs")
    for name in ("config", "clash", "binary", "mode"):
        assert rebase_sandbox.read(name) == (rebase_sandbox.base / name).read_bytes()
        assert rebase_sandbox.attr(name).mode == (rebase_sandbox.base / name).stat().st_mode
    assert (rebase_sandbox.names(), rebase_sandbox.read("NAME")) == (
        ["NAME", "binary", "clash", "config", "mode", "same"],
        b"new bytes, too",
    )
    assert rebase_sandbox.read("same") == b"OURS"
    assert rebase_sandbox.rows("modified") == 1
    assert len(rebase_sandbox.objects()) == 0
    assert rebase_sandbox.rebase().decisions == []


def test_both_over_a_new_version(rebase_sandbox: RebaseSandbox) -> None:
    """Ours stays at the path, and the base's is beside it with its attributes, but for set-id bits."""
    changed(rebase_sandbox)
    (rebase_sandbox.base / "config").chmod(0o4755)
    os.setxattr(rebase_sandbox.base / "config", "user.colour", b"blue")
    before = rebase_sandbox.shown()
    report = rebase_sandbox.rebase("keep-both")
    assert report.size == sum((rebase_sandbox.base / name).stat().st_size for name in ("config", "clash", "binary"))
    shown = rebase_sandbox.shown()
    for name in ("config", "clash", "binary"):
        assert shown.pop(f"{name}.minifo-new")[-1] == (rebase_sandbox.base / name).read_bytes()
    assert shown == before
    beside = rebase_sandbox.attr("config.minifo-new")
    assert (stat.S_IMODE(beside.mode), beside.mtime) == (0o755, (rebase_sandbox.base / "config").stat().st_mtime_ns)
    assert rebase_sandbox.ov.getxattr(rebase_sandbox.ino("config.minifo-new"), b"user.colour") == b"blue"
    assert rebase_sandbox.rebase("keep-both").decisions == []


def test_both_where_the_name_is_taken(rebase_sandbox: RebaseSandbox) -> None:
    """What lies beside from the last time is not overwritten."""
    changed(rebase_sandbox)
    rebase_sandbox.create("config.minifo-new", b"of the last update")
    report = rebase_sandbox.rebase("keep-both")
    assert [os.fsdecode(d.entry.path) for d in report.conflicts] == ["/config"]
    assert "config.minifo-new exists already" in report.conflicts[0].why
    assert rebase_sandbox.read("config.minifo-new") == b"of the last update"
    rebase_sandbox.unlink("config.minifo-new")
    assert rebase_sandbox.rebase("keep-both").conflicts == []
    assert rebase_sandbox.read("config.minifo-new") == (rebase_sandbox.base / "config").read_bytes()


def test_merging(rebase_sandbox: RebaseSandbox) -> None:
    """Changes of both come together, with our attributes; what cannot be merged is left alone and told."""
    changed(rebase_sandbox)
    rebase_sandbox.set("config", mode=0o600, uid=7)
    before = rebase_sandbox.shown()
    report = rebase_sandbox.rebase("merge", old=True)
    assert {os.fsdecode(d.entry.path): d.why for d in report.conflicts} == {
        "/clash": "both changed the same lines",
        "/binary": "it is not a text",
    }
    shown = rebase_sandbox.shown()
    assert shown["config"][-1] == b"LINE" + TEXT[4 : -len(LINES[-1])] + b"last\n"
    assert (shown["config"][0], shown["config"][1]) == (stat.S_IFREG | 0o600, 7)
    del shown["config"], before["config"]
    assert shown == before
    assert rebase_sandbox.rebase("merge", "keep-both:/clash", "theirs:/binary", old=True).conflicts == []
    assert rebase_sandbox.read("clash") == b"LINE" + TEXT[4:]
    assert rebase_sandbox.rebase("merge", old=True).decisions == []


def test_merging_needs_the_old_version(rebase_sandbox: RebaseSandbox) -> None:
    """Without an old base, or with one that has yet another version, there is nothing to merge from."""
    changed(rebase_sandbox)
    report = rebase_sandbox.rebase("merge:/config")
    assert "give --old-base" in report.conflicts[0].why
    rewrite(rebase_sandbox.old, "config", b"something else")
    report = rebase_sandbox.rebase("merge:/config", old=True)
    assert report.conflicts[0].why == "the old version is not known"


def test_the_same_bytes(rebase_sandbox: RebaseSandbox) -> None:
    """Ours and the base's have become one: noted, and given up only where that is asked for."""
    rebase_sandbox.put("f", b"old")
    rebase_sandbox.write("f", b"new")
    rebase_sandbox.put("empty", b"not yet")
    rebase_sandbox.set("empty", size=0)
    rebase_sandbox.replace(lambda base: [rewrite(base, "f", b"new"), rewrite(base, "empty", b"")])
    report = rebase_sandbox.rebase(apply=False)
    assert {d.entry.became.value for d in report.decisions} == {"identical"}
    rebase_sandbox.rebase()
    assert (rebase_sandbox.read("f"), rebase_sandbox.read("empty")) == (b"new", b"")
    rebase_sandbox.close()
    rewrite(rebase_sandbox.base, "empty", b"not any more")
    rewrite(rebase_sandbox.base, "f", b"newer")
    assert (rebase_sandbox.read("f"), rebase_sandbox.read("empty")) == (b"new", b"")  # ours still
    rebase_sandbox.rebase("theirs")
    assert (rebase_sandbox.read("f"), rebase_sandbox.read("empty")) == (b"newer", b"not any more")


def test_images_whose_files_have_one_mtime(rebase_sandbox: RebaseSandbox) -> None:
    """Another version of the same size and mtime is told by the old base, if that is at hand."""
    rebase_sandbox.put("f", b"port = 80\n\n\nlevel = info\n")
    rebase_sandbox.write("f", b"port = 88")
    rebase_sandbox.replace(lambda base: rewrite(base, "f", b"port = 80\n\n\nlevel = warn\n", later=0))
    assert rebase_sandbox.rebase("merge").decisions == []
    assert rebase_sandbox.rebase("merge", old=True).conflicts == []
    assert rebase_sandbox.read("f") == b"port = 88\n\n\nlevel = warn\n"


# -- written in part


def parts(rebase_sandbox: RebaseSandbox) -> bytes:
    """Three files of which some blocks were written; one has another version now, one none, one is a directory."""
    data = os.urandom(BIG)
    for name in ("changed", "gone", "kind"):
        rebase_sandbox.put(name, data)
        rebase_sandbox.write(name, b"ours", 4096)

    def update(base: Path) -> None:
        rewrite(base, "changed", b"n" * BIG)
        remove(base, "gone")
        remove(base, "kind")
        (base / "kind").mkdir()

    rebase_sandbox.replace(update)
    return data[:4096] + b"ours" + data[4100:]


def test_part_without_the_old_base(rebase_sandbox: RebaseSandbox) -> None:
    """Ours cannot be had, and zeros are no answer: a conflict, until somebody says theirs."""
    parts(rebase_sandbox)
    before = rebase_sandbox.shown()
    for policy in ("ours", "keep-both", "merge"):
        report = rebase_sandbox.rebase(policy)
        assert [d.action for d in report.decisions] == [Action.CONFLICT] * 3
        assert all("give --old-base, or the policy theirs" in d.why for d in report.decisions)
    assert rebase_sandbox.shown() == before
    assert before["changed"][-1] == errno.EIO
    assert rebase_sandbox.rebase("theirs").conflicts == []
    assert rebase_sandbox.read("changed") == b"n" * BIG
    assert rebase_sandbox.names() == ["changed", "kind"]
    assert rebase_sandbox.names("kind") == []
    assert len(rebase_sandbox.objects()) == 0


def test_part_with_the_old_base(rebase_sandbox: RebaseSandbox) -> None:
    """The rest is copied from the version it was written over."""
    whole = parts(rebase_sandbox)
    report = rebase_sandbox.rebase(old=True)
    assert (report.conflicts, all(d.completes for d in report.decisions)) == ([], True)
    assert [rebase_sandbox.read(name) for name in ("changed", "gone", "kind")] == [whole] * 3
    shutil.rmtree(rebase_sandbox.old)
    assert rebase_sandbox.rebase().decisions == []


def test_part_with_a_wrong_old_base(rebase_sandbox: RebaseSandbox) -> None:
    """A version is told by its samples, if size and mtime are the same."""
    parts(rebase_sandbox)
    for name in ("changed", "gone", "kind"):
        st = (rebase_sandbox.old / name).stat()
        (rebase_sandbox.old / name).write_bytes(b"w" * BIG)
        os.utime(rebase_sandbox.old / name, ns=(st.st_atime_ns, st.st_mtime_ns))
    report = rebase_sandbox.rebase(old=True)
    assert {d.why for d in report.conflicts} == {
        "the base given with --old-base does not have the version that some blocks were written over"
    }
    assert len(report.conflicts) == 3


def test_merging_what_was_written_in_part(rebase_sandbox: RebaseSandbox) -> None:
    """A large text is merged, too."""
    text = b"".join(b"line %06d\n" % number for number in range(BIG // 10))
    rebase_sandbox.put("f", text)
    rebase_sandbox.write("f", b"OURS", 4096)
    rebase_sandbox.replace(lambda base: rewrite(base, "f", text + b"one more\n"))
    assert rebase_sandbox.rebase("merge", old=True).conflicts == []
    assert rebase_sandbox.read("f") == text[:4096] + b"OURS" + text[4100:] + b"one more\n"


# -- gone


def gone(rebase_sandbox: RebaseSandbox) -> None:
    """Much and little held of what the base does not have any more."""
    for name in ("whole", "mode", "d/whole", "d/mode", "kept/f", "name", "linked", "lost", "moved/in"):
        rebase_sandbox.put(name, b"base")
    rebase_sandbox.write("whole", b"ours")
    rebase_sandbox.link("whole", "link")
    rebase_sandbox.set("mode", mode=0o600)
    rebase_sandbox.write("d/whole", b"ours")
    rebase_sandbox.set("d/mode", mode=0o600)
    rebase_sandbox.create("kept/mine", b"mine")
    rebase_sandbox.rename("name", "NAME")
    rebase_sandbox.link("linked", "LINK")
    rebase_sandbox.unlink("lost")
    rebase_sandbox.rename("moved", "MOVED")
    rebase_sandbox.create("MOVED/mine", b"mine")
    rebase_sandbox.mkdir("MOVED/sub")
    rebase_sandbox.create("MOVED/sub/deep", b"deep")
    rebase_sandbox.replace(lambda base: [remove(base, name) for name in os.listdir(base)])


def test_ours_where_the_base_has_nothing(rebase_sandbox: RebaseSandbox) -> None:
    """What shows is an ordinary created object from now on; what does not waits for the old base."""
    gone(rebase_sandbox)
    before = rebase_sandbox.shown()
    report = rebase_sandbox.rebase()
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
    assert rebase_sandbox.shown() == before
    assert rebase_sandbox.lists().created >= {"whole", "link", "d/whole", "kept", "kept/mine", "MOVED"}
    again = rebase_sandbox.rebase()
    assert {d.action for d in again.decisions} == {Action.WAIT}
    # what waits is there again with the old base
    rebase_sandbox.close()
    shutil.rmtree(rebase_sandbox.base)
    rebase_sandbox.old.rename(rebase_sandbox.base)
    assert stat.S_IMODE(rebase_sandbox.attr("mode").mode) == 0o600
    assert stat.S_IMODE(rebase_sandbox.attr("d/mode").mode) == 0o600
    assert (rebase_sandbox.read("NAME"), rebase_sandbox.read("LINK"), rebase_sandbox.read("whole")) == (
        b"base",
        b"base",
        b"ours",
    )


def test_theirs_where_the_base_has_nothing(rebase_sandbox: RebaseSandbox) -> None:
    """What was a base object goes; what was made in its place, and the directories of that, stay."""
    gone(rebase_sandbox)
    report = rebase_sandbox.rebase("theirs")
    assert report.conflicts == []
    assert sorted(rebase_sandbox.shown()) == ["MOVED", "MOVED/mine", "MOVED/sub", "MOVED/sub/deep", "kept", "kept/mine"]
    assert rebase_sandbox.rebase().decisions == []
    rebase_sandbox.close()
    assert rebase_sandbox.rows("modified") == rebase_sandbox.rows("renamed") == rebase_sandbox.rows("deleted") == 0


def test_links_become_links(rebase_sandbox: RebaseSandbox) -> None:
    """All names of a file that is gone are links of one created file."""
    rebase_sandbox.put("a/f", b"base")
    rebase_sandbox.write("a/f", b"ours")
    rebase_sandbox.link("a/f", "b")
    rebase_sandbox.link("a/f", "c")
    rebase_sandbox.unlink("a/f")
    before = rebase_sandbox.shown()
    rebase_sandbox.replace(lambda base: remove(base, "a"))
    rebase_sandbox.rebase()
    assert {key: value for key, value in before.items() if key != "a"} == rebase_sandbox.shown()
    assert rebase_sandbox.attr("b").nlink == 2
    rebase_sandbox.write("b", b"OURS")
    assert rebase_sandbox.read("c") == b"OURS"


def test_links_that_are_files_of_their_own_now(rebase_sandbox: RebaseSandbox) -> None:
    """What was written by one of two links, and lost the name that the overlay knows it by, shows nowhere: it waits."""
    rebase_sandbox.put("f", b"base")
    os.link(rebase_sandbox.base / "f", rebase_sandbox.base / "g")
    rebase_sandbox.write("f", b"ours")
    rebase_sandbox.unlink("f")
    assert rebase_sandbox.read("g") == b"ours"
    rebase_sandbox.replace(
        lambda base: [remove(base, name) for name in "fg"] + [(base / n).write_bytes(b"new") for n in "fg"]
    )
    rebase_sandbox.check()
    assert (rebase_sandbox.names(), rebase_sandbox.read("g")) == (["g"], b"new")
    assert actions(rebase_sandbox.rebase()) == {"/f": "wait"}
    assert actions(rebase_sandbox.rebase("theirs")) == {"/f": "drop"}
    assert (rebase_sandbox.names(), rebase_sandbox.rows("modified")) == (["g"], 0)


# -- another kind of object


def kinds(rebase_sandbox: RebaseSandbox) -> None:
    """Files that are directories now, and directories that are files."""
    rebase_sandbox.put("f", b"base")
    rebase_sandbox.write("f", b"ours")
    rebase_sandbox.put("little", b"base")
    rebase_sandbox.set("little", mode=0o600)
    rebase_sandbox.put("d/x", b"base")
    rebase_sandbox.create("d/mine", b"mine")

    def update(base: Path) -> None:
        for name in ("f", "little"):
            remove(base, name)
            (base / name).mkdir()
            (base / name / "in").touch()
        remove(base, "d")
        (base / "d").write_bytes(b"a file")

    rebase_sandbox.replace(update)


def test_ours_over_another_kind(rebase_sandbox: RebaseSandbox) -> None:
    """What shows stays; where the base's shows, what we hold waits."""
    kinds(rebase_sandbox)
    before = rebase_sandbox.shown()
    assert actions(rebase_sandbox.rebase()) == {"/f": "create", "/d": "create", "/little": "wait"}
    assert rebase_sandbox.shown() == before
    assert set(before) == {"f", "little", "little/in", "d", "d/mine"}
    rebase_sandbox.unlink("d/mine")
    rebase_sandbox.rmdir("d")
    rebase_sandbox.unlink("f")
    assert rebase_sandbox.names() == ["little"]


def test_theirs_over_another_kind(rebase_sandbox: RebaseSandbox) -> None:
    """The base's shows, but a directory that holds what was made in it stays."""
    kinds(rebase_sandbox)
    rebase_sandbox.rebase("theirs")
    assert set(rebase_sandbox.shown()) == {"f", "f/in", "little", "little/in", "d", "d/mine"}
    assert rebase_sandbox.rebase().decisions == []


def test_both_over_another_kind(rebase_sandbox: RebaseSandbox) -> None:
    """A file of the base is put beside our directory; a directory is not."""
    kinds(rebase_sandbox)
    report = rebase_sandbox.rebase("keep-both")
    assert [d.why for d in report.conflicts] == ["the base's version is not a file, so it cannot be put beside ours"]
    assert rebase_sandbox.read("d.minifo-new") == b"a file"
    assert rebase_sandbox.names("d") == ["mine"]


# -- names that the base has now


def shadows(rebase_sandbox: RebaseSandbox) -> None:
    """Names made here that the new base has as well."""
    rebase_sandbox.put("x/y")
    rebase_sandbox.create("file", b"ours")
    rebase_sandbox.create("x/same", b"both")
    rebase_sandbox.mkdir("dir")
    rebase_sandbox.create("dir/mine", b"mine")
    rebase_sandbox.put("from")
    rebase_sandbox.rename("from", "to")

    def update(base: Path) -> None:
        (base / "file").write_bytes(b"base's")
        (base / "x" / "same").write_bytes(b"both")
        (base / "dir").mkdir()
        (base / "to").write_bytes(b"base's")

    rebase_sandbox.replace(update)


def test_ours_hides_what_the_base_has(rebase_sandbox: RebaseSandbox) -> None:
    """Ours stays, and when it is removed the base's does not show."""
    shadows(rebase_sandbox)
    before = rebase_sandbox.shown()
    assert actions(rebase_sandbox.rebase()) == dict.fromkeys(["/file", "/x/same", "/dir", "/to"], "cover")
    assert rebase_sandbox.shown() == before
    assert rebase_sandbox.rebase().decisions == []
    rebase_sandbox.unlink("file")
    assert rebase_sandbox.find("file") is None


def test_theirs_where_the_base_has_a_name(rebase_sandbox: RebaseSandbox) -> None:
    """A file of ours goes; a directory, or what was moved there, is too much to give up by a word."""
    shadows(rebase_sandbox)
    report = rebase_sandbox.rebase("theirs")
    assert sorted(os.fsdecode(d.entry.path) for d in report.conflicts) == ["/dir", "/to"]
    assert (rebase_sandbox.read("file"), rebase_sandbox.read("x/same"), rebase_sandbox.names("dir")) == (
        b"base's",
        b"both",
        ["mine"],
    )
    assert rebase_sandbox.read("to") == b"base"


def test_both_where_the_base_has_a_name(rebase_sandbox: RebaseSandbox) -> None:
    """As with files that both have changed; what is the same in both is not doubled."""
    shadows(rebase_sandbox)
    report = rebase_sandbox.rebase("keep-both")
    assert [os.fsdecode(d.entry.path) for d in report.conflicts] == ["/dir"]
    assert (rebase_sandbox.read("file"), rebase_sandbox.read("file.minifo-new")) == (b"ours", b"base's")
    assert (rebase_sandbox.read("to"), rebase_sandbox.read("to.minifo-new")) == (b"base", b"base's")
    assert rebase_sandbox.names("x") == ["same", "y"]


# -- replaced here, as editors do


def replaced(rebase_sandbox: RebaseSandbox) -> None:
    """Files that were written anew under another name, and renamed over the base's."""
    for name in ("config", "clash", "same", "both", "link"):
        rebase_sandbox.put(name, TEXT)
    for name, data in (("config", b"LINE" + TEXT[4:]), ("clash", b"LINE" + TEXT[4:]), ("same", b"x"), ("both", b"new")):
        rebase_sandbox.create("temporary", data)
        rebase_sandbox.rename("temporary", name)

    def update(base: Path) -> None:
        rewrite(base, "config", TEXT + b"last\n")
        rewrite(base, "clash", b"other" + TEXT[6:])
        rewrite(base, "same", TEXT)
        rewrite(base, "both", b"new")

    rebase_sandbox.replace(update)


def test_replaced_files_need_the_old_base(rebase_sandbox: RebaseSandbox) -> None:
    """By it is told which of them the base has another version of; without, nothing is."""
    replaced(rebase_sandbox)
    before = rebase_sandbox.shown()
    assert rebase_sandbox.rebase(apply=False).decisions == []
    plan = rebase_sandbox.rebase(apply=False, old=True)
    assert {os.fsdecode(d.entry.path): d.entry.became.value for d in plan.decisions} == {
        "/config": "changed",
        "/clash": "changed",
        "/both": "identical",
    }
    rebase_sandbox.rebase(old=True)
    assert rebase_sandbox.shown() == before


def test_policies_for_replaced_files(rebase_sandbox: RebaseSandbox) -> None:
    """As for files that were changed in place; a second time finds what the first one did."""
    replaced(rebase_sandbox)
    for _ in range(2):
        report = rebase_sandbox.rebase("merge", "keep-both:/clash", old=True)
        assert report.conflicts == []
        assert rebase_sandbox.read("config") == b"LINE" + TEXT[4:] + b"last\n"
        assert rebase_sandbox.read("clash") == b"LINE" + TEXT[4:]
        assert rebase_sandbox.read("clash.minifo-new") == b"other" + TEXT[6:]
    assert [d.why for d in rebase_sandbox.rebase("merge", old=True).conflicts] == ["both changed the same lines"]
    rebase_sandbox.rebase("theirs", old=True)
    assert (rebase_sandbox.read("config"), rebase_sandbox.read("both")) == (TEXT + b"last\n", b"new")
    assert rebase_sandbox.lists().created == {"clash.minifo-new", "same"}
    assert rebase_sandbox.lists().deleted == {"same"}


def test_places_are_told_as_they_show(rebase_sandbox: RebaseSandbox) -> None:
    """Patterns match, and tables name, where things are in the overlay, not where the base has them."""
    rebase_sandbox.put("d/e/f", b"base")
    rebase_sandbox.put("gone", b"base")
    rebase_sandbox.write("d/e/f", b"ours")
    rebase_sandbox.mkdir("new")
    rebase_sandbox.rename("d", "new/D")
    rebase_sandbox.replace(lambda base: rewrite(base, "d/e/f", b"newer"))
    report = rebase_sandbox.rebase("theirs:/new/D")
    assert actions(report) == {"/new/D/e/f": "take"}
    assert rebase_sandbox.read("new/D/e/f") == b"newer"


def test_renamed_directories_deep_in_each_other(rebase_sandbox: RebaseSandbox) -> None:
    """A path may lead through any number of renamed directories."""
    many = 1050
    for number in range(many):
        rebase_sandbox.put(f"{number}/file")
    rebase_sandbox.set("0/file", mode=0o600)
    for number in range(many - 1):
        rebase_sandbox.rename(str(number), f"{number + 1}/in")
    rebase_sandbox.replace(lambda base: (base / "0/file").write_bytes(b"an update"))
    report = rebase_sandbox.rebase(apply=False)
    paths = {decision.entry.base: decision.entry.path for decision in report.decisions}
    assert paths[b"/0/file"] == b"/%d" % (many - 1) + b"/in" * (many - 1) + b"/file"
