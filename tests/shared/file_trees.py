"""What several test folders share: a base tree with everything in it, fingerprints, and system calls Python lacks.

Trees are built in memory (``/dev/shm``) where that file system takes user attributes, as the tests make thousands.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import hashlib
import os
import random
import shutil
import stat
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import apsw

from minifo.engine.store.syscalls import clone_mount

ACCESS = "system.posix_acl_access"
DEFAULT = "system.posix_acl_default"

LONG = b"n" * 255
HOSTILE = (b"new\nline", b"\xff\xfe\x80", b" blank ", LONG, b"-rf", b"quo'te\"s`$(x)", "ünï".encode())

_libc = ctypes.CDLL(None, use_errno=True)
_PAST = 1_500_000_000_123_456_789
_HOUR = 3600 * 10**9
_UTIME_OMIT = (1 << 30) - 2


class _Timespec(ctypes.Structure):
    _fields_ = (("sec", ctypes.c_long), ("nsec", ctypes.c_long))


def _checked(result: int) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def renameat2(src_fd: int, src: bytes, dst_fd: int, dst: bytes, flags: int) -> None:
    """renameat2(2)."""
    _checked(_libc.renameat2(src_fd, ctypes.c_char_p(src), dst_fd, ctypes.c_char_p(dst), ctypes.c_uint(flags)))


def utimens(path: bytes, atime: int | None, mtime: int | None) -> None:
    """utimensat(2) of the object itself, in ns; None leaves a time as it is; ``/proc/self/fd/N`` is followed."""
    times = (_Timespec * 2)()
    for field, value in zip(times, (atime, mtime), strict=True):
        field.sec, field.nsec = (0, _UTIME_OMIT) if value is None else divmod(value, 10**9)
    follow = path.startswith(b"/proc/self/fd/")
    _checked(_libc.utimensat(-100, ctypes.c_char_p(path), times, 0 if follow else 0x100))


def acl(*entries: tuple[int, int, int], version: int = 2) -> bytes:
    """An ACL in its xattr form, from (tag, permissions, id)."""
    return struct.pack("<I", version) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NOBODY = 0xFFFF_FFFF
MINIMAL_ACL = acl((0x01, 6, NOBODY), (0x04, 4, NOBODY), (0x20, 0, NOBODY))
NAMED_ACL = acl((0x01, 7, NOBODY), (0x02, 5, 1000), (0x04, 5, NOBODY), (0x10, 7, NOBODY), (0x20, 1, NOBODY))
MASKED_ACL = acl((0x01, 6, NOBODY), (0x04, 7, NOBODY), (0x08, 3, 50), (0x10, 2, NOBODY), (0x20, 4, NOBODY))
EMPTY_ACL = acl()
UNMASKED_ACL = acl((0x01, 6, NOBODY), (0x02, 4, 7), (0x04, 4, NOBODY), (0x20, 0, NOBODY))
OLD_ACL = acl((0x01, 6, NOBODY), (0x04, 4, NOBODY), (0x20, 0, NOBODY), version=1)


def noise(seed: int, size: int) -> bytes:
    """Bytes that look random and are the same each time."""
    return random.Random(seed).randbytes(size)


@functools.cache
def scratch_root() -> str | None:
    """Where trees are made: memory if it can hold user attributes, else (None) the usual temporary directory."""
    try:
        with tempfile.NamedTemporaryFile(dir="/dev/shm") as probe:
            os.setxattr(probe.name, "user.probe", b"")
    except OSError:
        return None
    return "/dev/shm"


def scratch() -> Path:
    """A new directory for trees; the caller removes it."""
    return Path(tempfile.mkdtemp(prefix="minifo-twin-", dir=scratch_root()))


def _file(path: bytes, data: bytes, mode: int = 0o644) -> None:
    with open(path, "wb") as file:
        file.write(data)
    os.chmod(path, mode)


def change_rows(database: str, inos: Mapping[str, int], statements: Iterable[str]) -> None:
    """Execute statements on a database; ``{path}`` stands for the inode number of a path."""
    con = apsw.Connection(database)
    try:
        for statement in statements:
            for path, ino in inos.items():
                statement = statement.replace("{" + path + "}", str(ino))
            con.execute(statement)
    finally:
        con.close()


def build_base(root: Path) -> Path:
    """Make a base tree with one of everything a file system can hold; needs root."""
    top = os.fsencode(root)

    def at(path: bytes) -> bytes:
        return top + b"/" + path

    for path in (b"", b"a", b"a/b", b"a/b/c", b"empty", b"sgid", b"sticky", b"acl"):
        os.mkdir(at(path))
    _file(at(b"a/f"), b"hello")
    _file(at(b"a/b/g"), noise(1, 9000))
    _file(at(b"a/b/c/deep"), b"deep\n", 0o600)
    _file(at(b"big"), noise(2, 200_000))
    _file(at(b"edge"), noise(3, 128 << 10))
    _file(at(b"edge1"), noise(4, (128 << 10) + 1))
    _file(at(b"none"), b"")
    _sparse(at(b"sparse"))
    os.link(at(b"a/f"), at(b"a/f2"))
    os.link(at(b"a/b/g"), at(b"g"))
    os.symlink(b"f", at(b"a/l"))
    os.symlink(b"nowhere/at/all", at(b"dangling"))
    os.symlink(b"../a", at(b"a/b/up"))
    os.mkfifo(at(b"fifo"), 0o640)
    os.mknod(at(b"null"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(at(b"loop"), stat.S_IFBLK | 0o660, os.makedev(7, 300))
    os.mknod(at(b"a/sock"), stat.S_IFSOCK | 0o755)
    for index, name in enumerate(HOSTILE):
        _file(at((b"a/" if index % 2 else b"") + name), name * 3)
    _file(at(b"suid"), b"#!", 0o6755)
    _file(at(b"sgid/mine"), b"m" * 5000, 0o2644)
    os.mkdir(at(b"sgid/sub"))
    for path in (b"sgid", b"sgid/mine", b"sgid/sub"):
        os.chown(at(path), 500, 100)
    os.chmod(at(b"sgid"), 0o2775)
    os.chmod(at(b"sgid/sub"), 0o2755)
    os.chmod(at(b"sticky"), 0o1777)
    os.setxattr(at(b"a/f"), "user.colour", b"blue\0green")
    os.setxattr(at(b"a"), "user.empty", b"")
    os.setxattr(at(b"acl"), DEFAULT, NAMED_ACL)
    _file(at(b"acl/named"), b"acl", 0o640)
    os.setxattr(at(b"acl/named"), ACCESS, NAMED_ACL)
    os.setxattr(at(b"a/l"), "trusted.link", b"1", follow_symlinks=False)
    age(root)
    return root


def build_small(root: Path) -> Path:
    """Make a base tree of few, short names, so that random operations often meet."""
    top = os.fsencode(root)
    for path in (b"", b"/d", b"/d/e", b"/d/e/f", b"/g"):
        os.mkdir(top + path)
    for path in (b"/a", b"/d/a", b"/d/e/b", b"/d/e/f/a"):
        _file(top + path, path)
    os.link(top + b"/a", top + b"/d/b")
    os.link(top + b"/d/a", top + b"/d/c")
    os.symlink(b"a", top + b"/d/s")
    age(root)
    return root


def build_files(root: Path) -> Path:
    """Make a base tree of regular files only, one for each way their bytes can be kept."""
    top = os.fsencode(root)
    for path in (b"", b"/d"):
        os.mkdir(top + path)
    sizes = {b"/none": 0, b"/tiny": 5, b"/d/page": 4096, b"/edge": 128 << 10, b"/edge1": (128 << 10) + 1}
    sizes[b"/d/big"] = 200_000
    for index, (path, size) in enumerate(sizes.items()):
        _file(top + path, noise(index, size))
    os.link(top + b"/d/big", top + b"/big")
    _sparse(top + b"/sparse")
    age(root)
    return root


def _sparse(path: bytes) -> None:
    with open(path, "wb") as file:
        for offset in (4000, 90_000, 180_000):
            os.pwrite(file.fileno(), noise(offset, 3000), offset)
        os.ftruncate(file.fileno(), 260_001)


def age(root: Path) -> None:
    """Give every object of a tree times of its own, in the past and to the nanosecond.

    A symlink's access time is later than its change, so that reading it does not move it (relatime).
    """
    paths = sorted(walk(os.fsencode(root)), reverse=True)
    for index, path in enumerate([*paths, os.fsencode(root)]):
        link = os.path.islink(path)
        mtime = _PAST + index * 1_000_000_007
        atime = time.time_ns() + _HOUR if link else mtime + 5
        os.utime(path, ns=(atime, mtime), follow_symlinks=False)


def walk(top: bytes) -> list[bytes]:
    """Every path below *top*, directories first."""
    found = []
    for name in list_names(top):
        path = top + b"/" + name
        found.append(path)
        if stat.S_ISDIR(os.lstat(path).st_mode):
            found += walk(path)
    return found


def list_names(path: bytes) -> list[bytes]:
    """The names in a directory, its access time left alone."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOATIME)
    try:
        return [os.fsencode(name) for name in os.listdir(fd)]
    finally:
        os.close(fd)


