"""Parity of file contents: open flags, reads and writes, truncation, mapped memory, holes, locks."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
from collections.abc import Callable
from typing import Any

import pytest

from tests.mount.mount_sandbox import BIG, USER, attempt, in_child, run
from tests.mount.parity_mount import Pair, ParityMount

FILES = ["a", "empty", "big", "sparse", "hard1", "private"]
ACCESS = os.O_RDONLY, os.O_WRONLY, os.O_RDWR


def put(name: str, data: bytes, flags: int = os.O_WRONLY | os.O_CREAT, mode: int = 0o644) -> int:
    """Open, write, close; how many bytes were written."""
    fd = os.open(name, flags, mode)
    try:
        return os.write(fd, data)
    finally:
        os.close(fd)


def get(name: str) -> bytes:
    """All bytes of a file."""
    with open(name, "rb") as file:
        return file.read()


def test_everything_in_an_untouched_tree_is_equal(pair: Pair) -> None:
    """A mount that nobody has changed shows the base as it is, types, times and extended attributes included."""
    pair.same(lambda _: sorted(os.listdir(".")))


@pytest.mark.parametrize("flags", ["", "T", "A", "TA", "C", "CX", "CT", "CA", "X", "CXT"])
def test_open_flags(pair: Pair, flags: str) -> None:
    """Every combination of open flags does the same on files, missing names, links, directories and special files."""
    bits = {"T": os.O_TRUNC, "A": os.O_APPEND, "C": os.O_CREAT, "X": os.O_EXCL}
    word = sum(bits[letter] for letter in flags)
    names = ["a", "big", "new", "symlink", "dangling", "dir", "dirlink", "missing/x", "a/x", "loop", "null", "socket"]

    def act(_: str) -> list[Any]:
        results: list[Any] = []
        for access in ACCESS:
            for name in names:
                fd = attempt(os.open, name, word | access | os.O_NONBLOCK, 0o640)
                if not isinstance(fd, int):
                    results.append((access, name, fd))
                    continue
                size = os.fstat(fd).st_size if name != "null" and not stat.S_ISDIR(os.fstat(fd).st_mode) else None
                outcome = attempt(os.write, fd, b"written"), attempt(os.pread, fd, 4, 0)
                results.append((access, name, size, outcome))
                os.close(fd)
        return results

    pair.same(act)


@pytest.mark.parametrize("flags", [os.O_NOFOLLOW, os.O_DIRECTORY, os.O_PATH, os.O_PATH | os.O_NOFOLLOW, os.O_NOATIME])
def test_open_of_links_and_directories(pair: Pair, flags: int) -> None:
    """O_NOFOLLOW, O_DIRECTORY, O_PATH and O_NOATIME answer alike for every type."""
    names = ["a", "symlink", "dirlink", "dangling", "dir", "null", "fifo", "missing"]

    def act(_: str) -> list[Any]:
        results: list[Any] = []
        for name in names:
            fd = attempt(os.open, name, flags | os.O_NONBLOCK)
            if isinstance(fd, int):
                results.append(oct(os.fstat(fd).st_mode))
                os.close(fd)
            else:
                results.append(fd)
        return results

    pair.same(act)


@pytest.mark.parametrize("name", FILES)
def test_writes_at_odd_places(pair: Pair, name: str) -> None:
    """Writes before, across and beyond the end of base files, seen at once and after closing."""

    def act(_: str) -> list[Any]:
        fd = os.open(name, os.O_RDWR)
        seen: list[Any] = []
        for at, data in ((1, b"one"), (4095, b"two"), (70_000, b"three" * 5000), (3, b""), (250_001, b"end")):
            seen.append((os.pwrite(fd, data, at), os.fstat(fd).st_size, os.pread(fd, 20, max(0, at - 5))))
        os.close(fd)
        return [*seen, get(name)]

    pair.same(act)


@pytest.mark.parametrize("name", FILES)
def test_truncation(pair: Pair, name: str) -> None:
    """Truncation to nothing, shorter, longer and beyond; what was cut off reads as zeros when the file grows again."""

    def act(_: str) -> list[Any]:
        seen: list[Any] = []
        for size in (150_001, 3, 5000, 4096, 0, 10):
            os.truncate(name, size)
            seen.append((os.stat(name).st_size, get(name)))
        fd = os.open(name, os.O_RDWR)
        os.pwrite(fd, b"tail", 7)
        os.ftruncate(fd, 9)
        os.ftruncate(fd, 20_000)
        seen.append(os.pread(fd, 20_001, 0))
        os.close(fd)
        return seen

    pair.same(act)


def test_truncation_refused(pair: Pair) -> None:
    """Truncating what is no regular file, a negative size, too large a size and a read-only descriptor fail alike."""

    def act(_: str) -> list[Any]:
        reading = os.open("a", os.O_RDONLY)
        names = ["dir", "fifo", "null", "socket", "dangling", "missing", "a/x", "loop"]
        found = [attempt(os.truncate, name, 1) for name in names]
        return [*found, attempt(os.truncate, "a", -1), attempt(os.ftruncate, reading, 0)]

    pair.same(act)


def test_append_from_two_descriptors(pair: Pair) -> None:
    """O_APPEND writes go to the end as it is then, whoever moved it."""

    def act(_: str) -> Any:
        first, second = (os.open("a", os.O_WRONLY | os.O_APPEND) for _ in range(2))
        for turn in range(50):
            os.write(first, b"first%d\n" % turn)
            os.write(second, b"second%d\n" % turn)
            if turn == 25:
                os.truncate("a", 11)
            if turn == 40:
                os.pwrite(first, b"ignored offset", 0)
        os.close(first)
        os.close(second)
        return get("a")

    pair.same(act)


@pytest.mark.parametrize("name", ["big", "new"])
def test_direct_io(pair: Pair, name: str) -> None:
    """O_DIRECT reads and writes whole blocks and agrees with buffered access."""

    def act(_: str) -> Any:
        block = mmap.mmap(-1, 8192)
        block.write(b"D" * 8192)
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o644)
        wrote = os.pwritev(fd, [block], 4096)
        size = os.fstat(fd).st_size
        into = mmap.mmap(-1, 8192)
        read = os.preadv(fd, [into], 0)
        buffered = get(name)[:12_288]
        put(name, b"B" * 100, os.O_WRONLY)
        os.preadv(fd, [into], 0)
        os.close(fd)
        return wrote, size, read, buffered, into[:]

    pair.same(act)


@pytest.mark.parametrize("name", ["a", "big", "sparse", "hard1"])
def test_mapped_memory(pair: Pair, name: str) -> None:
    """Shared mappings and file calls see each other's bytes; private mappings keep theirs to themselves."""

    def act(_: str) -> list[Any]:
        fd = os.open(name, os.O_RDWR)
        os.ftruncate(fd, 300_000)
        shared, private = mmap.mmap(fd, 300_000), mmap.mmap(fd, 300_000, flags=mmap.MAP_PRIVATE)
        shared[5:12] = b"through"
        shared[200_000:200_006] = b"mapped"
        private[0:7] = b"private"
        seen: list[Any] = [os.pread(fd, 20, 0), os.pread(fd, 10, 199_998)]
        os.pwrite(fd, b"written", 100)
        os.pwrite(fd, b"far away", 260_000)
        seen += [shared[98:110], shared[260_000:260_008], private[260_000:260_008]]
        shared.flush()
        shared.close()
        os.close(fd)
        seen += [get(name), private[:20]]
        return seen

    pair.same(act)


