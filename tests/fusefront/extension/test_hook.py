"""The session hook, seen from both ends of real mounts: what the caller gets, and which requests reach Python.

Run as a program, this file is the file system under test (``serve``): everything in memory, every request logged, the
log and the hook's report written as JSON when it is unmounted.
"""

from __future__ import annotations

import errno
import json
import os
import select
import stat
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534
ATOMIC_O_TRUNC, DONT_MASK, CACHE_SYMLINKS, KILLPRIV_V2 = 1 << 3, 1 << 6, 1 << 23, 1 << 28
ATTRIBUTES = ("atime", "ctime", "gid", "mode", "mtime", "size", "uid")
ROOT_INO, FILE_INO, SETID_INO, KNOWN_INO, LARGE_INO = 1, 1001, 1002, 1003, 1004


# ----------------------------------------------------------------------------------------------------------------------
# The file system under test


def serve(mode: str, mountpoint: str, report: str, spurious: bool, publishing: bool) -> None:
    """Mount, serve until unmounted, then write the report.

    Args:
        mode: ``hooked`` or ``plain``.
        mountpoint: where to mount.
        report: path of the JSON file to write.
        spurious: once, tell the event loop that a request waits where none does.
        publishing: there is a file ``known``, about which the hook is told what Python was asked once.
    """
    from minifo.fusefront.extension import loader
    from minifo.fusefront.serve import shared_rules

    module = loader.load()
    assert module is not None
    loader.activate(mode == "hooked")
    shared_rules.pass_to(module)

    import pyfuse3
    import trio

    log: list[list[Any]] = []
    copies: list[int] = []
    now = time.time_ns()

    @dataclass
    class Node:
        mode: int
        data: bytearray = field(default_factory=bytearray)
        times: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("st_atime_ns", "st_mtime_ns"), now))

    nodes = {
        ROOT_INO: Node(stat.S_IFDIR | 0o777),
        FILE_INO: Node(stat.S_IFREG | 0o666, bytearray(b"content")),
        SETID_INO: Node(stat.S_IFREG | 0o6777, bytearray(b"set-id")),
    }
    names = {b"file": FILE_INO, b"setid": SETID_INO}
    if publishing:
        nodes[KNOWN_INO] = Node(stat.S_IFREG | 0o644, bytearray(b"known"))
        names[b"known"] = KNOWN_INO
        nodes[LARGE_INO] = Node(stat.S_IFREG | 0o644, bytearray(os.urandom(3 << 20)))
        names[b"large"] = LARGE_INO

    class Memory(pyfuse3.Operations):
        enable_writeback_cache = True
        supports_dot_lookup = False

        def attributes(self, ino: int) -> pyfuse3.EntryAttributes:
            entry, node = pyfuse3.EntryAttributes(), nodes[ino]
            entry.st_ino, entry.st_mode, entry.st_size = ino, node.mode, len(node.data)
            entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns = (*node.times.values(), now)
            entry.entry_timeout = entry.attr_timeout = 1e6
            return entry

        async def lookup(self, parent: int, name: bytes, ctx: Any) -> Any:
            log.append(["lookup", name.decode()])
            if name not in names:
                raise pyfuse3.FUSEError(errno.ENOENT)
            return self.attributes(names[name])

        async def getattr(self, ino: int, ctx: Any = None) -> Any:
            log.append(["getattr", ino])
            if ino == KNOWN_INO:
                # before 1970, and a size that the kernel does not believe, for the size is its own business
                module.publish_attr(ino, stat.S_IFREG | 0o600, 3, 7, 8, 0, 99, 16, -1_500_000_001, now, now)
            return self.attributes(ino)

        async def setattr(self, ino: int, attr: Any, fields: Any, fh: int | None, ctx: Any) -> Any:
            wants = [name for name in ATTRIBUTES if getattr(fields, f"update_{name}")]
            log.append(["setattr", ino, wants, attr.st_rdev, fh])
            node = nodes[ino]
            if fields.update_size:
                node.data[:] = node.data[: attr.st_size].ljust(attr.st_size, b"\0")
            if fields.update_mode:
                node.mode = attr.st_mode
            return self.attributes(ino)

        async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: Any) -> Any:
            log.append(["mknod", name.decode(), mode & 0o7777, ctx.umask])
            names[name] = ino = max(nodes) + 1
            nodes[ino] = Node(mode)
            return self.attributes(ino)

        async def create(self, *args: Any) -> Any:
            raise pyfuse3.FUSEError(errno.ENOSYS)

        async def open(self, ino: int, flags: int, ctx: Any) -> Any:
            log.append(["open", ino, flags])
            if flags & os.O_TRUNC:
                nodes[ino].data.clear()
            return pyfuse3.FileInfo(fh=ino)

        async def opendir(self, ino: int, ctx: Any) -> Any:
            log.append(["opendir", ino])
            return ino

        async def read(self, fh: int, off: int, size: int) -> bytes:
            log.append(["read", fh])
            if fh == LARGE_INO:
                copy = os.memfd_create("large")
                os.write(copy, nodes[fh].data)
                module.publish_file(fh, os.dup(copy), len(nodes[fh].data))
                copies.append(copy)
            return bytes(nodes[fh].data[off : off + size])

        async def write(self, fh: int, off: int, buf: bytes) -> int:
            log.append(["write", fh])
            data = nodes[fh].data
            data.extend(bytes(max(0, off - len(data))))
            data[off : off + len(buf)] = buf
            return len(buf)

        async def readdir(self, fh: int, start: int, token: Any) -> None:
            log.append(["readdir", fh])
            for number, (name, ino) in enumerate(list(names.items())[start:], start + 1):
                if not pyfuse3.readdir_reply(token, name, self.attributes(ino), number):
                    return

        async def fsync(self, fh: int, datasync: bool) -> None:
            log.append(["fsync", fh])

        async def fsyncdir(self, fh: int, datasync: bool) -> None:
            log.append(["fsyncdir", fh])

        async def setxattr(self, ino: int, name: bytes, value: bytes, ctx: Any) -> None:
            # The test's way to have the file changed behind the kernel's back, then told about from another thread.
            if name == b"user.notify":
                nodes[ino].data[:] = value
                threading.Thread(target=pyfuse3.invalidate_inode, args=(ino,)).start()
            elif name == b"user.withdraw":
                module.withdraw(ino)
                module.withdraw_no_xattrs(ino)
            elif name == b"user.cut":
                os.ftruncate(copies[-1], int(value))
            elif name == b"user.withdraw-all":
                module.withdraw_all()

        async def getxattr(self, ino: int, name: bytes, ctx: Any) -> bytes:
            if not name:
                kind, *arguments = module.range_request()
                log.append(["asked", kind, ino, *arguments])
                if arguments[3] == 0x10:
                    raise pyfuse3.FUSEError(errno.ENOSPC)
                lseek, copy = struct.pack("=Q", 1 << 40), struct.pack("=II", 3, 0)
                return {"fallocate": b"", "lseek": lseek, "copy_file_range": copy}[kind]
            log.append(["getxattr", ino, name.decode()])
            if ino == KNOWN_INO:
                module.publish_no_xattrs(ino)
            raise pyfuse3.FUSEError(errno.ENODATA)

        async def flush(self, fh: int) -> None:
            raise pyfuse3.FUSEError(errno.ENOSYS)

        async def statfs(self, ctx: Any) -> Any:
            return pyfuse3.StatvfsData()

        async def forget(self, forgotten: Any) -> None:
            return

        async def release(self, fh: int) -> None:
            log.append(["release", fh])

        async def releasedir(self, fh: int) -> None:
            log.append(["releasedir", fh])

    ticks = 0
    really_wait = trio.lowlevel.wait_readable

    async def wait_with_a_false_alarm(fd: int) -> None:
        """Wait, but once, when nobody has asked for anything for a while, say that a request is there."""
        nonlocal ticks
        if log and ["false alarm"] not in log:
            await trio.sleep(0.2)
            if not select.select([fd], [], [], 0)[0]:
                log.append(["false alarm"])
                ticks = 0
                return
        await really_wait(fd)

    if spurious:
        trio.lowlevel.wait_readable = wait_with_a_false_alarm
    options = {"fsname=memory", "allow_other", "default_permissions"}
    pyfuse3.init(Memory(), mountpoint, options)

    async def tick() -> None:
        nonlocal ticks
        while True:
            await trio.sleep(0.05)
            ticks += 1

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            await pyfuse3.main()
            nursery.cancel_scope.cancel()

    try:
        trio.run(run)
    finally:
        pyfuse3.close(unmount=True)
    verdict = loader.verify()
    text = json.dumps(
        {
            "log": log,
            "status": module.status(),
            "active": verdict.active,
            "reason": verdict.reason,
            "dont_mask": verdict.dont_mask,
            "killpriv": verdict.killpriv,
            "ticks": ticks,
        }
    )
    Path(report).write_text(text)


