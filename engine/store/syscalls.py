"""The system calls Python lacks, and nothing else: openat2, open_tree, mount_setattr, fspick, fallocate, syncfs ...

Called through ctypes, so that the engine needs no compiler: by the C library's name where it has one, else by number
(syscall_numbers.py).  Each function raises OSError like the functions in ``os``.  Structures: openat2(2),
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
    """Return a system call as a function: the C library's wrapper if there is one, else syscall(2) with its number."""
    try:
        return getattr(_libc, name)  # type: ignore[no-any-return]
    except AttributeError:
        return partial(_libc.syscall, ctypes.c_long(syscall_number(name)))


def _with_64_bit_offsets(name: str) -> Callable[..., int]:
    """Return the C library's function that takes 64-bit offsets: *name* + "64" in glibc, plain *name* in musl."""
    return getattr(_libc, name + "64", None) or getattr(_libc, name)  # type: ignore[no-any-return]


_open_tree = _call("open_tree")
_fsconfig = _call("fsconfig")
_fspick = _call("fspick")
_openat2 = _call("openat2")
_mount_setattr = _call("mount_setattr")
_fallocate = _with_64_bit_offsets("fallocate")
_fstatfs = _with_64_bit_offsets("fstatfs")

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08

_SYNC_FILE_RANGE_WRITE_AND_WAIT = 1 | 2 | 4  # linux/fs.h
_CLONE_NEWNS = 0x0002_0000  # linux/sched.h

FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02
FALLOC_FL_ZERO_RANGE = 0x10

# Magic numbers of file systems in which a name exists exactly if a listing shows it (linux/magic.h, and their own
# sources): ext2 to ext4, xfs, btrfs, f2fs, bcachefs, tmpfs, ramfs, overlayfs, squashfs, erofs, cramfs, romfs, ubifs,
# jffs2.
_NAMES_AS_LISTED = {
    0xEF53, 0x58465342, 0x9123683E, 0xF2F52010, 0xCA451A4E, 0x01021994, 0x858458F6, 0x794C7630, 0x73717368, 0xE0F5E1E2,
    0x28CD3D45, 0x7275, 0x24051905, 0x72B6,
}  # fmt: skip
FS_IOC_GETFLAGS = ior(ord("f"), 1, struct.calcsize("l"))  # linux/fs.h
_FS_CASEFOLD_FL = 0x40000000

#: Format character (module ``struct``) of f_type, the first field of struct statfs.
F_TYPE = "I" if HERE.startswith("s390") else "l"

_OPEN_TREE_CLONE = 1
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_AT_FDCWD = -100
_FSPICK_CLOEXEC = 1
_FSPICK_EMPTY_PATH = 8
_FSCONFIG_CMD_RECONFIGURE = 7
_MOUNT_ATTR_RDONLY = 0x01
_MOUNT_ATTR_NOSUID = 0x02
_MOUNT_ATTR_NODEV = 0x04
_MOUNT_ATTR_NOEXEC = 0x08
_MOUNT_ATTR_NOATIME = 0x10
_MOUNT_ATTR_ATIME = 0x70  # the field of all atime flags: mount_setattr(2) wants it cleared where one is set


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def checked(result: int, call: str) -> int:
    """Return what a function of the C library returned, unless that says that it failed.

    Args:
        result: what it returned.
        call: its name, for the error.

    Raises:
        OSError: *result* is negative; with the errno of the last call through ctypes.
    """
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), call)
    return result


