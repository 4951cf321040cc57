"""Access to the files beneath a directory whose content minifo does not trust, confined to that directory.

A storage may come from anywhere: a USB stick, an image, an archive.  So minifo reaches nothing in it by an absolute
path.  It opens each directory beneath the storage's own descriptor, without symlinks, magic links and other file
systems (openat2(2)), and each file relative to its directory.  A file must be a regular file with a single name, else
it is refused.  This is checked before the file is opened, because opening a device or a FIFO has effects, and again
afterwards.  (Between the two checks an attacker may put a device there; but a device node that works for the daemon
there is one that the attacker could have opened directly.)  Only a content object that clones share may have more names
(``ConfinedDir.open_object``).

Other users who may write to a storage directory could change it while minifo reads it; ``check_trust`` refuses that.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Iterable, Iterator

from ..errors import Corrupt, StateError
from ..model import ACL_ACCESS
from .fd_cache import FdCache, share
from .syscalls import (
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    openat2,
)

log = logging.getLogger(__name__)

BENEATH = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV
_PLAIN = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
_ALWAYS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CACHED_DIRECTORIES = 32
_SHARED = "user.minifo.shared"  # extended attribute of a content object that may have names in other storages, too
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH

KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symlink",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def why_refused(st: os.stat_result) -> str | None:
    """Return why a file in storage is refused, as text that follows its name; None for a regular file with one link."""
    if not stat.S_ISREG(st.st_mode):
        return f"is {KINDS.get(stat.S_IFMT(st.st_mode), 'no file')}, not a file"
    if st.st_nlink > 1:
        return f"has {st.st_nlink} names (hard links)"
    return None


class ConfinedDir:
    """The files and directories beneath one directory, its top.

    A "name" is a path relative to the top, with single slashes.

    Args:
        top: a descriptor of the directory; ``close`` closes it.
    """

    def __init__(self, top: int) -> None:
        self.top = top
        self._dirs: FdCache[str] = FdCache(share(_CACHED_DIRECTORIES, 12))

    def close(self) -> None:
        """Close all descriptors."""
        self._dirs.clear()
        os.close(self.top)

    def at(self, name: str) -> tuple[int, str]:
        """Return a descriptor of the directory that *name* is in, and the last component of *name*.

        The descriptor belongs to a cache.  It survives one further call of this method, so that an operation can hold
        the directories of two names.  Only one thread may use the cache; a name in the top directory does not need it.
        """
        directory, _, last = name.rpartition("/")
        if not directory:
            return self.top, last
        fd = self._dirs.get(directory)
        if fd is None:
            fd = self._dirs.put(directory, openat2(self.top, os.fsencode(directory), _DIRECTORY, BENEATH))
        return fd, last

    def open(self, name: str, flags: int, mode: int = 0o600) -> int:
        """Open or create a regular file with a single name.

        Args:
            name: the file.
            flags: as for open(2); O_NOFOLLOW, O_NONBLOCK, O_NOCTTY and O_CLOEXEC are added.
            mode: permission bits of a file that is created.

        Raises:
            OSError: as open(2); ENXIO if it is not a regular file, EMLINK if it has more than one hard link.
        """
        dir_fd, last = self.at(name)
        return _open(dir_fd, last, name, flags, mode)

    def open_object(self, name: str, *, write: bool) -> int:
        """Open a content object, which may have more names in other storages; such a one only for reading.

        A hard link is a way out of the storage: to a file that whoever filled the storage could not read.  So the file
        must be ``is_sharable``, and bear the mark of ``mark_shared``, which then only its owner or root can have made.

        Args:
            name: the object.
            write: open it for writing, too, if it has one name.

        Raises:
            OSError: as ``open``.
        """
        dir_fd, last = self.at(name)
        return self._open_object(dir_fd, last, name, write=write)

    def open_object_in_thread(self, name: str) -> int:
        """Open a content object for reading, as ``open_object`` does, without the cache: safe in any thread."""
        directory, _, last = name.rpartition("/")
        dir_fd = openat2(self.top, os.fsencode(directory), _DIRECTORY, BENEATH)
        try:
            return self._open_object(dir_fd, last, name, write=False)
        finally:
            os.close(dir_fd)

    def _open_object(self, dir_fd: int, last: str, name: str, *, write: bool) -> int:
        try:
            return _open(dir_fd, last, name, os.O_RDWR if write else os.O_RDONLY, 0)
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
        fd = os.open(last, os.O_RDONLY | _ALWAYS, dir_fd=dir_fd)  # a regular file: nothing comes of opening it
        try:
            st = os.fstat(fd)
            if not (self.is_sharable(st) and is_marked_shared(fd)):
                _check_file(st, name)
        except OSError:
            os.close(fd)
            raise
        return fd

    def is_sharable(self, st: os.stat_result) -> bool:
        """Return whether a file may have names in other storages: it is the storage's owner's, who alone can write."""
        is_owners = st.st_uid == os.fstat(self.top).st_uid
        return stat.S_ISREG(st.st_mode) and is_owners and not st.st_mode & _WRITABLE_BY_OTHERS

    def open_in_thread(self, name: str, flags: int) -> int:
        """Open an existing file, or with O_DIRECTORY a directory, without the cache: safe in any thread.

        Raises:
            OSError: as open(2); ENXIO if a file is not a regular one, EMLINK if it has more than one hard link.
        """
        directory, _, last = name.rpartition("/")
        dir_fd = openat2(self.top, os.fsencode(directory), _DIRECTORY, BENEATH) if directory else self.top
        try:
            if flags & os.O_DIRECTORY:
                return os.open(last, flags | _ALWAYS, dir_fd=dir_fd)
            return _open(dir_fd, last, name, flags, 0)
        finally:
            if directory:
                os.close(dir_fd)

    def names(self, name: str) -> list[str]:
        """Return the names in a directory, without ``.`` and ``..``.

        Raises:
            OSError: as opendir(3); ELOOP or ENOTDIR for a symlink.
        """
        fd = self.open_in_thread(name, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return os.listdir(fd)
        finally:
            os.close(fd)

    def stat(self, name: str) -> os.stat_result:
        """Return the attributes of *name*, of a symlink itself (lstat(2))."""
        dir_fd, last = self.at(name)
        return os.stat(last, dir_fd=dir_fd, follow_symlinks=False)

    def find(self, name: str) -> os.stat_result | None:
        """Return the attributes of *name*, of a symlink itself, or None if it does not exist."""
        try:
            return self.stat(name)
        except FileNotFoundError:
            return None

    def open_path(self, name: str) -> int:
        """Open *name*, a symlink itself, with O_PATH, which has no effect on a device or a FIFO."""
        dir_fd, last = self.at(name)
        return os.open(last, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)

    def make_directories(self, name: str) -> None:
        """Make a directory and its parents, those that do not exist yet.

        Raises:
            OSError: ENOTDIR or ELOOP if one of them exists and is not a directory.
        """
        missing = []  # the deepest first; a loop, for a hostile path may be deeper than Python recurses
        while name not in ("", "."):
            try:
                self.at(name + "/")
                break
            except FileNotFoundError:
                missing.append(name)
                name = name.rpartition("/")[0]
        for directory in reversed(missing):
            self.mkdir(directory)

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
        """Make *new* a hard link to *name*; a symlink is not followed."""
        dir_fd, last = self.at(name)
        new_fd, new_last = self.at(new)
        os.link(last, new_last, src_dir_fd=dir_fd, dst_dir_fd=new_fd, follow_symlinks=False)

    def link_from(self, other: ConfinedDir, name: str) -> os.stat_result:
        """Make *name* a hard link to the file of this name in another directory, and return its attributes."""
        fd, last = other.at(name)
        new_fd, _ = self.at(name)
        os.link(last, last, src_dir_fd=fd, dst_dir_fd=new_fd, follow_symlinks=False)
        return os.stat(last, dir_fd=new_fd, follow_symlinks=False)

    def chown(self, name: str, uid: int, gid: int) -> None:
        """Set owner and group, of a symlink itself."""
        dir_fd, last = self.at(name)
        os.chown(last, uid, gid, dir_fd=dir_fd, follow_symlinks=False)

    def chmod(self, name: str, mode: int) -> None:
        """Set the permission bits.

        Raises:
            OSError: ELOOP for a symlink, as chmod(2).
        """
        with self.proc_path(name) as path:
            os.chmod(path, mode)

    def utime(self, name: str, atime: int, mtime: int) -> None:
        """Set access and modification time, in nanoseconds, of a symlink itself."""
        dir_fd, last = self.at(name)
        os.utime(last, ns=(atime, mtime), dir_fd=dir_fd, follow_symlinks=False)

    def setxattr(self, name: str, key: bytes, value: bytes) -> None:
        """Set an extended attribute, of a symlink itself."""
        os.setxattr(self._last_by_proc(name), key, value, follow_symlinks=False)

    def xattrs(self, name: str) -> dict[bytes, bytes]:
        """Return all extended attributes, of a symlink itself."""
        path = self._last_by_proc(name)
        names = os.listxattr(path, follow_symlinks=False)
        return {os.fsencode(key): os.getxattr(path, key, follow_symlinks=False) for key in names}

    def removexattr(self, name: str, key: bytes) -> None:
        """Remove an extended attribute, of a symlink itself."""
        os.removexattr(self._last_by_proc(name), key, follow_symlinks=False)

    def _last_by_proc(self, name: str) -> str:
        dir_fd, last = self.at(name)
        return f"/proc/self/fd/{dir_fd}/{last}"

    @contextlib.contextmanager
    def proc_path(self, name: str) -> Iterator[str]:
        """Yield a path below /proc/self/fd for system calls that take no descriptor; they must follow it.

        The path leads to the object that *name* has now, even if the name is changed meanwhile.

        Raises:
            OSError: ELOOP for a symlink.
        """
        fd = self.open_path(name)
        try:
            if stat.S_ISLNK(os.fstat(fd).st_mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
            yield f"/proc/self/fd/{fd}"
        finally:
            os.close(fd)

    def unlink(self, name: str) -> None:
        """Remove the name of a file or any other object that is not a directory."""
        dir_fd, last = self.at(name)
        os.unlink(last, dir_fd=dir_fd)

    def rmdir(self, name: str) -> None:
        """Remove an empty directory."""
        dir_fd, last = self.at(name)
        os.rmdir(last, dir_fd=dir_fd)
        self._dirs.clear()  # it may be in the cache, and another one may get its name

    def rename(self, name: str, new: str) -> None:
        """Rename *name* to *new*, replacing what has that name (rename(2)).

        Any thread may rename a file in the top directory: that leaves the cache alone, as ``at`` does for such a name.
        """
        if stat.S_ISDIR(self.stat(name).st_mode):
            self._dirs.clear()  # it may be above a directory in the cache
        dir_fd, last = self.at(name)
        new_fd, new_last = self.at(new)
        os.rename(last, new_last, src_dir_fd=dir_fd, dst_dir_fd=new_fd)


def _open(dir_fd: int | None, last: str, name: str, flags: int, mode: int) -> int:
    """Open or create the file *last* in *dir_fd*, and check that it is a regular one with a single name."""
    if flags & os.O_EXCL:
        return os.open(last, flags | _ALWAYS, mode, dir_fd=dir_fd)
    try:
        _check_file(os.stat(last, dir_fd=dir_fd, follow_symlinks=False), name)
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise
    fd = os.open(last, flags | _ALWAYS, mode, dir_fd=dir_fd)
    try:
        _check_file(os.fstat(fd), name)
    except OSError:
        os.close(fd)
        raise
    return fd


def mark_shared(fd: int) -> bool:
    """Let an object have names in other storages, too (``ConfinedDir.open_object``).

    Args:
        fd: the object, open for reading.

    Returns:
        False if it cannot be marked: the file system has no extended attributes, or no space for one.
    """
    if not is_marked_shared(fd):
        try:
            os.setxattr(fd, _SHARED, b"1")
        except OSError as error:
            log.debug("an object cannot be marked: %s", error)
            return False
    return True


def is_marked_shared(fd: int) -> bool:
    """Return whether an object, open for reading, bears that mark."""
    try:
        os.getxattr(fd, _SHARED)
    except OSError:
        return False  # also where the file system has no extended attributes
    return True


def open_above(path: bytes) -> tuple[int, bytes]:
    """Open the directory that an absolute path is in; return its descriptor and the last component of the path.

    No component may be a symlink.  So a path that starts with the realpath(3) of a directory cannot lead out of it.

    Raises:
        OSError: ELOOP for a symlink, EINVAL for a path with ``..`` or without a last component.
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
    """Open for reading a regular file with a single name, at any path; a device or a FIFO is refused unopened.

    Raises:
        OSError: as open(2); ENXIO if it is not a regular file, EMLINK if it has more than one hard link.
    """
    return _open(None, path, path, os.O_RDONLY, 0)


