"""Mount option texts: every word known by name, every mistake refused by name, every path carried exactly."""

from __future__ import annotations

import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minifo.engine.errors import UsageError
from minifo.fusefront.mount import options as words
from minifo.fusefront.mount.options import (
    MountOptions,
    Remount,
    describe,
    parse,
    parse_remount,
)
from minifo.fusefront.mount.source import escape, format_source, parse_source

PLACES = "base=/b,sto=/s"

paths = st.binary(min_size=1, max_size=40).filter(lambda raw: b"\0" not in raw).map(lambda raw: "/" + os.fsdecode(raw))
awkward = st.text(alphabet="/\\,= \n\t#ab\udcff", min_size=1, max_size=12)


def test_parse_two_paths_gives_the_defaults() -> None:
    """The line of 2005 needs nothing but base and sto."""
    assert parse(["base=/b,sto=/s"]) == MountOptions(base="/b", storage="/s", commit=1.0)


@pytest.mark.parametrize(
    "text", ["sto=/s,base=/b", "base=/b,sto=/s,", ",base=/b,,sto=/s", "lowerdir=/b,upperdir=/s,workdir=/w"]
)
def test_parse_order_aliases_and_empty_items_do_not_matter(text: str) -> None:
    """Trailing commas were accepted by mini_fo; overlayfs words name the same two places."""
    assert parse([text]) == MountOptions(base="/b", storage="/s")


def test_parse_several_texts_are_one_list() -> None:
    """-o may be given more than once, and --base and --sto beside it."""
    assert parse(["base=/b", "ro,sto=/s"]) == parse([PLACES + ",ro"])
    assert parse(["noatime"], base="/a,b\\", storage="/s") == MountOptions("/a,b\\", "/s", kernel=("noatime",))


def test_parse_every_option_of_ours() -> None:
    """All that is asked arrives."""
    options = parse([PLACES + ",commit=2.5,sync,ro,plain,allow_other,debug,nodev,nosuid,noexec,noatime"])
    assert options == MountOptions(
        base="/b",
        storage="/s",
        commit=2.5,
        sync=True,
        read_only=True,
        plain=True,
        allow_other=True,
        kernel=("sync", "ro", "nodev", "nosuid", "noexec", "noatime"),
        debug=True,
    )
    assert parse([PLACES]).allow_other is None
    assert parse([PLACES + ",noallow_other"]).allow_other is False
    assert parse([PLACES + ",dirsync"]).sync
    assert not parse([PLACES]).root_storage
    assert parse([PLACES + ",root_storage"]).root_storage


@pytest.mark.parametrize(
    ("words", "kernel"),
    [
        ("rw", ()),
        ("ro,rw", ()),
        ("rw,ro", ("ro",)),
        ("sync,async", ()),
        ("noatime,atime", ()),
        ("nodev,dev,suid", ("dev", "suid")),
        ("user", ("noexec", "nosuid", "nodev")),
        ("user,exec", ("exec", "nosuid", "nodev")),
        ("users,dev,suid,exec", ("exec", "suid", "dev")),
        ("owner", ("nosuid", "nodev")),
        ("nosuid,rootfs,nodev", ("suid", "nodev", "exec")),
        ("user=alice", ("noexec", "nosuid", "nodev")),
    ],
)
def test_parse_kernel_words_last_one_wins(words: str, kernel: tuple[str, ...]) -> None:
    """As in mount(8): a later word undoes an earlier one, and user implies what it implies there."""
    assert parse([f"{words},{PLACES}"]).kernel == kernel


@pytest.mark.parametrize(
    ("text", "access", "kernel"),
    [
        ("", None, ()),
        ("noatime", None, ("noatime",)),
        ("relatime", "relatime", ()),
        ("noatime,atime", "relatime", ()),
        ("strictatime", "strictatime", ()),
        ("strictatime,noatime", None, ("noatime",)),
    ],
)
def test_parse_access_times(text: str, access: str | None, kernel: tuple[str, ...]) -> None:
    """They are kept where that is asked for; the last word counts."""
    options = parse([f"{text},{PLACES}"])
    assert (options.access_times, options.kernel) == (access, kernel)


def test_parse_generic_words_are_accepted() -> None:
    """A line of fstab may carry anything that is meant for mount(8), systemd or people."""
    words = (
        "defaults,auto,noauto,nouser,rw,async,norelatime,nostrictatime,nofail,_netdev,x-systemd.automount,"
        "x-gvfs-name=My\\, Disk,X-mount.mkdir=0755,comment=hello there,silent,loud,mand,nomand,lazytime,iversion"
    )
    assert parse([words, PLACES]) == MountOptions(base="/b", storage="/s")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["base= and sto= are missing"]),
        ("base=/b", ["sto= is missing"]),
        ("sto=/s", ["base= is missing"]),
        ("base=,sto=/s", ["base= is empty"]),
        ("base=/b,upperdir=", ["upperdir= is empty"]),
        ("base=/b,base=/b,sto=/s", ["base= is given twice"]),
        ("base=/b,lowerdir=/b,sto=/s", ["base=", "lowerdir=", "mean the same"]),
        ("base=/b,sto=/s,upperdir=/s", ["sto=", "upperdir=", "mean the same"]),
        ("base,sto=/s", ["base has no value", "base=VALUE"]),
        (PLACES + ",nosuch", ["unknown option 'nosuch'"]),
        (PLACES + ",nosuch=1", ["unknown option 'nosuch'"]),
        (PLACES + ",noatme", ["unknown option 'noatme'", "did you mean 'noatime'?"]),
        (PLACES + ",comit=3", ["unknown option 'comit'", "did you mean 'commit'?"]),
        (PLACES + ",max_size=big", ["max_size=big is not a size", "64m"]),
        (PLACES + ",max_size=1k", ["max_size=1k is too small"]),
        (PLACES + ",max_size=", ["max_size= is not a size"]),
        (PLACES + ",max_names=999", ["max_names=999 is not a number of names", "1000 or more"]),
        (PLACES + ",max_names=-2000", ["max_names=-2000 is not"]),
        (PLACES + ",max_names", ["option max_names has no value"]),
        (PLACES + ",ro=1", ["unknown option 'ro'"]),
        ("base=/a,b c,sto=/s", ["unknown option 'b c'", "write the comma before it as \\,"]),
        (PLACES + ",commit=", ["commit= is empty"]),
        (PLACES + ",commit=soon", ["commit=soon is not a number"]),
        (PLACES + ",commit=0", ["commit=0 is out of range", "sync"]),
        (PLACES + ",commit=-1", ["out of range"]),
        (PLACES + ",commit=nan", ["out of range"]),
        (PLACES + ",commit=inf", ["out of range"]),
        (PLACES + ",commit=1e9", ["out of range"]),
    ],
)
def test_parse_mistake_is_named_with_a_next_step(text: str, parts: list[str]) -> None:
    """One error names the word and says what to do."""
    with pytest.raises(UsageError) as caught:
        parse([text])
    for part in parts:
        assert part in str(caught.value)
    assert caught.value.hint


