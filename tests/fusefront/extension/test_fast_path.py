"""The short road, seen from both ends of a real mount: what plain functions return is what callers get.

The file system under test is memory_file_system.py.  One mount serves all tests of this module; each takes names of its
own.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.fusefront.extension.memory_file_system import FUTURE, KINDS, MANY, PAST, VALUES
from tests.fusefront.extension.served_file_system import (
    Served,
    forget,
    read_anew,
    serving,
    synced,
    uncached,
    write_through,
)
from tests.shared.waiting import wait_until

TIMES_NOW, TIMES_OMIT = (1 << 30) - 1, (1 << 30) - 2  # UTIME_NOW, UTIME_OMIT (utimensat(2))


@pytest.fixture(scope="module")
def served(fuse_required: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The mount of this module."""
    with serving(tmp_path_factory.mktemp("answers")) as made:
        yield made


@pytest.fixture(autouse=True)
def _alive(served: Served) -> Iterator[None]:
    """Begin with a clean log and no umask, and end with a daemon that answers."""
    served.heard()
    served.complaint()
    umask = os.umask(0)
    yield
    os.umask(umask)
    for kind in KINDS:
        served.order(kind, "answer")
    assert served.process.poll() is None, served.complaint()
    assert os.lstat(served.path / "file").st_ino


def listed(path: Path) -> int:
    return len(os.listdir(path))


def linked(path: Path) -> int:
    os.link(path, f"{path}.link")
    return path.stat().st_nlink


def renamed(path: Path) -> bool:
    os.rename(path, f"{path}.new")
    return os.path.exists(path)


def changed(path: Path) -> int:
    path.chmod(0o640)
    return stat.S_IMODE(path.stat().st_mode)


def removed(remove: Callable[[Path], None]) -> Callable[[Path], bool]:
    def act(path: Path) -> bool:
        remove(path)
        return os.path.lexists(path)

    return act


def made(make: Callable[[Path], object]) -> Callable[[Path], int]:
    def act(path: Path) -> int:
        make(path)
        return os.lstat(path).st_mode

    return act


def nothing(path: Path) -> None:
    return


# For each kind: how its subject is made, a call that sends such a request, and what that returns when all is well.
CALLS: dict[str, tuple[Callable[[Path], object], Callable[[Path], Any], Any]] = {
    "getattr": (Path.touch, uncached, "666 0"),
    "getxattr": (Path.touch, lambda path: os.getxattr(path, "user.short"), VALUES[b"user.short"]),
    "link": (Path.touch, linked, 2),
    "mkdir": (nothing, made(Path.mkdir), stat.S_IFDIR | 0o777),
    "mknod": (nothing, made(Path.touch), stat.S_IFREG | 0o666),
    "read": (synced, read_anew, b"some bytes"),
    "readdir": (Path.mkdir, listed, 0),
    "readlink": (lambda path: path.symlink_to("target"), os.readlink, "target"),
    "rename": (Path.touch, renamed, False),
    "rmdir": (Path.mkdir, removed(Path.rmdir), False),
    "setattr": (Path.touch, changed, 0o640),
    "symlink": (nothing, made(lambda path: path.symlink_to("target")), stat.S_IFLNK | 0o777),
    "unlink": (Path.touch, removed(Path.unlink), False),
    "write": (Path.touch, write_through, b"written"),
}
BYTES = ("getxattr", "read", "readlink")
ENTRIES = ("getattr", "link", "mkdir", "mknod", "setattr", "symlink")


def prepare(served: Served, kind: str) -> tuple[Path, Callable[[Path], Any], Any]:
    """The subject of a kind's call, the call, and what it returns."""
    make, call, expected = CALLS[kind]
    path = served.new(make)
    served.heard()
    return path, call, expected


def test_every_kind_has_a_call() -> None:
    """What is asked of all kinds below is asked of all there are; the three left out have tests of their own."""
    assert sorted(CALLS) == sorted(set(KINDS) - {"lookup", "forget", "tmpfile"})


@pytest.mark.parametrize("kind", CALLS)
def test_an_answer_is_replied(served: Served, kind: str) -> None:
    """pyfuse3 hears nothing of a request that a function has answered."""
    path, call, expected = prepare(served, kind)
    assert call(path) == expected
    assert served.roads(kind) == {"direct"}
    assert served.complaint() == ""


