"""``minifo-mount-program``: what podman and buildah call to mount containers (``mount_program`` in storage.conf).

containers/storage calls ``PROGRAM -o lowerdir=A:B,upperdir=U,workdir=W,... MOUNTPOINT`` for a container, and the same
without upperdir and workdir to read a layer; it unmounts with fusermount3.  It compares mounts to learn what a
container has changed, and never reads U itself.  So U is the topmost layer here and is not changed either: an image's
layer may be U, and so may a directory that another mount program has filled.  Changes go to ``W/minifo``.

This module does not use click: it runs at each start of a container.
"""

from __future__ import annotations

import getopt
import logging
import os
import re
import shutil
import sys
import tempfile
from dataclasses import replace
from typing import NamedTuple

from ..engine.errors import MinifoError, StateError, UsageError
from ..engine.store.layers import join_layers, layers_of, split_layers
from ..fusefront.launch import launch
from ..fusefront.mount import mount_table
from ..fusefront.mount.mount_table import fuse_option
from ..fusefront.mount.options import parse
from ..fusefront.mount.source import decode
from . import _common
from ._format import bring_up

log = logging.getLogger(__name__)

PROGRAM = "minifo-mount-program"
STORAGE = "minifo"  # in the work directory
_WORK = "work"  # the work directory of a layer, beside its upper directory (containers/storage)
_USAGE = f"usage: {PROGRAM} [-f] [-d] -o lowerdir=DIR[:DIR...][,upperdir=DIR,workdir=DIR][,OPTION...] MOUNTPOINT"
_ITEM = re.compile(r'(?:\\.|"[^"]*"|[^,])+')  # labels of SELinux are in quotation marks, with commas
_LABELS = ("context", "fscontext", "defcontext", "rootcontext")
# Words of overlayfs, fuse-overlayfs and buildah that say nothing here: how to keep changes, which minifo keeps in its
# own way, and what it always does.
_WITHOUT_EFFECT = frozenset(
    {
        *("volatile", "noacl", "fsync", "sync", "metacopy", "redirect_dir", "index", "nfs_export", "xino", "uuid"),
        *("userxattr", "private", "threaded", "timeout", "writeback", "fast_ino", "fast_ino_check", "noxattrs"),
        *("static_nlink", "ino32_t", "xattr_permissions"),
    }
)


class _Request(NamedTuple):
    """What the options of a call say.

    Attributes:
        lower: the lower layers, the topmost first.
        upper, work: the two directories; None to read layers only.
        words: options of ``minifo mount``.
        labels: labels for the kernel, encoded for libfuse.
    """

    lower: list[str]
    upper: str | None
    work: str | None
    words: list[str]
    labels: tuple[str, ...]


def main(arguments: list[str] | None = None) -> int:
    """Mount as containers/storage asks and return the exit code.

    Args:
        arguments: the words after the program's name; None for those of the process.
    """
    return _common.run_tool(lambda: _run(sys.argv[1:] if arguments is None else arguments), _common.SYSTEM)


def _run(arguments: list[str]) -> int:
    try:
        given, operands = getopt.gnu_getopt(arguments, "o:fdhV", ["debug", "help", "version"])
        flags = {flag for flag, _ in given}
        if flags & {"-h", "--help"}:
            print(_USAGE)
        elif flags & {"-V", "--version"}:
            from importlib.metadata import version

            print(f"{PROGRAM}: minifo {version('minifo')}")
        elif len(operands) != 1:
            raise UsageError(f"{len(operands)} arguments instead of 1", _USAGE)
        else:
            debug = bool(flags & {"-d", "--debug"})
            _common.log_to_stderr(PROGRAM, verbose=debug)
            request = _request([text for flag, text in given if flag == "-o"] + ["debug"] * debug)
            _mount(request, operands[0], foreground=debug or "-f" in flags)
    except getopt.GetoptError as exc:
        return _common.fail(PROGRAM, UsageError(exc.msg, _USAGE), _common.USAGE)
    except (MinifoError, OSError) as exc:
        return _common.fail(PROGRAM, exc, _common.MOUNT_FAILED)
    return 0