def test_parse_place_named_twice_in_two_ways_is_refused() -> None:
    """--base beside base= would leave it open which one counts."""
    with pytest.raises(UsageError, match="--base and lowerdir= mean the same"):
        parse(["lowerdir=/b,sto=/s"], base="/b")
    with pytest.raises(UsageError, match="--sto is empty"):
        parse(["base=/b"], storage="")


def test_parse_sloppy_skips_only_what_is_unknown() -> None:
    """mount -s tolerates unknown words, not wrong values."""
    assert parse([PLACES + ",nosuch,other=3"], sloppy=True) == MountOptions(base="/b", storage="/s")
    with pytest.raises(UsageError):
        parse([PLACES + ",commit=x"], sloppy=True)


def test_parse_single_backslashes_are_literal() -> None:
    """mini_fo took backslashes as they were; only the one before a comma or a backslash is an escape."""
    assert parse(["base=/a\\b\\,c\\\\,sto=/s\\"]) == MountOptions(base="/a\\b,c\\", storage="/s\\")


@given(base=st.one_of(paths, awkward), storage=st.one_of(paths, awkward))
@example(base="/a,b", storage="/c\\")
@example(base="/a\\", storage=",")
def test_any_path_survives_option_and_source_text(base: str, storage: str) -> None:
    """What is escaped comes back exactly, through -o and through /proc/mounts."""
    options = parse([f"ro,base={escape(base)},sto={escape(storage)},noatime"])
    assert (options.base, options.storage) == (base, storage)
    assert parse_source(format_source(base, storage)) == (base, storage, None)
    assert parse_source(format_source(base, storage, base)) == (base, storage, base)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "none",
        "base=/b",
        "sto=/s,base=/b",
        "base=/b,sto=/s,",
        "base=/b,sto=/s,ro",
        "base=/b,sto=/s,at=one,ro",
        "base=/b,at=one,sto=/s",
        "base=/b\\x\\\\,sto=/s",
        "x,base=/b,sto=/s",
    ],
)
def test_parse_source_of_another_kind_is_none(text: str) -> None:
    """Only what format_source writes is taken for a mount of ours."""
    assert parse_source(text) is None


def test_metrics_names_a_place() -> None:
    """The path is as the user wrote it; whether it can be used is seen by the daemon."""
    assert parse([PLACES]).metrics is None
    assert parse([PLACES + ",metrics=/a\\,b.prom"]).metrics == "/a,b.prom"
    with pytest.raises(UsageError, match="metrics= is empty"):
        parse([PLACES + ",metrics="])
    with pytest.raises(UsageError, match="metrics has no value"):
        parse([PLACES + ",metrics"])


def test_every_option_is_described() -> None:
    """The help names each word of ours, a line each."""
    known = {*words._ALIASES, *words._OWN_WITH_VALUE, *words._FLAGS, "remount", "ro", "rw", "sync", "noatime"}
    spelled = " ".join(spelled for spelled, _ in words.OPTIONS).replace("=", " ").replace(",", " ").split()
    assert known - set(spelled) == set()
    assert all(len(line) <= 100 for line in describe().splitlines())


def test_remount_takes_what_mount_hands_on() -> None:
    """mount(8) gives what the kernel shows of the mount, or its line in fstab, with what is to be changed behind it."""
    shown = "rw,nosuid,relatime,user_id=0,group_id=0,default_permissions,allow_other,max_read=4096,remount,ro"
    assert parse_remount([shown]) == Remount(True, ("ro", "nosuid", "relatime"), None, None)
    assert parse_remount([PLACES + ",commit=5,remount,rw", PLACES]) == Remount(False, ("rw",), "/b", "/s")
    assert parse_remount(["remount,noexec"]) == Remount(None, ("noexec",), None, None)
    assert parse_remount([PLACES]) is None
    with pytest.raises(UsageError, match="unknown option 'nosuch'"):
        parse_remount(["remount,nosuch"])
    with pytest.raises(UsageError, match="base= is given twice"):
        parse_remount(["remount,base=/a,base=/b"])
    with pytest.raises(UsageError, match="unknown option 'user_id'"):
        parse([PLACES + ",user_id=0"])
