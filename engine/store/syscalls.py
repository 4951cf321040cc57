"""The system calls Python lacks, and nothing else: openat2, open_tree, mount_setattr, fspick, fallocate, syncfs.

Called through ctypes, so that the engine needs no compiler: by the C library's name where it has one, else by number
(syscall_numbers.py).  Each function raises OSError like its siblings in ``os``.  Structures: openat2(2),
mount_setattr(2).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import os
import stat
import struct
from array import array
from collections.abc import Callable, Iterator
from functools import partial

from .syscall_numbers import HERE, ior, syscall_number

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _call(name: str) -> Callable[..., int]:
    """A system call as a function: the C library's own, if it has one."""
    try:
        return getattr(_libc, name)  # type: ignore[no-any-return]
    except AttributeError:
        return partial(_libc.syscall, ctypes.c_long(syscall_number(name)))


def _wide(name: str) -> Callable[..., int]:
    """A function of the C library that takes 64-bit offsets; musl knows no other, and no other name for it."""
    return getattr(_libc, name + "64", None) or getattr(_libc, name)  # type: ignore[no-any-return]


_open_tree = _call("open_tree")
_fsconfig = _call("fsconfig")
_fspick = _call("fspick")
_openat2 = _call("openat2")
_mount_setattr = _call("mount_setattr")
_fallocate = _wide("fallocate")
_fstatfs = _wide("fstatfs")

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08

FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02
FALLOC_FL_ZERO_RANGE = 0x10

# Magic numbers of file systems that look names up as they list them (linux/magic.h, and their own sources): ext2 to
# ext4, xfs, btrfs, f2fs, bcachefs, tmpfs, ramfs, overlayfs, squashfs, erofs, cramfs, romfs, ubifs, jffs2.
_EXACT = {
    0xEF53, 0x58465342, 0x9123683E, 0xF2F52010, 0xCA451A4E, 0x01021994, 0x858458F6, 0x794C7630, 0x73717368, 0xE0F5E1E2,
    0x28CD3D45, 0x7275, 0x24051905, 0x72B6,
}  # fmt: skip
FS_IOC_GETFLAGS = ior(ord("f"), 1, struct.calcsize("l"))  # linux/fs.h
_FS_CASEFOLD_FL = 0x40000000

#: The kind of the first field of struct statfs, f_type, in the words of ``struct``.
F_TYPE = "I" if HERE.startswith("s390") else "l"

_OPEN_TREE_CLONE = 1
_AT_EMPTY_PATH = 0x1000
_AT_FDCWD = -100
_FSPICK_CLOEXEC = 1
_FSPICK_EMPTY_PATH = 8
_FSCONFIG_CMD_RECONFIGURE = 7
_MOUNT_ATTR_RDONLY = 0x01
_MOUNT_ATTR_NOSUID = 0x02
_MOUNT_ATTR_NODEV = 0x04
_MOUNT_ATTR_NOEXEC = 0x08
_MOUNT_ATTR_NOATIME = 0x10
_MOUNT_ATTR_ATIME = 0x70  # the field that NOATIME and its siblings live in: it must be cleared to be set


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def _checked(result: int, what: bytes) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
    return result


def openat2(dir_fd: int, path: bytes, flags: int, resolve: int) -> int:
    """Open *path* below *dir_fd*, the whole walk confined by the *resolve* flags (openat2(2)).

    Args:
        dir_fd: directory the walk starts at.
        path: relative path.
        flags: O_* flags; O_CLOEXEC is added, O_CREAT is not served.
        resolve: RESOLVE_* flags.

    Returns:
        A file descriptor.

    Raises:
        OSError: EXDEV where the walk would leave the tree or cross a mount, ELOOP for a refused symlink, and those
            of open(2).
    """
    flags |= os.O_CLOEXEC if flags & os.O_PATH else os.O_CLOEXEC | os.O_LARGEFILE
    how = _OpenHow(flags, 0, resolve)
    while True:
        result = _openat2(dir_fd, ctypes.c_char_p(path), ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how)))
        if result >= 0:
            return int(result)
        code = ctypes.get_errno()
        if code in (errno.ENOSYS, errno.EPERM) and not has_openat2():
            return _walk(dir_fd, path, flags, resolve)
        if code != errno.EAGAIN:  # a rename elsewhere raced with a confined walk; openat2(2) says to try again
            raise OSError(code, os.strerror(code), path)


@functools.cache
def has_openat2() -> bool:
    """False before Linux 5.6, and under a filter that knows no such call (seccomp(2), of older container engines)."""
    how = _OpenHow(os.O_PATH | os.O_CLOEXEC, 0, 0)
    fd = _openat2(_AT_FDCWD, ctypes.c_char_p(b"/"), ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how)))
    if fd < 0:
        return False
    os.close(fd)
    return True