def _check_file(st: os.stat_result, name: str) -> None:
    """Raise EMLINK or ENXIO if *st* is not that of a regular file with a single name."""
    reason = why_refused(st)
    if reason is not None:
        raise OSError(errno.EMLINK if stat.S_ISREG(st.st_mode) else errno.ENXIO, reason, name)


# -- which other users could change it


def foreign_write_access(fd: int, st: os.stat_result | None = None) -> str | None:
    """Return why users other than root and the caller may write to an object, as text that follows its name, or None.

    Args:
        fd: the file or directory; with *st* given, only its access control list is read.
        st: its attributes, if the caller knows them.
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
    """Return whether a group has one member: root's group, or a group of a user with the same number or name."""
    if gid in (0, uid):
        return True
    import grp  # both imported here, because they are seldom needed
    import pwd

    try:
        name = pwd.getpwuid(uid).pw_name
        group = grp.getgrgid(gid)
    except KeyError:
        return False
    return group.gr_name == name and set(group.gr_mem) <= {name}


def _has_acl(fd: int) -> bool:
    """Return whether there is an ACL: then the group's bits are its mask, and named users may have them (acl(5))."""
    try:
        return bool(os.getxattr(f"/proc/self/fd/{fd}", ACL_ACCESS))  # fgetxattr(2) fails on an O_PATH descriptor
    except OSError:
        return False  # there is none, or the file system has no ACLs


