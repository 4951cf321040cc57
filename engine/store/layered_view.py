"""A base of several layers, merged as overlayfs merges its lower layers (Documentation/filesystems/overlayfs.rst).

The topmost layer that has a name wins.  Directories of one path are merged, down to the first layer that hides what is
below: by another kind of object, by a whiteout, or by an opaque mark.  Layers come from two kinds of makers, which mark
in two ways; both are honoured in every layer:

    overlayfs       a character device 0/0 hides its name; the attribute overlay.opaque of a directory hides what lower
                    layers have in it; overlay.redirect gives it another name in lower layers
    container tools an empty file ``.wh.NAME`` hides NAME; ``.wh..wh..opq`` hides what lower layers have in its
                    directory.  Podman unpacks images so wherever a mount program is used.

Each directory is read once, when something in it is looked for, and the result is kept while there is room: a base does
not change while it is mounted.  So a lookup needs no search through the layers.  All access to objects is BaseView's.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import NamedTuple

from ..errors import FsError
from .base_view import _NO_NAMES, NOT_THERE, BaseView, join, split
from .layers import layers_of
from .syscalls import shows_every_name

_NAMES_MAX = 100_000  # names of merged directories that are kept, in about 10 MiB
_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_SPACES = ("trusted.overlay.", "user.overlay.", "user.fuseoverlayfs.")
_OWN_XATTRS = tuple(os.fsencode(space) for space in _SPACES)


class _Directory(NamedTuple):
    """A merged directory.

    Attributes:
        places: its path in each layer that has it, by the layer's number.
        entries: for each name the layer that has it, times two, plus one for a directory.
        hidden: for each name with a whiteout, the topmost layer with one: it hides what the layers below have.
    """

    places: dict[int, bytes]
    entries: dict[bytes, int]
    hidden: dict[bytes, int]


class LayeredView(BaseView):
    """Read-only access to a base of several layers.

    Args:
        paths: their directories, the topmost first.
        clone: False to use no private mount clones although it is possible (for tests).

    Raises:
        OSError: a directory cannot be opened.
    """

    def __init__(self, paths: list[str], *, clone: bool = True) -> None:
        self._known: OrderedDict[bytes, _Directory] = OrderedDict()
        self._names = 0  # in _known
        self._take_roots(paths, clone=clone)

    @property
    def layers_mark(self) -> str:
        """A text that identifies the layers below the topmost one: a hash of the numbers of their roots."""
        roots = ":".join(str(os.fstat(root).st_ino) for root in self._roots[1:])
        return blake2b(roots.encode(), digest_size=8).hexdigest()

    # -- merged directories

    def _directory(self, path: bytes) -> _Directory:
        """Return the merged directory at *path*.

        Raises:
            OSError: FsError ENOENT or ENOTDIR if there is none; a layer cannot be read.
        """
        known = self._known.get(path)
        if known is not None:
            self._known.move_to_end(path)
            return known
        missing = []
        while path != b"/" and path not in self._known:
            missing.append(path)
            path = split(path)[0]
        known = self._known.get(path) or self._keep(path, self._read_root())
        for below in reversed(missing):
            known = self._keep(below, self._read(known, split(below)[1]))
        return known

    def _keep(self, path: bytes, found: _Directory) -> _Directory:
        self._known[path] = found
        self._names += len(found.entries)
        while self._names > _NAMES_MAX and len(self._known) > 1:
            self._names -= len(self._known.popitem(last=False)[1].entries)
        return found

    def _read_root(self) -> _Directory:
        return self._merged((layer, b"/") for layer in range(len(self._roots)))

    def _read(self, parent: _Directory, name: bytes) -> _Directory:
        entry = parent.entries.get(name)
        if entry is None:
            raise FsError(errno.ENOENT)
        if not entry & 1:
            raise FsError(errno.ENOTDIR)
        last = parent.hidden.get(name, len(self._roots))
        return self._merged(
            ((layer, where) for layer, where in parent.places.items() if entry >> 1 <= layer <= last), name
        )

    def _merged(self, above: Iterable[tuple[int, bytes]], name: bytes = b"") -> _Directory:
        """Return the merged directory *name*, or the root.

        Args:
            above: the layers that may have it, the topmost first, each with the path of the directory that has *name*.
            name: its name there; empty for the root.
        """
        found = _Directory({}, {}, {})
        candidates = ((layer, where, join(where, name) if name else where) for layer, where in above)
        while (candidate := next(candidates, None)) is not None:
            layer, _, path = candidate
            try:
                fd = self._dir_of(layer, path)
            except OSError as error:
                if error.errno == errno.ENOENT:
                    continue
                if error.errno in (*NOT_THERE, errno.EXDEV):
                    break  # another object, a whiteout too; or a mount point, which shows as an empty directory
                raise
            found.places[layer] = path
            marks = _Marks(fd)
            if self._add(found, layer, fd, marks) or marks.is_opaque:
                break
            if marks.redirect.startswith(b"/"):
                absolute = marks.redirect
                candidates = ((below, b"", absolute) for below in range(layer + 1, len(self._roots)))
            elif marks.redirect:
                renamed = marks.redirect
                candidates = ((below, where, join(where, renamed)) for below, where, _ in candidates)
        return found

    def _add(self, found: _Directory, layer: int, fd: int, marks: _Marks) -> bool:
        """Add what one layer has in a directory; return whether a file there says that it is opaque."""
        is_opaque = False
        reader = self._open_at(fd, b".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            with os.scandir(reader) as entries:
                for entry in entries:
                    name = os.fsencode(entry.name)
                    is_dir = entry.is_dir(follow_symlinks=False)
                    if name == _OPAQUE:
                        is_opaque = True
                    elif name.startswith(_WHITEOUT):
                        found.hidden.setdefault(name.removeprefix(_WHITEOUT), layer)
                    elif not is_dir and _is_whiteout(entry, reader, marks):
                        found.hidden.setdefault(name, layer)
                    elif name not in found.entries and found.hidden.get(name, layer) == layer:
                        found.entries[name] = layer << 1 | is_dir
        finally:
            os.close(reader)
        return is_opaque

    # -- what BaseView asks

    def _at(self, path: bytes) -> tuple[int, bytes]:
        if path in self._hidden:
            raise FsError(errno.ENOENT)
        directory, name = split(path)
        if not name:
            return self._dir_of(0, b"/"), b"."
        if name in _NO_NAMES or b"\0" in path:
            raise FsError(errno.ENOENT)  # as in BaseView
        merged = self._directory(directory)
        entry = merged.entries.get(name)
        if entry is None:
            raise FsError(errno.ENOENT)
        layer = entry >> 1
        return self._dir_of(layer, merged.places[layer]), name

    def names(self, path: bytes) -> list[bytes]:
        """Return the names in a directory, as BaseView.names."""
        return list(self.listing(path))

    def listing(self, path: bytes) -> dict[bytes, bool]:
        """Return the names in a directory, each with whether it is a directory, as BaseView.listing."""
        listed = {name: bool(entry & 1) for name, entry in self._directory(path).entries.items()}
        if path in self._hidden_in:
            listed = {name: is_dir for name, is_dir in listed.items() if join(path, name) not in self._hidden}
        return listed

    def may_have_more(self, path: bytes, most: int) -> bool:
        """Return whether a directory has more than *most* names, as BaseView.may_have_more."""
        merged = self._directory(path)
        if len(merged.entries) > most:
            return True
        for layer, where in merged.places.items():
            fd = self._open_at(self._dir_of(layer, where), b".", os.O_RDONLY | os.O_DIRECTORY)
            try:
                if not shows_every_name(fd):
                    return True
            finally:
                os.close(fd)
        return False

    def children(self, path: bytes, names: Iterable[bytes]) -> Iterator[tuple[bytes, os.stat_result | OSError]]:
        """Yield each of *names* that exists in a directory, with its attributes, as BaseView.children."""
        self._directory(path)
        for name in names:
            try:
                st = self.stat(join(path, name))
            except FileNotFoundError:
                continue
            except OSError as error:
                yield name, error
            else:
                yield name, st

    def _open(self, path: bytes, flags: int) -> int:
        fd = super()._open(path, flags)
        if _has(fd, "metacopy"):
            # its bytes are in a lower layer, under a path that may be another: what is here reads as zeros
            os.close(fd)
            raise FsError(errno.EIO, f"base {os.fsdecode(path)}: its layer has only its attributes (metacopy=on)")
        return fd

    def listxattr(self, path: bytes) -> list[bytes]:
        """Return the names of all extended attributes but those that overlays set for themselves."""
        return [name for name in super().listxattr(path) if not name.startswith(_OWN_XATTRS)]

    def getxattr(self, path: bytes, name: bytes) -> bytes:
        """Return the value of an extended attribute, as BaseView.getxattr."""
        if name.startswith(_OWN_XATTRS):
            raise FsError(errno.ENODATA)
        return super().getxattr(path, name)


class _Marks:
    """The marks of overlayfs on a directory of one layer.

    Args:
        fd: the directory (O_PATH).

    Attributes:
        is_opaque: it hides what lower layers have in it.
        has_files: its whiteouts are empty files with a mark (overlayfs from Linux 6.7 on, for nested overlays).
        redirect: its name in lower layers, or its path there if it begins with a slash; empty if it is the same.
    """

    def __init__(self, fd: int) -> None:
        link = f"/proc/self/fd/{fd}"
        try:
            names = [name for name in os.listxattr(link) if name.startswith(_SPACES)]
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            names = []
        values = {name.rpartition(".")[2]: os.getxattr(link, name) for name in names}
        self.is_opaque = values.get("opaque") == b"y"
        self.has_files = values.get("opaque") == b"x"
        self.redirect = values.get("redirect", b"")
        if not self.redirect.startswith(b"/") and b"/" in self.redirect:
            self.redirect = b""  # overlayfs writes no such value


def _is_whiteout(entry: os.DirEntry[str], directory: int, marks: _Marks) -> bool:
    if entry.is_file(follow_symlinks=False):
        if not marks.has_files:
            return False
        fd = os.open(entry.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            return os.fstat(fd).st_size == 0 and _has(fd, "whiteout")
        finally:
            os.close(fd)
    if entry.is_symlink():
        return False
    st = entry.stat(follow_symlinks=False)
    return stat.S_ISCHR(st.st_mode) and st.st_rdev == 0


def _has(fd: int, mark: str) -> bool:
    """Return whether a file has one of the marks of overlayfs."""
    for space in _SPACES[:2]:
        try:
            os.getxattr(fd, space + mark)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
                raise
        else:
            return True
    return False


def open_view(base: str, *, clone: bool = True) -> BaseView:
    """Return the view of a base.

    Args:
        base: its text (layers.py): one directory, or several layers.
        clone: False to use no private mount clone although it is possible (for tests).

    Raises:
        OSError: a directory cannot be opened.
    """
    layers = layers_of(base)
    return BaseView(layers[0], clone=clone) if len(layers) == 1 else LayeredView(layers, clone=clone)
