"""What the tests on real mounts share: overlays that always go away again, trees to compare, calls as other users.

The rule: whatever a test does, and however it ends, no mount, daemon or loop device of ours outlives it.  A daemon that
hangs would hang the test with it (a request to FUSE cannot be interrupted), so a watchdog kills it in time.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import pickle
import pwd
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.shared.waiting import wait_until

T = TypeVar("T")

STEP = 60.0  # seconds one command may take


def _somebody() -> int:
    """The uid of a user without privileges: one that has a name, for fusermount3 serves no other."""
    try:
        return pwd.getpwuid(1000).pw_uid
    except KeyError:
        return pwd.getpwnam("nobody").pw_uid


USER = _somebody()  # a uid and gid without privileges


def minifo_program() -> str:
    """Path of the ``minifo`` command that belongs to the running python."""
    found = Path(sys.executable).parent / "minifo"
    return str(found) if found.exists() else str(shutil.which("minifo"))


def run(*arguments: str | bytes | Path, check: bool = True, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, output captured as text, with a time limit."""
    words = [os.fsdecode(word) for word in arguments]
    kwargs.setdefault("timeout", STEP)
    kwargs.setdefault("stdin", subprocess.DEVNULL)
    done = subprocess.run(words, capture_output=True, text=True, errors="surrogateescape", check=False, **kwargs)
    if check and done.returncode:
        raise AssertionError(f"{words} ended with {done.returncode}: {done.stderr}{done.stdout}")
    return done


