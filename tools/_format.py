"""The upgrade of a storage from an earlier format, made when it is mounted.

A device that boots a new version of minifo has no user who could run ``minifo upgrade``.  The upgrade is one
transaction, and a copy of the old database stays beside the new one.
"""

from __future__ import annotations

import logging
import os

from ..engine.errors import OlderFormat, StateError
from ..engine.store.database import DB_NAME
from ..engine.store.database_file import check_header

log = logging.getLogger(__name__)


def bring_up(storage: str, *, read_only: bool = False) -> None:
    """Upgrade a storage that has an earlier format; change nothing in any other directory.

    Args:
        storage: the storage directory.
        read_only: True if the storage will be mounted read-only: it is not changed, and the mount reports the old
            format.

    Raises:
        StateError: the upgrade failed and was rolled back.
    """
    path = os.path.join(storage, DB_NAME)
    if read_only or not os.path.isfile(path):
        return
    try:
        check_header(path)
    except OlderFormat:
        from ..migrations.schema.upgrade import upgrade  # imported here because few mounts need it

        done = upgrade(storage)
        log.warning("%s: upgraded from format %d to %d; the old database is kept as %s", storage, *done)
    except StateError:
        return  # the mount checks the header again and reports this error