@pytest.mark.parametrize("kind", CALLS)
def test_what_is_left_is_answered_by_pyfuse3(served: Served, kind: str) -> None:
    """NotImplemented gives pyfuse3 the request, and the caller sees no difference."""
    path, call, expected = prepare(served, kind)
    served.order(kind, "leave")
    assert call(path) == expected
    assert served.roads(kind) == {"direct", "behind"}
    assert served.complaint() == ""


@pytest.mark.parametrize("kind", CALLS)
def test_an_errno_is_what_the_caller_gets(served: Served, kind: str) -> None:
    """A number is an errno, and nothing to log."""
    path, call, expected = prepare(served, kind)
    served.order(kind, str(errno.EDQUOT))
    with pytest.raises(OSError, match=os.strerror(errno.EDQUOT)):
        call(path)
    served.order(kind, "answer")
    assert served.roads(kind) == {"direct"}
    assert served.complaint() == ""
    again, call, expected = prepare(served, kind)
    assert call(again) == expected


@pytest.mark.parametrize("kind", CALLS)
def test_an_exception_is_logged(served: Served, kind: str) -> None:
    """The caller gets EIO, the log the exception, and the next request its answer."""
    path, call, expected = prepare(served, kind)
    served.order(kind, "raise")
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        call(path)
    served.order(kind, "answer")
    assert f"NotServedError: {kind}" in served.complaint()
    again, call, expected = prepare(served, kind)
    assert call(again) == expected


def test_files_without_a_name(served: Served) -> None:
    """They are opened with what the function told; its errnos and failures arrive like those of others."""

    def unnamed() -> int:
        return os.open(served.path, os.O_TMPFILE | os.O_RDWR, 0o640)

    fd = unnamed()
    st = os.fstat(fd)
    assert (oct(st.st_mode), st.st_nlink, st.st_size) == ("0o100640", 0, 0)
    assert (st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns) == (5, 10**9 + 6, 2 * 10**9 + 7)
    os.write(fd, b"some bytes")
    os.fsync(fd)
    assert os.pread(fd, 100, 0) == b"some bytes"
    os.close(fd)
    # also when so many requests came in a row that pyfuse3 gets the next one
    for _ in range(500):
        os.close(unnamed())
    assert served.roads("tmpfile") == {"direct"}
    for order, outcome in (
        (str(errno.EDQUOT), errno.EDQUOT),
        ("raise", errno.EIO),
        *((what, errno.EIO) for what in WRONG),
    ):
        served.order("tmpfile", order)
        served.complaint()
        with pytest.raises(OSError, match=os.strerror(outcome)):
            unnamed()
        assert bool(served.complaint()) == (outcome == errno.EIO), order
    served.order("tmpfile", "answer")
    os.close(unnamed())
    served.order("tmpfile", "leave")
    with pytest.raises(OSError, match=os.strerror(errno.EOPNOTSUPP)):
        unnamed()
    assert served.roads("tmpfile") == {"direct"}


WRONG = ["'text'", "(1, 2, 3)", "[]", "1.5", "-5", str(10**30), "4096", "True"]
ODD = ["None", "0", "b'bytes'"]  # what is right for some kinds


@pytest.mark.parametrize("kind", CALLS)
def test_something_of_the_wrong_type_is_logged(served: Served, kind: str) -> None:
    """Whatever a function returns that is no answer, the caller gets EIO and the log says what it was."""
    wrong = list(WRONG)
    if kind in BYTES:
        wrong += ODD[:2]
    elif kind in ENTRIES:
        wrong += ODD
    elif kind == "readdir":
        wrong += [*ODD, "(None,)"]
    else:
        wrong.append(ODD[2])
    for what in wrong:
        path, call, _ = prepare(served, kind)
        served.order(kind, what)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            call(path)
        served.order(kind, "answer")
        assert "Error: " in served.complaint(), what
        assert served.roads(kind) == {"direct"}
    path, call, expected = prepare(served, kind)
    assert call(path) == expected


# ----------------------------------------------------------------------------------------------------------------------
# Names


