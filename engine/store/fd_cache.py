"""Bounded caches of open file descriptors, which close the least recently used descriptor first.

All caches together stay below the limit of the process (RLIMIT_NOFILE, getrlimit(2)), so that other parts of the daemon
can always open files.
"""

from __future__ import annotations

import os
import resource
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


_RESERVED = 44  # descriptors outside the caches: the database, the FUSE device, pipes and so on
_LEAST = 4


def share(most: int, part: int, least: int = _LEAST) -> int:
    """Return how many descriptors a cache may keep open.

    Args:
        most: the greatest result, whatever the limit of the process.
        part: the cache may take 1/part of the descriptors that the limit leaves for caches.
        least: the least result, for a cache that needs few.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return most
    return max(least, min(most, (limit - _RESERVED) // part))


class FdCache(Generic[K]):
    """Open descriptors by key.

    Args:
        capacity: most descriptors kept open.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._fds: OrderedDict[K, int] = OrderedDict()

    def get(self, key: K) -> int | None:
        """Return the descriptor of *key*, or None.  It stays valid until the next ``put``."""
        fd = self._fds.get(key)
        if fd is not None:
            self._fds.move_to_end(key)
        return fd

    def put(self, key: K, fd: int) -> int:
        """Store *fd* under *key* and return it; close the previous descriptor of *key*, and the oldest if too many."""
        self.drop(key)
        self._fds[key] = fd
        if len(self._fds) > self._capacity:
            os.close(self._fds.popitem(last=False)[1])
        return fd

    def drop(self, key: K) -> None:
        """Close the descriptor of *key*, if there is one."""
        fd = self._fds.pop(key, None)
        if fd is not None:
            os.close(fd)

    def clear(self) -> None:
        """Close all descriptors."""
        while self._fds:
            os.close(self._fds.popitem()[1])
