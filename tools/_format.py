"""The format of a storage that is about to be mounted: one of an earlier minifo is brought up to this one's.

A device that boots a new version of minifo has nobody to do it by hand.  What it takes is one transaction, and a copy
of the database from before stays beside it.
"""

from __future__ import annotations

import logging
import os

from ..engine.errors import OlderFormat, StateError
from ..engine.store.database import DB_NAME
from ..engine.store.database_file import check_header

log = logging.getLogger(__name__)


def bring_up(storage: str, *, read_only: bool = False) -> None:
    """Upgrade a storage of an earlier format; any other is left alone, whatever it is.

    Args:
        storage: the storage directory.
        read_only: it is to be mounted read-only: change nothing, mounting says what is to be done.

    Raises:
        StateError: the upgrade failed; the storage is as it was.
    """
    path = os.path.join(storage, DB_NAME)
    if read_only or not os.path.isfile(path):
        return
    try:
        check_header(path)
    except OlderFormat:
        from ..migrations.schema.upgrade import upgrade  # here, for it is seldom needed

        done = upgrade(storage)
        log.warning("%s: upgraded from format %d to %d; %s is the copy of before", storage, *done)
    except StateError:
        return  # mounting says what is wrong