def test_a_name_is_looked_up(served: Served) -> None:
    """Attributes or None are replied, and both are remembered; pyfuse3 is asked where a look-up is left."""
    path = served.file()
    assert path.stat().st_mode == stat.S_IFREG | 0o666
    missing = served.new()
    for _ in range(3):
        assert not os.path.lexists(missing)
    log = served.heard()["log"]
    assert log.count(["direct", "lookup", 1, missing.name]) == 1
    assert [event for event in log if event[0] == "behind"] == []
    for order, outcome in (("leave", errno.ENOENT), (str(errno.EDQUOT), errno.EDQUOT), ("raise", errno.EIO)):
        served.order("lookup", order)
        with pytest.raises(OSError, match=os.strerror(outcome)):
            os.lstat(served.new())
    for order in (*WRONG, "0"):
        served.order("lookup", order)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            os.lstat(served.new())
    assert "Error: " in served.complaint()
    assert served.roads("lookup") == {"direct", "behind"}


def test_forgetting_is_told_with_its_counts(served: Served) -> None:
    """Once the kernel has forgotten everything it was told of, the counts of both roads come out even."""
    for order in ("answer", "leave"):
        served.order("forget", order)
        for _ in range(3):
            path = served.file()
            os.link(path, f"{path}.link")
            assert listed(served.path / "empty") == 0
            assert listed(served.path) > 3
            os.stat(path)
        served.heard()
        deadline = time.monotonic() + 60
        left: dict[str, int] = {"": 0}
        roads: set[str] = set()
        while left:
            assert time.monotonic() < deadline, f"not forgotten: {left}"
            forget()
            heard = served.heard()
            roads |= {event[0] for event in heard["log"] if event[1] == "forget"}
            left = heard["told"]
        assert roads == ({"direct"} if order == "answer" else {"direct", "behind"})
    for order, complaint in (
        ("raise", "NotServedError: forget"),
        ("'wrong'", "TypeError: the callback for forget returned"),
    ):
        served.order("forget", order)
        served.file()
        found = ""
        while complaint not in found:
            assert time.monotonic() < deadline, f"nobody complains: {found}"
            forget()
            served.heard()
            found += served.complaint()


def test_a_large_directory_is_listed_once(served: Served) -> None:
    """Over several requests each name comes exactly once, and what did not fit is not counted as taken."""
    names = os.listdir(served.path / "many")
    assert sorted(names) == sorted(f"name{number}" for number in range(MANY))
    heard = served.heard()
    requests = [event[3] for event in heard["log"] if event[:2] == ["direct", "readdir"]]
    assert len(requests) > 3
    assert requests == sorted(set(requests))
    assert heard["taken"] == names