def openat2(dir_fd: int, path: bytes, flags: int, resolve: int) -> int:
    """Open *path* below *dir_fd*; the *resolve* flags confine the whole path walk (openat2(2)).

    Args:
        dir_fd: the directory that the walk starts at.
        path: relative path.
        flags: O_* flags; O_CLOEXEC is added, O_CREAT is not supported.
        resolve: RESOLVE_* flags.

    Returns:
        A file descriptor.

    Raises:
        OSError: EXDEV where the walk would leave the tree or cross a mount, ELOOP for a refused symlink, and the
            errors of open(2).
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
        if code != errno.EAGAIN:  # another process renamed something during the walk; openat2(2) says to try again
            raise OSError(code, os.strerror(code), path)


@functools.cache
def has_openat2() -> bool:
    """Return whether openat2(2) works: not before Linux 5.6, nor under seccomp filters of older container engines."""
    how = _OpenHow(os.O_PATH | os.O_CLOEXEC, 0, 0)
    fd = _openat2(_AT_FDCWD, ctypes.c_char_p(b"/"), ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how)))
    if fd < 0:
        return False
    os.close(fd)
    return True


def _walk(dir_fd: int, path: bytes, flags: int, resolve: int) -> int:
    """Open *path* as openat2(2) would, by opening and checking one name of it after the other.

    No step follows a symlink or goes up, so the walk stays beneath *dir_fd*.  The number of an object's mount is read
    in /proc, and not by stat(2): a file system that this daemon serves could not answer a stat call of the daemon.
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
            _check_mount(at, mount)
            if stat.S_ISLNK(os.fstat(at).st_mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        if mount and last != b".":
            # checked through O_PATH before the real open, because opening a device or a FIFO has effects
            probe = os.open(last, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            try:
                _check_mount(probe, mount)
            finally:
                os.close(probe)
        return os.open(last, flags | os.O_NOFOLLOW, dir_fd=at)
    finally:
        if at != dir_fd:
            os.close(at)


def _check_mount(fd: int, mount: int) -> None:
    """Raise EXDEV if *fd* does not lie on the mount with number *mount*; 0 allows every mount."""
    if mount and _mount_of(fd) != mount:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


def _mount_of(fd: int) -> int:
    """Return the number of the mount that a descriptor lies on (proc(5), fdinfo)."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("mnt_id:"))


def detached_mount(fd: int) -> int:
    """Make a private, detached clone of the mount that *fd* lies in, rooted at *fd*, without submounts.

    So what other mounts cover can be reached.  It goes away with the descriptor.

    Returns:
        An O_PATH descriptor of the clone's root.

    Raises:
        OSError: EPERM without CAP_SYS_ADMIN, EINVAL in a user namespace with locked submounts, ENOSYS before Linux 5.2.
    """
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_EMPTY_PATH
    return checked(_open_tree(fd, ctypes.c_char_p(b""), flags), "open_tree")


def clone_mount(fd: int) -> int:
    """Make a private, detached, read-only clone of the mount that *fd* lies in, rooted at *fd*, without submounts.

    The clone is read-only, noatime, nodev, nosuid and noexec, so that reading through it changes nothing, not even
    access times.  It goes away with the descriptor.

    Returns:
        An O_PATH descriptor of the clone's root.

    Raises:
        OSError: EPERM without CAP_SYS_ADMIN, EINVAL in a user namespace with locked submounts, ENOSYS before
            Linux 5.12.
    """
    tree = detached_mount(fd)
    attr = _MountAttr(
        _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOATIME | _MOUNT_ATTR_NOEXEC | _MOUNT_ATTR_NOSUID | _MOUNT_ATTR_NODEV,
        _MOUNT_ATTR_ATIME,
        0,
        0,
    )
    try:
        checked(
            _mount_setattr(
                tree,
                ctypes.c_char_p(b""),
                _AT_EMPTY_PATH,
                ctypes.byref(attr),
                ctypes.c_size_t(ctypes.sizeof(attr)),
            ),
            "mount_setattr",
        )
    except OSError:
        os.close(tree)
        raise
    return tree


def make_mounts_read_only(path: str) -> None:
    """Make the mount at *path*, and all mounts below it, read-only; their file systems stay as they are.

    Raises:
        OSError: EPERM without CAP_SYS_ADMIN, ENOSYS before Linux 5.12.
    """
    attr = _MountAttr(_MOUNT_ATTR_RDONLY, 0, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attr))
    checked(
        _mount_setattr(_AT_FDCWD, os.fsencode(path), _AT_RECURSIVE, ctypes.byref(attr), size),
        "mount_setattr",
    )


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
    checked(_fallocate(fd, mode, number(offset), number(size)), "fallocate")


def syncfs(fd: int) -> None:
    """Write all dirty data of the file system that *fd* lies in to its medium, and wait for that (syncfs(2)).

    Raises:
        OSError: EIO where a write has failed since the descriptor was opened.
    """
    checked(_libc.syncfs(fd), "syncfs")


def sync_file_range(fd: int) -> None:
    """Write back all dirty pages of a file, and wait for that, but sync no metadata and no medium (sync_file_range(2)).

    Raises:
        OSError: a page could not be written.
    """
    whole = ctypes.c_int64(0), ctypes.c_int64(0)  # offset, and size: 0 is up to the end
    checked(_libc.sync_file_range(fd, *whole, _SYNC_FILE_RANGE_WRITE_AND_WAIT), "sync_file_range")


def open_by_handle_at(mount: int, kind: int, handle: bytes, flags: int) -> int:
    """Open a file by a handle of its file system (open_by_handle_at(2)).

    Args:
        mount: a descriptor of any file in the file system.
        kind, handle: the type of the handle and its bytes, as the file system defines them.
        flags: of open(2).

    Raises:
        OSError: ESTALE if the file system does not know the handle, EPERM without CAP_DAC_READ_SEARCH.
    """
    struct_file_handle = struct.pack("=Ii", len(handle), kind) + handle
    return checked(_libc.open_by_handle_at(mount, struct_file_handle, flags), "open_by_handle_at")


def enter_mount_namespace(fd: int) -> None:
    """Move this process into the mount namespace that a descriptor of ``/proc/PID/ns/mnt`` refers to (setns(2)).

    Raises:
        OSError: EINVAL if it refers to no mount namespace, EPERM if this process may not enter it.
    """
    checked(_libc.setns(fd, _CLONE_NEWNS), "setns")


def file_system_type(fd: int) -> int:
    """Return the magic number of the file system that *fd* lies in (statfs(2), f_type)."""
    buffer = ctypes.create_string_buffer(256)  # struct statfs is 120 bytes with 64-bit words; f_type comes first
    checked(_fstatfs(fd, buffer), "fstatfs")
    return int(struct.unpack_from(F_TYPE, buffer)[0]) & 0xFFFF_FFFF


def shows_every_name(fd: int) -> bool:
    """Return whether a name exists in a directory exactly if a listing of the directory shows it, byte by byte.

    Some file systems ignore the case of a name, or have names that no listing shows (``.snapshot``, ``.zfs``).

    Args:
        fd: the directory, open for reading.
    """
    if file_system_type(fd) not in _NAMES_AS_LISTED:
        return False
    flags = array("i", [0, 0])  # the kernel writes an int, though the ioctl's number says long
    try:
        fcntl.ioctl(fd, FS_IOC_GETFLAGS, flags)
    except OSError:
        return True  # a file system without such flags ignores case in no directory
    return not flags[0] & _FS_CASEFOLD_FL


def forget_names(root: int) -> None:
    """Make the kernel drop the cached names of a file system that are not in use, with the inodes behind them.

    This is a side effect of reconfiguring the file system without any parameter (fspick(2), fsconfig(2)), which
    ``mount -o remount`` does as well; the flags of the mount stay as they are.

    Args:
        root: a descriptor of the root of any mount of the file system.

    Raises:
        OSError: EPERM without CAP_SYS_ADMIN, ENOSYS before Linux 5.2.
    """
    fd = checked(_fspick(root, b"", _FSPICK_CLOEXEC | _FSPICK_EMPTY_PATH), "fspick")
    try:
        checked(_fsconfig(fd, _FSCONFIG_CMD_RECONFIGURE, None, None, 0), "fsconfig")
    finally:
        os.close(fd)


def data_ranges(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the parts (first, end) of a range of a file that hold data, in order, without its holes (lseek(2)).

    The range, as each part, is from *start* up to and without *end*, in bytes.
    """
    return ranges_by(partial(os.lseek, fd), start, end)


def ranges_by(seek: Callable[[int, int], int], start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the parts (first, end) of a range that hold data, in order, with a function that works like lseek(2).

    Args:
        seek: seek(offset, SEEK_DATA) and seek(offset, SEEK_HOLE) return the next data or hole; ENXIO: no more data.
        start, end: the range, in bytes.
    """
    while start < end:
        try:
            first = seek(start, os.SEEK_DATA)
            stop = seek(first, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # only a hole is left
            if error.errno != errno.EINVAL:
                raise
            first, stop = start, end  # the file system cannot tell holes, so all of it counts as data
        if first >= end:
            return
        yield first, min(stop, end)
        start = stop