def minifo(*arguments: str | bytes | Path, check: bool = True, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """Run the ``minifo`` command."""
    return run(minifo_program(), *arguments, check=check, **kwargs)


# ----------------------------------------------------------------------------------------------------------------------
# Mounts


def mount_lines() -> list[tuple[str, str, str]]:
    """What /proc/mounts shows: source, mount point and type of each mount, undecoded."""
    lines = Path("/proc/mounts").read_text(errors="surrogateescape").splitlines()
    return [(fields[0], fields[1], fields[2]) for fields in (line.split(" ") for line in lines)]


def is_mounted(path: Path) -> bool:
    """Whether something is mounted exactly at *path*."""
    escaped = "".join(f"\\{ord(char):03o}" if char in " \t\n\\#" else char for char in str(path))
    return any(where in (escaped, str(path)) for _, where, _ in mount_lines())


def daemon_of(storage: Path) -> int:
    """Process id of the daemon that holds a storage directory; 0 if none does."""
    try:
        text = (storage / "lock").read_text().strip()
    except OSError:
        return 0
    pid = int(text) if text.isdigit() else 0
    return pid if pid and is_alive(pid) else 0


def is_alive(pid: int) -> bool:
    """Whether a thread of a process runs: the first one may have ended while others still hold its descriptors."""
    for stat_file in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            if stat_file.read_text().rpartition(")")[2].split()[0] not in ("Z", "X"):
                return True
    return False


def await_end(pid: int, seconds: float = 10.0) -> None:
    """Wait until a process has ended."""
    wait_until(lambda: not is_alive(pid), f"process {pid} has ended", seconds)


_MKFS = {"ext4": ("mkfs.ext4", "-q", "-b", "4096"), "xfs": ("mkfs.xfs", "-q"), "exfat": ("mkfs.exfat",)}


class OverlayMount:
    """One overlay and its three directories.

    Args:
        home: an empty directory; base, storage and mount point are made in it unless they are given.
        options: ``-o`` words of every mount.
    """

    def __init__(
        self, home: Path, options: Sequence[str] = (), *, base: Path | None = None, sto: Path | None = None,
        mnt: Path | None = None,
    ) -> None:  # fmt: skip
        self.base = base or home / "base"
        self.sto = sto or home / "sto"
        self.mnt = mnt or home / "mnt"
        for path in (self.base, self.sto, self.mnt):
            path.mkdir(exist_ok=True)
        self.options = list(options)
        self.pid = 0

    def mount(self, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Mount in the background."""
        words = [word for option in (*self.options, *options) for word in ("-o", option)]
        done = minifo("mount", *words, "--base", self.base, "--sto", self.sto, self.mnt, check=check)
        self.pid = daemon_of(self.sto)
        return done

    def umount(self) -> None:
        """Unmount, and wait until the daemon has ended."""
        pid = self.pid or daemon_of(self.sto)
        minifo("umount", self.mnt)
        if pid:
            await_end(pid)

    def remount(self) -> None:
        """Unmount and mount again."""
        self.umount()
        self.mount()

    def kill(self) -> None:
        """End the daemon without a chance to tidy up."""
        os.kill(self.pid, signal.SIGKILL)
        await_end(self.pid)

    def clear(self) -> None:
        """Leave neither mount nor daemon, whatever happened."""
        for pid in {self.pid, daemon_of(self.sto)} - {0}:
            if is_alive(pid) and b"minifo" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
        while is_mounted(self.mnt):
            run("umount", "-l", "-i", self.mnt)

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        """All rows of a table of the unmounted overlay."""
        import apsw

        connection = apsw.Connection(str(self.sto / "minifo.db"))
        try:
            return list(connection.execute(f"SELECT * FROM {table}"))
        finally:
            connection.close()

    def violations(self) -> list[str]:
        """What breaks an invariant of the unmounted overlay."""
        from minifo.engine import Overlay as Engine

        engine = Engine.open(str(self.base), str(self.sto))
        try:
            return [str(violation) for violation in engine.check()]
        finally:
            engine.close()


class MountSandbox:
    """Makes overlays and other things to mount, and takes all of them away at the end.

    Everything lies in one directory that every user may enter (pytest's own are for root only), in memory where that
    keeps extended attributes: the tests sync and delete a lot.  What a mount of the system forbids (many have /dev/shm
    nosuid) the overlays would forbid too, so it has a file system of its own then.
    """

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []
        self.home = self._room("/dev/shm")
        try:
            os.setxattr(self.home, "user.try", b"")
            os.removexattr(self.home, "user.try")
        except OSError:
            self.home = self._room(None)
        self.overlays: list[OverlayMount] = []
        self._count = 0

    def _room(self, place: str | None) -> Path:
        home = self._temporary(place)
        self.undo(lambda: run("rm", "-rf", "--one-file-system", home, check=False))
        if os.statvfs(home).f_flag & (os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC):
            self.mount("-t", "tmpfs", "-o", "mode=755", "none", home)
        return home

    @staticmethod
    def _temporary(place: str | None) -> Path:
        home = Path(tempfile.mkdtemp(prefix="minifo-test-", dir=place))
        home.chmod(0o755)
        return home

    def directory_on_disk(self) -> Path:
        """A fresh directory in the file system of the system itself."""
        path = self._temporary("/var/tmp")
        self.undo(lambda: run("rm", "-rf", "--one-file-system", path, check=False))
        return path

    def directory(self) -> Path:
        """A fresh directory."""
        self._count += 1
        path = self.home / f"d{self._count}"
        path.mkdir()
        return path

    def overlay(self, *options: str, **places: Path) -> OverlayMount:
        """An overlay, not yet mounted."""
        overlay = OverlayMount(self.directory(), options, **places)
        self.overlays.append(overlay)
        return overlay

    def undo(self, action: Callable[[], object]) -> None:
        """Call *action* at the end, before what was registered earlier."""
        self._undo.append(action)

    def mount(self, *arguments: str | Path) -> None:
        """Call mount(8) for something that is none of ours; its last argument is the mount point."""
        run("mount", *arguments)
        self.undo(lambda: run("umount", "-l", arguments[-1], check=False))

    def file_system(self, kind: str, megabytes: int = 400, options: str = "noatime") -> Path:
        """A new, empty file system of its own: ``tmpfs``, or ext4, xfs or exfat in an image file.

        Args:
            kind: which.
            megabytes: how large the image is.
            options: mount options; exfat takes none.
        """
        where = self.directory()
        if kind == "tmpfs":
            self.mount("-t", "tmpfs", "-o", f"mode=755,{options}", "none", where)
            return where
        image = where.with_suffix(".img")
        with open(image, "wb") as file:
            file.truncate(megabytes << 20)
        run(*_MKFS[kind], image)
        if kind == "exfat":
            loop = run("losetup", "-f", "--show", image).stdout.strip()
            self.undo(lambda: run("losetup", "-d", loop, check=False))
            run("mount.exfat-fuse", "-o", "umask=077", loop, where)
            self.undo(lambda: run("umount", where, check=False))
        else:
            self.mount("-o", f"loop,{options}", image, where)
        return where

    def close(self) -> None:
        """Take everything away."""
        for overlay in self.overlays:
            overlay.clear()
        for action in reversed(self._undo):
            action()

    def abort(self) -> None:
        """Kill the daemons, so that whoever waits for one gets ENOTCONN."""
        for overlay in self.overlays:
            overlay.clear()


@contextlib.contextmanager
def watchdog(sandbox: MountSandbox, seconds: float) -> Iterator[None]:
    """Kill the sandbox's daemons if the block takes longer, and say so: else it looks as if they had died."""
    late = threading.Event()

    def abort() -> None:
        late.set()
        sandbox.abort()

    timer = threading.Timer(seconds, abort)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if late.is_set():
            pytest.fail(f"not done after {seconds:.0f} seconds: the watchdog has killed the daemons", pytrace=False)


# ----------------------------------------------------------------------------------------------------------------------
# Processes


def in_child(
    action: Callable[[], T],
    *,
    uid: int = 0,
    gid: int | None = None,
    groups: Sequence[int] = (),
    before: Callable[[], object] = lambda: None,
) -> T:
    """Call *action* in a forked process and return its result, or raise the OSError or AssertionError it raised.

    Args:
        action: what to call; its result is pickled.
        uid: user to become; 0 stays root.
        gid: group to become; the uid's number if it is not given.
        groups: supplementary groups.
        before: what to call as root.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            # pytest's streams have descriptors of their own, which a daemon would close and then use for something else
            sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
            signal.alarm(int(STEP))
            os.umask(0o022)
            before()
            if uid or gid or groups:
                os.setgroups(list(groups))
                group = uid if gid is None else gid
                os.setresgid(group, group, group)
                os.setresuid(uid, uid, uid)
            try:
                answer: tuple[bool, Any] = (True, action())
            except (OSError, AssertionError) as error:
                answer = (False, error)
            with open(writer, "wb") as pipe:
                pickle.dump(answer, pipe)
            status = 0
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    os.close(writer)
    with open(reader, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    assert data, f"the child ended with {os.waitstatus_to_exitcode(status)}"
    good, result = pickle.loads(data)
    if not good:
        raise result
    answered: T = result
    return answered


def attempt(action: Callable[..., T], *arguments: Any, **keywords: Any) -> T | str:
    """The result of a call, or the name of the errno it failed with."""
    try:
        return action(*arguments, **keywords)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


# ----------------------------------------------------------------------------------------------------------------------
# Trees


def walk(root: str | Path) -> Iterator[bytes]:
    """Every path below *root*, relative to it and sorted, ``.`` first; symlinks are not followed."""
    top = os.fsencode(root)
    yield b"."
    pending = [b""]
    while pending:
        directory = pending.pop()
        for name in sorted(os.listdir(os.path.join(top, directory)), reverse=True):
            path = os.path.join(directory, name)
            yield path
            if stat.S_ISDIR(os.lstat(os.path.join(top, path)).st_mode):
                pending.append(path)


def digest(path: bytes) -> str:
    """A short checksum of a file's bytes."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(1 << 20):
            found.update(data)
    return found.hexdigest()[:16]


def xattrs(path: bytes) -> dict[str, bytes]:
    """All extended attributes of an object."""
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)}


def describe(path: bytes, *, since: int = 1 << 62) -> dict[str, Any]:
    """What anybody can see of one object, its name and numbers aside.

    Args:
        path: the object.
        since: times from here on (ns) count as equal: the two sides are changed one after the other.
    """
    st = os.lstat(path)
    seen: dict[str, Any] = {
        "mode": oct(st.st_mode),
        "nlink": st.st_nlink,
        "owner": (st.st_uid, st.st_gid),
        "atime": min(st.st_atime_ns, since),
        "mtime": min(st.st_mtime_ns, since),
        "xattrs": xattrs(path),
    }
    if stat.S_ISREG(st.st_mode):
        seen |= {"size": st.st_size, "content": digest(path)}
    elif stat.S_ISLNK(st.st_mode):
        seen |= {"size": st.st_size, "target": os.readlink(path)}
    elif stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode):
        seen["rdev"] = st.st_rdev
    return seen


