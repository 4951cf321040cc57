"""Makes a bundle out of two states of an overlay, and signs one."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from ...engine import Overlay, UsageError
from ...engine.checkpoint_values import Checkpoint
from ..effects import Effects
from ..exchange.compression import Compression
from ..exchange.formats import Format, Losses
from ..exchange.tar_writer import TarWriter
from ..new_file import check_free, check_outside, explained, is_stream, new_file, stream
from .delta import Delta
from .parts import FORMAT, LAYER, PATHS, VERSION, BundleReader, Part, Written, write_bundle, written
from .signing import sign

Progress = Callable[[str, int, int], object]


class State(NamedTuple):
    """One of the two states.

    Attributes:
        overlay: nothing of it may change meanwhile.
        checkpoint: which one it is; None for today's state.
    """

    overlay: Overlay
    checkpoint: Checkpoint | None


class CreateOptions(NamedTuple):
    """How a bundle is made.

    Attributes:
        compression: of its parts.
        key: the file of a key to sign with; None for no signature.
        note: what to say of it.
        is_left_out: returns whether a path is left out.
        lossy: leave out what a layer cannot carry.
        force: replace a file that is there.
    """

    compression: Compression = Compression.GZIP
    key: str | None = None
    note: str = ""
    is_left_out: Callable[[bytes], bool] = lambda path: False
    lossy: bool = False
    force: bool = False


@dataclass
class CreateReport(Losses):
    """The result.

    Attributes:
        paths: how many paths the bundle has.
        size: its bytes.
    """

    paths: int = 0
    size: int = 0


def create_bundle(
    before: State,
    after: State,
    destination: str,
    options: CreateOptions,
    progress: Progress = lambda what, done, total: None,
    effects: Effects | None = None,
) -> CreateReport:
    """Write what makes the second state of the first.

    Args:
        before, after: the two states of one overlay, in the order of their time.
        destination: the file to write; ``-`` for standard output.
        options: how.
        progress: called with the name of the step, the number of paths that are done, and of all.
        effects: does the system calls (in tests).

    Returns:
        The report.  If there are losses and ``lossy`` is not set, nothing was written.

    Raises:
        Corrupt: a row is damaged.
        UsageError: the destination is taken; nothing was written.
        StateError: it cannot be written, or ssh-keygen does not sign.
        OSError: the overlay cannot be read.
    """
    for state in (before, after):
        state.overlay.examine_rows()  # they say what is written elsewhere
    path = _checked(destination, options, before.overlay.storage_path)
    report = CreateReport()
    delta = Delta(
        before.overlay,
        after.overlay,
        before.checkpoint,
        after.checkpoint,
        is_left_out=options.is_left_out,
        lose=report.lose,
        progress=lambda done, total: progress("comparing", done, total),
    )
    report.paths = len(delta.paths)
    if report.lost and not options.lossy:
        return report
    room = None if is_stream(path) else os.path.dirname(path)
    with explained(path, "another place"), _room(room) as first, _room(room) as second:
        parts = [_paths(delta, first, options), _layer(delta, after.overlay, second, options, progress)]
        header = _header(before, after, delta, parts, options)
        signature = sign(header, options.key) if options.key is not None else None
        with _opened(path, effects or Effects()) as out:
            write_bundle(out, header, signature, parts)
    report.size = sum(written.part.size for written in parts)
    report.written = True
    return report


def sign_bundle(source: BinaryIO, name: str, destination: str, key: str, effects: Effects | None = None) -> None:
    """Write a bundle again, with a signature in the place of the one that it had.

    Args:
        source: its bytes.
        name: of it, for messages.
        destination: the file to write, which may be that of the bundle; ``-`` for standard output.
        key: the file of the key.
        effects: does the system calls (in tests).

    Raises:
        StateError: it is no bundle or a damaged one, or ssh-keygen does not sign; nothing was written.
    """
    reader = BundleReader(source, name)
    signature = sign(reader.header_bytes, key)
    path = destination if destination == "-" else os.path.realpath(destination)
    with _room(None if is_stream(path) else os.path.dirname(path)) as first, _room(None) as second:
        parts: list[Written] = []

        def take(part: Part, raw: BinaryIO) -> None:
            file = second if parts else first
            shutil.copyfileobj(raw, file)
            parts.append(Written(part, file, ""))

        reader.copy_parts(take)
        with explained(path, "another place"), _opened(path, effects or Effects()) as out:
            write_bundle(out, reader.header_bytes, signature, parts)


def _checked(destination: str, options: CreateOptions, storage: str) -> str:
    if not options.note.isprintable() or len(options.note) > 1000:
        raise UsageError("the note is no line of text", "give up to 1,000 characters that can be printed")
    path = destination if destination == "-" else os.path.realpath(destination)
    if not is_stream(path):
        check_free(path, force=options.force)
        check_outside(path, storage)
    return path


@contextmanager
def _room(directory: str | None) -> Iterator[BinaryIO]:
    """Yield a file without a name, in a directory, or where temporary files are."""
    with tempfile.TemporaryFile(prefix="minifo-", dir=directory) as file:
        yield file


def _opened(path: str, effects: Effects) -> AbstractContextManager[BinaryIO]:
    return stream(path) if is_stream(path) else new_file(effects, path)


def _paths(delta: Delta, file: BinaryIO, options: CreateOptions) -> Written:
    with written(file, PATHS, options.compression) as (out, found):
        for change in delta.paths:
            out.write(json.dumps(change.told(), separators=(",", ":")).encode() + b"\n")
    return found[0]


def _layer(delta: Delta, overlay: Overlay, file: BinaryIO, options: CreateOptions, progress: Progress) -> Written:
    with written(file, LAYER, options.compression) as (out, found):
        writer = TarWriter(overlay, out, Format.OCI)
        for count, item in enumerate(delta.items()):
            writer.write(item)
            if not count % 64:
                progress("writing", count, len(delta.paths))
        writer.finish()
    return found[0]


def _header(before: State, after: State, delta: Delta, parts: list[Written], options: CreateOptions) -> bytes:
    paths, layer = parts
    found = {
        "format": FORMAT,
        "version": VERSION,
        "note": options.note,
        "from": _told(before),
        "to": _told(after),
        "paths": {**paths.part.told(), "count": len(delta.paths)},
        "layer": {**layer.part.told(), "diff_id": f"sha256:{layer.plain}"},
    }
    return json.dumps(found, indent=1).encode() + b"\n"


def _told(state: State) -> dict[str, object]:
    found = state.checkpoint
    name, time = (found.name, found.time) if found is not None else (None, None)
    return {"overlay": state.overlay.uuid, "checkpoint": name, "time": time}
