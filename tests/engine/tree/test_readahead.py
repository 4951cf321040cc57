"""Reading ahead within a directory: what the medium is asked for, told by what the page cache holds.

The base lies on a real disk file system, and its files are dropped from memory before each test.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from minifo.engine import DirEntry, Ino
from minifo.engine.store.syscalls import file_system_type
from tests.shared.overlay_sandbox import OverlaySandbox

PAGE = mmap.PAGESIZE
SIZE = 3 * PAGE  # bytes of an ordinary file
AHEAD = 4  # files asked for at once
FAR = 40  # names: farther than anything is asked for
DIRECTORIES = 16  # whose order is kept
IN_MEMORY = (0x01021994, 0x858458F6)  # tmpfs, ramfs
MOMENT = 0.1  # seconds in which what was asked for without being wanted would have come

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


@pytest.fixture
def sandbox() -> Iterator[OverlaySandbox]:
    """An overlay with an empty base and an empty storage on a disk."""
    with tempfile.TemporaryDirectory(prefix="minifo-test-", dir="/var/tmp") as place:
        fd = os.open(place, os.O_RDONLY)
        kind = file_system_type(fd)
        os.close(fd)
        assert kind not in IN_MEMORY, f"/var/tmp is in memory ({kind:#x}): READING AHEAD CANNOT BE TESTED HERE"
        found = OverlaySandbox(Path(place))
        yield found
        found.close()


def cached(path: Path) -> list[bool]:
    """Return for each page of a file whether it is in the page cache (mincore(2), which reads nothing itself)."""
    fd = os.open(path, os.O_RDONLY | os.O_NOATIME)
    try:
        size = os.fstat(fd).st_size
        where = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
        assert where != ctypes.c_void_p(-1).value, os.strerror(ctypes.get_errno())
        pages = ctypes.create_string_buffer((size + PAGE - 1) // PAGE)
        assert _libc.mincore(where, size, pages) == 0, os.strerror(ctypes.get_errno())
        _libc.munmap(where, size)
        return [bool(byte & 1) for byte in pages.raw[: (size + PAGE - 1) // PAGE]]
    finally:
        os.close(fd)


def drop(path: Path) -> None:
    """Write a file to the disk, and drop it from the page cache."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        deadline = time.monotonic() + 10
        while any(cached(path)):
            assert time.monotonic() < deadline, f"{path} stays in memory"
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def content(name: str, size: int = SIZE) -> bytes:
    """Return the content of the file with a name."""
    return (name.encode() + b"\n").ljust(32, b".") * (size // 32)


def make(sandbox: OverlaySandbox, directory: str, count: int, size: int = SIZE) -> None:
    """Make a base directory of files that are not in the page cache."""
    for number in range(count):
        sandbox.put(f"{directory}/file{number}", content(f"file{number}", size))
    for number in range(count):
        drop(sandbox.base / directory / f"file{number}")


def listed(sandbox: OverlaySandbox, directory: str) -> list[DirEntry]:
    """Return the entries of a directory in the order of its listing."""
    return list(sandbox.ov.readdir(sandbox.ino(directory)))[2:]


def read(sandbox: OverlaySandbox, entry: DirEntry) -> bytes:
    """Read a file as a front end does."""
    ino = Ino(entry.attr.ino)
    sandbox.ov.read_ahead(ino)
    return sandbox.ov.read(ino, 0, 1 << 20)


def place(sandbox: OverlaySandbox, directory: str, entry: DirEntry) -> Path:
    return sandbox.base / directory / os.fsdecode(entry.name)


def come(sandbox: OverlaySandbox, directory: str, entries: Sequence[DirEntry]) -> bool:
    """Return whether the first page of all these files comes into the page cache without a read."""
    deadline = time.monotonic() + 5
    while not all(cached(place(sandbox, directory, entry))[0] for entry in entries):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def stay_away(sandbox: OverlaySandbox, directory: str, entries: Sequence[DirEntry]) -> bool:
    """Return whether all these files stay out of the page cache."""
    time.sleep(MOMENT)
    return not any(any(cached(place(sandbox, directory, entry))) for entry in entries)


def test_the_next_files_come_before_they_are_read(sandbox: OverlaySandbox) -> None:
    """A caller that reads files in the order of the listing finds the next ones in the page cache."""
    make(sandbox, "dir", 50)
    entries = listed(sandbox, "dir")
    assert stay_away(sandbox, "dir", entries), "to list them has read them"
    assert read(sandbox, entries[0]) == content(os.fsdecode(entries[0].name))
    assert come(sandbox, "dir", entries[1 : 1 + AHEAD])
    assert stay_away(sandbox, "dir", entries[FAR:])
    for at, entry in enumerate(entries[1:], 1):
        assert come(sandbox, "dir", entries[at : at + AHEAD]), at
        assert read(sandbox, entry) == content(os.fsdecode(entry.name))


def test_nothing_comes_after_random_reads(sandbox: OverlaySandbox) -> None:
    """Reads in another order, or in a directory that was not listed, start no reading ahead."""
    make(sandbox, "dir", 60)
    make(sandbox, "unlisted", 10)
    entries = listed(sandbox, "dir")
    random = (50, 20, 40, 10, 9, 30)
    for at in random:
        read(sandbox, entries[at])
    assert stay_away(sandbox, "dir", [entry for at, entry in enumerate(entries) if at not in random])
    numbers = [sandbox.ino(f"unlisted/file{number}") for number in range(10)]
    for ino in numbers[:5]:
        sandbox.ov.read_ahead(ino)
        sandbox.ov.read(ino, 0, SIZE)
    time.sleep(MOMENT)
    assert sum(any(cached(sandbox.base / f"unlisted/file{number}")) for number in range(10)) == 5


def test_who_goes_on_in_order_is_followed_again(sandbox: OverlaySandbox) -> None:
    """After a jump, reading one file in the order of the listing starts reading ahead again."""
    make(sandbox, "dir", 60)
    entries = listed(sandbox, "dir")
    read(sandbox, entries[40])
    assert stay_away(sandbox, "dir", entries[41:50])
    read(sandbox, entries[41])
    assert come(sandbox, "dir", entries[42 : 42 + AHEAD])


def test_what_has_no_bytes_is_passed_over_and_never_opened(sandbox: OverlaySandbox) -> None:
    """FIFOs, devices, sockets, symlinks, directories and empty files are skipped, and never opened."""
    make(sandbox, "dir", 12)
    top = sandbox.base / "dir"
    for number in range(3):
        os.mkfifo(top / f"fifo{number}")
        os.mknod(top / f"null{number}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(top / f"block{number}", stat.S_IFBLK | 0o600, os.makedev(7, 250 + number))
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(top / f"socket{number}"))
        (top / f"link{number}").symlink_to("file0")
        (top / f"folder{number}").mkdir()
        (top / f"empty{number}").touch()
    entries = listed(sandbox, "dir")
    assert len(entries) == 12 + 21
    others = {(st.st_dev, st.st_ino) for st in (p.lstat() for p in top.iterdir() if not p.name.startswith("file"))}
    near = 8  # names between two files that still are one after the other
    files = [entry for entry in entries if entry.name.startswith(b"file")]
    followed, at = 0, -1
    for number, entry in enumerate(files):
        index = entries.index(entry)
        ahead = [later for later in files[number + 1 :] if entries.index(later) < index + AHEAD * near][:AHEAD]
        assert read(sandbox, entry) == content(os.fsdecode(entry.name))
        if at < index <= at + near:
            assert come(sandbox, "dir", ahead)
            followed += len(ahead)
        at = index
    assert followed > AHEAD
    numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    opened = {
        (st.st_dev, st.st_ino) for st in (os.fstat(fd) for fd in numbers if os.path.exists(f"/proc/self/fd/{fd}"))
    }
    assert {(st.st_dev, st.st_ino) for st in [place(sandbox, "dir", files[0]).stat()]} <= opened, (
        "nothing is seen this way"
    )
    assert not opened & others
    for number in range(3):
        with pytest.raises(OSError, match="No such device or address"):  # ENXIO: nobody has it open for reading
            os.open(top / f"fifo{number}", os.O_WRONLY | os.O_NONBLOCK)


def test_of_a_large_file_the_beginning_comes(sandbox: OverlaySandbox) -> None:
    """Only the beginning of a large file is read ahead; the kernel reads ahead within it."""
    make(sandbox, "dir", 4, 1 << 20)
    entries = listed(sandbox, "dir")
    sandbox.ov.read_ahead(Ino(entries[0].attr.ino))
    assert come(sandbox, "dir", entries[1:])
    time.sleep(MOMENT)
    for entry in entries[1:]:
        pages = cached(place(sandbox, "dir", entry))
        assert pages[: (128 << 10) // PAGE] == [True] * ((128 << 10) // PAGE)
        assert not any(pages[len(pages) // 2 :])


def test_at_the_end_nothing_is_left_to_ask_for(sandbox: OverlaySandbox) -> None:
    """The last files of a directory, a single file, and a file in the root are read without an error."""
    make(sandbox, "dir", 6)
    make(sandbox, "single", 1)
    sandbox.put("top", content("top"))
    drop(sandbox.base / "top")
    root = sandbox.ino("")
    for directory in ("dir", "single"):
        for entry in listed(sandbox, directory):
            assert read(sandbox, entry) == content(os.fsdecode(entry.name))
    for entry in list(sandbox.ov.readdir(root)):
        if entry.name == b"top":
            assert read(sandbox, entry) == content("top")
    assert read(sandbox, listed(sandbox, "dir")[-1])


def test_what_changes_meanwhile_does_no_harm(sandbox: OverlaySandbox) -> None:
    """Files deleted, replaced, renamed or created after the listing are read as they are now."""
    make(sandbox, "dir", 40)
    entries = listed(sandbox, "dir")
    read(sandbox, entries[0])
    names = [os.fsdecode(entry.name) for entry in entries]
    expected = {name: content(name) for name in names}
    sandbox.unlink(f"dir/{names[2]}")
    del expected[names[2]]
    for at in (3, 6, 9):
        sandbox.create("dir/fresh", b"new")
        sandbox.rename("dir/fresh", f"dir/{names[at]}")
        expected[names[at]] = b"new"
    sandbox.rename(f"dir/{names[4]}", "dir/moved")
    expected["moved"] = expected.pop(names[4])
    sandbox.write(f"dir/{names[5]}", b"changed")
    expected[names[5]] = b"changed" + expected[names[5]][7:]
    for number in range(10):
        sandbox.create(f"dir/made{number}", b"made")
        expected[f"made{number}"] = b"made"
    sandbox.rename(f"dir/{names[7]}", f"dir/{names[8]}")
    expected[names[8]] = expected.pop(names[7])
    os.unlink(sandbox.base / "dir" / names[20])  # the base is not to change; if it does, the others are still read
    for name in [*names, "moved", *(f"made{number}" for number in range(10))]:
        attr = sandbox.find(f"dir/{name}")
        if name in expected and name != names[20]:
            assert attr is not None, name
            sandbox.ov.read_ahead(Ino(attr.ino))
            assert sandbox.ov.read(Ino(attr.ino), 0, 1 << 20) == expected[name], name
        else:
            assert attr is None, name


def test_a_directory_that_is_renamed_is_still_followed(sandbox: OverlaySandbox) -> None:
    """Files of a renamed directory are read ahead from their place in the base."""
    make(sandbox, "dir", 20)
    entries = listed(sandbox, "dir")
    sandbox.rename("dir", "other")
    for entry in entries:
        assert read(sandbox, entry) == content(os.fsdecode(entry.name))
    sandbox.mkdir("dir")
    sandbox.create("dir/file0", b"another")
    assert sandbox.read("dir/file0") == b"another"
    assert sandbox.read("other/file0") == content("file0")


def test_the_last_directories_listed_are_followed(sandbox: OverlaySandbox) -> None:
    """Only the directories listed last are remembered; listing one again counts."""
    directories = [f"dir{number}" for number in range(DIRECTORIES + 1)]
    for directory in directories:
        make(sandbox, directory, 3)
    entries = {directory: listed(sandbox, directory) for directory in directories[:-1]}
    listed(sandbox, "dir0")
    entries[directories[-1]] = listed(sandbox, directories[-1])
    for directory in directories:
        read(sandbox, entries[directory][0])
    followed = [directory for directory in directories if directory != "dir1"]
    assert [directory for directory in followed if not come(sandbox, directory, entries[directory][1:])] == []
    assert stay_away(sandbox, "dir1", entries["dir1"][1:])