def test_a_mapping_outlives_descriptor_and_name(pair: Pair) -> None:
    """A shared mapping works on after its file was closed and unlinked, and when another file takes the name."""

    def act(_: str) -> Any:
        fd = os.open("big", os.O_RDWR)
        mapping = mmap.mmap(fd, 8192)
        os.close(fd)
        os.unlink("big")
        put("big", b"another")
        mapping[:5] = b"still"
        mapping.flush()
        return mapping[:10], get("big")

    pair.same(act)


def test_read_only_mappings_and_execution(pair: Pair) -> None:
    """A program runs from the mount, and writing to it while it runs gives ETXTBSY."""

    def act(_: str) -> Any:
        with open("true", "wb") as file:
            file.write(get("/bin/sleep"))
        os.chmod("true", 0o755)
        script = run("./program").stdout
        child = os.posix_spawn("./true", ["true", "30"], {})
        busy = "ran"
        for _ in range(500):
            if os.readlink(f"/proc/{child}/exe").endswith("/true"):
                busy = str(attempt(os.open, "true", os.O_WRONLY))
                break
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.unlink("true")
        return script, busy, attempt(run, "./a", check=False)

    pair.same(act)


@pytest.mark.parametrize("name", ["a", "big", "hard1", "new"])
@pytest.mark.parametrize("how", ["unlink", "rename over", "rename"])
def test_open_files_live_on(pair: Pair, name: str, how: str) -> None:
    """An open file can be read, written, cut and described after its name was taken away, replaced or moved."""

    def act(_: str) -> list[Any]:
        put("new", b"created")
        fd = os.open(name, os.O_RDWR)
        links = os.fstat(fd).st_nlink
        if how == "unlink":
            os.unlink(name)
        elif how == "rename over":
            os.rename("b", name)
        else:
            os.rename(name, "dir/elsewhere")
        seen: list[Any] = [links, os.fstat(fd).st_nlink, os.pread(fd, 300_000, 0), os.pwrite(fd, b"after", 3)]
        os.fsync(fd)
        seen.append(os.pread(fd, 10, 0))
        os.ftruncate(fd, 5)
        os.fchmod(fd, 0o611)
        st = os.fstat(fd)
        seen += [os.pread(fd, 10, 0), st.st_size, oct(st.st_mode), st.st_nlink]
        seen.append(attempt(os.link, f"/proc/self/fd/{fd}", "revived", follow_symlinks=True))
        os.close(fd)
        return [*seen, os.path.exists(name) and get(name)]

    pair.same(act)