def tree(root: str | Path, *, since: int = 1 << 62) -> dict[bytes, dict[str, Any]]:
    """What anybody can see of a tree: each object by its path, hard links by their first name."""
    top = os.fsencode(root)
    first: dict[int, bytes] = {}
    found = {}
    for path in walk(root):
        full = os.path.join(top, path)
        found[path] = describe(full, since=since)
        st = os.lstat(full)
        if not stat.S_ISDIR(st.st_mode):
            found[path]["same as"] = first.setdefault(st.st_ino, path)
    return found


def differences(left: dict[bytes, dict[str, Any]], right: dict[bytes, dict[str, Any]]) -> list[str]:
    """How two trees differ, one line for each fact."""
    lines = [f"{path!r} only left" for path in left.keys() - right.keys()]
    lines += [f"{path!r} only right" for path in right.keys() - left.keys()]
    for path in left.keys() & right.keys():
        keys = left[path].keys() | right[path].keys()
        lines += [
            f"{path!r} {key}: {left[path].get(key)!r} != {right[path].get(key)!r}"
            for key in keys
            if left[path].get(key) != right[path].get(key)
        ]
    return sorted(lines)


def fingerprint(root: str | Path, *, access: bool = True) -> dict[bytes, tuple[Any, ...]]:
    """Everything lstat says of a tree, numbers and all times included, and checksums: for what must stay untouched.

    Contents are read without leaving a trace in their access times.

    Args:
        root: the tree.
        access: False to leave access times out.
    """
    top = os.fsencode(root)
    found: dict[bytes, tuple[Any, ...]] = {}
    for path in [b".", *(p for p in _walk_noatime(top))]:
        full = os.path.join(top, path)
        st = os.lstat(full)
        content: Any = None
        if stat.S_ISREG(st.st_mode):
            fd = os.open(full, os.O_RDONLY | os.O_NOATIME)
            with open(fd, "rb") as file:
                content = hashlib.sha256(file.read()).hexdigest()
        numbers = (st.st_ino, st.st_mode, st.st_nlink, st.st_uid, st.st_gid, st.st_rdev, st.st_size)
        found[path] = (*numbers, st.st_atime_ns if access else 0, st.st_mtime_ns, st.st_ctime_ns, content)
    return found