def _user(uid: int) -> str:
    import pwd  # imported here, because it is seldom needed

    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"


def check_trust(path: str, fd: int) -> None:
    """Refuse a storage directory that other users could change.

    Args:
        path: its path, for the message.
        fd: a descriptor of it.

    Raises:
        StateError: other users may write to it.
    """
    reason = foreign_write_access(fd)
    if reason is not None:
        raise untrusted_error(path, reason)


def untrusted_error(path: str, reason: str) -> StateError:
    """Return the error for a storage, or a file in it, that other users may write to.

    Args:
        path: of the storage or the file.
        reason: what ``foreign_write_access`` returned.
    """
    hint = (
        "make it yours alone (chown, chmod go-w; vfat and exfat: mount it with umask=077),"
        " or let minifo only read it: mount -o untrusted_sto, minifo-fsck --untrusted-sto"
    )
    return StateError(f"storage {path} {reason}", hint)


def check_layout(
    storage: ConfinedDir, path: str, files: Iterable[str], directories: Iterable[str], *, trusted: bool = True
) -> None:
    """Refuse a storage if one of minifo's files or directories in it is of another type, or writable for other users.

    Args:
        storage: the storage directory.
        path: its path, for messages.
        files, directories: names that must have that type if they exist.
        trusted: False skips the check for other users' write access.

    Raises:
        Corrupt: a name has another type, or a file has hard links.
        StateError: other users may write to one of them.
    """
    existing = set(storage.names("."))
    expected = [(name, stat.S_ISREG) for name in files] + [(name, stat.S_ISDIR) for name in directories]
    for name, is_type in expected:
        if name not in existing or (st := storage.find(name)) is None:
            continue
        reason = why_refused(st) if is_type is stat.S_ISREG else None
        if is_type is stat.S_ISDIR and not stat.S_ISDIR(st.st_mode):
            reason = f"is {KINDS.get(stat.S_IFMT(st.st_mode), 'something else')}, not a directory"
        if reason is not None:
            raise Corrupt(
                f"{os.path.join(path, name)} {reason}",
                "nothing in a storage may lead out of it: if you made this link, put a copy in its place (cp -a)",
            )
        if not trusted:
            continue
        fd = storage.open_in_thread(name, os.O_PATH | (os.O_DIRECTORY if is_type is stat.S_ISDIR else 0))
        try:
            reason = foreign_write_access(fd)
        finally:
            os.close(fd)
        if reason is not None:
            raise untrusted_error(os.path.join(path, name), reason)
