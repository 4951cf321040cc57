"""The door: the one way to what lies beneath a directory that others may have filled.

A storage may come from anywhere: a stick, an image, an archive.  So nothing in it is reached by a path.  Each directory
on the way is opened beneath the storage's own descriptor, without symlinks, magic links and other file systems
(openat2(2)), and each file below the directory it lies in.  A file is a regular one with one name, or it is refused: it
is looked at before it is opened, for to open a device or a FIFO is to use it, and again afterwards.  (Between the two
somebody may put a device there.  Where his devices work he can use them himself.)

Who may write to a storage directory may do so while it is read.  ``distrust`` says who could.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator

from ..errors import Corrupt, StateError
from .fd_cache import FdCache, share
from .syscalls import (
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    openat2,
)

BENEATH = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV
_PLAIN = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
_NEVER = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_KEPT = 32  # descriptors of directories
_ACCESS_ACL = "system.posix_acl_access"

KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symlink",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def objection(st: os.stat_result) -> str | None:
    """What is wrong with a file of a storage, in words that follow its name; None for a regular file with one name."""
    if not stat.S_ISREG(st.st_mode):
        return f"is {KINDS.get(stat.S_IFMT(st.st_mode), 'no file')}, not a file"
    if st.st_nlink > 1:
        return f"has {st.st_nlink} names (hard links)"
    return None


class ConfinedDir:
    """What lies beneath one directory.

    Names are relative to it, and parted by single slashes.

    Args:
        top: a descriptor of the directory; closed with the door.
    """

    def __init__(self, top: int) -> None:
        self.top = top
        self._dirs: FdCache[str] = FdCache(share(_KEPT, 12))

    def close(self) -> None:
        """Close all descriptors."""
        self._dirs.clear()
        os.close(self.top)

    def at(self, name: str) -> tuple[int, str]:
        """A descriptor of the directory that a name lies in, and its last part; valid until the next call but one."""
        directory, _, last = name.rpartition("/")
        if not directory:
            return self.top, last
        fd = self._dirs.get(directory)
        if fd is None:
            fd = self._dirs.put(directory, openat2(self.top, os.fsencode(directory), _DIRECTORY, BENEATH))
        return fd, last

    def open(self, name: str, flags: int, mode: int = 0o600) -> int:
        """Open or make a regular file with one name.

        Args:
            name: the file.
            flags: as for open(2); symlinks are not followed, and nothing is waited for.
            mode: of a file that is made.

        Raises:
            OSError: as open(2); ENXIO for what is no file, EMLINK for a file with more names.
        """
        dir_fd, last = self.at(name)
        return _open(dir_fd, last, name, flags, mode)

    def open_aside(self, name: str, flags: int) -> int:
        """The same for a file or, with O_DIRECTORY, a directory that is there; in any thread."""
        directory, _, last = name.rpartition("/")
        dir_fd = openat2(self.top, os.fsencode(directory), _DIRECTORY, BENEATH) if directory else self.top
        try:
            if flags & os.O_DIRECTORY:
                return os.open(last, flags | _NEVER, dir_fd=dir_fd)
            return _open(dir_fd, last, name, flags, 0)
        finally:
            if directory:
                os.close(dir_fd)

    def names(self, name: str) -> list[str]:
        """The names in a directory.

        Raises:
            OSError: as opendir(3); ELOOP or ENOTDIR for a symlink.
        """
        fd = self.open_aside(name, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return os.listdir(fd)
        finally:
            os.close(fd)

    def stat(self, name: str) -> os.stat_result:
        """Attributes of what has a name, whatever it is."""
        dir_fd, last = self.at(name)
        return os.stat(last, dir_fd=dir_fd, follow_symlinks=False)

    def find(self, name: str) -> os.stat_result | None:
        """The same, or None where there is no such name."""
        try:
            return self.stat(name)
        except FileNotFoundError:
            return None

    def look(self, name: str) -> int:
        """An O_PATH descriptor of what has a name, a symlink itself."""
        dir_fd, last = self.at(name)
        return os.open(last, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)

    def make_directories(self, name: str) -> None:
        """Make a directory and those above it, where there are none.

        Raises:
            OSError: ENOTDIR or ELOOP where one of them is something else.
        """
        if name in ("", "."):
            return
        try:
            self.at(name + "/")
        except FileNotFoundError:
            self.make_directories(name.rpartition("/")[0])
            self.mkdir(name)

    def mkdir(self, name: str, mode: int = 0o700) -> None:
        """Make a directory."""
        dir_fd, last = self.at(name)
        os.mkdir(last, mode, dir_fd=dir_fd)

    def symlink(self, target: bytes, name: str) -> None:
        """Make a symlink."""
        dir_fd, last = self.at(name)
        os.symlink(target, os.fsencode(last), dir_fd=dir_fd)

    def mknod(self, name: str, mode: int, device: int) -> None:
        """Make a device node, a FIFO or a socket."""
        dir_fd, last = self.at(name)
        os.mknod(last, mode, device, dir_fd=dir_fd)

    def link(self, name: str, new: str) -> None:
        """Give a file one more name."""
        dir_fd, last = self.at(name)
        new_fd, new_last = self.at(new)
        os.link(last, new_last, src_dir_fd=dir_fd, dst_dir_fd=new_fd, follow_symlinks=False)

    def chown(self, name: str, uid: int, gid: int) -> None:
        """Set owner and group."""
        dir_fd, last = self.at(name)
        os.chown(last, uid, gid, dir_fd=dir_fd, follow_symlinks=False)

    def chmod(self, name: str, mode: int) -> None:
        """Set the mode of what is no symlink."""
        with self.held(name) as path:
            os.chmod(path, mode)

    def utime(self, name: str, atime: int, mtime: int) -> None:
        """Set both times, in ns."""
        dir_fd, last = self.at(name)
        os.utime(last, ns=(atime, mtime), dir_fd=dir_fd, follow_symlinks=False)

    def setxattr(self, name: str, key: bytes, value: bytes) -> None:
        """Set an extended attribute of the object itself."""
        dir_fd, last = self.at(name)
        os.setxattr(f"/proc/self/fd/{dir_fd}/{last}", key, value, follow_symlinks=False)

    @contextlib.contextmanager
    def held(self, name: str) -> Iterator[str]:
        """A path that leads to what has a name just now, whatever becomes of the name: by /proc, to be followed.

        Raises:
            OSError: ELOOP for a symlink.
        """
        fd = self.look(name)
        try:
            if stat.S_ISLNK(os.fstat(fd).st_mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
            yield f"/proc/self/fd/{fd}"
        finally:
            os.close(fd)

    def unlink(self, name: str) -> None:
        """Remove the name of what is no directory."""
        dir_fd, last = self.at(name)
        os.unlink(last, dir_fd=dir_fd)

    def rename(self, name: str, new: str) -> None:
        """Rename, over what has the new name."""
        self._dirs.clear()  # the name may be that of a directory above one that is kept
        dir_fd, last = self.at(name)
        new_fd, new_last = self.at(new)
        os.rename(last, new_last, src_dir_fd=dir_fd, dst_dir_fd=new_fd)


def _open(dir_fd: int | None, last: str, name: str, flags: int, mode: int) -> int:
    if flags & os.O_EXCL:
        return os.open(last, flags | _NEVER, mode, dir_fd=dir_fd)
    try:
        _object_to(os.stat(last, dir_fd=dir_fd, follow_symlinks=False), name)
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise
    fd = os.open(last, flags | _NEVER, mode, dir_fd=dir_fd)
    try:
        _object_to(os.fstat(fd), name)
    except OSError:
        os.close(fd)
        raise
    return fd


def open_above(path: bytes) -> tuple[int, bytes]:
    """Open the directory that an absolute path lies in, no symlink on the way; it, and the last part of the path.

    So what is named below a directory whose own path is free of symlinks (realpath(3)) lies in it.

    Raises:
        OSError: ELOOP for a symlink, EINVAL for a path that leads up.
    """
    directory, _, last = path.rpartition(b"/")
    if last in (b"", b".", b"..") or b".." in directory.split(b"/"):
        raise OSError(errno.EINVAL, "not a plain path", path)
    root = os.open("/", _DIRECTORY | os.O_CLOEXEC)
    try:
        return openat2(root, directory.strip(b"/") or b".", _DIRECTORY, _PLAIN), last
    finally:
        os.close(root)


def open_file(path: str) -> int:
    """Open a regular file with one name for reading, wherever it lies; what else has its name is not touched.

    Raises:
        OSError: as ``ConfinedDir.open``.
    """
    return _open(None, path, path, os.O_RDONLY, 0)


def _object_to(st: os.stat_result, name: str) -> None:
    found = objection(st)
    if found is not None:
        raise OSError(errno.EMLINK if stat.S_ISREG(st.st_mode) else errno.ENXIO, found, name)


# -- who could change it


def distrust(fd: int, st: os.stat_result | None = None) -> str | None:
    """Who but root and the caller may write to a file or directory, in words that follow its name; None if nobody.

    Args:
        fd: the file or directory; only asked for an access control list.
        st: its attributes, where they are known.
    """
    st = os.fstat(fd) if st is None else st
    if st.st_uid not in (0, os.geteuid()):
        return f"belongs to {_user(st.st_uid)}"
    if st.st_mode & stat.S_IWOTH:
        return f"can be written by everybody (mode {stat.S_IMODE(st.st_mode):04o})"
    if st.st_mode & stat.S_IWGRP and not (_is_private(st.st_gid, st.st_uid) and not _has_acl(fd)):
        return f"can be written by others (mode {stat.S_IMODE(st.st_mode):04o}, group {st.st_gid})"
    return None


def _is_private(gid: int, uid: int) -> bool:
    """True for a group of one: root's, or one that was made with its user and has the same number or name."""
    if gid in (0, uid):
        return True
    import grp  # here, and so is the next one: it is seldom needed, and reads files
    import pwd

    try:
        name = pwd.getpwuid(uid).pw_name
        group = grp.getgrgid(gid)
    except KeyError:
        return False
    return group.gr_name == name and set(group.gr_mem) <= {name}


