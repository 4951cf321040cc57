"""Digests of frozen objects: let all be recorded, and look whether they are right."""

from __future__ import annotations

import os

from minifo.engine import Overlay
from minifo.engine.store.object_digests import Digest, digest_of
from minifo.engine.store.object_paths import object_name


def record_digests(overlay: Overlay, step: int = 1 << 20) -> None:
    """Do what a front end does while nobody needs the overlay."""
    while overlay.digests.is_behind:
        batch = overlay.digests.begin()
        while not batch.is_done:
            batch.advance(step)
        batch.close()
        overlay.digests.record(batch)


def recorded(overlay: Overlay) -> dict[int, Digest]:
    """The digests that the database has."""
    rows = overlay.db.rows("SELECT object, size, digest FROM object_digest")
    return {number: Digest(size, digest) for number, size, digest in rows}


def wrong_digests(overlay: Overlay) -> list[str]:
    """The objects that have other bytes than their digests say, but for garbage."""
    found = []
    garbage = {number for (number,) in overlay.db.rows("SELECT object FROM garbage")}
    for number, digest in recorded(overlay).items():
        if number not in garbage:
            fd = overlay.storage.open_object_in_thread(object_name(number))
            if digest_of(fd) != digest:
                found.append(object_name(number))
            os.close(fd)
    return found