def content(path: bytes) -> bytes:
    """All bytes of a regular file, its access time left alone."""
    fd = os.open(path, os.O_RDONLY | os.O_NOATIME)
    try:
        return os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)


def xattrs(path: bytes | int) -> dict[bytes, bytes]:
    """All extended attributes of an object or an open file."""
    follow = isinstance(path, int)
    names = os.listxattr(path, follow_symlinks=follow)
    return {os.fsencode(name): os.getxattr(path, name, follow_symlinks=follow) for name in names}


def fingerprint(root: Path | str, *, atimes: bool = True) -> dict[bytes, tuple[object, ...]]:
    """Everything that can be seen of a tree, access times included unless told otherwise, without changing it."""
    fields = [name for name in sorted(dir(os.stat_result)) if name.startswith("st_") and name != "st_atime"]
    if not atimes:
        fields.remove("st_atime_ns")
    result: dict[bytes, tuple[object, ...]] = {}
    top = os.fsencode(root)
    for path in [top, *walk(top)]:
        st = os.lstat(path)
        seen = [getattr(st, name) for name in fields]
        data: object = None
        if stat.S_ISREG(st.st_mode):
            data = hashlib.blake2b(content(path)).digest()
        elif stat.S_ISLNK(st.st_mode):
            data = os.readlink(path)
        elif stat.S_ISDIR(st.st_mode):
            data = tuple(list_names(path))
        result[path[len(top) :]] = (*seen, data, tuple(xattrs(path).items()))
    return result


def copy_tree(source: Path, target: Path) -> None:
    """``cp -a`` to a path that does not exist yet, the source's access times left alone; needs root."""
    fd = os.open(source, os.O_PATH)
    try:
        clone = clone_mount(fd)
    finally:
        os.close(fd)
    target.mkdir()
    try:
        subprocess.run(["cp", "-a", "--", f"/proc/self/fd/{clone}/.", target], check=True, pass_fds=[clone])
    finally:
        os.close(clone)


def remove_tree(path: Path) -> None:
    """Delete a tree, whatever its modes."""
    shutil.rmtree(path)


def code_of(error: OSError) -> str:
    """The name of an error's errno."""
    return errno.errorcode.get(error.errno or 0, str(error.errno))