def test_an_unlinked_directory_stays_usable_by_descriptor(pair: Pair) -> None:
    """A removed directory that is still open is empty, has no link and takes no new name."""

    def act(_: str) -> list[Any]:
        seen: list[Any] = []
        os.mkdir("fresh")
        for name in ("void", "fresh"):
            fd = os.open(name, os.O_RDONLY)
            os.rmdir(name)
            seen += [os.listdir(fd), os.fstat(fd).st_nlink, oct(os.fstat(fd).st_mode)]
            seen.append(attempt(os.open, "new", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
            seen.append(attempt(os.mkdir, "new", dir_fd=fd))
            seen.append(attempt(os.symlink, "to", "new", dir_fd=fd))
            seen.append(attempt(os.link, "a", "new", dst_dir_fd=fd))
            seen.append(attempt(os.rename, "a", "new", dst_dir_fd=fd))
            seen.append(attempt(os.stat, "missing", dir_fd=fd))
            os.close(fd)
        return seen

    pair.same(act)


def test_holes(pair: Pair) -> None:
    """Holes read as zeros and cost nothing; data lies where SEEK_DATA says once the file is closed."""

    def act(_: str) -> list[Any]:
        fd = os.open("holes", os.O_RDWR | os.O_CREAT)
        os.pwrite(fd, b"end", 100 << 20)
        os.pwrite(fd, b"start", 0)
        os.close(fd)
        fd = os.open("sparse", os.O_RDWR)
        os.pwrite(fd, b"later", 900_000)
        os.close(fd)
        st = os.stat("holes")
        middle = os.open("holes", os.O_RDONLY)
        seen = [st.st_size, st.st_blocks * 512 < 1 << 20, os.pread(middle, 8, (100 << 20) - 4), os.pread(middle, 8, 0)]
        os.close(middle)
        return [*seen, os.stat("sparse").st_blocks * 512 < 1 << 19, get("sparse")]

    pair.same(act)


def test_seek_hole_and_data_never_lose_data(pair: Pair) -> None:
    """What SEEK_DATA and SEEK_HOLE report covers all data, dirty pages included."""

    def act(_: str) -> list[Any]:
        fd = os.open("fresh", os.O_RDWR | os.O_CREAT)
        os.pwrite(fd, b"x" * 100_000, 0)
        seen = [os.lseek(fd, 0, os.SEEK_DATA), os.lseek(fd, 0, os.SEEK_HOLE)]
        seen.append(attempt(os.lseek, fd, 100_000, os.SEEK_DATA))
        os.close(fd)
        return seen

    pair.same(act)


def test_preallocation_is_refused_or_right(pair: Pair) -> None:
    """posix_fallocate enlarges a file in the end, by the C library if not by the file system."""

    def act(_: str) -> list[Any]:
        fd = os.open("a", os.O_RDWR)
        attempt(os.posix_fallocate, fd, 0, 50_000)
        os.close(fd)
        return [os.stat("a").st_size, get("a")]

    pair.same(act)


def test_copies_inside_the_kernel(pair: Pair) -> None:
    """copy_file_range, sendfile and splice move the right bytes, also between base and created files."""

    def act(_: str) -> list[Any]:
        put("fresh", b"f" * 5000)
        source, target = os.open("big", os.O_RDONLY), os.open("fresh", os.O_RDWR)
        moved = 0
        while moved < 150_000:
            moved += os.copy_file_range(source, target, 150_000 - moved, moved, 1000 + moved)
        sent = os.sendfile(target, source, 10, 100)
        os.close(source)
        os.close(target)
        return [moved, sent, get("fresh")]

    pair.same(act)


def test_vectors_and_positions(pair: Pair) -> None:
    """readv, writev, preadv, pwritev and lseek act on the same bytes."""

    def act(_: str) -> list[Any]:
        fd = os.open("big", os.O_RDWR)
        wrote = os.writev(fd, [b"one", b"", b"three"])
        where = os.lseek(fd, 0, os.SEEK_CUR)
        first, second = bytearray(3), bytearray(5)
        read = os.preadv(fd, [first, second], 0)
        beyond = os.pread(fd, 10, 1 << 40), attempt(os.lseek, fd, -1, os.SEEK_SET), os.lseek(fd, -3, os.SEEK_END)
        os.close(fd)
        return [wrote, where, read, bytes(first), bytes(second), beyond]

    pair.same(act)


def test_huge_offsets(pair: Pair) -> None:
    """Files may be as large as offsets allow; beyond that writes fail with EFBIG and the file stays as it was."""

    def act(_: str) -> list[Any]:
        fd = os.open("huge", os.O_RDWR | os.O_CREAT)
        os.pwrite(fd, b"far", 1 << 42)
        size, data = os.fstat(fd).st_size, os.pread(fd, 5, (1 << 42) - 2)
        os.ftruncate(fd, 3)
        os.close(fd)
        return [size, data, get("huge")]

    pair.same(act)


def test_temporary_files_without_a_name(pair: Pair) -> None:
    """O_TMPFILE makes one; plain mode answers EOPNOTSUPP, and programs make a named file instead (as on NFS)."""
    if not pair.plain_mode:  # test_unnamed.py says more of them
        os.close(os.open(pair.mounted, os.O_TMPFILE | os.O_RDWR))
        return
    with pytest.raises(OSError, match="not supported") as caught:
        os.open(pair.mounted, os.O_TMPFILE | os.O_RDWR)
    assert caught.value.errno == errno.EOPNOTSUPP


def locks(name: str, lock: Callable[[int], Any]) -> list[Any]:
    """What a second process gets while the first one holds a lock, and after it let go."""
    fd = os.open(name, os.O_RDWR)
    lock(fd)

    def other() -> Any:
        second = os.open(name, os.O_RDWR)
        return attempt(lock, second)

    during = in_child(other)
    os.close(fd)
    return [during, in_child(other)]


@pytest.mark.parametrize("name", ["a", "open"])
def test_locks(pair: Pair, name: str) -> None:
    """flock and fcntl locks keep other processes out and end with the descriptor."""

    def act(_: str) -> list[Any]:
        kinds: list[Callable[[int], Any]] = [
            lambda fd: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB),
            lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB),
            lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5),
        ]
        return [locks(name, kind) for kind in kinds]

    pair.same(act)