def _walk_noatime(top: bytes) -> Iterator[bytes]:
    pending = [b""]
    while pending:
        directory = pending.pop()
        fd = os.open(os.path.join(top, directory), os.O_RDONLY | os.O_DIRECTORY | os.O_NOATIME)
        try:
            names = sorted(os.fsencode(name) for name in os.listdir(fd))
        finally:
            os.close(fd)
        for name in names:
            path = os.path.join(directory, name)
            yield path
            if stat.S_ISDIR(os.lstat(os.path.join(top, path)).st_mode):
                pending.append(path)


# ----------------------------------------------------------------------------------------------------------------------
# A tree with one of everything

BIG = bytes(range(256)) * 800  # 200 KiB: more than what is copied whole at the first write
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
_PAST = 1_500_000_000_123_456_789


def acl(owner: int, user: int, group: int, mask: int, other: int) -> bytes:
    """An ACL in its xattr form that names one user, ``USER``; each argument is rwx as 4, 2 and 1."""
    entries = ((1, owner, -1), (2, user, USER), (4, group, -1), (0x10, mask, -1), (0x20, other, -1))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)


def populate(root: Path) -> None:
    """Make a small tree with every kind of object a base can hold."""

    def file(name: str, data: bytes = b"base\n", mode: int = 0o644, owner: tuple[int, int] = (0, 0)) -> Path:
        path = root / name
        path.write_bytes(data)
        os.chown(path, *owner)
        path.chmod(mode)
        return path

    def directory(name: str, mode: int = 0o755, owner: tuple[int, int] = (0, 0)) -> Path:
        path = root / name
        path.mkdir()
        os.chown(path, *owner)
        path.chmod(mode)
        return path

    for name in ("a", "b", "c"):
        file(name, name.encode() * 10)
    file("empty", b"")
    file("big", BIG)
    file("program", b"#!/bin/sh\necho ran\n", 0o755)
    file("setuid", b"x" * 10, 0o6755, (USER, USER))
    file("open", b"y" * 10, 0o666)
    file("private", b"z" * 10, 0o600)
    file("mine", b"m" * 10, 0o640, (USER, USER))
    with open(file("sparse"), "r+b") as sparse:
        sparse.truncate(1 << 20)
        sparse.seek(512 << 10)
        sparse.write(b"middle")
    for name in ("dir", "dir/sub", "dir/sub/deep", "dir2", "void", "void2"):
        directory(name)
    directory("mydir", 0o755, (USER, USER))
    directory("sticky", 0o1777)
    directory("group", 0o2775, (0, USER))
    directory("closed", 0o700)
    for name in ("dir/one", "dir/two", "dir/sub/three", "dir/sub/deep/four", "dir2/one", "closed/secret"):
        file(name, name.encode())
    file("sticky/root's")
    file("sticky/user's", owner=(USER, USER))
    file("group/member", mode=0o664, owner=(0, USER))
    file("hard1", b"hard")
    os.link(root / "hard1", root / "hard2")
    os.link(root / "hard1", root / "dir/hard3")
    os.symlink("a", root / "symlink")
    os.symlink("dir/sub", root / "dirlink")
    os.symlink("nowhere", root / "dangling")
    os.symlink("loop", root / "loop")
    os.mkfifo(root / "fifo", 0o622)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "block", stat.S_IFBLK | 0o600, os.makedev(7, 99))
    listener = socket.socket(socket.AF_UNIX)
    here = os.open(root, os.O_PATH)
    listener.bind(f"/proc/self/fd/{here}/socket")
    listener.close()
    os.close(here)
    tagged = file("tagged")
    os.setxattr(tagged, "user.colour", b"blue")
    os.setxattr(tagged, "trusted.level", b"\x00\x01")
    os.setxattr(tagged, "security.note", b"kept")
    os.setxattr(file("listed", b"acl\n", 0o640), ACCESS, acl(6, 6, 4, 6, 0))
    os.setxattr(directory("inherit"), DEFAULT, acl(7, 7, 5, 7, 0))
    for path in list(walk(root))[::-1]:
        os.utime(os.path.join(os.fsencode(root), path), ns=(_PAST, _PAST + len(path)), follow_symlinks=False)
