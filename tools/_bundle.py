"""A bundle and the overlay that TARGET means: by system calls in its mount, or by the engine if it is not mounted."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import BinaryIO

from ..engine.errors import StateError
from ..fusefront.control.client import ControlClient, listens
from ..fusefront.mount import mount_table
from ..migrations.bundle.apply import Applied, apply_at_rest, check_privileges, check_result, lay_down, trusted
from ..migrations.bundle.check import Standing
from ..migrations.bundle.parts import BundleReader
from ..migrations.bundle.places import MountedPlace
from ._checkpoints import Told, refused
from ._held import opened_held
from ._progress import Progress
from ._target import opened, storage_of


def checked(
    stream: BinaryIO, name: str, target: str, base: str | None, signers: str | None, progress: Progress
) -> Applied:
    """Say how an overlay stands to a bundle, and change nothing; arguments as for ``applied``.

    Raises:
        StateError: the bundle is damaged or not trusted, or there is no such overlay.
    """
    reader = BundleReader(stream, name)
    result = Applied(signed_by=trusted(reader, signers))
    paths = reader.paths()
    for _ in reader.layer():
        pass  # is it whole?
    check_privileges(paths)
    with opened_held(target, base) as overlay:
        standing = Standing(overlay, paths, lambda done, total: progress("checking", done, total))
    result.paths, result.mismatches, result.is_done = len(paths), standing.mismatches, standing.is_after
    return result


def applied(
    stream: BinaryIO,
    name: str,
    target: str,
    base: str | None,
    signers: str | None,
    mounts: int | None,
    progress: Progress,
) -> Applied:
    """Apply a bundle: all of it, or nothing.

    Args:
        stream: its bytes.
        name: of it, for messages.
        target, base: as for ``opened``.
        signers: the file that says who is trusted; None to take it from anybody.
        mounts: begin a trial of it with so many mounts; None for none.
        progress: shows how far it is.

    Raises:
        StateError: it cannot be applied; the overlay is as before.
        NotDurable: it is applied, but a power cut may take it away.
    """
    storage = storage_of(target)
    if not listens(storage):
        from ..engine.queries.at_rest import last_base

        where = base or last_base(storage)
        return apply_at_rest(stream, name, where, storage, signers=signers, mounts=mounts, progress=progress)
    reader = BundleReader(stream, name)
    result = Applied(signed_by=trusted(reader, signers))
    paths = reader.paths()
    check_privileges(paths)
    result.paths = len(paths)
    with (
        ControlClient(storage, timeout=None) as client,
        contextlib.closing(_place(client, storage)) as place,
        _transaction(client) as before,
    ):
        with opened(storage, at=before) as overlay:
            standing = Standing(overlay, paths, lambda done, total: progress("checking", done, total))
        result.mismatches, result.is_done = standing.mismatches, standing.is_after
        if standing.mismatches or standing.is_after:
            return result
        lay_down(place, paths, standing.found, reader.layer(), progress)
        with opened(storage) as overlay:
            check_result(standing, overlay)
        kept: Told | None = refused(client, "Commit", mounts=mounts)["before"]
    result.checkpoint = None if kept is None else kept["name"]
    return result


def _place(client: ControlClient, storage: str) -> MountedPlace:
    mountpoint = client.call("Identity")["mountpoint"]
    entry = mount_table.find_mount(mountpoint)
    source = mount_table.overlay_of(entry) if entry is not None else None
    if source is None or not os.path.samefile(source.storage, storage):
        raise StateError(f"{mountpoint}, where {storage} is mounted, cannot be seen from here", "run it there")
    try:
        return MountedPlace(mountpoint)
    except OSError as error:
        raise StateError(f"{mountpoint} cannot be opened ({error.strerror})", "run it as root") from error


@contextlib.contextmanager
def _transaction(client: ControlClient) -> Iterator[str]:
    """Yield the name of the checkpoint with which a transaction begins; unless the block ends it, it is taken back."""
    name: str = refused(client, "BeginTransaction")["checkpoint"]["name"]
    try:
        yield name
    finally:
        with contextlib.suppress(StateError):  # there is none any more; or its daemon takes it back as the client ends
            left: Told | None = refused(client, "TakeBack")["left"]
            if left is not None:
                refused(client, "PruneCheckpoints", ids=[left["id"]])  # a part of a bundle, which takes space