def test_fsync_of_everything(pair: Pair) -> None:
    """fsync and fdatasync succeed on changed and unchanged files and directories, however they were opened."""

    def act(_: str) -> list[Any]:
        put("fresh", b"x")
        seen = []
        for name in ("a", "fresh", "dir", "."):
            fd = os.open(name, os.O_RDONLY)
            seen += [attempt(os.fsync, fd), attempt(os.fdatasync, fd)]
            os.close(fd)
        os.sync()
        return seen

    pair.same(act)


def test_synchronous_writes(pair: Pair) -> None:
    """O_SYNC and O_DSYNC writes are seen by everybody at once."""

    def act(_: str) -> list[Any]:
        put("a", b"sync", os.O_WRONLY | os.O_SYNC)
        put("big", b"dsync", os.O_WRONLY | os.O_DSYNC | os.O_APPEND)
        return [get("a"), get("big")[-10:]]

    pair.same(act)


def test_special_files_work(pair: Pair) -> None:
    """A fifo carries bytes between processes, a device node of the base and a new one reach the device."""
    # what passes through a fifo never reaches its file system, so its times stay (as with overlayfs)
    pair.excused = {"'fifo' mtime", "'pipe' mtime"}

    def act(_: str) -> list[Any]:
        os.mkfifo("pipe")
        os.mknod("zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
        seen: list[Any] = []
        for name in ("fifo", "pipe"):
            reader = os.open(name, os.O_RDONLY | os.O_NONBLOCK)
            put(name, b"through the pipe", os.O_WRONLY)
            seen.append(os.read(reader, 100))
            os.close(reader)
        zero = os.open("zero", os.O_RDONLY)
        seen += [os.read(zero, 3), put("null", b"gone", os.O_WRONLY)]
        os.close(zero)
        return [*seen, attempt(os.open, "socket", os.O_RDONLY)]

    pair.same(act)


def test_many_small_files(pair: Pair) -> None:
    """A thousand files made, rewritten and half of them removed leave exactly the other half."""

    def act(_: str) -> list[Any]:
        for number in range(1000):
            put(f"void/f{number}", b"%d" % number)
        for number in range(0, 1000, 3):
            put(f"void/f{number}", b"again", os.O_WRONLY | os.O_TRUNC)
        for number in range(0, 1000, 2):
            os.unlink(f"void/f{number}")
        return [sorted(os.listdir("void"))]

    pair.same(act)


def test_a_file_is_copied_and_compared(pair: Pair) -> None:
    """A 200 KiB file survives a copy, an in-place change in the middle and a copy back."""

    def act(_: str) -> list[Any]:
        run("cp", "-a", "big", "copy")
        fd = os.open("big", os.O_RDWR)
        os.pwrite(fd, b"middle", 100_000)
        os.close(fd)
        changed = get("big")
        run("cp", "copy", "big")
        return [get("copy") == BIG, changed, get("big") == BIG]

    pair.same(act)


def test_written_by_others(pair: Pair) -> None:
    """A user without privileges reads and writes what the mode allows, and nothing else."""

    def act(_: str) -> list[Any]:
        names = [
            "a",
            "open",
            "private",
            "mine",
            "closed/secret",
            "listed",
            "setuid",
            "mydir/new",
            "sticky/new",
            "dir/new",
        ]
        return [
            (name, attempt(put, name, b"!"), attempt(get, name), attempt(put, name, b"!", os.O_WRONLY | os.O_TRUNC))
            for name in names
        ]

    pair.same(act, uid=USER)


def test_everything_survives_a_new_mount(parity_mount: ParityMount) -> None:
    """After all that, unmounting and mounting shows the same, no invariant is broken, the base is untouched."""
    parity_mount.survive()