# ----------------------------------------------------------------------------------------------------------------------
# The tests' side of it


@dataclass
class Mount:
    """A mounted file system under test; the report is there once it is unmounted."""

    path: Path
    log: list[list[Any]] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)

    def events(self, *kinds: str) -> list[list[Any]]:
        """Return the logged requests of these kinds, in order."""
        return [event for event in self.log if event[0] in kinds]

    def as_nobody(self, script: str) -> None:
        """Run a shell script as an unprivileged user, in the root of the mount."""
        done = subprocess.run(
            ["/bin/sh", "-ec", script],
            cwd=self.path,
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that sees the installed package only."""
    return subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def mounted(tmp_path: Path, mode: str, *, spurious: bool = False, publishing: bool = False) -> Iterator[Mount]:
    """Mount for the body of the with statement; afterwards the report is filled in."""
    mount, report, errors = Mount(tmp_path / "mnt"), tmp_path / "report.json", tmp_path / "stderr"
    mount.path.mkdir()
    with errors.open("wb") as stderr:
        server = subprocess.Popen(
            [sys.executable, __file__, mode, mount.path, report, str(int(spurious)), str(int(publishing))],
            stderr=stderr,
        )
    try:
        deadline = time.monotonic() + 90
        while not os.path.ismount(mount.path):
            assert server.poll() is None, errors.read_text()
            assert time.monotonic() < deadline, "the file system did not mount in time"
            time.sleep(0.02)
        yield mount
        subprocess.run(["umount", mount.path], check=True, timeout=60)
        assert server.wait(30) == 0, errors.read_text()
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()
            subprocess.run(["umount", "-l", mount.path], check=False)
    mount.report = json.loads(report.read_text())
    mount.log = mount.report["log"]


def test_hooked_opens_never_reach_python_and_handles_are_inode_numbers(fuse_required: None, tmp_path: Path) -> None:
    """Opening, reading, writing, listing and syncing send no open, opendir or release, and every fh is the inode."""
    with mounted(tmp_path, "hooked") as mount:
        assert sorted(os.listdir(mount.path)) == ["file", "setid"]
        assert (mount.path / "file").read_bytes() == b"content"
        with (mount.path / "file").open("r+b") as file:
            file.write(b"C")
            file.flush()
            os.fsync(file.fileno())
        folder = os.open(mount.path, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
        assert (mount.path / "file").read_bytes() == b"Content"
    assert mount.events("open", "opendir", "release", "releasedir") == []
    assert {fh for _, fh in mount.events("read", "write", "fsync")} == {FILE_INO}
    assert {fh for _, fh in mount.events("readdir", "fsyncdir")} == {ROOT_INO}
    assert {event[0] for event in mount.log} >= {"read", "write", "fsync", "readdir", "fsyncdir"}


def test_hooked_init_reply_asks_for_exactly_the_flags_offered(fuse_required: None, tmp_path: Path) -> None:
    """The reply to INIT holds our flags and no ATOMIC_O_TRUNC; only our flags were added, none that was not offered."""
    with mounted(tmp_path, "hooked") as mount:
        os.stat(mount.path)
    status = mount.report["status"]
    assert status["session_hooked"]
    assert status["init_seen"]
    assert status["stateless"]
    ours = (DONT_MASK | CACHE_SYMLINKS | KILLPRIV_V2) & status["kernel_flags"]
    assert ours, "this kernel is too old for the test to say anything"
    assert status["reply_flags"] & ours == ours
    assert status["raised"] == ours
    assert status["reply_flags"] & ~status["kernel_flags"] == 0
    assert not status["reply_flags"] & ATOMIC_O_TRUNC
    assert mount.report["active"]
    assert mount.report["reason"] == ""
    assert mount.report["dont_mask"]
    assert mount.report["killpriv"]


def test_hooked_mknod_leaves_the_umask_to_the_file_system(fuse_required: None, tmp_path: Path) -> None:
    """A file created under a umask arrives with the mode asked for, and the umask beside it."""
    with mounted(tmp_path, "hooked") as mount:
        mount.as_nobody("umask 027; : > new")
    assert mount.events("mknod") == [["mknod", "new", 0o666, 0o027]]


def test_hooked_truncation_is_a_setattr(fuse_required: None, tmp_path: Path) -> None:
    """O_TRUNC sends SETATTR with a size, since no open request could carry it."""
    with mounted(tmp_path, "hooked") as mount, (mount.path / "file").open("wb") as file:
        file.write(b"new")
    sizes = [event for event in mount.events("setattr") if "size" in event[2]]
    assert len(sizes) == 1
    assert sizes[0][1] == FILE_INO


def test_hooked_truncation_by_another_user_shows_that_set_id_bits_must_go(fuse_required: None, tmp_path: Path) -> None:
    """Truncating as a user without privileges sets st_rdev to 1; as root, and for other changes, it is 0."""
    with mounted(tmp_path, "hooked") as mount:
        os.truncate(mount.path / "setid", 4)
        os.chmod(mount.path / "setid", 0o6777)
        mount.as_nobody("truncate -s 2 setid")
    changes = [(event[2], event[3]) for event in mount.events("setattr") if {"size", "mode"} & set(event[2])]
    assert [("size" in wants, rdev) for wants, rdev in changes] == [(True, 0), (False, 0), (True, 1)]


def test_hooked_write_by_another_user_sends_an_empty_setattr(fuse_required: None, tmp_path: Path) -> None:
    """Writing a set-id file without privileges first asks, by an empty SETATTR, to clear the bits; root does not."""
    with mounted(tmp_path, "hooked") as mount:
        with (mount.path / "setid").open("r+b") as file:
            file.write(b"x")
        root_wrote = len(mount.path.joinpath("setid").read_bytes())
        mount.as_nobody("printf yy | dd of=setid conv=notrunc status=none")
    assert root_wrote == 6
    empty = [event for event in mount.events("setattr") if event[2] == []]
    assert [event[1] for event in empty] == [SETID_INO]
    assert mount.log.index(empty[0]) > mount.log.index(["write", SETID_INO])


def test_hooked_range_requests_reach_python(fuse_required: None, tmp_path: Path) -> None:
    """fallocate, lseek and copy_file_range come as a getxattr of an empty name, and the bytes it returns answer."""
    from minifo.engine.store.syscalls import fallocate

    with mounted(tmp_path, "hooked") as mount:
        file = os.open(mount.path / "file", os.O_RDWR)
        setid = os.open(mount.path / "setid", os.O_RDWR)
        fallocate(file, 3, 1 << 33, 5)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            fallocate(file, 0x10, 1, 2)
        assert os.lseek(file, 3, os.SEEK_DATA) == os.lseek(file, 2, os.SEEK_HOLE) == 1 << 40
        assert os.copy_file_range(setid, file, 6, 0, 1 << 34) == 3
        with pytest.raises(OSError, match=os.strerror(errno.ERANGE)):
            os.getxattr(mount.path / "file", "")
        for fd in (file, setid):
            os.close(fd)
    assert mount.events("asked") == [
        ["asked", "fallocate", FILE_INO, FILE_INO, 1 << 33, 5, 3, 0, 0],
        ["asked", "fallocate", FILE_INO, FILE_INO, 1, 2, 0x10, 0, 0],
        ["asked", "lseek", FILE_INO, FILE_INO, 3, 0, os.SEEK_DATA, 0, 0],
        ["asked", "lseek", FILE_INO, FILE_INO, 2, 0, os.SEEK_HOLE, 0, 0],
        ["asked", "copy_file_range", SETID_INO, SETID_INO, 0, 6, 0, FILE_INO, 1 << 34],
    ]


def test_plain_range_requests_are_left_to_the_kernel(fuse_required: None, tmp_path: Path) -> None:
    """Without the hook fallocate is not served, and the end of the file is the only hole."""
    from minifo.engine.store.syscalls import fallocate

    with mounted(tmp_path, "plain") as mount:
        file = os.open(mount.path / "file", os.O_RDWR)
        with pytest.raises(OSError, match=os.strerror(errno.EOPNOTSUPP)):
            fallocate(file, 3, 0, 5)
        assert os.lseek(file, 0, os.SEEK_HOLE) == len(b"content")
        os.close(file)
    assert mount.events("asked") == []


def test_hooked_large_transfers_arrive_whole(fuse_required: None, tmp_path: Path) -> None:
    """Megabytes written in large and odd sizes are read back the same, with no splice under way."""
    data = os.urandom(5_000_003)
    with mounted(tmp_path, "hooked") as mount:
        with (mount.path / "file").open("wb") as file:
            file.write(data)
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert (mount.path / "file").read_bytes() == data


def test_hooked_notifications_from_other_threads_pass(fuse_required: None, tmp_path: Path) -> None:
    """Invalidating an inode from a worker thread makes the kernel read the changed content."""
    with mounted(tmp_path, "hooked") as mount:
        assert (mount.path / "file").read_bytes() == b"content"
        os.setxattr(mount.path / "file", "user.notify", b"CHANGED")
        deadline = time.monotonic() + 90
        while (mount.path / "file").read_bytes() != b"CHANGED":
            assert time.monotonic() < deadline, "the notification was lost"
            time.sleep(0.05)


def test_hooked_event_loop_survives_a_request_that_vanished(fuse_required: None, tmp_path: Path) -> None:
    """If nothing is there to read after all, the loop neither blocks nor ends: its timers go on while nobody asks."""
    with mounted(tmp_path, "hooked", spurious=True) as mount:
        os.stat(mount.path / "file")
        time.sleep(1.5)
        assert (mount.path / "file").read_bytes() == b"content"
    assert mount.events("false alarm")
    assert mount.report["ticks"] >= 5


def test_hooked_what_was_published_is_not_asked_again(fuse_required: None, tmp_path: Path) -> None:
    """Attributes and missing xattrs are asked of Python once, until they are withdrawn; other names always are."""
    with mounted(tmp_path, "hooked", publishing=True) as mount:
        known = mount.path / "known"

        def stat_after_read() -> os.stat_result:
            with known.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                file.read()
            return known.stat()

        def missing(name: str) -> None:
            with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
                os.getxattr(known, name)

        for _ in range(3):
            seen = stat_after_read()
            missing("user.x")
            missing("other")
        assert (seen.st_mode & 0o777, seen.st_nlink, seen.st_uid, seen.st_gid) == (0o600, 3, 7, 8)
        assert (seen.st_atime_ns, seen.st_size) == (-1_500_000_001, len(b"known"))
        os.setxattr(known, "user.withdraw", b"")
        stat_after_read()
        missing("user.x")
        os.setxattr(known, "user.withdraw-all", b"")
        stat_after_read()
        missing("user.x")
    assert mount.events("getattr").count(["getattr", KNOWN_INO]) == 3
    assert mount.events("getxattr").count(["getxattr", KNOWN_INO, "user.x"]) == 2
    assert mount.events("getxattr").count(["getxattr", KNOWN_INO, "other"]) == 3


def test_hooked_published_file_is_read_without_python(fuse_required: None, tmp_path: Path) -> None:
    """Its bytes come from the descriptor, at any offset and beyond the end, until they are withdrawn."""
    with mounted(tmp_path, "hooked", publishing=True) as mount:
        large = mount.path / "large"

        def read_in_pieces() -> list[bytes]:
            with large.open("rb", buffering=0) as file:
                pieces = []
                for offset in (0, 1 << 20, (3 << 20) - 100, 4096, 2 << 20, 3 << 20):
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                    pieces.append(os.pread(file.fileno(), 5000, offset))
                return pieces

        first = read_in_pieces()
        assert read_in_pieces() == first
        assert [len(piece) for piece in first] == [5000, 5000, 100, 5000, 5000, 0]
        os.setxattr(large, "user.withdraw", b"")
        assert read_in_pieces() == first
    assert mount.events("read").count(["read", LARGE_INO]) == 2


def test_hooked_published_file_that_cannot_be_read_is_left_to_python(fuse_required: None, tmp_path: Path) -> None:
    """A descriptor that fails (its file was cut) costs nobody an answer: the same request is put to Python."""
    with mounted(tmp_path, "hooked", publishing=True) as mount:
        large = mount.path / "large"
        first = large.read_bytes()
        for _ in range(3):
            os.setxattr(large, "user.cut", b"4096")
            command = ["dd", f"if={large}", "iflag=nocache", "bs=1M", "status=none"]
            fd = os.open(large, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
            # not subprocess.run: a reader that gets no answer cannot be killed before the server is
            reader = subprocess.Popen(command, stdout=subprocess.PIPE)
            assert reader.communicate(timeout=20)[0] == first


def test_plain_session_is_left_alone(fuse_required: None, tmp_path: Path) -> None:
    """Switched off, opens reach Python, the kernel applies the umask, no flag is raised, and the status says so."""
    with mounted(tmp_path, "plain") as mount:
        assert sorted(os.listdir(mount.path)) == ["file", "setid"]
        assert (mount.path / "file").read_bytes() == b"content"
        mount.as_nobody("umask 027; : > new; truncate -s 2 setid")
        with (mount.path / "file").open("wb") as file:
            file.write(b"new")
    assert mount.events("opendir") == [["opendir", ROOT_INO]]
    assert FILE_INO in {event[1] for event in mount.events("open")}
    assert any(event[2] & os.O_TRUNC for event in mount.events("open"))
    assert mount.events("mknod") == [["mknod", "new", 0o640, 0o027]]
    assert all(event[3] == 0 for event in mount.events("setattr"))
    assert not mount.report["status"]["session_hooked"]
    assert mount.report["status"]["raised"] == 0
    assert not mount.report["active"]
    assert mount.report["reason"] == "it was mounted with -o plain"


def test_load_after_pyfuse3_is_refused() -> None:
    """Too late is an error, not a mount that is silently plain."""
    done = run_python("import pyfuse3; from minifo.fusefront.extension import loader; loader.load()")
    assert done.returncode != 0
    assert "RuntimeError: minifo.fusefront.extension.loader.load() must be called before pyfuse3" in done.stderr


def test_load_twice_returns_the_same_module() -> None:
    """A second call finds the first one's work, even after pyfuse3 was imported."""
    done = run_python(
        "from minifo.fusefront.extension import loader\n"
        "first = loader.load(); import pyfuse3; assert loader.load() is first is not None"
    )
    assert done.returncode == 0, done.stderr


def test_load_without_extension_returns_none_and_says_so() -> None:
    """An installation without the extension works on, logs it once per call, and reports why it is not active."""
    done = run_python(
        "import sys, logging; logging.basicConfig(); sys.modules['minifo.fusefront.extension._hook'] = None\n"
        "from minifo.fusefront.extension import loader\n"
        "assert loader.load() is None; loader.activate(True); print(loader.verify().reason)"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "the C extension is not installed\n"
    assert "the session hook cannot be loaded" in done.stderr


def test_switching_off_before_loading_is_not_forgotten() -> None:
    """activate(False) holds whether it is called before or after load()."""
    done = run_python(
        "from minifo.fusefront.extension import loader\n"
        "loader.activate(False); loader.load(); print(loader.verify().reason)"
    )
    assert done.stdout == "it was mounted with -o plain\n", done.stderr


def test_unused_hook_reports_that_nothing_was_hooked() -> None:
    """Before any session every answer is no."""
    done = run_python(
        "from minifo.fusefront.extension import loader\n"
        "status = loader.load().status(); print(any(status.values()), sorted(status), loader.verify().active)"
    )
    names = ["init_seen", "kernel_flags", "raised", "reply_flags", "session_hooked", "stateless"]
    assert done.stdout == f"False {names} False\n", done.stderr


def test_waiting_a_moment_tells_whether_something_is_there() -> None:
    """What is there is seen at once, and waiting in vain ends, however often."""
    done = run_python(
        "import os; from minifo.fusefront.extension import loader\n"
        "from minifo.fusefront.serve import shared_rules; shared_rules.pass_to(loader.load())\n"
        "soon = loader.load().arrives_soon; reader, writer = os.pipe()\n"
        "print([soon(reader) for _ in range(20)].count(True), end=' ')\n"
        "os.write(writer, b'x'); print(soon(reader), end=' '); os.read(reader, 1); print(soon(reader))\n"
    )
    assert done.stdout == "0 True False\n", done.stderr


if __name__ == "__main__":
    serve(*sys.argv[1:4], *(word == "1" for word in sys.argv[4:6]))