def _has_acl(fd: int) -> bool:
    """True where the bits of the group are those of the mask, which others may have a share in (acl(5))."""
    try:
        return bool(os.getxattr(f"/proc/self/fd/{fd}", _ACCESS_ACL))  # by the link, for the descriptor may be O_PATH
    except OSError:
        return False  # the file system knows none, or there is none


def _user(uid: int) -> str:
    import pwd  # here, for it is seldom needed

    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"


def check_trust(path: str, fd: int) -> None:
    """Refuse a storage directory that others could change.

    Raises:
        StateError: they could.
    """
    found = distrust(fd)
    if found is not None:
        raise untrusted(path, found)


def untrusted(path: str, found: str) -> StateError:
    """The error of a storage, or a file in it, of which ``distrust`` has said *found*."""
    hint = (
        "take it for yours (chown, chmod go-w; vfat and exfat: mount it with umask=077),"
        " or only read it: mount -o untrusted_sto, minifo-fsck --untrusted-sto"
    )
    return StateError(f"storage {path} {found}", hint)


def check_layout(
    door: ConfinedDir, path: str, files: Iterable[str], directories: Iterable[str], *, trusted: bool = True
) -> None:
    """Refuse a storage in which something stands in the place of its files or directories, or others may write to one.

    Args:
        door: the storage.
        path: its path, for messages.
        files, directories: names that these may have; those that are not there are skipped.
        trusted: False where it is known that others may write to it.

    Raises:
        Corrupt: one is something else.
        StateError: others may write to one.
    """
    there = set(door.names("."))
    wanted = [(name, stat.S_ISREG) for name in files] + [(name, stat.S_ISDIR) for name in directories]
    for name, is_right in wanted:
        if name not in there or (st := door.find(name)) is None:
            continue
        found = objection(st) if is_right is stat.S_ISREG else None
        if is_right is stat.S_ISDIR and not stat.S_ISDIR(st.st_mode):
            found = f"is {KINDS.get(stat.S_IFMT(st.st_mode), 'something else')}, not a directory"
        if found is not None:
            raise Corrupt(
                f"{os.path.join(path, name)} {found}",
                "nothing in a storage may lead out of it: if that is meant, put a copy in its place (cp -a)",
            )
        if not trusted:
            continue
        fd = door.open_aside(name, os.O_PATH | (os.O_DIRECTORY if is_right is stat.S_ISDIR else 0))
        try:
            found = distrust(fd)
        finally:
            os.close(fd)
        if found is not None:
            raise untrusted(os.path.join(path, name), found)