@pytest.mark.parametrize(("name", "complaint"), [("broken", "NotServedError: in the middle"), ("odd", "TypeError: ")])
def test_a_listing_that_breaks_off(served: Served, name: str, complaint: str) -> None:
    """The names before reach the kernel, which will forget them; then the caller hears of it, and it is logged."""
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        os.listdir(served.path / name)
    assert served.heard()["taken"] == [f"name{number}" for number in range(MANY // 2 - 1)]
    assert complaint in served.complaint()


def test_a_rename_is_told_with_its_flags(served: Served) -> None:
    """RENAME_EXCHANGE arrives, and both names hold the other's file."""
    first, second = served.file(), served.file()
    inos = first.stat().st_ino, second.stat().st_ino
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.renameat2(-100, bytes(first), -100, bytes(second), 2) == 0, os.strerror(ctypes.get_errno())
    assert (second.stat().st_ino, first.stat().st_ino) == inos
    assert ["direct", "rename", 1, first.name, 1, second.name, 2] in served.heard()["log"]


# ----------------------------------------------------------------------------------------------------------------------
# Values


def getxattr(path: Path, name: str, size: int) -> tuple[int, bytes]:
    """What getxattr(2) returns for a buffer of that size, negative for an errno, and the buffer."""
    buffer = ctypes.create_string_buffer(max(size, 1))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.getxattr.restype = ctypes.c_ssize_t
    found = libc.getxattr(bytes(path), name.encode(), buffer if size else None, size)
    return (found, buffer.raw[:found] if size else b"") if found >= 0 else (-ctypes.get_errno(), b"")


@pytest.mark.parametrize("road", ["answer", "leave"])
def test_an_xattr_of_any_size(served: Served, road: str) -> None:
    """A buffer of size 0 asks for the length, one that is too small is told so, an exact one is filled."""
    path = served.file()
    served.order("getxattr", road)
    for name, value in VALUES.items():
        word = name.decode()
        assert getxattr(path, word, 0) == (len(value), b""), word
        assert getxattr(path, word, 5000) == (len(value), value)
        if value:
            assert getxattr(path, word, len(value)) == (len(value), value)
            assert getxattr(path, word, len(value) - 1) == (-errno.ERANGE, b"")
    assert getxattr(path, "user.none", 0) == getxattr(path, "user.none", 100) == (-errno.ENODATA, b"")


def test_bytes_are_read_at_any_offset(served: Served) -> None:
    """Whole, in part and beyond the end; what is read is what was written in pieces, zeros between."""
    data = bytes(range(256)) * 40
    assert read_anew(served.path / "file", 20_000) == data
    assert read_anew(served.path / "file", 500, 9_999) == data[9_999:]
    assert read_anew(served.path / "file", 500, 20_000) == b""
    path = served.file()
    large = os.urandom(3 << 20)
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, large, 12_345)
    os.fsync(fd)
    os.close(fd)
    assert read_anew(path, 4 << 20) == bytes(12_345) + large
    heard = served.heard()["log"]
    assert {event[0] for event in heard if event[1] in ("read", "write")} == {"direct"}


def test_an_empty_file_is_read(served: Served) -> None:
    """No bytes are an answer."""
    assert read_anew(served.path / "file", 10, 1 << 30) == b""
    path = served.file()
    assert path.read_bytes() == b""


def utimens(path: Path, atime: tuple[int, int], mtime: tuple[int, int]) -> None:
    """utimensat(2) with seconds and nanoseconds as they are, special values among them."""
    libc = ctypes.CDLL(None, use_errno=True)
    times = (ctypes.c_long * 4)(*atime, *mtime)
    assert libc.utimensat(-100, bytes(path), times, 0) == 0, os.strerror(ctypes.get_errno())


@pytest.mark.parametrize("road", ["answer", "leave"])
def test_times_of_all_ages(served: Served, road: str) -> None:
    """Before 1970 and after 2038, told and set; UTIME_NOW and UTIME_OMIT are each the one time only."""
    st = (served.path / "many").stat()
    assert (st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns) == (PAST, FUTURE, 1)
    path = served.file()
    served.order("setattr", road)
    for ns in (PAST, -1, 0, 1, FUTURE, (1 << 31) * 10**9 + 7, (1 << 32) * 10**9 + 999_999_999):
        os.utime(path, ns=(ns, ns + 1))
        assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (ns, ns + 1)
    os.utime(path, ns=(PAST, PAST))
    before = time.time_ns() - 10**9
    utimens(path, (0, TIMES_NOW), (0, TIMES_OMIT))
    st = path.stat()
    assert before < st.st_atime_ns < time.time_ns() + 10**9
    assert st.st_mtime_ns == PAST
    os.utime(path, ns=(PAST, PAST))
    utimens(path, (7, TIMES_OMIT), (5, TIMES_NOW))
    st = path.stat()
    assert st.st_atime_ns == PAST
    assert before < st.st_mtime_ns < time.time_ns() + 10**9
    assert served.roads("setattr") == ({"direct"} if road == "answer" else {"direct", "behind"})


def test_times_that_no_number_here_can_hold(served: Served) -> None:
    """A time farther away than 64 bits of nanoseconds reach becomes the last one there is, not another century."""
    path = served.file()
    for seconds, limit in ((1 << 40, (1 << 63) - 1), (-(1 << 40), -(1 << 63))):
        utimens(path, (seconds, 5), (0, TIMES_OMIT))
        asked = [event for event in served.heard()["log"] if event[:2] == ["direct", "setattr"]]
        assert [event[7] for event in asked] == [limit]


def test_all_other_attributes_are_told(served: Served) -> None:
    """Owner, group, mode and size arrive each alone; devices keep their numbers."""
    path = served.file()
    os.chown(path, 70_000, -1)
    os.chown(path, -1, 80_000)
    os.truncate(path, 90_000)
    path.chmod(0o4711)
    st = path.stat()
    assert (st.st_uid, st.st_gid, st.st_size, st.st_mode) == (70_000, 80_000, 90_000, stat.S_IFREG | 0o4711)
    asked = [event[3:7] for event in served.heard()["log"] if event[:2] == ["direct", "setattr"]]
    assert [[value for value in values if value is not None] for values in asked[:2]] == [[70_000], [80_000]]
    assert [values.index(wanted) for values, wanted in zip(asked[:3], (70_000, 80_000, 90_000), strict=True)] == [
        1,
        2,
        3,
    ]
    device = served.new(lambda path: os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(259, 70_001)))
    assert os.lstat(device).st_rdev == os.makedev(259, 70_001)