def _request(texts: list[str]) -> _Request:
    """Return what the ``-o`` options say.

    Raises:
        UsageError: there are no layers, or the upper directory has no work directory.
    """
    directories: dict[str, str] = {}
    labels = []
    words = ["suid", "dev"]  # as a container's root file system needs them; later words count more
    for item in (found[0] for text in texts for found in _ITEM.finditer(text)):
        name, equals, value = item.partition("=")
        if name in {"lowerdir", "upperdir", "workdir"}:
            directories[name] = value
        elif name in _LABELS:
            labels.append(fuse_option(name, value))
        elif name in _WITHOUT_EFFECT and (equals or name != "sync"):
            log.debug("%s has no effect", item)
        else:
            words.append(item)
    lower = [layer for layer in split_layers(directories.get("lowerdir", "")) if layer]
    upper, work = (_path(directories.get(name)) for name in ("upperdir", "workdir"))
    if not lower:
        raise UsageError("lowerdir= is missing", _USAGE)
    if (upper is None) != (work is None):
        raise UsageError("upperdir= and workdir= belong together", _USAGE)
    return _Request([os.path.abspath(path) for path in lower], upper, work, words, tuple(labels))


def _path(value: str | None) -> str | None:
    return None if value is None else os.path.abspath(decode(value.replace("\\:", ":")))


def _mount(request: _Request, mountpoint: str, *, foreground: bool) -> None:
    """Mount what a call asks for.

    Raises:
        MinifoError: it cannot be mounted.
        OSError: the work directory cannot be used.
    """
    layers = request.lower if request.upper is None else [request.upper, *request.lower]
    throwaway = False
    words = request.words
    if request.work is not None:
        storage = os.path.join(request.work, STORAGE)
        os.makedirs(storage, 0o700, exist_ok=True)
        below = layers[1:]
    else:
        found = _changes_of(layers[0])
        throwaway = found is None
        # the storage is written all the same, for it may have to take what a killed daemon had acknowledged
        storage = found or _throwaway_storage()
        words = [*words, "ro"]
        below = layers[1:]
    try:
        _refuse_changed(below)
        bring_up(storage)
        options = parse(words, base=join_layers(layers), storage=storage, sloppy=True)
        ids = None if options.ids is None or _are_mapped(layers) else options.ids
        options = replace(
            options, read_only=False, kernel=(*options.kernel, *request.labels), throwaway=throwaway, ids=ids
        )
        launch(options, mountpoint, foreground=foreground, listed=False)
    except BaseException:
        if throwaway:
            shutil.rmtree(storage, ignore_errors=True)
        raise


def _are_mapped(layers: list[str]) -> bool:
    """Return whether a layer is on an idmapped mount (mount_setattr(2)), which shows its owners as they shall be.

    Podman 4 makes such mounts of the layers of an image, and asks the mount program for the same mapping again.
    """
    entries = [mount_table.locate(layer)[1] for layer in layers if os.path.isdir(layer)]
    return any(entry is not None and "idmapped" in entry.options for entry in entries)


def _changes_of(layer: str) -> str | None:
    """Return the storage that holds the changes of a layer, by the layout of containers/storage; None if it has none.

    Args:
        layer: its directory, which was the upper directory of mounts.
    """
    real = os.path.realpath(layer)
    storage = os.path.join(os.path.dirname(real), _WORK, STORAGE)
    if not os.path.isfile(os.path.join(storage, "minifo.db")):
        return None
    from ..engine.queries.at_rest import base_beside

    return storage if layers_of(base_beside(storage))[0] == real else None


def _refuse_changed(layers: list[str]) -> None:
    """Refuse layers with changes in a storage of their own, for only the topmost layer may have such.

    Raises:
        StateError: a layer has changes.
    """
    for layer in layers:
        storage = _changes_of(layer)
        if storage is None:
            continue
        from ..engine.queries.at_rest import base_beside, open_beside
        from ..engine.queries.four_lists import FourLists

        overlay = open_beside(storage, base_beside(storage))
        try:
            is_empty = FourLists(overlay).is_empty()
        finally:
            overlay.close()
        if not is_empty:
            raise StateError(
                f"layer {layer} has changes in {storage}, which only a mount with it as upperdir= shows",
                "commit that container to an image, and use the image",
            )


def _throwaway_storage() -> str:
    """Make a storage for a mount that only reads; the daemon removes it."""
    from ..engine.store.memory_directory import memory_directory

    return tempfile.mkdtemp(prefix="layers-", dir=memory_directory())
