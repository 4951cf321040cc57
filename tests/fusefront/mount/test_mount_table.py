"""The mount table: read exactly, whatever bytes a path is made of; mounts found by number, not by name."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minifo.fusefront.mount.mount_table import (
    find_mount,
    fuse_option,
    is_dead,
    locate,
    minifo_mounts,
    overlay_of,
    parse_mountinfo,
    read_mounts,
)
from minifo.fusefront.mount.source import format_source

# Lines as Linux 6.18 showed them for real mounts made through pyfuse3.
ROOT_LINE = (
    b"42 27 0:39 / /mnt/m\\012\\040,\\1340 rw,nosuid,nodev,relatime shared:7 master:1 - fuse.minifo "
    b"base=/a\\134,b\\040c\\011d\\012e\\043f,sto=/\xff\xc3\xa4\\134\\134\"' rw,user_id=0,group_id=0,allow_other\n"
)
PLAIN_LINE = b"27 1 254:0 / / rw,relatime - ext4 /dev/root rw\n"
BIND_LINE = b"50 27 0:39 /sub /mnt/bind ro,relatime - fuse.minifo base=/a,sto=/b rw\n"
EMPTY_SOURCE_LINE = b"51 27 0:40 / /mnt/x rw - tmpfs  rw,size=1k\n"


def test_parse_mountinfo_undoes_every_escape() -> None:
    """Blank, tab, newline, backslash and # come as octal numbers, other bytes as they are."""
    entry = parse_mountinfo(ROOT_LINE)[0]
    assert entry.id == 42
    assert entry.parent == 27
    assert entry.device == os.makedev(0, 39)
    assert entry.root == "/"
    assert entry.mountpoint == "/mnt/m\n ,\\0"
    assert entry.fstype == "fuse.minifo"
    assert entry.source == format_source("/a,b c\td\ne#f", os.fsdecode(b"/\xff\xc3\xa4\\\"'"))
    assert overlay_of(entry) == ("/a,b c\td\ne#f", os.fsdecode(b"/\xff\xc3\xa4\\\"'"), None)
    assert {"nosuid", "user_id=0", "allow_other"} <= set(entry.options)


def test_parse_mountinfo_of_lines_of_every_shape() -> None:
    """No optional fields, a bind mount of a part, an empty source."""
    plain, bind, empty = parse_mountinfo(PLAIN_LINE + BIND_LINE + EMPTY_SOURCE_LINE)
    assert (plain.source, plain.options) == ("/dev/root", ("rw", "relatime"))
    assert overlay_of(plain) is None
    assert (bind.root, bind.options) == ("/sub", ("ro", "relatime", "rw"))
    assert (empty.source, empty.fstype) == ("", "tmpfs")


def test_overlay_of_another_type_is_none() -> None:
    """A source text that looks like ours on another file system is not ours."""
    assert overlay_of(parse_mountinfo(BIND_LINE.replace(b"fuse.minifo", b"fuse.other"))[0]) is None


def test_read_mounts_agrees_with_the_kernel() -> None:
    """Every line of this machine's table can be read, and / is in it."""
    entries = read_mounts()
    assert len({entry.id for entry in entries}) == len(entries) > 1
    assert find_mount("/") in entries
    assert all(entry in entries for entry in minifo_mounts())


def test_find_mount_is_exact(tmp_path: Path) -> None:
    """Only the mount point itself counts; a symbolic link to it does, a directory inside does not."""
    proc = find_mount("/proc")
    assert proc is not None
    assert (proc.fstype, proc.mountpoint) == ("proc", "/proc")
    link = tmp_path / "link"
    link.symlink_to("/proc")
    assert find_mount(str(link)) == proc
    assert find_mount("/proc/self/fd") is None
    assert find_mount(str(tmp_path)) is None
    assert not is_dead("/proc")


def test_locate_tells_true_path_and_mount(tmp_path: Path) -> None:
    """A path inside a mount belongs to it; names may be made of any bytes."""
    real, entry = locate("/proc/sys/kernel")
    assert real == "/proc/sys/kernel"
    assert entry is not None
    assert entry.fstype == "proc"
    odd = os.path.join(os.path.realpath(tmp_path), os.fsdecode(b"a b\n\\\xff,"))
    os.mkdir(odd)
    (tmp_path / "link").symlink_to(odd)
    assert locate(str(tmp_path / "link"))[0] == odd


def test_locate_missing_path_raises(tmp_path: Path) -> None:
    """A path that is not there has no mount."""
    with pytest.raises(FileNotFoundError):
        locate(str(tmp_path / "missing"))


class _FuseOpt(ctypes.Structure):
    _fields_ = (("template", ctypes.c_char_p), ("offset", ctypes.c_ulong), ("value", ctypes.c_int))


class _FuseArgs(ctypes.Structure):
    _fields_ = (("argc", ctypes.c_int), ("argv", ctypes.POINTER(ctypes.c_char_p)), ("allocated", ctypes.c_int))


@pytest.fixture(scope="module")
def libfuse() -> ctypes.CDLL:
    """The library that parses our options in a real mount."""
    name = ctypes.util.find_library("fuse3")
    assert name is not None, "libfuse3 is not installed"
    return ctypes.CDLL(name)


def _fsname(libfuse: ctypes.CDLL, option: str) -> bytes | None:
    """What libfuse takes for the fsname, given the arguments pyfuse3 would make of *option*."""
    words = (ctypes.c_char_p * 4)(b"pyfuse3", b"-o", option.encode("us-ascii"), None)
    arguments = _FuseArgs(3, ctypes.cast(words, ctypes.POINTER(ctypes.c_char_p)), 0)
    templates = (_FuseOpt * 2)(_FuseOpt(b"fsname=%s", 0, 0), _FuseOpt(None, 0, 0))
    found = ctypes.c_char_p()
    assert libfuse.fuse_opt_parse(ctypes.byref(arguments), ctypes.byref(found), templates, None) == 0
    assert arguments.argc == 1, "something was left over"
    libfuse.fuse_opt_free_args(ctypes.byref(arguments))
    return found.value


values = st.binary(min_size=1, max_size=60).filter(lambda raw: b"\0" not in raw).map(os.fsdecode)


@given(value=st.one_of(values, st.text(alphabet="\\,=01 7\n#\udcff/", min_size=1, max_size=12)))
@example(value="base=/a\\,b\\\\,sto=/c")
@example(value="\\101\\,\n\udcff")
def test_fuse_option_reaches_libfuse_exactly(libfuse: ctypes.CDLL, value: str) -> None:
    """Whatever the paths are, libfuse ends up with exactly the text meant, through ASCII and its own escapes."""
    assert _fsname(libfuse, fuse_option("fsname", value)) == os.fsencode(value)