def test_a_maker_is_known_by_ids_and_umask(served: Served) -> None:
    """What is made belongs to who made it, and the umask comes with the request."""
    os.chmod(served.path, 0o777)
    script = "umask 027; : > nobodys; mkdir nobodys.d; ln -s x nobodys.l"
    subprocess.run(
        ["sh", "-ec", script], cwd=served.path, user=1234, group=4321, extra_groups=[], check=True, timeout=60
    )
    found = [os.lstat(served.path / name) for name in ("nobodys", "nobodys.d", "nobodys.l")]
    assert {(st.st_uid, st.st_gid) for st in found} == {(1234, 4321)}
    assert [stat.S_IMODE(st.st_mode) for st in found] == [0o640, 0o750, 0o777]


@pytest.fixture
def waiting(served: Served, tmp_path: Path) -> Iterator[Path]:
    """The kernel's file that says how many requests wait for an answer."""
    subprocess.run(["mount", "-t", "fusectl", "none", tmp_path], check=True)
    yield tmp_path / str(os.minor(served.path.stat().st_dev)) / "waiting"
    subprocess.run(["umount", tmp_path], check=True)


def test_many_are_answered_in_a_row_and_then_others_get_a_turn(served: Served, waiting: Path) -> None:
    """Requests that are there already are answered without pyfuse3's loop between them, up to 64 of them."""
    files = [served.file() for _ in range(100)]
    served.heard()
    with ThreadPoolExecutor(len(files)) as pool:
        served.process.send_signal(signal.SIGSTOP)
        try:
            found = [pool.submit(os.getxattr, file, "user.short") for file in files]
            wait_until(lambda: int(waiting.read_text()) >= len(files), "all requests are in the queue")
        finally:
            served.process.send_signal(signal.SIGCONT)
        assert {future.result(60) for future in found} == {VALUES[b"user.short"]}
    heard = served.heard()
    kinds = [event[:2] for event in heard["log"]]
    assert kinds.count(["direct", "getxattr"]) == len(files)

    def longest(ends: list[int]) -> int:
        return max(kinds[first:last].count(["direct", "getxattr"]) for first, last in pairwise([0, *ends, len(kinds)]))

    assert longest([at for at, _ in heard["waits"]]) > 48
    assert longest([at for at, soon in heard["waits"] if not soon]) <= 64


# ----------------------------------------------------------------------------------------------------------------------
# Who is asked


def test_nobody_is_asked_any_more(served: Served) -> None:
    """serve(None) leaves everything to pyfuse3, until functions are given again."""
    os.setxattr(served.path, "user.serve", b"off")
    try:
        path = served.new(lambda path: path.write_bytes(b"text"))
        assert path.read_bytes() == b"text"
        assert {event[0] for event in served.heard()["log"]} == {"behind"}
    finally:
        os.setxattr(served.path, "user.serve", b"on")
    served.file()
    assert {event[0] for event in served.heard()["log"]} == {"direct"}


def test_serve_takes_a_dict_only() -> None:
    """Anything else, what cannot be called and what is no request is refused."""
    code = (
        "from minifo.fusefront.extension import loader\nmodule = loader.load()\n"
        "for wrong in ([], {'lookup': 5}, {'no such request': len}):\n"
        "    try: module.set_callbacks(wrong); print('taken')\n"
        "    except TypeError as error: print(type(error).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["TypeError"] * 3, done.stderr
