"""A bounded set of open file descriptors, the least recently used one closed first.

All sets together leave descriptors for everything else, whatever the limit of the process is (RLIMIT_NOFILE).
"""

from __future__ import annotations

import os
import resource
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


_OTHERS = 32  # descriptors that are not kept in a set: the database, the FUSE device, pipes and so on
_LEAST = 4


def share(most: int, part: int) -> int:
    """How many descriptors a set may keep.

    Args:
        most: where there are plenty.
        part: else one in *part* of those there may be.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return most
    return max(_LEAST, min(most, (limit - _OTHERS) // part))


class FdCache(Generic[K]):
    """Open descriptors by key.

    Args:
        capacity: most descriptors kept open.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._fds: OrderedDict[K, int] = OrderedDict()

    def get(self, key: K) -> int | None:
        """The descriptor of *key*, or None.  It stays valid until the next ``put``."""
        fd = self._fds.get(key)
        if fd is not None:
            self._fds.move_to_end(key)
        return fd

    def put(self, key: K, fd: int) -> int:
        """Keep *fd* under *key* and return it."""
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
        """Close all."""
        while self._fds:
            os.close(self._fds.popitem()[1])