def _walk(dir_fd: int, path: bytes, flags: int, resolve: int) -> int:
    """What openat2 does, step by step: each name is opened by itself, and looked at before the next one.

    No step follows a symlink or goes up, so the walk stays beneath where it began.  Which mount an object lies on is
    asked of /proc, which asks no file system: one that waits for us would not answer.
    """
    *parents, last = [name for name in path.split(b"/") if name not in (b"", b".")] or [b"."]
    if b".." in (*parents, last):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
    mount = _mount_of(dir_fd) if resolve & RESOLVE_NO_XDEV else 0
    at = dir_fd
    try:
        for name in parents:
            below = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            if at != dir_fd:
                os.close(at)
            at = below
            _stay(at, mount)
            if stat.S_ISLNK(os.fstat(at).st_mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        if mount and last != b".":
            # a look at where it leads: to open a device or a pipe is not the same twice
            seen = os.open(last, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            try:
                _stay(seen, mount)
            finally:
                os.close(seen)
        return os.open(last, flags | os.O_NOFOLLOW, dir_fd=at)
    finally:
        if at != dir_fd:
            os.close(at)


def _stay(fd: int, mount: int) -> None:
    if mount and _mount_of(fd) != mount:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


def _mount_of(fd: int) -> int:
    """The number of the mount a descriptor lies on (proc(5), fdinfo)."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("mnt_id:"))


def clone_mount(fd: int) -> int:
    """Make a private, detached, read-only clone of the mount that *fd* lies in, rooted at *fd*, without submounts.

    The clone is read-only, noatime, nodev, nosuid and noexec: what is read through it is not touched at all, whatever
    the calling process may do elsewhere.  It goes away with the descriptor.

    Returns:
        An O_PATH descriptor of the clone's root.

    Raises:
        OSError: EPERM without CAP_SYS_ADMIN, EINVAL in a user namespace with locked submounts, ENOSYS before
            Linux 5.12.
    """
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_EMPTY_PATH
    tree = _checked(_open_tree(fd, ctypes.c_char_p(b""), flags), b"open_tree")
    attr = _MountAttr(
        _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOATIME | _MOUNT_ATTR_NOEXEC | _MOUNT_ATTR_NOSUID | _MOUNT_ATTR_NODEV,
        _MOUNT_ATTR_ATIME,
        0,
        0,
    )
    try:
        _checked(
            _mount_setattr(
                tree,
                ctypes.c_char_p(b""),
                _AT_EMPTY_PATH,
                ctypes.byref(attr),
                ctypes.c_size_t(ctypes.sizeof(attr)),
            ),
            b"mount_setattr",
        )
    except OSError:
        os.close(tree)
        raise
    return tree


def fallocate(fd: int, mode: int, offset: int, size: int) -> None:
    """Reserve, zero or give back blocks of a file (fallocate(2)).

    Args:
        fd: the file.
        mode: FALLOC_FL_* flags.
        offset, size: the range, in bytes.

    Raises:
        OSError: ENOSPC; EOPNOTSUPP where the file system cannot.
    """
    number = ctypes.c_int64
    _checked(_fallocate(fd, mode, number(offset), number(size)), b"fallocate")


def syncfs(fd: int) -> None:
    """Write everything dirty of the file system *fd* lies in to its medium, and wait (syncfs(2)).

    Raises:
        OSError: EIO where a write has failed since the descriptor was opened.
    """
    _checked(_libc.syncfs(fd), b"syncfs")


def file_system_type(fd: int) -> int:
    """The magic number of the file system *fd* lies in (statfs(2), f_type)."""
    buffer = ctypes.create_string_buffer(256)  # struct statfs is 120 bytes with 64-bit words; f_type comes first
    _checked(_fstatfs(fd, buffer), b"fstatfs")
    return int(struct.unpack_from(F_TYPE, buffer)[0]) & 0xFFFF_FFFF


def shows_every_name(fd: int) -> bool:
    """True if a directory has no names but those it lists: no other spelling leads there, and none is hidden.

    Some file systems find a name in upper or lower case, or have names that no listing shows (``.snapshot``, ``.zfs``).

    Args:
        fd: the directory, open for reading.
    """
    if file_system_type(fd) not in _EXACT:
        return False
    flags = array("i", [0, 0])  # the kernel writes an int, whatever the number says
    try:
        fcntl.ioctl(fd, FS_IOC_GETFLAGS, flags)
    except OSError:
        return True  # it has no flags, so no directory of it is an exception
    return not flags[0] & _FS_CASEFOLD_FL


def forget_names(root: int) -> None:
    """Make the kernel forget every name of a file system that nobody uses just now, and what it holds of those files.

    That is a by-effect of reconfiguring it (fspick(2), fsconfig(2), without any parameter): what ``mount -o remount``
    does, but for the flags of the mount.

    Args:
        root: a descriptor of the root of a mount of it.

    Raises:
        OSError: EPERM without CAP_SYS_ADMIN, ENOSYS before Linux 5.2.
    """
    fd = _checked(_fspick(root, b"", _FSPICK_CLOEXEC | _FSPICK_EMPTY_PATH), b"fspick")
    try:
        _checked(_fsconfig(fd, _FSCONFIG_CMD_RECONFIGURE, None, None, 0), b"fsconfig")
    finally:
        os.close(fd)


def data_ranges(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of a range of a file that hold data, in order, holes left out (lseek(2), SEEK_DATA)."""
    return ranges_by(partial(os.lseek, fd), start, end)


def ranges_by(seek: Callable[[int, int], int], start: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of a range that hold data, as *seek* tells them, which takes an offset and SEEK_DATA or SEEK_HOLE."""
    while start < end:
        try:
            first = seek(start, os.SEEK_DATA)
            stop = seek(first, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # only a hole is left
            if error.errno != errno.EINVAL:
                raise
            first, stop = start, end  # the file system does not tell
        if first >= end:
            return
        yield first, min(stop, end)
        start = stop
